"""Ask CUDA's driver library for the GPU that this worker sees: its name, or why there is none."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

LIBRARY = "libcuda.so.1"
_MEANINGS = {
    100: "this worker sees no GPU",
    101: "the selected GPU does not exist",
    803: "the driver's library and its kernel module have different versions",
    804: "this GPU's driver has no forward compatibility",
    999: "unknown error: often a failed GPU, or a driver update without a restart",
}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class NoGpu(Exception):
    """CUDA has no usable GPU; the message is the reason."""


class CudaGpu(NamedTuple):
    """A GPU as the driver describes it."""

    name: str
    capability: str
    cuda: str
    """The newest CUDA version that the driver supports."""

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability}, driver for CUDA {self.cuda})"


def query_gpu() -> CudaGpu:
    """Return the first visible GPU. Raises NoGpu."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoGpu(f"missing {LIBRARY}: this worker has no GPU driver") from error
    _check(cuda.cuInit(0), "cuInit")
    device, number = ctypes.c_int(), ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _check(cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    capability = ".".join(str(_read_attribute(cuda, device, which)) for which in (_MAJOR, _MINOR))
    _check(cuda.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return CudaGpu(name.value.decode(errors="replace"), capability, version)


def _read_attribute(cuda: Any, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device), "cuDeviceGetAttribute")
    return value.value


def _check(code: int, call: str) -> None:
    if code:
        raise NoGpu(f"{call} failed with {code}: {_MEANINGS.get(code, 'see CUresult in the CUDA driver API')}")

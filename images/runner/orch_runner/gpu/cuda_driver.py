"""The GPU this worker was shown, by CUDA's driver library itself: its name, or why there is none."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

LIBRARY = "libcuda.so.1"
_MEANINGS = {
    100: "no GPU is shown to this worker",
    101: "the GPU that was chosen does not exist",
    803: "the driver's library and its kernel module are of different versions",
    804: "this GPU's driver has no forward compatibility",
    999: "unknown error: often a GPU that was lost, or a driver that was updated without a restart",
}
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class NoGpu(Exception):
    """There is no GPU that CUDA can use; the message says why."""


class Shown(NamedTuple):
    """A GPU as the driver calls it."""

    name: str
    capability: str
    cuda: str
    """The newest CUDA that the driver knows."""

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability}, driver for CUDA {self.cuda})"


def find() -> Shown:
    """The first GPU that is shown. Raises NoGpu."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoGpu(f"{LIBRARY} is not there: no driver is shown to this worker") from error
    _check(cuda.cuInit(0), "cuInit")
    device, number = ctypes.c_int(), ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _check(cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    capability = ".".join(str(_attribute(cuda, device, which)) for which in (_MAJOR, _MINOR))
    _check(cuda.cuDriverGetVersion(ctypes.byref(number)), "cuDriverGetVersion")
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return Shown(name.value.decode(errors="replace"), capability, version)


def _attribute(cuda: Any, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(value), which, device), "cuDeviceGetAttribute")
    return value.value


def _check(code: int, call: str) -> None:
    if code:
        raise NoGpu(f"{call} ends with {code}: {_MEANINGS.get(code, 'see CUresult in the CUDA driver API')}")

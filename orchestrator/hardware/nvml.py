"""Read GPUs, MIG slices and processes with NVML, the driver's own library, loaded on the first call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.hardware.machine import Gpu, GpuProcess, Machine, describe_lost, describe_unsliced, summarize

MIB = 1 << 20
_LOST, _RESET_REQUIRED = 15, 16
_WORDS = {
    _RESET_REQUIRED: "GPU requires reset",
    17: "GPU access blocked by the operating system",
    18: "Driver/library version mismatch",
}
"""nvidia-smi's words for errors that the Python binding words differently: people search for nvidia-smi's."""


def read_nvml() -> Machine | None:
    """Return the machine as NVML reports it; None where the library is not installed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        return Machine(broken=f"NVML: {_describe(error)}", source="NVML")
    try:
        return _machine(pynvml)
    except pynvml.NVMLError as error:
        return Machine(broken=f"NVML: {_describe(error)}", source="NVML")
    finally:
        pynvml.nvmlShutdown()


def _machine(nvml: Any) -> Machine:
    driver = str(nvml.nvmlSystemGetDriverVersion())
    number = _or_none(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    cuda = None if number is None else f"{number // 1000}.{number % 1000 // 10}"
    gpus: list[Gpu] = []
    lost: list[str] = []
    empty: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            devices = list(_devices(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index, driver))
        except nvml.NVMLError as error:  # a GPU that is lost must not hide the others
            lost.append(describe_lost(index, _describe(error)))
            continue
        if not devices:
            empty.append(describe_unsliced(index))
        gpus += devices
    return summarize(gpus, lost, empty, driver, cuda, "NVML")


def _devices(nvml: Any, handle: Any, index: int, driver: str) -> Iterator[Gpu]:
    """Yield the GPU, or its slices where it is in MIG mode. Raises NVMLError where it is lost.

    What identifies a GPU has to be readable; a figure may be missing, unless the error says that the GPU is gone.
    """
    uuid = _or_none(nvml, nvml.nvmlDeviceGetUUID, handle) or str(index)
    name = _or_none(nvml, nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    version = _or_none(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    capability = "" if version is None else f"{version[0]}.{version[1]}"
    _figure(nvml, nvml.nvmlDeviceGetPerformanceState, handle)  # a GPU that requires a reset may answer all the rest

    def make_gpu(device: Any, **more: Any) -> Gpu:
        memory = _figure(nvml, nvml.nvmlDeviceGetMemoryInfo, device)
        total, free = (0, None) if memory is None else (memory.total // MIB, memory.free // MIB)
        running = _figure(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, device) or []
        processes = tuple(GpuProcess(one.pid, one.usedGpuMemory and one.usedGpuMemory // MIB) for one in running)
        fields = {"uuid": uuid, "name": name, **more}
        return Gpu(index, memory=total, capability=capability, driver=driver, free=free, **fields, processes=processes)

    mode = _or_none(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        yield make_gpu(handle)
        return
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _or_none(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is not None:
            profile = _profile(nvml, part)
            yield make_gpu(
                part, uuid=nvml.nvmlDeviceGetUUID(part), name=f"{name} MIG {profile}", mig=profile, parent=uuid
            )


def _profile(nvml: Any, part: Any) -> str:
    """Return the profile's name as nvidia-smi writes it: compute slices and memory."""
    attributes = nvml.nvmlDeviceGetAttributes(part)
    slices, own = attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount
    whole = f"{slices}g.{round(attributes.memorySizeMB / 1024)}gb"
    return whole if own == slices else f"{own}c.{whole}"


def _describe(error: Any) -> str:
    return _WORDS.get(error.value) or str(error)


def _or_none(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer to a query that not every GPU or driver supports, else None."""
    try:
        return query(*arguments)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NotFound, nvml.NVMLError_FunctionNotFound):
        return None
    except (nvml.NVMLError_NoPermission, nvml.NVMLError_InvalidArgument):
        return None


def _figure(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer to a query, None where it fails, as single ones do on GPUs that work.

    Raises NVMLError where the GPU is lost.
    """
    try:
        return query(*arguments)
    except nvml.NVMLError as error:
        if error.value in (_LOST, _RESET_REQUIRED):
            raise
        return None

"""Read GPUs, MIG slices and processes with NVML, the driver's own library, loaded on the first call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.hardware.machine import Gpu, GpuProcess, Machine

MIB = 1 << 20


def read_nvml() -> Machine | None:
    """Return the machine as NVML reports it; None where the library is not installed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        return Machine(broken=f"NVML: {error}", source="NVML")
    try:
        return _machine(pynvml)
    except pynvml.NVMLError as error:
        return Machine(broken=f"NVML: {error}", source="NVML")
    finally:
        pynvml.nvmlShutdown()


def _machine(nvml: Any) -> Machine:
    driver = str(nvml.nvmlSystemGetDriverVersion())
    number = _or_none(nvml, nvml.nvmlSystemGetCudaDriverVersion)
    cuda = None if number is None else f"{number // 1000}.{number % 1000 // 10}"
    gpus: list[Gpu] = []
    notes: list[str] = []
    count = nvml.nvmlDeviceGetCount()
    for index in range(count):
        try:
            devices = list(_devices(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index, driver))
        except nvml.NVMLError as error:  # a GPU that is lost must not hide the others
            notes.append(f"GPU {index} does not answer: {error}")
            continue
        if not devices:
            notes.append(f"GPU {index} is in MIG mode and has no slices (sudo nvidia-smi mig -cgi PROFILE -C)")
        gpus += devices
    broken = "; ".join(notes) if count and not gpus and not any("MIG" in note for note in notes) else None
    lacks = None if gpus else "the driver reports no GPU" if not count else "none of its GPUs can be used"
    return Machine(tuple(gpus), driver, cuda, lacks=lacks, broken=broken, notes=tuple(notes), source="NVML")


def _devices(nvml: Any, handle: Any, index: int, driver: str) -> Iterator[Gpu]:
    """Yield the GPU, or its slices where it is in MIG mode."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    uuid, name = nvml.nvmlDeviceGetUUID(handle), nvml.nvmlDeviceGetName(handle)

    def make_gpu(device: Any, **more: Any) -> Gpu:
        memory = _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, device)
        total, free = (0, None) if memory is None else (memory.total // MIB, memory.free // MIB)
        running = _or_none(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, device) or []
        processes = tuple(GpuProcess(one.pid, one.usedGpuMemory and one.usedGpuMemory // MIB) for one in running)
        fields = {"uuid": uuid, "name": name, **more}
        return Gpu(index, memory=total, capability=f"{major}.{minor}", driver=driver, free=free, **fields,
                   processes=processes)  # fmt: skip

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


def _or_none(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer to a query that not every GPU or driver supports, else None."""
    try:
        return query(*arguments)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NotFound, nvml.NVMLError_FunctionNotFound):
        return None
    except (nvml.NVMLError_NoPermission, nvml.NVMLError_InvalidArgument):
        return None

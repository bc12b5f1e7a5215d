"""What is made of NVML's, nvidia-smi's and an engine's answers, and of the variables that hide GPUs.

NVML's library is a stand-in here: functions of the real Python binding are replaced, its errors are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Gpu, Machine, cores, detect_machine, read_machine, write_machine
from orchestrator.hardware import detection as detect
from orchestrator.hardware.detection import NO_DRIVER, engine_machine
from orchestrator.hardware.machine import GpuProcess
from orchestrator.hardware.nvml import read_nvml
from orchestrator.hardware.platforms import is_in_container, read_jetson, read_platform
from orchestrator.hardware.smi import read_smi
from orchestrator.hardware.visible import keep_visible

A100 = Gpu(0, "GPU-a", "NVIDIA A100-SXM4-40GB", 40960, "8.0", "535.104.05", 40000)
SLICES = tuple(
    replace(A100, index=1, uuid=f"MIG-{part}", name="NVIDIA A100-SXM4-40GB MIG 3g.20gb", memory=20096, free=20000,
            mig="3g.20gb", parent="GPU-b")
    for part in "xy"
)  # fmt: skip


class FakeNvml:
    """A driver with an A100, one cut into two slices, and what a test changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone: set[int] = set()
        self.empty: set[int] = set()
        self.errors: dict[str, int] = {}
        """Queries that end with an error about the GPU that is not cut into slices."""
        self.opened = 0
        """Calls of nvmlInit without one of nvmlShutdown."""
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, self._failing(name, getattr(self, name)))

    def _failing(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def query(*arguments: Any) -> Any:
            if name in self.errors and arguments == ("a",):
                raise pynvml.NVMLError(self.errors[name])
            return answer(*arguments)

        return query

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "535.104.05"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12020

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index in self.gone:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return "ab"[index]

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return 8, 0

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return f"{'MIG' if handle in 'xy' else 'GPU'}-{handle}"

    def nvmlDeviceGetPerformanceState(self, handle: str) -> int:
        return 0

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA A100-SXM4-40GB"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        total, free = (20096, 20000) if handle in "xy" else (40960, 40000)
        return SimpleNamespace(total=total << 20, free=free << 20)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        if handle != "a":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=7, usedGpuMemory=3 << 20), SimpleNamespace(pid=8, usedGpuMemory=None)]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        if handle == "a":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, number: int) -> str:
        if number > 1 or self.empty:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "xy"[number]

    def nvmlDeviceGetAttributes(self, handle: str) -> Any:
        return SimpleNamespace(gpuInstanceSliceCount=3, computeInstanceSliceCount=3, memorySizeMB=20096)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    return FakeNvml(monkeypatch)


def test_nvml_tells_gpus_slices_and_processes(nvml: FakeNvml) -> None:
    whole = replace(A100, processes=(GpuProcess(7, 3), GpuProcess(8, None)))
    assert read_nvml() == Machine((whole, *SLICES), "535.104.05", "12.2", source="NVML")
    assert nvml.opened == 0


def test_a_gpu_that_fell_off_the_bus_costs_no_other(nvml: FakeNvml) -> None:
    nvml.gone = {0}
    found = read_nvml()
    assert found is not None
    assert (found.gpus, found.broken) == (SLICES, None)
    assert found.notes == ("GPU 0 does not answer: GPU is lost",)
    nvml.gone = {0, 1}
    found = read_nvml()
    assert found is not None
    assert found.broken == "GPU 0 does not answer: GPU is lost; GPU 1 does not answer: GPU is lost"


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("nvmlDeviceGetUUID", pynvml.NVML_ERROR_RESET_REQUIRED, "GPU requires reset"),
        ("nvmlDeviceGetName", pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
        ("nvmlDeviceGetCudaComputeCapability", pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
        ("nvmlDeviceGetPerformanceState", pynvml.NVML_ERROR_RESET_REQUIRED, "GPU requires reset"),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        ("nvmlDeviceGetComputeRunningProcesses", pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
    ],
)
def test_a_gpu_is_lost_where_what_it_is_cannot_be_read(nvml: FakeNvml, query: str, code: int, reason: str) -> None:
    nvml.errors = {query: code}
    found = read_nvml()
    assert found is not None
    assert (found.gpus, found.notes) == (SLICES, (f"GPU 0 does not answer: {reason}",))


@pytest.mark.parametrize(
    ("query", "code", "changed"),
    [
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN, {"memory": 0, "free": None}),
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NOT_SUPPORTED, {"memory": 0, "free": None}),  # NVIDIA GB10
        ("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NO_PERMISSION, {"memory": 0, "free": None}),
        ("nvmlDeviceGetCudaComputeCapability", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, {"capability": ""}),
        ("nvmlDeviceGetComputeRunningProcesses", pynvml.NVML_ERROR_UNKNOWN, {"processes": ()}),
        ("nvmlDeviceGetPerformanceState", pynvml.NVML_ERROR_UNKNOWN, {}),
        ("nvmlDeviceGetUUID", pynvml.NVML_ERROR_NOT_SUPPORTED, {"uuid": "0"}),
    ],
)
def test_a_figure_that_is_missing_loses_no_gpu(nvml: FakeNvml, query: str, code: int, changed: dict[str, Any]) -> None:
    nvml.errors = {query: code}
    found = read_nvml()
    assert found is not None
    whole = replace(A100, processes=(GpuProcess(7, 3), GpuProcess(8, None)))
    assert (found.gpus[0], found.notes) == (replace(whole, **changed), ())


def test_mig_mode_without_slices_is_said(nvml: FakeNvml) -> None:
    nvml.empty = {1}
    found = read_nvml()
    assert found is not None
    assert len(found.gpus) == 1
    assert "GPU 1 is in MIG mode and has no slices" in found.notes[0]
    nvml.gone = {0}  # then the CPU would hide that a GPU is lost
    found = read_nvml()
    assert found is not None
    assert found.gpus == ()
    with pytest.raises(MachineError, match="the GPU driver does not answer") as caught:
        found.usable_gpus()
    assert "GPU 0 does not answer: GPU is lost; GPU 1 is in MIG mode and has no slices" in str(caught.value.why)


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, None),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "NVML: Driver Not Loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "NVML: Driver/library version mismatch"),
        (pynvml.NVML_ERROR_OPERATING_SYSTEM, "NVML: GPU access blocked by the operating system"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "NVML: Insufficient Permissions"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML: Unknown Error"),
    ],
)
def test_a_driver_that_does_not_answer_is_broken_and_one_that_is_not_there_is_none(
    monkeypatch: pytest.MonkeyPatch, code: int, broken: str | None
) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    found = read_nvml()
    assert (None if found is None else found.broken) == broken
    if found is not None:
        with pytest.raises(MachineError, match="the GPU driver does not answer"):
            found.usable_gpus()


# --- nvidia-smi


def put_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


SMI = """case "$1" in
--query-gpu*) echo "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, 40000, 8.0, 535.104.05"
    echo "1, GPU-b, NVIDIA A100-SXM4-40GB, 40960, [N/A], 8.0, 535.104.05" ;;
-L) echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)"; echo "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)"
    echo "  MIG 3g.20gb     Device  0: (UUID: MIG-x)"; echo "  MIG 3g.20gb     Device  1: (UUID: MIG-y)" ;;
*) echo "| NVIDIA-SMI 535.104.05    Driver Version: 535.104.05    CUDA Version: 12.2     |" ;;
esac"""


def test_nvidia_smi_tells_the_same_where_nvml_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_smi(tmp_path, monkeypatch, SMI)
    slices = tuple(replace(one, memory=20480, free=None) for one in SLICES)
    assert read_smi() == Machine((A100, *slices), "535.104.05", "12.2", source="nvidia-smi")


# --- the whole machine


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """No driver library, no nvidia-smi, and an engine that reports what is put into the result."""
    info: dict[str, Any] = {}
    monkeypatch.setattr(detect, "read_nvml", lambda: None)
    monkeypatch.setattr(detect, "read_smi", lambda: None)
    monkeypatch.setattr("orchestrator.hardware.detection.connect", lambda: SimpleNamespace(info=info))
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return info


def test_a_machine_without_driver_has_no_gpus_and_says_why(bare: dict[str, Any]) -> None:
    assert detect_machine().gpus == ()
    assert detect_machine().lacks == NO_DRIVER
    assert cores() >= 1


def test_without_a_driver_the_engines_gpus_are_taken(bare: dict[str, Any]) -> None:
    bare["DiscoveredDevices"] = [
        {"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "GPU-a", "GPU-b", "all")
    ] + [{"Source": "cdi", "ID": "vendor.com/other=0"}]
    assert [gpu.device for gpu in detect_machine().gpus] == ["cuda:GPU-a", "cuda:GPU-b"]
    assert detect_machine().source == "the container engine"


def test_the_engines_numbers_are_kept_where_it_knows_no_uuids() -> None:
    listed = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "1", "3", "all")]
    assert [gpu.label for gpu in engine_machine({"DiscoveredDevices": listed}).gpus] == ["0", "1", "3"]


def test_a_runtime_alone_is_no_gpu(bare: dict[str, Any]) -> None:
    assert "the engine has the runtime nvidia" in str(engine_machine({"Runtimes": {"nvidia": {}}}).lacks)


def test_what_nvml_says_comes_first_and_the_variables_last(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "read_nvml", lambda: Machine((A100, *SLICES), source="NVML"))
    monkeypatch.setattr(detect, "read_smi", lambda: pytest.fail("asked although NVML answered"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert detect_machine().gpus == SLICES


# --- visible devices

VARIABLES = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"]
OTHERS = tuple(replace(A100, index=number, uuid=f"GPU-{number}{number}") for number in range(1, 4))
EVERY = Machine((A100, *OTHERS))


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("0", [0]), ("2,0", [2, 0]), ("GPU-22", [2]), ("GPU-3,GPU-a", [3, 0]), ("gpu-33", [3]), ("1, 1", [1]),
        ("", []), (" ", []), ("none", []), ("void", []), ("-1", []), ("NoDevFiles", []), ("0,2,-1,1", [0, 2]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", VARIABLES)
def test_visible_devices_leave_those_named_in_that_order(name: str, value: str, left: list[int]) -> None:
    found = keep_visible(EVERY, {name: value})
    assert found.usable_gpus() == tuple(EVERY.gpus[index] for index in left)
    assert (found.lacks is None) == bool(left)
    if not left:
        assert found.lacks == f"{name}={value!r} leaves none of the 4 GPUs"


@pytest.mark.parametrize("value", ["9", "0,9,1", "x", "all,0", "GPU-9", "GPU-", "MIG-1", "0:1", "0,", "GPU:0"])
@pytest.mark.parametrize("name", VARIABLES)
def test_a_gpu_that_a_variable_names_and_that_is_not_there_was_asked_for(name: str, value: str) -> None:
    found = keep_visible(EVERY, {name: value})
    with pytest.raises(MachineError) as caught:
        found.usable_gpus()
    assert caught.value.exit_code == 4
    assert caught.value.message == f"{name}={value} names a GPU that cannot be used"
    assert str(caught.value.why).endswith("GPUs that can: 0 (GPU-a), 1 (GPU-11), 2 (GPU-22), 3 (GPU-33)")
    step = f"orch doctor; ask the scheduler for another GPU, unset {name}, or ask for the CPU: --device cpu"
    assert caught.value.hint == step


def test_a_scheduler_may_give_a_gpu_that_fell_off_the_bus(nvml: FakeNvml) -> None:
    nvml.gone = {0}
    machine = read_nvml()
    assert machine is not None
    assert keep_visible(machine, {"CUDA_VISIBLE_DEVICES": "1"}).usable_gpus() == SLICES
    for value in ("0", "1,0", "GPU-a"):
        with pytest.raises(MachineError, match=f"CUDA_VISIBLE_DEVICES={value} names a GPU") as caught:
            keep_visible(machine, {"CUDA_VISIBLE_DEVICES": value}).usable_gpus()
        assert "GPU 0 does not answer: GPU is lost" in str(caught.value.why)


@pytest.mark.parametrize("machine", [Machine(lacks=NO_DRIVER), Machine(lacks="the driver reports no GPU")])
def test_without_any_gpu_the_variables_ask_for_one_all_the_same(machine: Machine) -> None:
    with pytest.raises(MachineError, match="names a GPU") as caught:
        keep_visible(machine, {"CUDA_VISIBLE_DEVICES": "0"}).usable_gpus()
    assert str(machine.lacks) in str(caught.value.why)
    for value in ("", "-1", "NoDevFiles"):
        assert keep_visible(machine, {"CUDA_VISIBLE_DEVICES": value}) == machine
    assert keep_visible(machine, {"NVIDIA_VISIBLE_DEVICES": "all"}) == machine
    broken = Machine(broken="NVML: Unknown Error")
    assert keep_visible(broken, {"CUDA_VISIBLE_DEVICES": "0"}) == broken


def test_both_variables_are_honoured_and_all_means_all() -> None:
    assert keep_visible(EVERY, {}) == keep_visible(EVERY, {"NVIDIA_VISIBLE_DEVICES": "all"}) == EVERY
    both = keep_visible(EVERY, {"NVIDIA_VISIBLE_DEVICES": "2,1", "CUDA_VISIBLE_DEVICES": "1"})
    assert [gpu.index for gpu in both.gpus] == [1]


def test_in_a_container_the_engine_has_seen_to_nvidias_variable() -> None:
    environment = {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": "1"}
    assert keep_visible(EVERY, environment, in_container=True).gpus == (OTHERS[0],)
    for value, asked in (("GPU-a", True), ("0", True), ("all", False), ("void", False), ("", False)):  # it gave nothing
        found = keep_visible(Machine(lacks="x"), {"NVIDIA_VISIBLE_DEVICES": value}, in_container=True)
        assert (found.assigned is not None) == asked


def test_slices_are_named_by_their_gpu_or_each() -> None:
    cut = Machine((A100, *SLICES))
    for value, left in [("1", SLICES), ("1:1", SLICES[1:]), ("MIG-x", SLICES[:1]), ("GPU-b", SLICES)]:
        assert keep_visible(cut, {"NVIDIA_VISIBLE_DEVICES": value}).gpus == left


# --- platforms


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_wsl2_is_known_by_its_kernel_and_driver_folder(tmp_path: Path) -> None:
    kernel = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x)"
    assert read_platform(write(tmp_path, proc__version=kernel)) == "linux"
    assert read_platform(write(tmp_path, usr__lib__wsl__lib__libcuda="")) == "wsl2"
    assert read_platform(write(tmp_path, proc__version="Linux version 6.1.0 (Debian)")) == "linux"


@pytest.mark.parametrize(
    ("model", "capability"),
    [("NVIDIA Jetson AGX Orin Developer Kit", "8.7"), ("NVIDIA Jetson Orin Nano", "8.7"), ("Jetson-AGX Xavier", "7.2"),
     ("NVIDIA Jetson Nano Developer Kit", "5.3"), ("a new board", "")],
)  # fmt: skip
def test_a_jetson_is_known_by_its_release_file(tmp_path: Path, model: str, capability: str) -> None:
    write(
        tmp_path, etc__nv_tegra_release="# R36 (release), REVISION: 4.3, GCID: 1", proc__meminfo="MemTotal: 2048 kB\n"
    )
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_text(f"{model}\0")
    assert read_platform(tmp_path) == "jetson"
    gpu = Gpu(0, "0", model, 2, capability, "36.4.3")
    assert read_jetson(tmp_path) == Machine((gpu,), "36.4.3", platform="jetson", model=model, source="device tree")


def test_containers_are_known_by_their_marks(tmp_path: Path) -> None:
    assert not is_in_container(tmp_path)
    assert is_in_container(write(tmp_path, **{"run__.containerenv": ""}))


# --- machines in files


def test_a_machine_is_read_as_it_was_written(tmp_path: Path) -> None:
    machine = Machine((replace(A100, processes=(GpuProcess(1, None),)), *SLICES), "535.1", "12.2", notes=("x",))
    (tmp_path / "machine.json").write_text(write_machine(machine))
    assert read_machine(tmp_path / "machine.json") == machine
    assert "assigned" not in (tmp_path / "machine.json").read_text(), "older versions refuse fields that are new"
    machine = Machine(lacks="x", assigned="CUDA_VISIBLE_DEVICES=1")
    (tmp_path / "machine.json").write_text(write_machine(machine))
    assert read_machine(tmp_path / "machine.json") == machine


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", 'it must say "format": "orch-machine/1"'),
        ('{"format": "orch-machine/2"}', 'it must say "format": "orch-machine/1"'),
        ('{"format": "orch-machine/1", "gpu": []}', "gpu: Unexpected keyword argument"),
        ('{"format": "orch-machine/1", "gpus": [{"index": 0}]}', "gpus.0.uuid: this field is missing"),
        ("{", "Expecting property name"),
    ],
)
def test_a_file_that_describes_no_machine_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_machine(tmp_path / "machine.json")
    assert why in str(caught.value.why)

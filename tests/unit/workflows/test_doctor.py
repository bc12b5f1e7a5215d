"""What the doctor finds on all kinds of machines, and the next step it names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.catalog.loader import StackEntry, load_catalog
from orchestrator.errors import MachineError, SpecError
from orchestrator.hardware import Gpu, Machine, find_next_step
from orchestrator.hardware.detection import NO_DRIVER
from orchestrator.hardware.machine import GpuProcess
from orchestrator.paths import home
from orchestrator.runtimes import apptainer, venv
from orchestrator.runtimes.base import Finding
from orchestrator.runtimes.docker import findings as docker_findings
from orchestrator.system.container_engine import Engine
from orchestrator.workflows import doctor
from orchestrator.workflows.doctor import examine_machine

GPU = Gpu(0, "GPU-0", "NVIDIA A10", 23028, "8.6", "535.104.05")


@pytest.fixture(autouse=True)
def _healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Docker and uv, without a GPU, with room."""
    set_engine(monkeypatch, {})
    monkeypatch.setattr(docker_findings, "build_command", lambda: ["/usr/bin/docker", "build"])
    set_machine(monkeypatch, Machine(lacks=NO_DRIVER))
    for module in (docker_findings, venv):
        monkeypatch.setattr(module, "read_output", lambda command: "1.2.3\n")
    apptainer.find_command.cache_clear()
    monkeypatch.setattr(venv, "find_uv", lambda: "/bin/uv")
    monkeypatch.setattr(venv, "find_python", lambda versions: Path(f"/bin/python{versions[0]}"))
    set_free(monkeypatch, 100)


def set_engine(monkeypatch: pytest.MonkeyPatch, info: dict[str, Any]) -> None:
    monkeypatch.setattr(docker_findings, "connect", lambda: Engine(None, "unix:///e", "28.1", info))


def set_machine(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    for module in (doctor, docker_findings):
        monkeypatch.setattr(module, "detect_machine", lambda: machine)


def set_free(monkeypatch: pytest.MonkeyPatch, gigabytes: int) -> None:
    usage = shutil.disk_usage(home().parent)._replace(free=gigabytes * 10**9)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]


def found(what: str) -> Finding:
    return next(finding for finding in examine_machine() if finding.what == what)


def test_a_healthy_machine_has_no_problems() -> None:
    findings = examine_machine()
    assert {finding.what for finding in findings} >= {
        "orch", "Python", "processor", "container engine", "image builds", "Compose", "GPUs in containers", "GPUs",
        "uv", "venv garments/cpu", "venv textlines/cpu", "disk", "cache: weights", "cache: envs",
    }  # fmt: skip
    assert [finding for finding in findings if finding.status == "problem"] == []
    assert found("container engine").found == "Docker 28.1 at unix:///e"
    assert found("uv").found == "1.2.3, /bin/uv"
    assert found("GPUs").status == "note"
    assert found("disk") == Finding("disk", "ok", f"100 GB free at {home()}")
    assert all(
        finding.step for finding in findings if finding.status == "note" and finding.what != "GPUs in containers"
    )


def test_no_engine_is_a_note_because_venv_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> Engine:
        raise MachineError("no container engine answers", why="no such socket")

    monkeypatch.setattr(docker_findings, "connect", connect)
    step = "install Docker Engine, or use --runtime venv"
    assert found("container engine") == Finding("container engine", "note", "no such socket", step)
    assert not any(finding.what == "image builds" for finding in examine_machine())


def test_podman_and_rootless_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_engine(monkeypatch, {"ServerVersion": "5-podman", "SecurityOptions": ["name=rootless"]})
    assert found("container engine").found == "Podman 28.1 at unix:///e, rootless"


def test_an_engine_nothing_can_build_on_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_command() -> list[str]:
        raise MachineError(
            "no docker command on this machine can build", why="docker: no buildx", hint="install buildx"
        )

    monkeypatch.setattr(docker_findings, "build_command", build_command)
    assert found("image builds") == Finding("image builds", "problem", "docker: no buildx", "install buildx")


def test_compose_is_a_convenience(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("Compose").found == "1.2.3"
    monkeypatch.setattr(docker_findings, "read_output", lambda command: "")
    assert (found("Compose").status, found("Compose").found) == ("note", "no plugin")


NO_WAY = "it has no CDI device nvidia.com/gpu, no nvidia-container-runtime-hook and no runtime called nvidia"


@pytest.mark.parametrize(
    ("info", "gpus", "status", "text"),
    [
        ({"Runtimes": {"nvidia": {}}}, (GPU,), "ok", "by nvidia runtime"),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}, (GPU,), "ok", "by CDI"),
        ({"Runtimes": {"runc": {}}}, (GPU,), "problem", NO_WAY),
        ({}, (), "note", "not set up; there is no GPU either"),
    ],
)
def test_gpus_in_containers(
    monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], gpus: tuple[Gpu, ...], status: str, text: str
) -> None:
    set_engine(monkeypatch, info)
    set_machine(monkeypatch, Machine(gpus))
    finding = found("GPUs in containers")
    assert (finding.status, finding.found) == (status, text)


def test_gpus_are_described_by_one_numbering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    part = Gpu(3, "MIG-1", "NVIDIA A30 MIG 1g.6gb", 5952, "8.0", "535.104.05", 5900, "1g.6gb", "GPU-3")
    used = replace(GPU, processes=(GpuProcess(7, 300), GpuProcess(8)))
    last = replace(GPU, index=2, uuid="GPU-2")
    notes = ("GPU 1 does not answer: GPU is lost",)
    set_machine(monkeypatch, Machine((used, last, part), "535.104.05", "12.2", notes=notes, source="NVML"))
    assert found("GPU driver").found == "535.104.05, CUDA up to 12.2 (by NVML)"
    text = "NVIDIA A10, 23028 MiB, compute capability 8.6, GPU-0"
    assert found("GPU 0") == Finding("GPU 0", "ok", text)
    assert found("GPU 2").found == text.replace("GPU-0", "GPU-2")
    text = "NVIDIA A30 MIG 1g.6gb, 5952 MiB, 5900 of them free, compute capability 8.0, MIG-1, a MIG slice of GPU-3"
    assert found("GPU MIG-1").found == text
    assert found("GPU 0 is used").found == "by the processes 7 (300 MiB), 8"
    assert found("GPUs") == Finding("GPUs", "problem", notes[0], find_next_step("GPU is lost"))
    names = [finding.what for finding in examine_machine()]
    assert "GPU 1" not in names
    assert "GPU numbers" not in names
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3")
    assert found("GPU numbers").found.startswith("CUDA_VISIBLE_DEVICES=0,2,3 is read by nvidia-smi's numbers")


def test_a_figure_that_the_driver_does_not_give_is_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, Machine((replace(GPU, memory=0),), "535.1"))
    assert found("GPU 0").found == "NVIDIA A10, memory not known, compute capability 8.6, GPU-0"


def test_a_gpu_that_was_given_and_is_gone_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = "no GPU 1 can be used here; GPUs that can: 0 (GPU-0)"
    set_machine(monkeypatch, Machine(driver="535.1", lacks=gone, assigned="CUDA_VISIBLE_DEVICES=1"))
    finding = found("GPUs")
    assert (finding.status, finding.found) == (
        "problem",
        f"CUDA_VISIBLE_DEVICES=1 names a GPU that cannot be used: {gone}",
    )
    assert "unset CUDA_VISIBLE_DEVICES" in finding.step
    assert found("GPUs in containers").found != "not set up; there is no GPU either"


def test_a_driver_that_is_too_old_is_named_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    old = replace(GPU, driver="470.256.02")
    set_machine(monkeypatch, Machine((old,), "470.256.02"))
    entry = fformer()
    monkeypatch.setattr(doctor, "load_catalog", lambda: SimpleNamespace(stacks={"fformer": entry}))
    finding = found("GPU driver for fformer")
    assert (finding.status, finding.found) == ("note", "470.256.02 is too old: cu121 needs 525.60.13 or newer")
    assert finding.step == "--variant cu111 fits, or update NVIDIA's driver to 525.60.13 or newer"
    set_machine(monkeypatch, Machine((GPU,), GPU.driver))
    assert not any(finding.what == "GPU driver for fformer" for finding in examine_machine())


def fformer() -> StackEntry:
    return load_catalog().stacks["fformer"]


def test_a_broken_driver_is_a_problem_and_no_gpu_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("GPUs").found == NO_DRIVER
    broken = "NVML: Driver Not Loaded"
    set_machine(monkeypatch, Machine(broken=broken))
    step = f"{find_next_step(broken)}; or ask for the CPU: --device cpu"
    assert found("GPUs") == Finding("GPUs", "problem", broken, step)
    assert found("GPUs in containers").found != "not set up; there is no GPU either"


def test_a_driver_is_to_be_installed_only_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("GPUs").step == "CPU variants run; for a GPU install NVIDIA's driver"
    set_machine(monkeypatch, Machine(lacks="CUDA_VISIBLE_DEVICES='' leaves none of the 4 GPUs", source="NVML"))
    assert found("GPUs").step == "CPU variants run; for a GPU see nvidia-smi -L and CUDA_VISIBLE_DEVICES"


def test_rights_on_the_engines_socket_are_a_step_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> Engine:
        why = "unix:///e: permission denied (are you in the group docker?)"
        raise MachineError("no container engine answers", why=why, hint="sudo usermod -aG docker $USER")

    monkeypatch.setattr(docker_findings, "connect", connect)
    assert found("container engine").step == "sudo usermod -aG docker $USER"


def test_wsl2_and_jetson_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, Machine(platform="wsl2", lacks="none"))
    assert found("platform").found == "Windows Subsystem for Linux 2"
    set_machine(monkeypatch, Machine(platform="jetson", model="NVIDIA Jetson AGX Orin", lacks="none"))
    assert found("platform").found == "NVIDIA Jetson AGX Orin"


def test_a_missing_python_is_a_problem_only_without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "find_python", lambda versions: None)
    assert found("venv garments/cpu") == Finding("venv garments/cpu", "ok", "uv will fetch Python 3.11")
    monkeypatch.setattr(venv, "find_uv", lambda: None)
    finding = found("venv garments/cpu")
    assert (finding.status, finding.step) == ("problem", "pip install uv")
    assert finding.found.startswith("no Python 3.11 or 3.12")
    assert found("uv").status == "note"


def test_little_room_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 19)
    assert found("disk").status == "note"
    assert "$ORCH_HOME" in found("disk").step


def test_the_caches_are_measured() -> None:
    (home() / "weights" / "a").mkdir(parents=True)
    (home() / "weights" / "a" / "w").write_bytes(b"x" * 3_000_000)
    (home() / "weights" / "gone").symlink_to("nowhere")
    assert found("cache: weights").found == "3 MB"


def test_a_check_that_breaks_is_a_finding_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Machine:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(doctor, "detect_machine", broken)
    assert found("GPUs") == Finding("GPUs", "problem", "cannot be examined: odd", "please report it")
    assert found("disk").status == "ok"


def test_a_users_broken_stack_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> object:
        raise SpecError("x/stack.yaml:3: titel: unknown field")

    assert load_catalog().stacks
    monkeypatch.setattr(doctor, "load_catalog", broken)
    assert found("runtime venv") == Finding("runtime venv", "problem", "x/stack.yaml:3: titel: unknown field")


def test_findings_as_json() -> None:
    assert Finding("a", "ok", "b").as_json() == {"what": "a", "status": "ok", "found": "b", "step": ""}

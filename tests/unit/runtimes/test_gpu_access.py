"""How an engine is asked for one GPU, by what it reports; and that it is refused where it would be ignored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import MachineError
from orchestrator.runtimes.docker.gpu_access import (
    HOOK,
    GpuAccess,
    GpuSettings,
    cdi_names,
    detect_gpu_access,
    gpu_settings,
)
from orchestrator.system.container_engine import Engine

VOID = {"NVIDIA_VISIBLE_DEVICES": "void"}
CDI = GpuAccess(cdi=("0", "1", "GPU-a", "all"), hook=True, runtime=True)
HOOKED = GpuAccess(hook=True, runtime=True)
RUNTIME = GpuAccess(runtime=True)


def request(**fields: Any) -> tuple[dict[str, Any], ...]:
    return (fields,)


@pytest.mark.parametrize(
    ("access", "device", "settings"),
    [
        (CDI, "cuda:GPU-a", GpuSettings(request(driver="cdi", device_ids=["nvidia.com/gpu=GPU-a"]), None, VOID)),
        (CDI, "cuda:1", GpuSettings(request(driver="cdi", device_ids=["nvidia.com/gpu=1"]), None, VOID)),
        (CDI, "cuda", GpuSettings(request(driver="cdi", device_ids=["nvidia.com/gpu=0"]), None, VOID)),
        (CDI, "cuda:GPU-b", GpuSettings(request(driver="cdi", device_ids=["nvidia.com/gpu=all"]), None,
                                        {**VOID, "CUDA_VISIBLE_DEVICES": "GPU-b"})),
        (HOOKED, "cuda:GPU-a", GpuSettings(request(device_ids=["GPU-a"], capabilities=[["gpu"]]))),
        (HOOKED, "cuda:MIG-a", GpuSettings(request(device_ids=["MIG-a"], capabilities=[["gpu"]]))),
        (HOOKED, "cuda", GpuSettings(request(count=1, capabilities=[["gpu"]]))),
        (RUNTIME, "cuda:GPU-a", GpuSettings((), "nvidia", {"NVIDIA_VISIBLE_DEVICES": "GPU-a"})),
        (RUNTIME, "cuda", GpuSettings((), "nvidia", {"NVIDIA_VISIBLE_DEVICES": "0"})),
        (GpuAccess(hook=None), "cuda:GPU-a", GpuSettings(request(device_ids=["GPU-a"], capabilities=[["gpu"]]))),
        (GpuAccess(hook=True, wsl2=True), "cuda:GPU-a",
         GpuSettings(request(count=-1, capabilities=[["gpu"]]), None, {"CUDA_VISIBLE_DEVICES": "GPU-a"})),
        (GpuAccess(runtime=True, wsl2=True), "cuda:GPU-a",
         GpuSettings((), "nvidia", {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "GPU-a"})),
        (GpuAccess(podman=True, cdi=("0",)), "cuda:0",
         GpuSettings(request(driver="cdi", device_ids=["nvidia.com/gpu=0"]), None, VOID)),
        *((one, "cpu", GpuSettings((), None, VOID))
          for one in (CDI, HOOKED, RUNTIME, GpuAccess(), GpuAccess(podman=True))),
    ],
)  # fmt: skip
def test_a_container_is_shown_the_one_gpu(access: GpuAccess, device: str, settings: GpuSettings) -> None:
    assert gpu_settings(access, device) == settings


@pytest.mark.parametrize(
    ("access", "message", "why"),
    [
        (
            GpuAccess(podman=True, hook=True, runtime=True),
            "Podman gives its containers no GPU",
            "silently ignores every other method",
        ),
        (GpuAccess(), "the engine gives its containers no GPU", "no runtime called nvidia"),
        (GpuAccess(cdi=("0", "1")), "no CDI device for the GPU GPU-a", "nvidia.com/gpu=0, nvidia.com/gpu=1"),
    ],
)
def test_where_there_is_no_way_it_is_refused(access: GpuAccess, message: str, why: str) -> None:
    with pytest.raises(MachineError, match=message) as caught:
        gpu_settings(access, "cuda:GPU-a")
    assert why in str(caught.value.why)
    assert "nvidia-ctk" in str(caught.value.hint)


def engine(url: str = "unix:///run/e.sock", **info: Any) -> Engine:
    return Engine(SimpleNamespace(), url, "28.3", info)


def test_wiring_is_what_the_engine_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "all")]
    assert detect_gpu_access(engine(DiscoveredDevices=listed)) == GpuAccess(cdi=("0", "all"))
    assert detect_gpu_access(engine(Runtimes={"runc": {}, "nvidia": {}})) == GpuAccess(runtime=True)
    assert detect_gpu_access(engine("tcp://elsewhere:2376")) == GpuAccess(hook=None)
    assert detect_gpu_access(engine(OperatingSystem="Docker Desktop")) == GpuAccess(hook=None)
    assert detect_gpu_access(engine(KernelVersion="5.15.153.1-microsoft-standard-WSL2")) == GpuAccess(wsl2=True)
    assert detect_gpu_access(engine(ServerVersion="5.4.2-podman", CDISpecDirs=[str(tmp_path)])) == GpuAccess(
        podman=True
    )
    (tmp_path / HOOK).write_text("#!/bin/sh\n")
    (tmp_path / HOOK).chmod(0o755)
    assert detect_gpu_access(engine()) == GpuAccess(hook=True)


SPEC = """cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits: {}
- name: GPU-a
  containerEdits: {}
"""


def test_an_engine_that_lists_no_devices_is_read_by_its_specifications(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text(SPEC)
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/net", "devices": [{"name": "nvidia.com/gpu"}]}')
    (tmp_path / "broken.json").write_text("nvidia.com/gpu: [")
    (tmp_path / "more.json").write_text('{"kind": "nvidia.com/gpu", "devices": [{"name": "all"}]}')
    assert list(cdi_names(tmp_path)) == ["all", "0", "GPU-a"]
    assert detect_gpu_access(engine(CDISpecDirs=[str(tmp_path), "/nowhere"])).cdi == ("all", "0", "GPU-a")
    assert detect_gpu_access(engine("tcp://elsewhere:2376", CDISpecDirs=[str(tmp_path)])).cdi == ()

"""How an engine gives a container one GPU: CDI, else --gpus, else the nvidia runtime."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.errors import MachineError
from orchestrator.system import Engine

Method = Literal["CDI", "--gpus", "nvidia runtime"]
KIND = "nvidia.com/gpu"
HOOK = "nvidia-container-runtime-hook"
"""An engine that finds this command when it starts supports --gpus; it does not report that."""
DOCKER_HINT = (
    "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker, and restart the "
    "engine; or --runtime venv"
)
PODMAN_HINT = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; or --runtime venv"


@dataclass(frozen=True)
class GpuAccess:
    """What is known of how an engine gives GPUs to containers. A pure value."""

    podman: bool = False
    cdi: tuple[str, ...] = ()
    """Names of its CDI devices of the kind nvidia.com/gpu: indices, UUIDs, "all"."""
    hook: bool | None = False
    """Whether the engine finds NVIDIA's hook; None: not known, as the engine runs elsewhere."""
    runtime: bool = False
    """Whether a runtime called nvidia is registered."""
    wsl2: bool = False

    def method(self) -> Method:
        """Return the method to use. Raises MachineError where there is none."""
        if self.cdi:
            return "CDI"
        if self.podman:  # it ignores device requests silently: the worker would run without a GPU
            raise MachineError(
                "Podman gives its containers no GPU",
                why=f"it has no CDI device {KIND}, and it silently ignores every other method",
                hint=PODMAN_HINT,
            )
        if self.hook or (self.hook is None and not self.runtime):
            return "--gpus"
        if self.runtime:
            return "nvidia runtime"
        raise MachineError(
            "the engine gives its containers no GPU",
            why=f"it has no CDI device {KIND}, no {HOOK} and no runtime called nvidia",
            hint=DOCKER_HINT,
        )


@dataclass(frozen=True)
class GpuSettings:
    """The settings of a container that give it one GPU, or none."""

    device_requests: tuple[Mapping[str, Any], ...] = ()
    runtime: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


# The images ask for all GPUs by a variable, and where the nvidia runtime is the default one, that would be enough.
NONE = {"NVIDIA_VISIBLE_DEVICES": "void"}


def gpu_settings(access: GpuAccess, device: str) -> GpuSettings:
    """Return the settings that give a container `device`, as WorkerSpec names it, and no other GPU.

    Raises MachineError where the engine cannot do that.
    """
    kind, _, name = device.partition(":")
    if kind == "cpu":
        return GpuSettings(environment=NONE)
    method = access.method()
    if method == "CDI":
        shown, narrowed = _cdi_device(access.cdi, name)
        request = {"driver": "cdi", "device_ids": [f"{KIND}={shown}"]}
        return GpuSettings((request,), environment={**NONE, **narrowed})
    narrowed = {}
    if access.wsl2:  # which gives containers all GPUs or none: CUDA itself hides the others
        name, narrowed = "all", {"CUDA_VISIBLE_DEVICES": name or "0"}
    if method == "nvidia runtime":
        return GpuSettings(runtime="nvidia", environment={"NVIDIA_VISIBLE_DEVICES": name or "0", **narrowed})
    chosen: dict[str, Any] = {"device_ids": [name]} if name and name != "all" else {"count": -1 if name else 1}
    return GpuSettings(({**chosen, "capabilities": [["gpu"]]},), environment=narrowed)


def _cdi_device(names: tuple[str, ...], wanted: str) -> tuple[str, dict[str, str]]:
    """Return the CDI device to request, and variables that limit CUDA to one GPU where it means all."""
    single = [name for name in names if name != "all"]
    if not wanted:
        return (single or ["all"])[0], {}
    if wanted in names:
        return wanted, {}
    if "all" in names:
        return "all", {"CUDA_VISIBLE_DEVICES": wanted}
    raise MachineError(
        f"the engine has no CDI device for the GPU {wanted}",
        why=f"it has {', '.join(f'{KIND}={name}' for name in names)}",
        hint="name one of them: --device NUMBER; or: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    )


def detect_gpu_access(engine: Engine) -> GpuAccess:
    """Return what the engine reports, and, where it runs on this machine, what is installed here."""
    info = engine.info
    # Docker Desktop's engine runs in a virtual machine behind its socket.
    local = engine.url.startswith("unix://") and info.get("OperatingSystem") != "Docker Desktop"
    listed = info.get("DiscoveredDevices")
    folders = info.get("CDISpecDirs") or (["/etc/cdi", "/var/run/cdi"] if engine.is_podman else [])
    names: tuple[str, ...] = ()
    if listed is not None:
        ids = [str(one.get("ID", "")) for one in listed if one.get("Source") == "cdi"]
        names = tuple(one.removeprefix(f"{KIND}=") for one in ids if one.startswith(f"{KIND}="))
    elif local:
        names = tuple(dict.fromkeys(name for folder in folders for name in cdi_names(Path(folder))))
    return GpuAccess(
        podman=engine.is_podman,
        cdi=names,
        hook=shutil.which(HOOK) is not None if local else None,
        runtime="nvidia" in (info.get("Runtimes") or {}),
        wsl2="microsoft" in str(info.get("KernelVersion", "")).lower(),
    )


def cdi_names(folder: Path) -> Iterator[str]:
    """Yield the devices of kind nvidia.com/gpu that a folder of CDI specifications describes."""
    for file in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.json"))):
        try:
            text = file.read_text(encoding="utf-8")
            document = yaml.safe_load(text) if re.search(re.escape(KIND), text) else None  # JSON is YAML
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(document, dict) and document.get("kind") == KIND:
            yield from (str(one["name"]) for one in document.get("devices") or [] if "name" in one)

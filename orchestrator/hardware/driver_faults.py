"""Next steps for the faults of NVIDIA's driver, by the words that NVML and nvidia-smi use for them."""

from __future__ import annotations

import re

_WINDOWS = "in Windows, update NVIDIA's driver, then: wsl --update; wsl --shutdown (WSL2 needs no driver of its own)"
_REBOOT = "sudo dmesg | grep -i xid says why; reboot; if it comes back, check the GPU's power and slot"
_STEPS = {
    "version mismatch": "the driver was updated while it was loaded: reboot, or reload it: sudo rmmod nvidia_uvm "
    "nvidia_drm nvidia_modeset nvidia; sudo modprobe nvidia",
    "blocked by the operating system": _WINDOWS,
    "driver not loaded|couldn't communicate": "sudo modprobe nvidia; 'Key was rejected': sign the module for Secure "
    "Boot or turn that off; after a kernel update install the driver again",
    "insufficient permissions": "ls -l /dev/nvidia*; sudo usermod -aG video $USER, then log in again; a container "
    "needs the devices: --gpus all, or --device nvidia.com/gpu=all",
    "libnvidia-ml": "install NVIDIA's driver again, with its libraries; a container gets them by --gpus all",
    "requires reset": "sudo nvidia-smi --gpu-reset -i NUMBER while nothing uses the GPU, or reboot",
    "gpu is lost|fallen off the bus|timed out|timeout": _REBOOT,
    "unknown error": "in a container: restart it, it lost its devices (systemctl daemon-reload on the host does "
    f"that); elsewhere: {_REBOOT}",
    "mig mode": "sudo nvidia-smi mig -cgi PROFILE -C makes slices; sudo nvidia-smi -mig 0 ends MIG mode",
}
"""Words of a fault, and what ends it for people; the first that matches counts."""


def find_next_step(fault: str, platform: str = "linux") -> str:
    """Return what to do about a fault of the driver, or of one GPU. `platform` as in Machine."""
    step = next((step for words, step in _STEPS.items() if re.search(words, fault, re.IGNORECASE)), None)
    if platform == "wsl2":  # the driver is the one of Windows, whatever it says here
        return _WINDOWS
    return step or "repair NVIDIA's driver (sudo dmesg | grep -i nvrm says more)"

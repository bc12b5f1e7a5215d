"""Each fault of the driver has the next step that ends it."""

from __future__ import annotations

import pytest

from orchestrator.errors import MachineError
from orchestrator.hardware import Machine, find_next_step
from orchestrator.hardware.machine import Platform

FAULTS = [
    ("Driver/library version mismatch", "sudo rmmod nvidia_uvm"),
    ("GPU access blocked by the operating system", "wsl --update"),
    ("Driver Not Loaded", "sudo modprobe nvidia"),
    (
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure …",
        "sudo modprobe nvidia",
    ),
    ("Insufficient Permissions", "ls -l /dev/nvidia*"),
    ("Unknown Error", "in a container: restart it"),
    ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.", "install NVIDIA's driver again"),
    ("GPU 1 does not answer: GPU is lost", "grep -i xid"),
    ("GPU 1 does not answer: GPU requires reset", "nvidia-smi --gpu-reset"),
    ("GPU 1 is in MIG mode and has no slices", "nvidia-smi mig -cgi"),
    ("Command 'nvidia-smi' timed out after 30 seconds", "grep -i xid"),
    ("Something new", "repair NVIDIA's driver"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
@pytest.mark.parametrize("source", ["NVML: ", "nvidia-smi: Failed to initialize NVML: "])
def test_the_next_step_fits_the_cause(fault: str, words: str, source: str) -> None:
    assert words in find_next_step(source + fault)
    with pytest.raises(MachineError) as caught:
        Machine(broken=source + fault).usable_gpus()
    assert words in str(caught.value.hint)
    assert str(caught.value.hint).endswith("; or ask for the CPU: --device cpu")


@pytest.mark.parametrize("fault", [fault for fault, _ in FAULTS])
def test_in_wsl2_the_driver_is_the_one_of_windows(fault: str) -> None:
    platform: Platform = "wsl2"
    with pytest.raises(MachineError) as caught:
        Machine(broken=fault, platform=platform).usable_gpus()
    assert "wsl --update" in str(caught.value.hint)
    assert "modprobe" not in str(caught.value.hint)

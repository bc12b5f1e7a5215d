"""How drivers, old and new, answer through nvidia-smi, and what is made of each answer.

Where an answer was seen stands beside it: an issue or pull request on GitHub, and the driver where it is known. The
columns are those that this project asks for: texts in brackets and messages are as seen, figures around them made up.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu, Machine
from orchestrator.hardware.smi import read_smi
from orchestrator.hardware.visible import keep_visible

WELL = Gpu(0, "GPU-0000aaaa-0000", "NVIDIA GeForce RTX 3090", 24576, "8.6", "535.104.05", 24000)
ROW = "{0}, GPU-{0}000aaaa-0000, NVIDIA GeForce RTX 3090, 24576, 24000, 8.6, 535.104.05, P8, 31, [N/A]"
BRACKETS = ", ".join(["[Unknown Error]"] * 10)
NO_NVML = "Failed to initialize NVML: "
BLOCKED = "GPU access blocked by the operating system"
NOT_LOADED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)
HEADER = "| NVIDIA-SMI 535.104.05    Driver Version: 535.104.05    CUDA Version: 12.2     |"


def well(index: int, **changes: object) -> Gpu:
    return replace(WELL, index=index, uuid=f"GPU-{index}000aaaa-0000", **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Answer:
    """One way to answer: output and exit code of the query, and the GPUs, sentences or error that follow."""

    seen: str
    text: str
    code: int = 0
    gpus: tuple[Gpu, ...] = ()
    notes: tuple[str, ...] = ()
    broken: str | None = None
    lacks: str | None = None
    listed: str = ""
    header: str = HEADER


LOST = "GPU {} does not answer: {}"
FAILED = "Unable to determine the device handle for GPU0000:02:00.0: Unknown Error"
ANSWERS = [
    Answer("all is well", ROW.format(0), gpus=(WELL,)),
    # --- figures that are not available: the GPU is used
    Answer("marimo#6822, 580.95.05, NVIDIA GB10", "0, GPU-0000aaaa-0000, NVIDIA GB10, [N/A], [N/A], 12.1, 580.95.05, "
           "P8, 36, [N/A]",
           gpus=(replace(WELL, name="NVIDIA GB10", memory=0, free=None, capability="12.1", driver="580.95.05"),)),
    Answer("i3pystatus#776, before 440", "0, GPU-0000aaaa-0000, GeForce GTX 960M, 2004, [Not Supported], 5.0, "
           "418.226.00, [Not Supported], 44, [Not Supported]",
           gpus=(replace(WELL, name="GeForce GTX 960M", memory=2004, free=None, capability="5.0",
                         driver="418.226.00"),)),
    Answer("StableSwarmUI#388, 535.161.08, a MIG slice in a pod", "0, GPU-0000aaaa-0000, NVIDIA A100-SXM4-80GB, "
           "[Insufficient Permissions], [Insufficient Permissions], 8.0, 535.161.08, P0, 47, Enabled",
           gpus=(replace(WELL, uuid="MIG-8c4c5a27-e508", name="NVIDIA A100-SXM4-80GB MIG 1g.10gb", memory=10240,
                         free=None, capability="8.0", driver="535.161.08", mig="1g.10gb", parent=WELL.uuid),),
           listed="GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-0000aaaa-0000)\n"
                  "  MIG 1g.10gb     Device  0: (UUID: MIG-8c4c5a27-e508)\n"),
    Answer("a telemetry library, 580.82.09", "0, GPU-0000aaaa-0000, NVIDIA GeForce RTX 3090, [Unknown Error], "
           "[Unknown Error], 8.6, 535.104.05, P8, 34, [N/A]", gpus=(replace(WELL, memory=0, free=None),)),
    Answer("i3pystatus#850; MindMiner#627, 442.19", ROW.format(0).replace("P8, 31", "[Unknown Error], [Unknown Error]"),
           gpus=(WELL,)),
    Answer("prmon#318, a vGPU", "0, GPU-0000aaaa-0000, NVIDIA H100L-2-24C, 24576, 24000, 9.0, 535.104.05, P0, [N/A], "
           "[N/A]", gpus=(replace(WELL, name="NVIDIA H100L-2-24C", capability="9.0"),)),
    Answer("vllm-cli#11, a Jetson Orin", "0, [N/A], Orin (nvgpu), [N/A], [N/A], [N/A], 540.4.0, [N/A], [N/A], [N/A]",
           gpus=(Gpu(0, "0", "Orin (nvgpu)", 0, "", "540.4.0"),)),
    # --- warnings with an exit code: the GPU is used
    Answer("gpu-operator#285, 470.82.01; pytorch#87464", ROW.format(0) + "\nWARNING: infoROM is corrupted at gpu "
           "0000:00:1E.0\n", 14, gpus=(WELL,)),
    Answer("WSL#11277, 551.76: the table ends with a segmentation fault", ROW.format(0), gpus=(WELL,), header="|"),
    # --- GPUs that are lost, beside one that is well
    Answer("two collectors of metrics", f"{ROW.format(0)}\n{FAILED}\n{BRACKETS}\n{ROW.format(2)}\n", 255,
           gpus=(WELL, well(2)), notes=(LOST.format(1, "Unknown Error"),)),
    Answer("the same with the message elsewhere", f"{BRACKETS}\n{ROW.format(1)}", 255, gpus=(well(1),),
           notes=(LOST.format(0, "Unknown Error"),)),
    Answer("logs of a crash, Xid 79", f"{ROW.format(0)}\n1, " + ", ".join(["[GPU is lost]"] * 9), 15, gpus=(WELL,),
           notes=(LOST.format(1, "GPU is lost"),)),
    Answer("notes about H100s under Slurm", ROW.format(0) + "\n" + ROW.format(1).replace("31", "[GPU requires reset]"),
           gpus=(WELL,), notes=(LOST.format(1, "GPU requires reset"),)),
    Answer("a harness for CUDA", ROW.format(0) + "\n" + ROW.format(1).replace("P8", "[GPU requires reset]"),
           gpus=(WELL,), notes=(LOST.format(1, "GPU requires reset"),)),
    Answer("pytorch/test-infra#3967, 525.89.02: exit 0", ROW.format(0) + "\n1, GPU-1000aaaa-0000, ERR!, 23028, 18844, "
           "ERR!, 525.89.02, ERR!, ERR!, ERR!", gpus=(WELL,), notes=(LOST.format(1, "ERR!"),)),
    Answer("gpustat#125", ROW.format(0) + "\nUnable to determine the device handle for gpu 0000:08:00.0: Unknown "
           "Error\n", 255, gpus=(WELL,), notes=(LOST.format("at 0000:08:00.0", "Unknown Error"),)),
    # --- all GPUs lost
    Answer("OWOD#81", "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to "
           "recover this GPU\n", 15, notes=(LOST.format("at 0000:02:00.0", "GPU is lost.  Reboot the system to recover "
                                                        "this GPU"),),
           broken=LOST.format("at 0000:02:00.0", "GPU is lost.  Reboot the system to recover this GPU")),
    Answer("a guide to GPUs that need a reset", "0, " + ", ".join(["[GPU requires reset]"] * 9), 0,
           notes=(LOST.format(0, "GPU requires reset"),), broken=LOST.format(0, "GPU requires reset")),
    # --- MIG
    Answer("NVIDIA's manual: MIG mode without slices", ROW.format(0).replace("[N/A]", "Enabled") + "\n" + ROW.format(1),
           gpus=(well(1),), notes=("GPU 0 is in MIG mode and has no slices (sudo nvidia-smi mig -cgi PROFILE -C)",)),
    Answer("lxd#9518, before 470: names of slices", ROW.format(0).replace("[N/A]", "Enabled"),
           gpus=(replace(WELL, uuid="MIG-GPU-0000aaaa-0000/7/0", name=f"{WELL.name} MIG 3g.20gb", memory=20480,
                         free=None, mig="3g.20gb", parent=WELL.uuid),),
           listed="GPU 0: A100-SXM4-40GB (UUID: GPU-0000aaaa-0000)\n"
                  "  MIG 3g.20gb Device 0: (UUID: MIG-GPU-0000aaaa-0000/7/0)\n"),
    # --- no GPU
    Answer("many", "No devices were found\n", 6, lacks="the driver reports no GPU"),
    Answer("many, older drivers", "No devices were found\n", 0, lacks="the driver reports no GPU"),
    Answer("dra-driver-nvidia-gpu#1008", "Failed to initialize NVML: No supported GPUs were found\nUnable to determine "
           "the number of GPUs\n", 255, lacks="the driver reports no GPU"),
    Answer("nothing", "", 0, lacks="the driver reports no GPU"),
    # --- a driver that does not answer
    Answer("gputil#55, 535.161", f"{NO_NVML}Driver/library version mismatch\nNVML library version: 535.161\n", 18,
           broken=f"nvidia-smi: {NO_NVML}Driver/library version mismatch; NVML library version: 535.161"),
    Answer("nvidia-container-toolkit#1227, 570.133.20", f"{NO_NVML}Unknown Error\n", 255,
           broken=f"nvidia-smi: {NO_NVML}Unknown Error"),
    Answer("WSL#14339", f"{NO_NVML}{BLOCKED}\nFailed to properly shut down NVML: {BLOCKED}\n", 17,
           broken=f"nvidia-smi: {NO_NVML}{BLOCKED}; Failed to properly shut down NVML: {BLOCKED}"),
    Answer("nvidia-docker#284", f"{NO_NVML}Insufficient Permissions\n", 4,
           broken=f"nvidia-smi: {NO_NVML}Insufficient Permissions"),
    Answer("nvidia-docker#988", f"{NOT_LOADED}\n", 9, broken=f"nvidia-smi: {NOT_LOADED}"),
    Answer("no words", "", 9, broken="nvidia-smi: exit 9"),
    Answer("words that nobody knows", "hello", 0, broken="nvidia-smi: hello"),
]  # fmt: skip


def put_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    for name, text in (("query", answer.text), ("list", answer.listed), ("header", answer.header)):
        (folder / name).write_text(text)
    script = f'#!/bin/sh\ncd {folder}\ncase "$1" in\n-L) cat list ;;\n--query*) cat query; exit {answer.code} ;;\n'
    (folder / "nvidia-smi").write_text(f"{script}*) cat header ;;\nesac\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.seen)
def test_what_is_made_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    put_smi(tmp_path, monkeypatch, answer)
    found = read_smi()
    assert found is not None
    assert (found.gpus, found.notes, found.broken) == (answer.gpus, answer.notes, answer.broken)
    if answer.lacks is not None:
        assert (found.lacks, found.usable_gpus()) == (answer.lacks, ())
    if answer.broken is not None:
        with pytest.raises(MachineError):
            found.usable_gpus()


@pytest.mark.parametrize("answer", [one for one in ANSWERS if one.notes], ids=lambda answer: answer.seen)
def test_a_gpu_that_is_lost_is_never_given_to_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    put_smi(tmp_path, monkeypatch, answer)
    found = read_smi()
    assert found is not None
    usable = {gpu.index for gpu in answer.gpus}
    for number in {0, 1, 2} - usable:
        with pytest.raises(MachineError):
            keep_visible(found, {"CUDA_VISIBLE_DEVICES": str(number)}).usable_gpus()


@pytest.mark.parametrize(
    ("unknown", "changes"),
    [
        (["compute_cap"], {"capability": ""}),  # candle#733, 470.182.03; inference-snaps#89: an old tool, driver 580
        (["compute_cap", "mig.mode.current"], {"capability": ""}),  # before 450: one message for each try
        (["pstate"], {}),  # composable-resource-operator#37: exit code 2, on stdout
    ],
)
def test_columns_that_an_older_nvidia_smi_does_not_know_are_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: list[str], changes: dict[str, str]
) -> None:
    values = {
        "index": "0", "uuid": WELL.uuid, "name": WELL.name, "memory.total": "24576", "memory.free": "24000",
        "compute_cap": "8.6", "driver_version": "535.104.05", "pstate": "P8", "temperature.gpu": "31",
        "mig.mode.current": "[N/A]",
    }  # fmt: skip
    script = f"""#!{sys.executable}
import sys
asked = next((one.partition("=")[2] for one in sys.argv if one.startswith("--query-gpu=")), None)
if asked is None:
    sys.exit(print("| NVIDIA-SMI 610.43.02     KMD Version: 610.43.02     CUDA UMD Version: 13.3     |"))
for field in {unknown!r}:
    if field in asked.split(","):
        print(f'Field "{{field}}" is not a valid field to query.\\n')
        sys.exit(2)
print(", ".join({values!r}[field] for field in asked.split(",")))
"""
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    expected = replace(WELL, **changes)  # type: ignore[arg-type]
    assert read_smi() == Machine((expected,), "535.104.05", "13.3", source="nvidia-smi")


def test_a_query_that_hangs_is_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_smi(tmp_path, monkeypatch, Answer("", ""))
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("orchestrator.hardware.smi.TIMEOUT", 0.2)
    found = read_smi()
    assert found is not None
    assert "timed out" in str(found.broken)

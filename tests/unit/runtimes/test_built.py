"""Built variants: the GPU code that was read in them is used instead of what stack.yaml declares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu
from orchestrator.runtimes import venv
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.built import apply_gpu_code, select_variant
from orchestrator.runtimes.environments import environment_folder
from orchestrator.runtimes.venv import GPU_CODE_NAME, VenvRuntime
from tests.unit.hardware.test_gpu_code import CUDA, DOCUMENT
from tests.unit.stack_samples import MINIMAL, stack_entry


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def connect() -> None:
        raise MachineError("no container engine answers")

    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.connect", connect)
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))


def make_environment(stack: StackEntry, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    """Have the venv runtime find an environment whose Python is this script."""
    folder = environment_folder("tiny-cuda", stack.folder / "cpu.lock", ("3.11",))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(venv, "ensure_environment", lambda *_, **__: (folder, True))


def test_an_environment_is_read_once_and_then_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_entry(tmp_path / "stack", variants={"cuda": CUDA, "cpu": MINIMAL["variants"]["cpu"]})
    v100 = Gpu(0, "GPU-0", "V100", 16_000, "7.0", "440.33")
    assert apply_gpu_code(stack) is stack
    assert select_variant(stack, None, None, (v100,)).variant == "cpu"
    make_environment(stack, monkeypatch, f"echo \"$@\" >>{tmp_path}/called; echo '{json.dumps(DOCUMENT)}'")
    for _ in range(2):
        VenvRuntime().prepare(stack, "cuda", BuildOptions(), lambda _: None)
    assert (tmp_path / "called").read_text() == "-m orch_runner.binaries\n"
    built = apply_gpu_code(stack)
    assert built.spec.variants["cuda"].native_capabilities == ("3.7", "7.0")
    assert select_variant(stack, None, None, (v100,)).variant == "cuda"
    assert built.spec.variants["cpu"] == stack.spec.variants["cpu"]


def test_an_environment_that_cannot_be_read_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_entry(tmp_path / "stack", variants={"cuda": CUDA})
    make_environment(stack, monkeypatch, "exit 1")
    said: list[str] = []
    prepared = VenvRuntime().prepare(stack, "cuda", BuildOptions(), said.append)
    assert not (Path(prepared.location) / GPU_CODE_NAME).exists()
    assert said[-1].startswith("cannot read what its GPU code runs on; the lists in stack.yaml are used")
    assert apply_gpu_code(stack) is stack

"""What was read inside a built variant: parsed, kept as labels, taken in place of what stack.yaml declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.errors import MachineError
from orchestrator.hardware import Gpu, choose_variant
from orchestrator.hardware.gpu_code import FILE_NAME, Binaries, as_built, of_labels, parse
from orchestrator.runtimes import venv
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.docker.build import label_arguments
from tests.unit.stack_samples import MINIMAL, stack_entry

READ = Binaries({"torch": "1.9.0", "onnxruntime": "1.15.0"}, "10.2", None, ("3.7", "7.0"), ("7.0",))
DOCUMENT: dict[str, Any] = {
    "format": "orch-binaries/1", "frameworks": dict(READ.frameworks), "cuda": "10.2", "cudnn": None,
    "native": ["3.7", "7.0"], "ptx": ["7.0"], "files": {},
}  # fmt: skip
CUDA = {**MINIMAL["variants"]["cpu"], "device": "cuda", "cuda": "10.2", "native_capabilities": ["8.0"]}


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def connect() -> None:
        raise MachineError("no container engine answers")

    monkeypatch.setattr("orchestrator.system.container_engine.connect", connect)
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))


def test_what_the_guest_prints_is_read() -> None:
    assert parse(json.dumps(DOCUMENT)) == READ


@pytest.mark.parametrize(
    "changes", [{"format": "orch-binaries/2"}, {"native": ["7.0; rm"]}, {"ptx": ["sm_70"]}, {"frameworks": None}]
)
def test_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, AttributeError)):
        parse(json.dumps({**DOCUMENT, **changes}))
    with pytest.raises(ValueError, match="not orch-binaries/1"):
        parse("[]")


def test_labels_say_the_same() -> None:
    labels = READ.labels()
    assert labels == {
        "org.orch.frameworks": "torch=1.9.0 onnxruntime=1.15.0", "org.orch.cuda": "10.2",
        "org.orch.native": "3.7 7.0", "org.orch.ptx": "7.0",
    }  # fmt: skip
    assert of_labels({**labels, "org.orch.stack": "x"}) == READ
    assert of_labels({"org.orch.stack": "x"}) is None
    assert label_arguments(["docker", "build"], "orch/x:1", READ, Path("/context")) == [
        "docker", "build", "--tag", "orch/x:1", "--label", "org.orch.frameworks=torch=1.9.0 onnxruntime=1.15.0",
        "--label", "org.orch.cuda=10.2", "--label", "org.orch.native=3.7 7.0", "--label", "org.orch.ptx=7.0",
        "/context",
    ]  # fmt: skip


def test_where_no_code_was_found_the_declared_lists_stand(tmp_path: Path) -> None:
    variant = stack_entry(tmp_path, variants={"cuda": CUDA}).spec.variants["cuda"]
    silent = Binaries({"torch": "1"}, None, "8.6", (), ())
    assert silent.applied(variant) == variant
    assert silent.labels() == {"org.orch.frameworks": "torch=1", "org.orch.cudnn": "8.6"}
    assert of_labels(silent.labels()) == silent
    applied = READ.applied(variant)
    assert (applied.native_capabilities, applied.ptx_capabilities) == (("3.7", "7.0"), ("7.0",))


def make_environment(stack: StackEntry, monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    """Have the venv runtime find an environment whose Python is this script."""
    folder = venv.environment_folder("tiny-cuda", stack.folder / "cpu.lock", ("3.11",))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "bin" / "python").chmod(0o755)
    monkeypatch.setattr(venv, "cached_environment", lambda *_, **__: (folder, True))


def test_an_environment_is_read_once_and_then_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_entry(tmp_path / "stack", variants={"cuda": CUDA, "cpu": MINIMAL["variants"]["cpu"]})
    v100 = Gpu(0, "GPU-0", "V100", 16_000, "7.0", "440.33")
    assert as_built(stack) is stack
    assert choose_variant(stack, None, None, (v100,)).variant == "cpu"
    make_environment(stack, monkeypatch, f"echo \"$@\" >>{tmp_path}/called; echo '{json.dumps(DOCUMENT)}'")
    for _ in range(2):
        venv.VenvRuntime().prepare(stack, "cuda", BuildOptions(), lambda _: None)
    assert (tmp_path / "called").read_text() == "-m orch_runner.gpu.binaries\n"
    built = as_built(stack)
    assert built.spec.variants["cuda"].native_capabilities == ("3.7", "7.0")
    assert choose_variant(built, None, None, (v100,)).variant == "cuda"
    assert built.spec.variants["cpu"] == stack.spec.variants["cpu"]


def test_an_environment_that_cannot_be_read_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_entry(tmp_path / "stack", variants={"cuda": CUDA})
    make_environment(stack, monkeypatch, "exit 1")
    said: list[str] = []
    prepared = venv.VenvRuntime().prepare(stack, "cuda", BuildOptions(), said.append)
    assert not (Path(prepared.location) / FILE_NAME).exists()
    assert said[-1].startswith("what its GPU code runs on could not be read; stack.yaml's lists stand")
    assert as_built(stack) is stack

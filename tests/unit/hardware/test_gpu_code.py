"""What was read inside a built variant: parsed, kept as labels, taken in place of what stack.yaml declares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.hardware.gpu_code import GpuCode, parse_gpu_code, read_labels
from orchestrator.runtimes.docker.build import label_arguments
from tests.unit.stack_samples import MINIMAL, stack_entry

READ = GpuCode({"torch": "1.9.0", "onnxruntime": "1.15.0"}, "10.2", None, ("3.7", "7.0"), ("7.0",))
DOCUMENT: dict[str, Any] = {
    "format": "orch-binaries/1", "frameworks": dict(READ.frameworks), "cuda": "10.2", "cudnn": None,
    "native": ["3.7", "7.0"], "ptx": ["7.0"], "files": {},
}  # fmt: skip
CUDA = {**MINIMAL["variants"]["cpu"], "device": "cuda", "cuda": "10.2", "native_capabilities": ["8.0"]}


def test_what_the_guest_prints_is_read() -> None:
    assert parse_gpu_code(json.dumps(DOCUMENT)) == READ


@pytest.mark.parametrize(
    "changes", [{"format": "orch-binaries/2"}, {"native": ["7.0; rm"]}, {"ptx": ["sm_70"]}, {"frameworks": None}]
)
def test_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"orch-binaries/1|compute capability"):
        parse_gpu_code(json.dumps({**DOCUMENT, **changes}))
    with pytest.raises(ValueError, match="not orch-binaries/1"):
        parse_gpu_code("[]")


def test_labels_say_the_same() -> None:
    labels = READ.labels()
    assert labels == {
        "org.orch.frameworks": "torch=1.9.0 onnxruntime=1.15.0", "org.orch.cuda": "10.2",
        "org.orch.native": "3.7 7.0", "org.orch.ptx": "7.0",
    }  # fmt: skip
    assert read_labels({**labels, "org.orch.stack": "x"}) == READ
    assert read_labels({"org.orch.stack": "x"}) is None
    assert label_arguments(["docker", "build"], "orch/x:1", READ, Path("/context")) == [
        "docker", "build", "--tag", "orch/x:1", "--label", "org.orch.frameworks=torch=1.9.0 onnxruntime=1.15.0",
        "--label", "org.orch.cuda=10.2", "--label", "org.orch.native=3.7 7.0", "--label", "org.orch.ptx=7.0",
        "/context",
    ]  # fmt: skip


def test_where_no_code_was_found_the_declared_lists_stand(tmp_path: Path) -> None:
    variant = stack_entry(tmp_path, variants={"cuda": CUDA}).spec.variants["cuda"]
    silent = GpuCode({"torch": "1"}, None, "8.6", (), ())
    assert silent.apply(variant) == variant
    assert silent.labels() == {"org.orch.frameworks": "torch=1", "org.orch.cudnn": "8.6"}
    assert read_labels(silent.labels()) == silent
    applied = READ.apply(variant)
    assert (applied.native_capabilities, applied.ptx_capabilities) == (("3.7", "7.0"), ("7.0",))

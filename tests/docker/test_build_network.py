"""The caller's mirror reaches a real build, and is in no layer, label or history of the image."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.catalog import load_catalog
from orchestrator.errors import BuildError
from orchestrator.runtimes import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.build import ensure_image
from orchestrator.system import connect

pytestmark = pytest.mark.docker


def test_a_mirror_is_used_and_is_in_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = os.environ.get("ORCH_TEST_BASE_IMAGE") or os.environ.get("ORCH_BASE_IMAGE")
    stack = load_catalog().stacks["garments"]
    inputs = build_inputs(stack, "cpu", BuildOptions(base_image=base))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "121")
    image, _, _ = ensure_image(connect(), inputs, BuildOptions(base_image=base), lambda line: None)
    history = subprocess.run(["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True)
    saved = tmp_path / "image.tar"
    subprocess.run(["docker", "save", "-o", str(saved), image], check=True)
    assert "pip.conf" in history.stdout  # the ARG's default, a path
    assert b"timeout = 121" not in saved.read_bytes()
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "")
    with pytest.raises(BuildError) as raised:
        ensure_image(connect(), inputs, BuildOptions(base_image=base, rebuild=True), lambda line: None)
    log = Path(str(raised.value.log)).read_text(encoding="utf-8")
    assert "127.0.0.1" in log
    assert "hunter2" not in log

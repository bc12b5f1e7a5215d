"""Whether a warm worker has the weights that a run means: the same file, or a copy of the same content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.weights import Stored
from orchestrator.runtimes.warm.heartbeat import Heartbeat
from orchestrator.runtimes.warm.runtime import find_missing_weights


def heartbeat(**there: Any) -> Heartbeat:
    fixed = {"id": "w", "stack": "s", "variant": "cpu", "device": "cpu", "host": "h", "uid": 1, "gid": 1, "threads": 1}
    more = {"beat": 1, "state": "idle", "problem": None, "data_host": None, "data_inode": None, "paths": {}}
    return Heartbeat(**{**fixed, **more, "weights": {}, **there})


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    path = tmp_path / "m" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(b"12345")
    os.utime(path, (100, 100))
    return Stored("onnx", "net.onnx", path, "0a" * 32)


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ({"weights": {"m/net.onnx": (5, 100)}}, None),
        ({"weights": {"m/net.onnx": (5, 999)}}, "net.onnx"),
        ({"weights": {"m/net.onnx": (5, 999)}, "digests": {"m/net.onnx": "0a" * 32}}, None),
        ({"weights": {"m/net.onnx": (5, 999)}, "digests": {"m/net.onnx": "0b" * 32}}, "net.onnx"),
        ({"weights": {"other/net.onnx": (5, 100)}}, "net.onnx"),
        ({}, "net.onnx"),
    ],
)
def test_a_copy_with_another_time_counts_by_its_content(
    stored: Stored, there: dict[str, Any], missing: str | None
) -> None:
    assert find_missing_weights(heartbeat(**there), {"onnx": stored}) == missing


def test_a_file_of_unknown_content_counts_by_size_and_time_alone(stored: Stored) -> None:
    unknown = Stored("onnx", "net.onnx", stored.path, None)
    assert find_missing_weights(heartbeat(weights={"m/net.onnx": (5, 999)}), {"onnx": unknown}) == "net.onnx"
    assert find_missing_weights(heartbeat(weights={"m/net.onnx": (5, 100)}), {"onnx": unknown}) is None


def test_weights_in_the_image_are_never_missing() -> None:
    assert find_missing_weights(heartbeat(), {"onnx": Stored("onnx", "net.onnx", None, None, "package")}) is None

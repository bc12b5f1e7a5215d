"""A shared library that is missing: its Debian package, wherever the error comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.worker_failures import WorkerFailure
from orchestrator.runtimes.base import Exit
from orchestrator.runtimes.build_failure import build_error
from orchestrator.runtimes.shared_libraries import suggest_library


def missing(library: str) -> str:
    return f"ImportError: {library}: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("libGL.so.1", "install -y --no-install-recommends libgl1 in the stack's Dockerfile"),
        ("libxcb.so.1", "libxcb1 on this machine; opencv-python-headless in place of opencv-python"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libgomp.so.1", "libgomp1 on this machine"),
        ("libfoo_bar-2.so.12.1", "apt-file search libfoo_bar-2.so.12.1"),
        ("libcuda.so.1", "this is the driver's library"),
    ],
)
def test_the_package_of_a_library_is_named(library: str, words: str) -> None:
    assert words in str(suggest_library(missing(library)))


def test_only_packages_with_windows_have_a_headless_twin() -> None:
    assert "headless" not in str(suggest_library(missing("libgomp.so.1")))
    assert suggest_library("ImportError: cannot import name 'x'") is None


def test_a_build_and_a_start_both_say_it(tmp_path: Path) -> None:
    lines = [
        "#9 4.213 Traceback (most recent call last):",
        f"#9 4.214 {missing('libGL.so.1')}",
        "ERROR: process failed",
    ]
    assert "libgl1" in str(build_error("cannot build", lines, tmp_path / "log").hint)
    event = {"category": "load", "message": f"cannot load m: {missing('libGL.so.1')} (predictor.py:3)", "hint": None}
    failure = WorkerFailure(0, "cpu", Exit(3), event, idle=True, log=tmp_path / "log")
    assert "libgl1" in str(failure.hint)
    assert WorkerFailure(0, "cpu", Exit(3), {**event, "hint": "h"}, idle=True, log=tmp_path).hint == "h"

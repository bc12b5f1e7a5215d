"""Errors that come of a limit name it."""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from orch_runner.limits import STACK_MODULE, describe_error, is_out_of_memory


def test_limits_are_named() -> None:
    assert describe_error(ValueError("x")) == "ValueError: x"
    assert "--file-size" in describe_error(OSError(errno.EFBIG, "File too large"))
    assert "--processes" in describe_error(RuntimeError("can't start new thread"))
    assert "--processes" in describe_error(OSError(errno.EAGAIN, "Resource temporarily unavailable"))


def test_the_line_of_the_stack_is_named_not_that_of_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stack" / "parts").mkdir(parents=True)
    (tmp_path / "library.py").write_text("def fail():\n    raise KeyError('k')\n")
    (tmp_path / "stack" / "parts" / "paste.py").write_text("import library\n\n\ndef paste():\n    library.fail()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "stack"))
    monkeypatch.setitem(sys.modules, STACK_MODULE, SimpleNamespace(__file__=str(tmp_path / "stack" / "predictor.py")))
    paste = importlib.import_module("parts.paste")
    with pytest.raises(KeyError) as caught:
        paste.paste()
    assert describe_error(caught.value) == "KeyError: 'k' (parts/paste.py:5)"
    with pytest.raises(ValueError, match="invalid literal") as elsewhere:
        int("x")
    assert "(" not in describe_error(elsewhere.value).partition("with base 10")[2]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/psm_1"),
        RuntimeError("unable to write to file </torch_12_34>: No space left on device (28)"),
        RuntimeError("DataLoader worker is killed by signal: Bus error. It is possible that ... out of shared memory."),
    ],
)
def test_full_shared_memory_is_told_from_a_full_disk_and_from_full_memory(error: Exception) -> None:
    assert "/dev/shm is full" in describe_error(error)
    assert not is_out_of_memory(error), "a smaller batch on the device would not help"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_full_memory_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_a_full_disk_is_neither() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/cache/x")
    assert "shm" not in describe_error(error)
    assert not is_out_of_memory(error)

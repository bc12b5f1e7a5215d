"""Wrong output paths, in every command that writes files: refused before any work, with the path and the next step."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from orchestrator.cli import app, main
from orchestrator.errors import MachineError, UsageError
from orchestrator.system import outputs
from orchestrator.system.outputs import explain_refusal, require_file

Captured = pytest.CaptureFixture[str]

FILES = {
    "run --junit": "run -m garments-tiny -i IMAGES --junit",
    "run --summary": "run -m garments-tiny -i IMAGES --summary",
    "run -m -m --junit": "run -m garments-tiny -m ppocr-det -i IMAGES --junit",
    "export coco": "export NONE -f coco -o",
    "export fashionfail": "export NONE -f fashionfail -o",
    "export cvat": "export NONE -f cvat -o",
    "import": "import coco-results NONE -a NONE -o",
    "report": "report NONE -o",
    "eval": "eval NONE -a NONE --save-baseline",
    "compare": "compare NONE NONE --format csv -o",
    "compare --baseline": "compare NONE --baseline NONE -a NONE -o",
    "compose": "compose -o",
    "compose --env": "compose --env -o",
    "plan": "plan --save-machine",
    "convert": "convert facere --ckpt NONE --onnx",
    "new comparison": "new comparison",
}
FOLDERS = {
    "run": "run -m garments-tiny -i IMAGES -o",
    "run -m -m": "run -m garments-tiny -m ppocr-det -i IMAGES -o",
    "draw": "draw RUN -o",
    "export imdlbenco": "export NONE -f imdlbenco -o",
    "export yolo": "export NONE -f yolo -o",
    "up": "up garments-tiny --spool",
    "build": "build garments-tiny --archive-to",
    "selftest": "selftest garments-tiny -o",
    "equivalence": "equivalence garments-tiny --variants a,b -o",
    "demo": "demo -o",
    "new stack": "new stack mine --into",
}
READ = {
    *("run --images", "run --image-root", "run --spool", "run --annotations", "run --baseline", "run --file"),
    *(
        "eval file",
        "eval --masks",
        "eval --annotations",
        "compare --annotations",
        "compare --baseline",
        "compare files",
    ),
    *("export file", "inspect file", "validate file", "draw file", "report files", "report --annotations"),
    *("draw --image-root", "view files", "view --annotations", "view --image-root"),
    *("coco-results file", "coco-results --annotations"),
    *("report --image-root", "export --annotations", "plan --machine", "compose --data", "up --data", "convert --ckpt"),
    *("status run", "attach run", "cancel run", "down --spool", "ps --spool", "add path"),
    *("ls folder", "rerun run", "compare --masks", "report --masks", "model --config"),
}
"""Parameters that are paths which a command only reads."""
CHECKED_IN_THE_COMMAND = {"run --summary", "export --output", "draw --output"}


def paths_of(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for key, one in getattr(command, "commands", {}).items():
        yield from paths_of(one, key)
    for parameter in command.params:
        described = getattr(parameter, "type_descriptor", None)  # of some versions of Typer
        if "path" in str(parameter.type if described is None else described.annotation).lower():
            option = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
            yield f"{name} {option}", parameter


def test_every_path_that_a_command_takes_is_checked_or_only_read() -> None:
    found = {name: parameter.callback for name, parameter in paths_of(typer.main.get_command(app))}
    found = {name: callback for name, callback in found.items() if "--stacks" not in name}
    unchecked = {name for name, callback in found.items() if callback is None} - CHECKED_IN_THE_COMMAND
    assert unchecked <= READ, unchecked - READ


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Any:
    """Runs a command of the tables with a path at its end; gives exit code and stderr."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    for module in ("selftest", "demo.demo", "batch"):  # else they would keep what is put into `run` below
        importlib.import_module(f"orchestrator.workflows.{module}")
    for work in ("run.run_model", "batch.run_all", "demo.demo.run_demo", "selftest.run_selftest"):
        if work != "batch.run_all":
            monkeypatch.setattr(f"orchestrator.workflows.{work}", never)
            # The door keeps what it was asked for: else later tests would find this one there.
            monkeypatch.setattr(f"orchestrator.workflows.{work.rpartition('.')[2]}", never)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    names = {"IMAGES": tmp_path / "photos", "NONE": tmp_path / "none.npz", "RUN": tmp_path / "run"}

    def run(command: str, path: Path) -> tuple[int, str]:
        code = main([*(str(names.get(word, word)) for word in command.split()), str(path)])
        assert list((tmp_path / "work").iterdir()) == []
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", FILES.values(), ids=FILES)
def test_a_folder_is_no_file_to_write(call: Any, tmp_path: Path, command: str) -> None:
    code, err = call(command, tmp_path)
    assert (code, err.splitlines()[0]) == (2, f"error: cannot write {tmp_path}")
    assert "  next: " in err


@pytest.mark.parametrize("command", [*FILES.values(), *FOLDERS.values()], ids=[*FILES, *FOLDERS])
@pytest.mark.parametrize("kind", ["below a file", "too long", "refused", "full"])
def test_a_path_that_cannot_be_written(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, kind: str
) -> None:
    (tmp_path / "file").write_text("x")
    path = tmp_path / {"below a file": "file/x", "too long": "x" * 300}.get(kind, "x")
    if kind in ("refused", "full"):
        number = errno.EACCES if kind == "refused" else errno.ENOSPC

        def refuse(**_: object) -> None:
            raise OSError(number, "it says no")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, err = call(command, path)
    assert err.splitlines()[0] == f"error: cannot write {path}"
    assert code == (4 if kind in ("refused", "full") else 2)
    assert ("free disk space" in err) == (kind == "full")
    assert not os.path.lexists(path)


@pytest.mark.parametrize("command", [FOLDERS["run"], FOLDERS["draw"], FOLDERS["demo"], FOLDERS["export imdlbenco"]])
def test_a_file_is_no_folder_to_write_into(call: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("kept")
    code, err = call(command, tmp_path / "file")
    assert (code, err.splitlines()[0]) == (2, f"error: cannot write {tmp_path / 'file'}")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_device_is_not_replaced(call: Any) -> None:
    assert call(FILES["report"], Path("/dev/null"))[0] == 2
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("variable", ["ORCH_HOME", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("command", ["models", "weights list", "run -m garments-tiny -i IMAGES --runtime venv", "ps"])
def test_a_file_for_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, variable: str, place: str, command: str
) -> None:
    monkeypatch.delenv("ORCH_HOME")
    monkeypatch.delenv("ORCH_SPOOL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.setenv(variable, str(tmp_path / place))
    assert main(command.replace("IMAGES", "a.jpg").split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: the cache cannot be in {tmp_path / place}")
    assert f"next: set ${variable} to a folder" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "file"]


def test_a_full_disk_below_stdout() -> None:
    code = f"{sys.executable} -m orchestrator models --json > /dev/full"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_summary_may_be_a_device() -> None:
    require_file(Path("/dev/stderr"), "--summary", append=True)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, MachineError),
        (errno.EROFS, MachineError),
        (errno.EIO, MachineError),
        (errno.EISDIR, UsageError),
        (errno.ENAMETOOLONG, UsageError),
        (errno.EPIPE, None),
        (errno.ENOENT, None),
    ],
)
def test_what_only_shows_during_the_work_is_no_bug(number: int, kind: type | None) -> None:
    error = explain_refusal(OSError(number, "why", "/x"))
    assert type(error) is (kind or type(None))
    if error is not None:
        assert error.message == "cannot use /x"
        assert error.hint


def test_the_probe_leaves_nothing(tmp_path: Path) -> None:
    outputs.require_folder(tmp_path / "a" / "b", "--out")
    require_file(tmp_path / "a" / "c", "--out")
    assert list(tmp_path.iterdir()) == []

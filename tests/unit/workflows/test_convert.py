"""Converting a checkpoint: a stand-in for the stack's script, real processes, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import StackEntry, read_stack
from orchestrator.cli import main
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError, UsageError
from orchestrator.paths import build_logs_folder, environments_folder, weights_folder
from orchestrator.runtimes import environments
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows import convert as module
from orchestrator.workflows.convert import (
    ConvertOptions,
    checkpoint_problem,
    convert_checkpoint,
    find_converter,
    run_script,
    weights_key,
)
from tests.unit.stack_samples import MINIMAL, model_entry, stack_document, write_stack

CHECK = {"width": 640, "height": 480, "scores_compared": 9, "differences": {"score": 2e-6}}
SUCCESS = f"""
import json, pathlib, sys
job = json.load(sys.stdin)
print("reading", flush=True)
print("a warning", file=sys.stderr, flush=True)
pathlib.Path(job["onnx"]).write_bytes(b"\x08onnx of " + pathlib.Path(job["checkpoint"]).read_bytes()[:4])
print(json.dumps({{"model": job["model"] or "tiny+", "job": job, "checks": [{CHECK}]}}))
"""
TELLS = "import json; print(json.dumps({'error': {'kind': %r, 'message': 'm', 'why': 'w', 'hint': 'h'}}))"
WRITES = "import json, sys, pathlib; pathlib.Path(json.load(sys.stdin)['onnx']).write_bytes(b'half');"


class Noted(SilentDisplay):
    """Keeps the details it is told."""

    def __init__(self) -> None:
        self.details: list[str] = []

    def detail(self, message: str) -> None:
        self.details.append(message)


def write_converter(folder: Path, script: str, weights: dict[str, Any] | None = None) -> StackEntry:
    """A stack with two models of 2 and of 1 class, and this script."""
    weights = weights or {"onnx": {"file": "m.onnx", "licence": "MIT", "manual": "convert it"}}
    model = {**MINIMAL["models"]["tiny-model"], "weights": weights}
    models = {"tiny": model, "tiny+": {**model, "native": {"class_map": [7]}}}
    write_stack(folder, stack_document(models=models))
    (folder / "convert").mkdir(exist_ok=True)
    (folder / "convert" / "convert.py").write_text(script)
    (folder / "convert.lock").write_text("torch==0\n")
    return read_stack(folder)


@pytest.fixture(autouse=True)
def _no_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is a folder with this Python in it."""

    def make(folder: Path, lock: Path, *_: object) -> None:
        assert lock.read_text() == "torch==0\n"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").symlink_to(sys.executable)
        (folder / "orch-environment.json").write_text("{}")

    monkeypatch.setattr(environments, "make_environment", make)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A file that looks like one torch.save wrote."""
    with zipfile.ZipFile(tmp_path / "model.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    return tmp_path / "model.ckpt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the result goes: a folder of its own, so that what is left in it can be seen."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.onnx"


def failure(stack: StackEntry, options: ConvertOptions) -> OrchError:
    with pytest.raises(OrchError) as caught:
        convert_checkpoint(stack, options, SilentDisplay())
    return caught.value


def test_a_checkpoint_is_converted(tmp_path: Path, checkpoint: Path, target: Path) -> None:
    stack, display = write_converter(tmp_path / "tiny", SUCCESS), Noted()
    converted = convert_checkpoint(stack, ConvertOptions(checkpoint, target), display)
    assert converted.model is not None
    assert (converted.model.name, converted.added, converted.onnx) == ("tiny+", None, target)
    assert [path.name for path in target.parent.iterdir()] == ["model.onnx"]
    assert target.read_bytes() == b"\x08onnx of PK\x03\x04"
    job = converted.details["job"]
    assert Path(job.pop("onnx")).parent == target.parent, "on the same disk, so that it can be renamed"
    assert job == {"checkpoint": str(checkpoint), "model": None, "models": {"tiny": 3, "tiny+": 2}, "trust": False}
    assert display.details[-1] == "reading"
    log = converted.log.read_text()
    assert converted.log.parent == build_logs_folder()
    assert "a warning\n" in log
    assert "reading\n" in log
    assert converted.environment.parent == environments_folder()
    assert converted.environment.name.startswith("tiny-convert-")


def test_the_environment_is_made_once(
    tmp_path: Path, checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = write_converter(tmp_path / "tiny", SUCCESS)
    first = convert_checkpoint(stack, ConvertOptions(checkpoint, target), SilentDisplay())
    monkeypatch.setattr(environments, "make_environment", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(module, "ENVIRONMENT_BYTES", 1 << 62)
    second = convert_checkpoint(stack, ConvertOptions(checkpoint, target, force=True), SilentDisplay())
    assert first.environment == second.environment


def test_the_script_sees_few_variables_and_no_gpu(
    tmp_path: Path, checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    script = SUCCESS.replace('"job": job', '"job": dict(__import__("os").environ)')
    converted = convert_checkpoint(
        write_converter(tmp_path / "tiny", script), ConvertOptions(checkpoint, target), Noted()
    )
    seen = converted.details["job"]
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert "SECRET" not in seen
    assert Path(seen["HOME"]).is_relative_to(os.environ["ORCH_HOME"])


@pytest.mark.parametrize(
    ("kind", "error"),
    [("usage", UsageError), ("machine", MachineError), ("failed", RunError), ("other", RunError)],
)
def test_an_error_the_script_tells(
    tmp_path: Path, checkpoint: Path, target: Path, kind: str, error: type[OrchError]
) -> None:
    found = failure(write_converter(tmp_path / "tiny", WRITES + TELLS % kind), ConvertOptions(checkpoint, target))
    assert type(found) is error
    assert (found.message, found.why, found.hint) == ("m", "w", "h")
    assert found.log is not None
    assert Path(found.log).is_file()
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "how"),
    [
        (WRITES + "print('one'); raise ZeroDivisionError('odd')", "exit 1"),
        (WRITES + "import os; os.kill(os.getpid(), 9)", "exit -9, killed"),
        (WRITES + "print('no result')", "it printed no result"),
        (WRITES + "print('[1]')", "it printed no result"),
        (WRITES + "print('{}'); raise SystemExit(3)", "exit 3"),
        ("import os; os.close(0); os._exit(4)", "exit 4"),
    ],
)
def test_a_script_that_ends_badly(tmp_path: Path, checkpoint: Path, target: Path, script: str, how: str) -> None:
    found = failure(write_converter(tmp_path / "tiny", script), ConvertOptions(checkpoint, target))
    assert isinstance(found, RunError)
    assert found.message == f"the conversion failed: {how}"
    assert ("ZeroDivisionError: odd" in str(found.why)) == ("ZeroDivision" in script)
    assert list(target.parent.iterdir()) == []


def test_a_script_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot start the conversion"):
        run_script([str(tmp_path / "none")], {}, {}, tmp_path / "log", print)


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path, checkpoint: Path, target: Path) -> None:
    stack = write_converter(tmp_path / "tiny", SUCCESS)
    target.write_text("mine")
    error = failure(stack, ConvertOptions(checkpoint, target))
    assert (type(error), error.message) == (UsageError, f"{target} exists")
    assert target.read_text() == "mine"
    write_converter(tmp_path / "tiny", WRITES + "raise SystemExit(1)")
    failure(stack, ConvertOptions(checkpoint, target, force=True))
    assert target.read_text() == "mine", "until the new one is right"
    write_converter(tmp_path / "tiny", SUCCESS)
    convert_checkpoint(stack, ConvertOptions(checkpoint, target, force=True), SilentDisplay())
    assert target.read_bytes().startswith(b"\x08onnx of ")


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path, checkpoint: Path, target: Path) -> None:
    script = f"import pathlib; pathlib.Path({str(target)!r}).write_text('theirs')\n" + SUCCESS
    error = failure(write_converter(tmp_path / "tiny", script), ConvertOptions(checkpoint, target))
    assert error.message == f"{target} exists"
    assert {path.name: path.read_text() for path in target.parent.iterdir()} == {"model.onnx": "theirs"}


def test_targets_that_cannot_be(tmp_path: Path, checkpoint: Path) -> None:
    stack = write_converter(tmp_path / "tiny", SUCCESS)
    nowhere = failure(stack, ConvertOptions(checkpoint, tmp_path / "no" / "m.onnx"))
    assert (nowhere.message, nowhere.hint) == (f"there is no folder {tmp_path}/no", f"mkdir -p {tmp_path}/no")
    before = checkpoint.read_bytes()
    for path, why in ((tmp_path, "it is a folder"), (checkpoint, "it is the checkpoint itself")):
        assert failure(stack, ConvertOptions(checkpoint, path, force=True)).why == why
    assert checkpoint.read_bytes() == before
    assert not environments_folder().exists(), "what cannot succeed costs nothing"


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)


def another_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "its end is missing"),
        (lambda path: path.write_bytes(b"\x08\x08onnx"), "it does not begin like"),
        (flipped, "it is damaged: the checksum of archive/data.pkl"),
        (another_zip, "it is a zip archive, but not of PyTorch"),
    ],
)
def test_files_that_are_no_checkpoints(
    tmp_path: Path, checkpoint: Path, target: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(checkpoint)
    error = failure(write_converter(tmp_path / "tiny", SUCCESS), ConvertOptions(checkpoint, target))
    assert isinstance(error, UsageError)
    assert error.why is not None
    assert error.why.startswith(why)
    assert not environments_folder().exists()


def test_a_checkpoint_that_is_not_there(tmp_path: Path, target: Path) -> None:
    stack = write_converter(tmp_path / "tiny", SUCCESS)
    assert failure(stack, ConvertOptions(tmp_path / "no.ckpt", target)).why is None
    assert failure(stack, ConvertOptions(tmp_path, target)).why == "it is not a file"


def test_pytorchs_older_format_is_left_to_pytorch(tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02anything")
    assert checkpoint_problem(tmp_path / "old.ckpt") is None


def test_without_room_nothing_is_begun(
    tmp_path: Path, checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = write_converter(tmp_path / "tiny", SUCCESS)
    for name, what in (("ENVIRONMENT_BYTES", "an environment with PyTorch"), ("ONNX_BYTES", "the ONNX file")):
        monkeypatch.setattr(module, name, 1 << 62)
        error = failure(stack, ConvertOptions(checkpoint, target))
        assert isinstance(error, MachineError)
        assert what in str(error.why)
    assert not environments_folder().exists()


def test_a_stack_without_a_converter(tmp_path: Path) -> None:
    stack = read_stack(write_stack(tmp_path / "tiny"))
    with pytest.raises(UsageError, match="tiny has no conversion"):
        find_converter(stack)


def test_which_weights_a_converted_file_can_be(tmp_path: Path) -> None:
    def key(**weights: dict[str, Any]) -> str:
        return weights_key(model_entry(tmp_path / "s", {n: {"licence": "MIT", **w} for n, w in weights.items()}))

    assert key(a={"file": "a.onnx", "manual": "x"}, b={"file": "b.txt", "manual": "x"}) == "a"
    with pytest.raises(UsageError, match=r"has 0 \.onnx files"):
        key(b={"file": "b.pth", "manual": "x"})
    with pytest.raises(UsageError, match="cannot add a converted file"):
        key(a={"file": "a.onnx", "manual": "x", "sha256": "0" * 64})


def stopped_by(number: int, stack: Path, checkpoint: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """`orch convert` in a process of its own, sent a signal when the script has begun to write."""
    code = "import sys; from orchestrator.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["convert", "tiny", "--ckpt", str(checkpoint), "--onnx", str(target), "--stacks", str(stack.parent)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not any(target.parent.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_leaves_nothing(tmp_path: Path, checkpoint: Path, target: Path, number: int) -> None:
    note = tmp_path / "pid"
    script = (
        f"import os, pathlib, time; pathlib.Path({str(note)!r}).write_text(str(os.getpid()))\n{WRITES}time.sleep(60)"
    )
    stack = write_converter(tmp_path / "stacks" / "tiny", script)
    convert_environment = environments.environment_folder("tiny-convert", stack.folder / "convert.lock", module.PYTHONS)
    environments.make_environment(convert_environment, stack.folder / "convert.lock", (), False, print)
    done = stopped_by(number, stack.folder, checkpoint, target)
    error = json.loads(done.stdout)
    assert (done.returncode, error["error"], error["message"]) == (130, "Interrupted", "stopped; nothing was written")
    assert list(target.parent.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_host_programs_thread_keeps_its_signals(
    tmp_path: Path, checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.system.signals.threading.main_thread", lambda: None)
    monkeypatch.setattr(
        "orchestrator.system.signals.signal.signal", lambda *_: pytest.fail("signals are the main thread's")
    )
    convert_checkpoint(write_converter(tmp_path / "tiny", SUCCESS), ConvertOptions(checkpoint, target), SilentDisplay())


def interrupted(*_: object, **__: object) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_ctrl_c_is_told(tmp_path: Path, checkpoint: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_script", interrupted)
    error = failure(write_converter(tmp_path / "tiny", SUCCESS), ConvertOptions(checkpoint, target))
    assert isinstance(error, Interrupted)


def command(tmp_path: Path, checkpoint: Path, target: Path, *more: str) -> list[str]:
    stacks = ["--stacks", str(tmp_path / "stacks")]
    return ["convert", "tiny", "--ckpt", str(checkpoint), "--onnx", str(target), *stacks, *more]


def test_the_command_adds_the_result(
    tmp_path: Path, checkpoint: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_converter(tmp_path / "stacks" / "tiny", SUCCESS)
    assert main(command(tmp_path, checkpoint, target, "--add", "--json")) == 0
    out, err = capsys.readouterr()
    printed, cached = json.loads(out), weights_folder("tiny", "tiny+") / "m.onnx"
    assert err == ""
    assert (printed["stack"], printed["model"], printed["onnx"]) == ("tiny", "tiny+", str(target))
    assert (printed["size"], printed["added"]) == (target.stat().st_size, str(cached))
    assert cached.read_bytes() == target.read_bytes()
    assert main(["weights", "verify", "tiny+", "--stacks", str(tmp_path / "stacks")]) == 0


def test_the_command_says_what_it_did_and_what_comes_next(
    tmp_path: Path, checkpoint: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_converter(tmp_path / "stacks" / "tiny", SUCCESS)
    assert main(command(tmp_path, checkpoint, target, "--model", "tiny")) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert f"tiny: {target}, 0.0 MB, sha256 " in err
    assert "640×480: 9 scores of PyTorch and ONNX Runtime agree within 2e-06" in err
    assert err.endswith(f"next: orch weights add tiny {target}\n")
    assert main(command(tmp_path, checkpoint, target, "--model", "tiny", "--force", "--add")) == 0
    assert f"added as the weights of tiny: {weights_folder('tiny', 'tiny')}" in capsys.readouterr().err


def test_mistakes_of_the_command(
    tmp_path: Path, checkpoint: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = {"onnx": {"file": "m.onnx", "licence": "MIT", "manual": "x", "sha256": "0" * 64}}
    write_converter(tmp_path / "stacks" / "tiny", SUCCESS, sha)
    for more, words in (
        (("--model", "garments-tiny"), "garments-tiny is a model of the stack garments, not tiny"),
        (("--model", "tiny", "--add"), "cannot add a converted file to tiny"),
        (("--model", "none"), "unknown model 'none'"),
    ):
        assert main(command(tmp_path, checkpoint, target, *more)) == 2
        assert words in capsys.readouterr().err
    shutil.rmtree(tmp_path / "stacks" / "tiny" / "convert")
    assert main(command(tmp_path, checkpoint, target)) == 2
    assert "tiny has no conversion" in capsys.readouterr().err


def test_the_published_stack_has_a_converter() -> None:
    from orchestrator.catalog.loader import load_catalog

    stack = load_catalog([]).stack("facere")
    find_converter(stack)
    assert {name: len(model.native.class_map or ()) for name, model in stack.spec.models.items()}["facere+"] == 22

"""The command line: exit codes, errors with a next step and never a traceback, one JSON object for programs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __version__, cli
from orchestrator.cli import main
from orchestrator.errors import Interrupted
from orchestrator.paths import weights_folder
from orchestrator.runtimes.base import Finding
from tests.unit.conftest import MakePhoto
from tests.unit.stack_samples import MINIMAL, stack_document, write_stack

Captured = pytest.CaptureFixture[str]


def as_json(capsys: Captured, *arguments: object, code: int = 0) -> dict[str, Any]:
    """What a command prints with --json: one object, and nothing else."""
    assert main([*map(str, arguments), "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


def as_text(capsys: Captured, *arguments: object, code: int = 0) -> str:
    """What a command says to people."""
    assert main([str(one) for one in arguments]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    if code:
        assert out == ""
        assert "error: " in err
        return err
    return out + err


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """A folder with a stack whose model needs weights from a person."""
    weights = {"pth": {"file": "w.pth", "licence": "MIT", "manual": "ask the authors"}}
    model = {**MINIMAL["models"]["tiny-model"], "weights": weights, "aliases": ["tm"]}
    write_stack(tmp_path / "stacks" / "tiny", stack_document(models={"tiny-model": model}))
    return tmp_path / "stacks"


MISTAKES = [
    (("rnu",), "orch --help"),
    (("run",), "orch run --help"),
    (("run", "--modle", "x"), "orch run --help"),
    (("run", "--model", "x", "--workers", "0", "y"), "orch run --help"),
    (("run", "--model", "x", "--workers", "many", "y"), "orch run --help"),
    (("run", "--model", "garments-tiny"), "orch run --model garments-tiny --images FOLDER"),
    (("run", "--model", "garments-tny", "--images", "x"), "orch models"),
    (("models", "show", "garments-tny"), "orch models"),
    (("models", "shwo"), "orch models"),
    (("build", "nothing"), "orch models"),
    (("new", "stack", "garments"), "choose another name"),
    (("models", "--stacks", "/none"), None),
    (("build", "garments", "--build-arg", "x"), None),
    (("run", "--model", "garments-tiny", "--images", "/none", "--exif", "maybe", "--runtime", "venv"), None),
    (("run", "--model", "garments-tiny", "--images", "/none", "--runtime", "podman"), None),
    (("run", "--model", "garments-tiny", "--images", "/none", "--runtime", "venv", "--device", "gpu"), None),
    (("run", "--model", "garments-tiny", "--images", "/none", "--runtime", "venv", "--out", "/proc/x/y"), None),
    (("run", "--model", "garments-tiny", "--images", "~nosuchuserhere/x", "--runtime", "venv"), None),
    (("export", "x.npz", "--format", "cocoo"), None),
]


@pytest.mark.parametrize(
    ("arguments", "hint"), MISTAKES, ids=lambda one: " ".join(one) if isinstance(one, tuple) else ""
)
def test_mistakes_end_with_2_and_a_next_step(capsys: Captured, arguments: tuple[str, ...], hint: str | None) -> None:
    text = as_text(capsys, *arguments, code=2)
    error = as_json(capsys, *arguments, code=2)
    assert set(error) == {"error", "exit_code", "message", "why", "log", "hint"}
    assert (error["error"], error["exit_code"]) == ("UsageError", 2)
    assert f"error: {error['message']}\n" in text
    assert not error["message"].startswith("error:")
    if hint is not None:
        assert error["hint"] == hint
        assert text.endswith(f"  next: {hint}\n")


@pytest.mark.parametrize("arguments", [[], ["weights"], ["new"]])
def test_a_command_that_is_not_complete_shows_its_help(capsys: Captured, arguments: list[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: {' '.join(['orch', *arguments])} ")
    assert as_json(capsys, *arguments, code=2)["exit_code"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-m", "garments-tiny", "-i", ""], "the value of -i is empty"),
        (["run", "-m", "garments-tiny", "-i", "x", "--out", ""], "the value of --out is empty"),
        (["run", "-m", "garments-tiny", "-i", "x", "--out="], "the value of --out is empty"),
        (["models", "--stacks", ""], "the value of --stacks is empty"),
        (["weights", "add", "garments-tiny", ""], "an argument is empty"),
        (["eval", ""], "an argument is empty"),
        (["up", "garments-tiny", "--data", ""], "the value of --data is empty"),
        ([""], "an argument is empty"),
    ],
)
def test_an_empty_value_is_no_working_directory(capsys: Captured, arguments: list[str], said: str) -> None:
    assert as_text(capsys, *arguments, code=2).startswith(f"error: {said}\n")


def test_the_nearest_name_is_offered(capsys: Captured) -> None:
    error = as_text(capsys, "models", "show", "garments-tny", code=2)
    assert error == ("error: unknown model 'garments-tny'\n  why:  did you mean garments-tiny?\n  next: orch models\n")
    assert "'run'" in as_text(capsys, "rnu", code=2)


def test_a_failed_start_leaves_no_folder(capsys: Captured, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "x"
    as_text(capsys, "run", "-m", "garments-tiny", "-i", tmp_path / "no", "--runtime", "venv", "--out", out, code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_stack_is_told_by_file_and_line(capsys: Captured, tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "tiny", "stack: tiny\ntitel: x\n")
    error = as_json(capsys, "models", "--stacks", tmp_path, code=2)
    assert error["error"] == "SpecError"
    assert error["message"] == f"{folder}/stack.yaml:2: titel: unknown field (did you mean title?)"
    assert "models: this field is missing" in error["why"]


def test_missing_weights_are_the_machines_lack(
    capsys: Captured, stacks: Path, tmp_path: Path, photo: MakePhoto
) -> None:
    source = photo(tmp_path / "in" / "a.jpg").parent
    command = ("run", "--stacks", stacks, "-m", "tm", "-i", source, "--runtime", "venv", "-o", tmp_path / "o")
    error = as_json(capsys, *command, code=4)
    assert error["message"] == "the weights of tiny-model are missing"
    assert error["hint"] == "orch weights add tiny-model PATH"
    assert not (tmp_path / "o").exists()
    assert as_json(capsys, "weights", "fetch", "tm", "--stacks", stacks, code=4) == error


def test_weights_are_added_and_verified(capsys: Captured, stacks: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"PK\x03\x04 abc")
    added = as_json(capsys, "weights", "add", "tm", tmp_path / "mine.pth", "--stacks", stacks)
    assert (added["model"], added["key"]) == ("tiny-model", "pth")
    assert "present" in as_text(capsys, "weights", "list", "--stacks", stacks)
    assert as_json(capsys, "weights", "verify", "--stacks", stacks)["weights"][-1]["right"] is True
    assert "ok" in as_text(capsys, "weights", "verify", "tm", "--stacks", stacks)
    (weights_folder("tiny", "tiny-model") / "w.pth").write_bytes(b"abd")
    wrong = as_json(capsys, "weights", "verify", "--stacks", stacks, code=4)["weights"][-1]
    assert (wrong["model"], wrong["right"]) == ("tiny-model", False)
    assert main(["weights", "verify", "--stacks", str(stacks)]) == 4
    assert "wrong weights: tiny-model" in capsys.readouterr().err
    listed = as_json(capsys, "models", "--stacks", stacks)["models"]
    assert {one["name"]: one["weights_state"] for one in listed}["tiny-model"] == {"pth": "changed"}


@pytest.mark.parametrize("command", ["validate", "inspect"])
def test_predictions_that_cannot_be_read(capsys: Captured, tmp_path: Path, command: str) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    assert as_json(capsys, command, tmp_path / "text.npz", code=6)["error"] == "PredictionsError"
    as_text(capsys, command, tmp_path / "text.npz", code=6)
    assert as_json(capsys, command, tmp_path / "none.npz", code=2)["error"] == "UsageError"


def test_a_run_that_is_not_complete(capsys: Captured, tmp_path: Path) -> None:
    assert "has no predictions.npz" in as_text(capsys, "inspect", tmp_path, code=2)
    assert "is not a complete run directory" in as_text(capsys, "draw", tmp_path, code=2)


def test_models_are_listed_and_shown(capsys: Captured, stacks: Path) -> None:
    listed = as_json(capsys, "models", "--stacks", stacks)
    shown = as_json(capsys, "models", "show", "tm", "--stacks", stacks)
    assert shown == next(one for one in listed["models"] if one["name"] == "tiny-model")
    for arguments in (
        ("--json", "--stacks", str(stacks), "show", "tm"),
        ("--stacks", str(stacks), "show", "tm", "--json"),
    ):
        assert main(["models", *arguments]) == 0
        assert json.loads(capsys.readouterr().out) == shown
    table = as_text(capsys, "models", "--stacks", stacks).splitlines()
    assert table[0].split("\t") == ["model", "stack", "task", "variants", "weights", "title"]
    assert "tiny-model\ttiny\tinstance-segmentation\tcpu\tmissing\tA model" in table
    text = as_text(capsys, "models", "show", "tm", "--stacks", stacks)
    assert "categories      1 one, 7 seven" in text
    assert "w.pth, missing, MIT, from ask the authors" in text


def test_help_and_version(capsys: Captured) -> None:
    assert as_text(capsys, "--version") == f"orch {__version__}\n"
    for arguments in (["--help"], ["-h"], ["run", "--help"], ["weights", "-h"], ["models", "show", "--help"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith("Usage: orch")


def test_the_doctor_counts_problems(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("a", "ok", "b"), Finding("c", "note", "d", "e")]
    monkeypatch.setattr("orchestrator.workflows.doctor.examine_machine", lambda: findings)
    assert as_json(capsys, "doctor") == {"findings": [finding.as_json() for finding in findings]}
    assert as_text(capsys, "doctor").splitlines()[2] == "c\tnote\td\te"
    findings.append(Finding("f", "problem", "g", "h"))
    assert len(as_json(capsys, "doctor", code=4)["findings"]) == 3


def test_a_stack_is_begun(capsys: Captured, tmp_path: Path) -> None:
    created = as_json(capsys, "new", "stack", "mine", "--into", tmp_path / "s")
    assert created == {"stack": "mine", "folder": str(tmp_path / "s" / "mine")}
    assert f"orch run --stacks {tmp_path / 't'} --model yours-example" in as_text(
        capsys, "new", "stack", "yours", "--into", tmp_path / "t"
    )


def raising(error: BaseException) -> Any:
    def command(*_: object, **__: object) -> None:
        raise error

    return command


def test_an_unforeseen_error_is_a_bug_with_a_log(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.catalog.loader.load_catalog", raising(ZeroDivisionError("odd")))
    error = as_json(capsys, "models", code=70)
    assert error["message"] == "this is a bug in orch: ZeroDivisionError: odd"
    assert "Traceback" in Path(error["log"]).read_text()
    assert "please report it" in as_text(capsys, "models", code=70)
    monkeypatch.setenv("ORCH_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_what_the_system_refuses_is_no_bug(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", "/x")
    monkeypatch.setattr("orchestrator.catalog.loader.load_catalog", raising(refused))
    error = as_json(capsys, "models", code=4)
    assert (error["error"], error["why"]) == ("MachineError", "Permission denied")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped", hint="the same command resumes it")])
def test_being_stopped_says_how_to_go_on(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    monkeypatch.setattr("orchestrator.catalog.loader.load_catalog", raising(stop))
    error = as_json(capsys, "models", code=130)
    assert (error["error"], error["hint"]) == ("Interrupted", "the same command resumes it")
    assert as_text(capsys, "models", code=130).startswith("error: stopped\n")


def test_sigterm_outside_of_dispatch_ends_like_ctrl_c() -> None:
    code = """
import os, signal, sys, time
from orchestrator.catalog import loader
from orchestrator.cli import main
def stop(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
loader.load_catalog = stop
sys.exit(main(["models"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert done.stderr == "error: stopped\n  next: the same command resumes it\n"


def orch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m orchestrator models --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_terminals_encoding_can_end_a_command(tmp_path: Path) -> None:
    write_stack(tmp_path / "tiny", stack_document(title="猫", models={"ü": 1}))
    done = orch("models", "--stacks", str(tmp_path), PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"models.\\xfc" in done.stderr
    done = orch("models", "show", "--json", os.fsdecode(b"caf\xe9"), PYTHONIOENCODING="latin-1")
    assert json.loads(done.stdout)["message"] == "unknown model 'caf\\udce9'"


def test_an_unwritable_home_does_not_hide_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("ORCH_HOME", "/proc/nowhere")
    monkeypatch.setattr("orchestrator.catalog.loader.load_catalog", raising(ZeroDivisionError("odd")))
    assert cli.main(["models"]) == 70
    assert "this is a bug in orch" in capsys.readouterr().err


def test_every_usage_error_has_a_next_step(capsys: Captured, tmp_path: Path) -> None:
    assert as_json(capsys, "run", "garments-tiny", str(tmp_path / "none"), code=2)["hint"] == "orch run --help"
    hint = as_json(capsys, "export", str(tmp_path), "--format", "nope", code=2)["hint"]
    assert hint == "orch export --help"
    assert as_json(capsys, "run", "garments-tiny", str(tmp_path), "--executor", "sge", "--dry-run", code=2)

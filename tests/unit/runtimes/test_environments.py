"""Environments made from locks: the commands that make them, and which Python and uv are used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BuildError, MachineError
from orchestrator.paths import build_logs_folder
from orchestrator.runtimes import environments
from orchestrator.runtimes.environments import environment_folder, find_python, find_uv, make_environment

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def fake_tool(folder: Path, name: str, script: str = "") -> str:
    """A command that writes down how it was called."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{folder}/calls"\n{script}\n')
    (folder / name).chmod(0o755)
    return str(folder / name)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Let `uv` and `python` be these scripts, or absent; gives the file with the calls."""

    def install(uv: str | None, python: str | None) -> Path:
        folder = tmp_path / "tools"
        found_uv = None if uv is None else fake_tool(folder, "uv", uv)
        found_python = None if python is None else Path(fake_tool(folder, "python", python))
        monkeypatch.setattr(environments, "find_uv", lambda: found_uv)
        monkeypatch.setattr(environments, "find_python", lambda versions: found_python)
        return folder / "calls"

    return install


def make(folder: Path, *, offline: bool = False) -> None:
    (folder / "lock").write_text("")
    make_environment(folder / "env", folder / "lock", ("3.11", "3.12"), offline, lambda line: None)


LOCKED = "--no-deps --require-hashes"
UV_MAKES = '[ "$1" = venv ] && mkdir -p "$5/bin" || true'
PYTHON_VENV = '[ "$2" != venv ] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }'
PYTHON_MAKES = f"{PYTHON_VENV}; exit 0"


def test_uv_makes_the_environment(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(UV_MAKES, None)
    make(tmp_path)
    env, lock = tmp_path / "env", tmp_path / "lock"
    assert calls.read_text().splitlines() == [
        f"uv venv --quiet --python 3.11 {env}",
        f"uv pip install --compile-bytecode --python {env}/bin/python {LOCKED} --only-binary :all: -r {lock}",
        f"uv pip check --quiet --python {env}/bin/python",
    ]
    assert json.loads((env / "orch-environment.json").read_text()) == {
        "format": "orch-environment/1", "lock": "lock", "python": "None", "uv": True,
    }  # fmt: skip


def test_source_distributions_are_built_with_locked_packages(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(UV_MAKES, None)
    env, lock, build_lock = tmp_path / "env", tmp_path / "lock", tmp_path / "build.lock"
    lock.write_text("")
    build_lock.write_text("")
    make_environment(env, lock, ("3.11",), False, lambda line: None, build_lock)
    install = f"uv pip install --compile-bytecode --python {env}/bin/python {LOCKED}"
    assert calls.read_text().splitlines()[1:-1] == [
        f"{install} --only-binary :all: -r {build_lock}",
        f"{install} --no-build-isolation -r {lock}",
    ]
    other = environment_folder("x", lock, ("3.11",))
    assert environment_folder("x", lock, ("3.11",), build_lock) == other  # empty, so nothing differs
    build_lock.write_text("setuptools==1")
    assert environment_folder("x", lock, ("3.11",), build_lock) != other


def test_without_uv_it_takes_venv_and_pip(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(None, PYTHON_MAKES)
    make(tmp_path, offline=True)
    env, lock = tmp_path / "env", tmp_path / "lock"
    assert calls.read_text().splitlines() == [
        f"python -m venv {env}",
        f"python -m pip install --no-input --no-index {LOCKED} --only-binary :all: -r {lock}",
        "python -m pip check",
    ]


def test_offline_uv_fetches_nothing(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(UV_MAKES, "")
    make(tmp_path, offline=True)
    assert calls.read_text().splitlines()[1].split()[6:7] == ["--offline"]
    tools(UV_MAKES, None)
    with pytest.raises(MachineError):
        make(tmp_path, offline=True)


def test_without_python_and_uv_the_way_out_is_told(tmp_path: Path, tools: Callable[..., Path]) -> None:
    tools(None, None)
    with pytest.raises(MachineError, match=r"no Python 3\.11 or 3\.12 on this machine") as caught:
        make(tmp_path)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("or apt-get install python3.11")


def test_an_environment_that_cannot_be_made(tmp_path: Path, tools: Callable[..., Path]) -> None:
    tools('echo "no such package"; exit 1', None)
    with pytest.raises(BuildError, match="uv ended with 1") as caught:
        make(tmp_path)
    assert caught.value.why == "no such package"
    assert caught.value.log == str(build_logs_folder() / "env.log")


UV_MISSING = "The package `onnxruntime` requires `flatbuffers`, but it's not installed"
UV_CONFLICT = "The package `pandas` requires `numpy>=2.0.2 ; python_full_version < '3.14'`, but `1.26.4` is installed"
PIP_MISSING = "onnxruntime 1.31.1 requires flatbuffers, which is not installed."
PIP_CONFLICT = "pandas 3.1.1 has requirement numpy>=2.0.2, but you have numpy 1.26.4."


@pytest.mark.parametrize(
    ("uv", "answer", "partial", "why"),
    [
        (True, f"Found 1 incompatibility\n{UV_MISSING}", False, f"Found 1 incompatibility\n{UV_MISSING}"),
        (True, f"Found 1 incompatibility\n{UV_MISSING}", True, None),
        (True, f"Found 2 incompatibilities\n{UV_MISSING}\n{UV_CONFLICT}", True, UV_CONFLICT),
        (True, "", False, ""),
        (False, PIP_MISSING, False, PIP_MISSING),
        (False, PIP_MISSING, True, None),
        (False, f"{PIP_MISSING}\n{PIP_CONFLICT}", True, PIP_CONFLICT),
    ],
)
def test_what_is_installed_must_fit_together(
    uv: bool, answer: str, partial: bool, why: str | None, tmp_path: Path, tools: Callable[..., Path]
) -> None:
    check = f'[ "$2" = check -o "$3" = check ] || exit 0; cat "{tmp_path}/answer"; exit 1'
    (tmp_path / "answer").write_text(answer and answer + "\n")
    (tmp_path / "lock").write_text("")
    tools(f'mkdir -p "{tmp_path}/env"; {check}', None) if uv else tools(None, f"{PYTHON_VENV}; {check}")

    def make_checked() -> None:
        make_environment(tmp_path / "env", tmp_path / "lock", ("3.11",), False, lambda line: None, partial=partial)

    if why is None:
        make_checked()
        return
    with pytest.raises(BuildError, match="lock: the locked packages do not fit together") as caught:
        make_checked()
    assert caught.value.why == why
    assert caught.value.hint is not None
    assert "partial_lock" in caught.value.hint
    assert not environments.is_complete(tmp_path / "env")


def test_a_python_is_taken_only_if_it_runs_and_is_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("PATH", str(tmp_path / "tools"))
    fake_tool(tmp_path / "tools", "python9.9", "echo 9.9 is not installed; exit 127")
    assert find_python(["9.9"]) is None
    own = find_python(["9.9", VERSION])
    assert own is not None
    assert own.resolve() == Path(sys.executable).resolve(), "the interpreter itself, not an environment of it"
    fake_tool(tmp_path / "tools", "python9.9", 'echo "9.9 $0"')
    assert find_python(["9.9", VERSION]) == tmp_path / "tools" / "python9.9"
    (tmp_path / "pyenv" / "versions" / "9.8.1").mkdir(parents=True)
    fake_tool(tmp_path / "pyenv" / "versions" / "9.8.1" / "bin", "python9.8", 'echo "9.8 $0"')
    assert find_python(["9.8"]) == tmp_path / "pyenv" / "versions" / "9.8.1" / "bin" / "python9.8"


def test_uv_is_looked_for_beside_python_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert find_uv() is None
    on_path = fake_tool(tmp_path, "uv")
    assert find_uv() == on_path
    beside = fake_tool(tmp_path / "bin", "uv")
    assert find_uv() == beside
    assert subprocess.run([beside], check=False).returncode == 0


def test_variables_that_mislead_pip_are_not_passed_on(
    tmp_path: Path, tools: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "UV_CONSTRAINT", "CONDA_PREFIX"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    tools(f'{UV_MAKES}; env >> "$(dirname "$0")/environment"', None)
    make(tmp_path)
    seen = (tmp_path / "tools" / "environment").read_text()
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert names.isdisjoint({"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "UV_CONSTRAINT", "CONDA_PREFIX"})
    assert {"PIP_INDEX_URL", "PATH", "PYTHONNOUSERSITE"} <= names


def complete(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "orch-environment.json").write_text("{}")
    return folder


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path) -> None:
    folder = complete(tmp_path / "env")
    assert environments.is_complete(folder)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/usr/bin/python3.1")
    assert not environments.is_complete(folder)


def test_other_kinds_of_machines_have_environments_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    here = environment_folder("x", tmp_path / "lock", ("3.11",))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert environment_folder("x", tmp_path / "lock", ("3.11",)) != here


def test_a_shared_cache_is_used_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").touch()
    own = environment_folder("x", tmp_path / "lock", ("3.11",))
    monkeypatch.setenv("ORCH_SHARED_HOME", str(tmp_path / "shared"))
    assert environment_folder("x", tmp_path / "lock", ("3.11",)) == own, "it has none"
    theirs = complete(tmp_path / "shared" / "envs" / own.name)
    assert environment_folder("x", tmp_path / "lock", ("3.11",)) == theirs
    made = environments.ensure_environment("x", tmp_path / "lock", ("3.11",), lambda line: None)
    assert made == (theirs, False)
    assert [path.name for path in theirs.parent.iterdir()] == [own.name], "no lock file"
    complete(own)
    assert environment_folder("x", tmp_path / "lock", ("3.11",)) == own, "the caller's own comes first"


def test_who_uses_an_environment_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments.mark_used(tmp_path)
    assert environments.find_user(tmp_path) == f"process {os.getpid()} uses it"
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert "uses it, or did in the last 14 days" in str(environments.find_user(tmp_path))
    monkeypatch.undo()
    ended = next((tmp_path / ".uses").iterdir()).with_name(f"{socket.gethostname()}-999999999")
    next((tmp_path / ".uses").iterdir()).rename(ended)
    assert environments.find_user(tmp_path) is None
    assert not ended.exists()

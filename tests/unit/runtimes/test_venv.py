"""The venv runtime: commands and environments compared whole, real processes watched and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.bundled import RUNNER
from orchestrator.errors import BuildError, MachineError
from orchestrator.paths import build_logs_folder, environments_folder
from orchestrator.runtimes import venv
from orchestrator.runtimes.base import BuildOptions, Exit, Prepared, WorkerSpec
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.runtimes.process import ProcessWorker
from orchestrator.runtimes.venv import (
    VenvRuntime,
    find_python,
    make_environment,
    worker_command,
    worker_process_environment,
)
from tests.unit.stack_samples import MINIMAL, stack_entry

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def worker_spec(folder: Path) -> WorkerSpec:
    folders = [folder / name for name in ("job", "data", "weights", "out", "cache")]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    job, data, weights, out, cache = folders
    return WorkerSpec("run1", "w0", job, data, [], weights, out, cache, folder / "w0.log", 2)


def prepared(folder: Path, location: str = "/envs/e") -> Prepared:
    return Prepared(stack_entry(folder / "stack"), "cpu", "venv", "0123456789ab", location)


def test_command_and_environment_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = worker_spec(tmp_path)
    assert worker_command(prepared(tmp_path), spec) == [
        "/envs/e/bin/python", "-m", "orch_runner", str(tmp_path / "job" / "job.json")
    ]  # fmt: skip
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {"PATH": "/bin", "LANG": "C", "SECRET": "x", "PYTHONPATH": "/mine", "http_proxy": "x"}.items():
        monkeypatch.setenv(name, value)
    cache = str(tmp_path / "cache")
    assert worker_process_environment(spec) == {
        "PATH": "/bin", "LANG": "C", "PYTHONPATH": str(RUNNER), "HOME": f"{cache}/home",
        "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "NUMEXPR_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1",
        "XDG_CACHE_HOME": f"{cache}/xdg", "MPLCONFIGDIR": f"{cache}/matplotlib", "NUMBA_CACHE_DIR": f"{cache}/numba",
        "TORCH_HOME": f"{cache}/torch", "CUDA_CACHE_PATH": f"{cache}/cuda", "CUDA_CACHE_MAXSIZE": "4294967296",
    }  # fmt: skip


def test_the_guest_sees_the_hosts_paths(tmp_path: Path) -> None:
    spec = worker_spec(tmp_path)
    assert VenvRuntime().guest_paths(prepared(tmp_path), spec) == GuestPaths(
        *(tmp_path / name for name in ("data", "weights", "out", "cache", "job/queue", "stack"))
    )
    assert VenvRuntime().available() is None


def python_worker(folder: Path, code: str) -> ProcessWorker:
    spec = worker_spec(folder)
    command = [sys.executable, "-c", code, str(spec.job / "job.json")]
    return ProcessWorker(spec, command, worker_process_environment(spec))


def test_a_worker_speaks_and_ends(tmp_path: Path) -> None:
    worker = python_worker(tmp_path, "import sys; print('one\\ntwo'); print('log', file=sys.stderr); sys.exit(3)")
    assert list(worker.lines()) == [b"one", b"two"]
    assert worker.wait() == Exit(3)
    worker.terminate()
    worker.close()
    assert (tmp_path / "w0.log").read_text() == "log\n"


def test_a_worker_is_terminated_and_killed_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    worker = python_worker(tmp_path, code)
    child = int(next(worker.lines()))
    worker.kill()
    assert worker.wait() == Exit(-signal.SIGKILL)
    assert ended(child)
    worker.close()
    worker = python_worker(tmp_path, "import time; print('on', flush=True); time.sleep(60)")
    assert next(worker.lines()) == b"on"
    worker.terminate()
    assert worker.wait() == Exit(-signal.SIGTERM)
    worker.close()


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits to be noticed by its parent."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the worker w0 cannot be started"):
        VenvRuntime().start(prepared(tmp_path, str(tmp_path / "none")), worker_spec(tmp_path))


def test_leftover_workers_of_this_run_are_killed_and_no_others(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    wait = "import time; print('on', flush=True); time.sleep(60)"
    mine, other = python_worker(jobs / "w0", wait), python_worker(tmp_path / "w1", wait)
    number, began, boot = (jobs / "w0" / "job" / "pid").read_text().split()
    odd = {"stale": "", "odd": "x", "gone": f"999999999 {began} {boot}", "number": str(os.getpid())}
    later = {"later": f"{number} {int(began) + 1} {boot}", "elsewhere": f"{number} {began} another-machine"}
    for name, text in {**odd, **later}.items():
        (jobs / "w0" / name).mkdir()
        (jobs / "w0" / name / "pid").write_text(text)
    assert VenvRuntime().reap("run1", jobs / "w0") == 1, "a number alone may be somebody else's"
    assert mine.wait() == Exit(-signal.SIGKILL)
    assert VenvRuntime().reap("run1", tmp_path / "none") == 0
    assert next(other.lines()) == b"on"
    for worker in (mine, other):
        worker.close()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Exit(0), "exit 0"), (Exit(3), "exit 3"), (Exit(-9), "exit -9, killed"), (Exit(139), "exit 139, segmentation"),
        (Exit(137, out_of_memory=True), "out of memory"), (Exit(137, detail="removed"), "exit 137, removed"),
        (Exit(9), "exit 9"), (Exit(-64), "exit -64"),
    ],
)  # fmt: skip
def test_ends_are_told_in_words(end: Exit, words: str) -> None:
    assert end.describe().startswith(words)


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
        monkeypatch.setattr(venv, "find_uv", lambda: found_uv)
        monkeypatch.setattr(venv, "find_python", lambda versions: found_python)
        return folder / "calls"

    return install


def make(folder: Path, *, offline: bool = False) -> None:
    (folder / "lock").write_text("")
    make_environment(folder / "env", folder / "lock", ("3.11", "3.12"), offline, lambda line: None)


UV_MAKES = '[ "$1" = venv ] && mkdir -p "$5/bin" || true'
PYTHON_MAKES = '[ "$2" = venv ] || exit 0; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"'


def test_uv_makes_the_environment(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(UV_MAKES, None)
    make(tmp_path)
    env, lock = tmp_path / "env", tmp_path / "lock"
    assert calls.read_text().splitlines() == [
        f"uv venv --quiet --python 3.11 {env}",
        f"uv pip install --compile-bytecode --python {env}/bin/python --no-deps --require-hashes -r {lock}",
    ]
    assert json.loads((env / "orch-environment.json").read_text()) == {"lock": "lock", "python": "None", "uv": True}


def test_source_distributions_are_built_with_locked_packages(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(UV_MAKES, None)
    env, lock, build_lock = tmp_path / "env", tmp_path / "lock", tmp_path / "build.lock"
    lock.write_text("")
    build_lock.write_text("")
    make_environment(env, lock, ("3.11",), False, lambda line: None, build_lock)
    install = f"uv pip install --compile-bytecode --python {env}/bin/python --no-deps --require-hashes"
    assert calls.read_text().splitlines()[1:] == [
        f"{install} -r {build_lock}",
        f"{install} --no-build-isolation -r {lock}",
    ]
    other = venv.environment_folder("x", lock, ("3.11",))
    assert venv.environment_folder("x", lock, ("3.11",), build_lock) == other  # empty, so nothing differs
    build_lock.write_text("setuptools==1")
    assert venv.environment_folder("x", lock, ("3.11",), build_lock) != other


def test_a_variant_whose_dockerfile_needs_an_argument_is_no_environment(tmp_path: Path) -> None:
    variant = {**MINIMAL["variants"]["cpu"], "build_args": {"INDEX": {"help": "where from"}}}
    stack = stack_entry(tmp_path, variants={"cpu": variant})
    options = BuildOptions(build_args={"INDEX": "https://x.org"})
    with pytest.raises(MachineError, match="can only be built as an image") as caught:
        VenvRuntime().prepare(stack, "cpu", options, lambda line: None)
    assert caught.value.why == "its Dockerfile needs INDEX: where from"


def test_without_uv_it_takes_venv_and_pip(tmp_path: Path, tools: Callable[..., Path]) -> None:
    calls = tools(None, PYTHON_MAKES)
    make(tmp_path, offline=True)
    env, lock = tmp_path / "env", tmp_path / "lock"
    assert calls.read_text().splitlines() == [
        f"python -m venv {env}",
        f"python -m pip install --no-input --no-index --no-deps --require-hashes -r {lock}",
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
    with pytest.raises(MachineError, match=r"there is no Python 3\.11 or 3\.12 on this machine") as caught:
        make(tmp_path)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("or apt-get install python3.11")


def test_an_environment_that_cannot_be_made(tmp_path: Path, tools: Callable[..., Path]) -> None:
    tools('echo "no such package"; exit 1', None)
    with pytest.raises(BuildError, match="uv ended with 1") as caught:
        make(tmp_path)
    assert caught.value.why == "no such package"
    assert caught.value.log == str(build_logs_folder() / "env.log")


def test_an_environment_is_made_once_and_again_when_the_lock_changes(
    tmp_path: Path, tools: Callable[..., Path]
) -> None:
    calls = tools(UV_MAKES, None)
    stack = stack_entry(tmp_path / "stack")

    def prepare(**options: Any) -> Prepared:
        return VenvRuntime().prepare(stack, "cpu", BuildOptions(**options), lambda line: None)

    first, second = prepare(), prepare()
    assert (first.fresh, second.fresh, first.location) == (True, False, second.location)
    assert Path(first.location).parent == environments_folder()
    (tmp_path / "stack" / "predictor.py").write_text("class Predictor: ...\n")
    assert not prepare().fresh, "the predictor is no part of the environment"
    assert prepare().identity != first.identity
    assert prepare(rebuild=True).fresh
    (Path(first.location) / "orch-environment.json").unlink()
    assert prepare().fresh, "one that was never finished"
    (tmp_path / "stack" / "cpu.lock").write_text("other\n")
    assert prepare().location != first.location
    assert len(calls.read_text().splitlines()) == 8


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
    assert venv.find_uv() is None
    on_path = fake_tool(tmp_path, "uv")
    assert venv.find_uv() == on_path
    beside = fake_tool(tmp_path / "bin", "uv")
    assert venv.find_uv() == beside
    assert subprocess.run([beside], check=False).returncode == 0

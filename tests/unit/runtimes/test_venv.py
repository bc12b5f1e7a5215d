"""The venv runtime: commands and environments compared whole, real processes watched and ended."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.bundled import RUNNER
from orchestrator.errors import MachineError
from orchestrator.paths import environments_folder
from orchestrator.runtimes import environments, process
from orchestrator.runtimes.base import BuildOptions, Exit, Prepared, WorkerSpec
from orchestrator.runtimes.guest_contract import GuestPaths
from orchestrator.runtimes.process import ProcessWorker
from orchestrator.runtimes.venv import (
    VenvRuntime,
    worker_command,
    worker_process_environment,
)
from tests.unit.stack_samples import MINIMAL, stack_entry


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
    assert VenvRuntime().unavailable_reason() is None


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


def test_nothing_is_waited_for_once_a_process_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = python_worker(tmp_path, "import subprocess; subprocess.Popen(['sleep', '60']); print('on')")
    assert worker.wait() == Exit(0)
    waits, wait = list[float](), select.select

    def note(*arguments: Any) -> Any:
        waits.append(arguments[-1])
        return wait(*arguments)

    monkeypatch.setattr("orchestrator.runtimes.process.select.select", note)
    assert list(worker.lines()) == [b"on"], "though its child keeps the pipe open"
    assert waits == [0, 0]
    worker.kill()
    worker.close()


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot start the worker w0"):
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


KILL_ITSELF = "import os; os.kill(os.getpid(), {signal})"


@pytest.mark.parametrize(("kills_after", "is_memory"), [(4, True), (3, False)])
def test_a_process_that_the_kernel_killed_for_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills_after: int, is_memory: bool
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 7\noom_kill 3\n")
    monkeypatch.setattr(process, "_VMSTAT", vmstat)
    worker = python_worker(tmp_path, KILL_ITSELF.format(signal=9))
    vmstat.write_text(f"pgfault 9\noom_kill {kills_after}\n")
    end = worker.wait()
    worker.close()
    assert end.out_of_memory == is_memory
    assert (end.describe() == "out of memory: the kernel killed it") == is_memory
    assert ("--workers" in str(end.hint)) == is_memory


def test_a_worker_that_orch_killed_is_not_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter(range(100))
    monkeypatch.setattr(process, "count_oom_kills", lambda: next(counts))
    worker = python_worker(tmp_path, "import time; time.sleep(60)")
    worker.kill()
    assert worker.wait() == Exit(-signal.SIGKILL)
    worker.close()


def test_a_bus_error_names_shared_memory(tmp_path: Path) -> None:
    worker = python_worker(tmp_path, KILL_ITSELF.format(signal=7))
    end = worker.wait()
    worker.close()
    assert "/dev/shm" in end.describe()
    assert "df -h /dev/shm" in str(end.hint)


TALK = "import sys\nfor at in range({lines}): print(f'line {{at:06d}}', file=sys.stderr)\nprint('done')"


def test_a_log_that_grew_too_long_is_cut_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "w0.log"
    log.write_text("".join(f"line {at:06d}\n" for at in range(10_000)))
    with log.open("a") as appended:
        process.cut_log(log, 40_000)
        print("the last line", file=appended)
    text = log.read_text()
    assert len(text) < 31_000
    assert text.startswith("line 000000\n")
    assert "(cut: the log was longer than" in text
    assert text.endswith("line 009999\nthe last line\n")
    before = log.read_bytes()
    process.cut_log(log, 40_000)
    assert log.read_bytes() == before


def test_the_log_of_a_process_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LOG_CHECK_SECONDS", 0.0)
    cut: list[Path] = []
    monkeypatch.setattr(process, "cut_log", cut.append)
    worker = python_worker(tmp_path, TALK.format(lines=10))
    assert list(worker.lines()) == [b"done"]
    worker.close()
    assert set(cut) == {tmp_path / "w0.log"}


def test_a_variant_whose_dockerfile_needs_an_argument_is_no_environment(tmp_path: Path) -> None:
    variant = {**MINIMAL["variants"]["cpu"], "build_args": {"INDEX": {"help": "where from"}}}
    stack = stack_entry(tmp_path, variants={"cpu": variant})
    options = BuildOptions(build_args={"INDEX": "https://x.org"})
    with pytest.raises(MachineError, match="can only be built as an image") as caught:
        VenvRuntime().prepare(stack, "cpu", options, lambda line: None)
    assert caught.value.why == "its Dockerfile needs INDEX: where from"


def test_an_environment_is_made_once_and_again_when_the_lock_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(folder: Path, *arguments: object) -> None:
        made.append(folder)
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").touch()
        (folder / "orch-environment.json").write_text("{}")

    monkeypatch.setattr(environments, "make_environment", make)
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
    assert len(made) == 4

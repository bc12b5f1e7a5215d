"""The kinds of faults: what each does to a run under way, or to its folder between two starts."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.disks import fill, give_back
from tests.faults.slurm import SlurmWorkers
from tests.faults.workers import WarmWorkers

if TYPE_CHECKING:
    from tests.faults.cases import Case

Process = subprocess.Popen[str]
STOPPED_SECONDS = 1.0
LOCAL = ("venv", "docker", "warm", "engine")
EVERYWHERE = (*LOCAL, "slurm")
MOST_LEFT = 60_000
"""Bytes that a full disk may have left."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    `act` is done to the started command after a random delay; `spoil` to the folder before the command is started;
    `wrapped` is a fault that tests.faults.command installs; `mend` ends the fault once the command has ended. `codes`:
    the exit codes that are right besides 0; a signal may come before Python has imported anything, and `python -m` may
    end by SIGINT, which a shell shows as 130 too, though KeyboardInterrupt was handled.
    """

    name: str
    codes: tuple[int, ...] = ()
    act: Callable[[Case, Process, random.Random], None] | None = None
    spoil: Callable[[Case, random.Random], None] | None = None
    mend: Callable[[Case], None] | None = None
    wrapped: str | None = None
    runtimes: tuple[str, ...] = EVERYWHERE
    is_possible: Callable[[], bool] = lambda: True
    """Whether this user can bring it about."""


def is_root() -> bool:
    return os.geteuid() == 0


def send(number: int) -> Callable[[Case, Process, random.Random], None]:
    """Send the command a signal."""

    def act(case: Case, process: Process, chance: random.Random) -> None:
        del case, chance
        process.send_signal(number)

    return act


def stop_for_a_while(case: Case, process: Process, chance: random.Random) -> None:
    """Stop command or worker, and continue it."""
    chosen = [process.pid, *case.workers.pids()]
    pid = chance.choice(chosen)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        os.kill(pid, signal.SIGCONT)


def kill_workers(case: Case, process: Process, chance: random.Random) -> None:
    """Kill a worker, or all of them, as the kernel does when memory is short."""
    del process
    pids = case.workers.pids()
    for pid in pids if chance.random() < 0.3 else pids[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, chance.choice((signal.SIGKILL, signal.SIGTERM)))


def kill_all(case: Case, process: Process, chance: random.Random) -> None:
    """The machine goes down: command and workers at once."""
    del chance
    for pid in (process.pid, *case.workers.pids()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start_twice(case: Case, process: Process, chance: random.Random) -> None:
    """Start the same command again while the first is at work: one of both is refused."""
    del chance
    other = case.start("none", 0)
    out, error = other.communicate(timeout=case.limit)
    if other.returncode not in (0, 2) or (other.returncode == 2 and process.wait(case.limit) == 2):
        case.blame(f"the second command ended with {other.returncode}: {error or out}")


def kept_files(case: Case) -> Iterator[Path]:
    """Yield the run's own files. Pictures are checked when they are taken, and watched once the run is complete."""
    between = case.out / "shards" / "masks"
    for path in sorted(case.out.rglob("*")):
        kept = path.is_file() and path.name not in (".lock", "run.json") and "logs" not in path.parts
        if kept and not path.is_relative_to(between):
            yield path


def spoil_file(change: Callable[[Path, random.Random], None]) -> Callable[[Case, random.Random], None]:
    """Damage one file of the run."""

    def spoil(case: Case, chance: random.Random) -> None:
        files = list(kept_files(case))
        if files:
            path = chance.choice(files)
            case.report(f"  {path.relative_to(case.out)}")
            change(path, chance)

    return spoil


def cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        at = chance.randrange(len(content))
        content[at] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


def delete(path: Path, chance: random.Random) -> None:
    del chance
    path.unlink()


def spoil_run_json(case: Case, chance: random.Random) -> None:
    """Damage run.json, which nothing can restore but its owner: the command must name it and touch nothing."""
    path = case.out / "run.json"
    if not path.exists():
        return
    kept = path.read_bytes()
    path.write_bytes(kept[: chance.randrange(len(kept))])
    process = case.start("none", 0)
    out, error = process.communicate(timeout=case.limit)
    if process.returncode != 5 or "run.json" not in error:
        case.blame(f"a damaged run.json ends with {process.returncode}: {error or out}")
    path.write_bytes(kept)


def change_image(case: Case, chance: random.Random) -> None:
    """Replace an image between two starts."""
    case.toggle_image(chance)


def lose_job_folders(case: Case, chance: random.Random) -> None:
    """Lose what workers have under way."""
    del chance
    shutil.rmtree(case.out / "jobs", ignore_errors=True)


def fill_disk(case: Case, chance: random.Random) -> None:
    """Leave nearly no space on the disk of the run."""
    fill(case.disk, chance.randrange(MOST_LEFT))


def lose_spooled_jobs(case: Case, process: Process, chance: random.Random) -> None:
    """Lose the jobs in the spool of a warm worker, which goes on."""
    del process
    assert isinstance(case.workers, WarmWorkers)
    for path in (case.workers.variant.root / chance.choice(("jobs", "tickets"))).iterdir():
        (shutil.rmtree if path.is_dir() else os.unlink)(path)


def restart_engine(case: Case, process: Process, chance: random.Random) -> None:
    """Restart the private engine, in order or after SIGKILL."""
    del process
    assert case.setup.engine is not None
    case.setup.engine.restart(kill=chance.random() < 0.5)


def lose_node(case: Case, process: Process, chance: random.Random) -> None:
    """Lose a node of the cluster."""
    del process
    assert isinstance(case.workers, SlurmWorkers)
    case.workers.lose_node(chance)


def act_on_job(*command: str) -> Callable[[Case, Process, random.Random], None]:
    """Have Slurm do something to the submitted job."""

    def act(case: Case, process: Process, chance: random.Random) -> None:
        del process, chance
        assert isinstance(case.workers, SlurmWorkers)
        if case.workers.job is not None:
            case.workers.ask(*command, case.workers.job)

    return act


KINDS = (
    Kind("SIGKILL", (-signal.SIGKILL,), act=send(signal.SIGKILL)),
    Kind("SIGTERM", (130, -signal.SIGTERM, -signal.SIGINT), act=send(signal.SIGTERM)),
    Kind("SIGINT", (130, -signal.SIGINT), act=send(signal.SIGINT)),
    Kind("SIGSTOP", act=stop_for_a_while),
    Kind("workers killed", act=kill_workers),
    Kind("machine lost", (-signal.SIGKILL,), act=kill_all),
    Kind("two commands", (2,), act=start_twice),
    Kind("disk full", (2, 4, 5), wrapped="ENOSPC"),
    Kind("input/output error", (2, 4, 5), wrapped="EIO"),
    Kind("read-only", (2, 4, 5), wrapped="EROFS"),
    Kind("small disk full", (2, 4, 5), spoil=fill_disk, mend=lambda case: give_back(case.disk), is_possible=is_root),
    Kind("clock step", wrapped="clock"),
    Kind("file cut", spoil=spoil_file(cut)),
    Kind("bit flipped", spoil=spoil_file(flip)),
    Kind("file deleted", spoil=spoil_file(delete)),
    Kind("run.json cut", spoil=spoil_run_json),
    Kind("image changed", spoil=change_image),
    Kind("job folders lost", spoil=lose_job_folders, runtimes=LOCAL),
    Kind("spooled jobs lost", act=lose_spooled_jobs, runtimes=("warm",)),
    Kind("engine restarted", act=restart_engine, runtimes=("engine",)),
    Kind("node lost", act=lose_node, runtimes=("slurm",)),
    Kind("job cancelled", (130, 5), act=act_on_job("scancel"), runtimes=("slurm",)),
    Kind("job requeued", act=act_on_job("scontrol", "requeue"), runtimes=("slurm",)),
)

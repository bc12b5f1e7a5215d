"""The spool as the worker writes it: claims, heartbeats, the ends of jobs. Names and formats: orch_runner.serve."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Dict, List, Mapping, Optional, Tuple

TICKET_FORMAT = "orch-ticket/1"
DEFAULT_PATHS = {"data": "/data", "weights": "/weights", "cache": "/cache", "opt": "/opt/orch"}
RESTARTED = "the warm worker was restarted"
STRANGER_SECONDS = 60.0
_LONGEST_LISTING = 500
_SMALL = 16 << 20


class SpoolRefused(Exception):
    """The spool cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Me:
    """Which worker this is, from its environment."""

    id: str
    stack: str
    variant: str
    device: str
    host: str
    paths: Mapping[str, str]

    @classmethod
    def of(cls, environment: Mapping[str, str], spool: str) -> "Me":
        """Raises KeyError, ValueError where the environment lacks something or has it wrong."""
        paths = {**DEFAULT_PATHS, **json.loads(environment.get("ORCH_PATHS") or "{}"), "spool": os.path.abspath(spool)}
        host = socket.gethostname()
        stack, variant, device = (environment[name] for name in ("ORCH_STACK", "ORCH_VARIANT", "ORCH_DEVICE"))
        return cls(f"{host}-{secrets.token_hex(3)}", stack, variant, device, host, paths)


@dataclass(frozen=True)
class Ticket:
    """A job that waits; `mine`: this worker may take it."""

    job: str
    created: float
    mine: bool


class Spool:
    """One worker's view of the spool folder."""

    def __init__(self, me: Me) -> None:
        self._me, self.root = me, Path(me.paths["spool"])
        self.tickets_folder = self.root / "tickets" / f"{me.stack}-{me.variant}"
        self._workers, self._jobs = self.root / "workers", self.root / "jobs"
        self._claimed = self.root / "claimed" / me.id
        self._lock: Optional[IO[str]] = None
        self._strangers: Dict[str, Tuple[str, float]] = {}
        """The last heartbeats of other workers, and since when they are the same."""

    def enter(self) -> None:
        """Make the folders and show that this worker is there. Raises SpoolRefused."""
        try:
            for folder in (self.tickets_folder, self._claimed, self._jobs, self._workers):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.tickets_folder, self._jobs):
                probe = folder / f".{self._me.id}.probe"
                probe.touch()
                probe.unlink()
            self._lock = (self._workers / f"{self._me.id}.lock").open("w")
        except OSError as error:
            raise SpoolRefused(_whose(self.root, error)) from error
        _locks(self._lock)
        self._bury()

    def leave(self) -> None:
        """Take this worker's files away: it ends in order."""
        self._forget(self._me.id)
        if self._lock is not None:
            self._lock.close()

    def job_folder(self, job: str) -> Path:
        """Where a job lies."""
        return self._jobs / job

    def names(self) -> List[str]:
        """The files among the tickets."""
        try:
            return [name for name in os.listdir(self.tickets_folder) if name.endswith(".json") and name[0] != "."]
        except OSError:
            return []

    def tickets(self, names: List[str]) -> List[Ticket]:
        """The tickets that lie there, the oldest first."""
        found = [ticket for ticket in map(self._ticket, names) if ticket is not None]
        return sorted(found, key=lambda one: (one.created, one.job))

    def _ticket(self, name: str) -> Optional[Ticket]:
        try:
            raw = json.loads((self.tickets_folder / name).read_text(encoding="utf-8"))
            if raw["format"] != TICKET_FORMAT:
                return None
            workers = raw.get("workers")
            return Ticket(name[: -len(".json")], float(raw["created"]), not workers or self._me.id in workers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # somebody else took it, or it is none

    def claim(self, job: str) -> bool:
        """Take a job; False if another worker was quicker, or its host withdrew it."""
        try:
            (self.tickets_folder / f"{job}.json").rename(self._claimed / f"{job}.json")
        except OSError:
            return False
        return True

    def discard(self, job: str) -> None:
        """Remove the ticket of a job that is not there."""
        _remove(self.tickets_folder / f"{job}.json")

    def mark_waiting(self, job: str, waits: bool) -> None:
        """Show the host that a claimed job waits, or does not any more."""
        mark = self._jobs / job / "waiting"
        if not waits:
            _remove(mark)
        elif not mark.exists():
            try:
                mark.touch()
            except OSError:  # the host took the folder away
                pass

    def end(self, job: str, code: int, detail: Optional[str] = None) -> None:
        """Write down how a job ended, and let go of it."""
        self._end(self._claimed / f"{job}.json", code, detail)

    def _end(self, claim: Path, code: int, detail: Optional[str]) -> None:
        folder = self._jobs / claim.stem
        if folder.is_dir():
            write_aside(folder / "exit.json", {"code": code, "detail": detail})
        _remove(claim)

    def beat(self, document: Dict[str, Any]) -> None:
        """Rewrite the heartbeat."""
        write_aside(self._workers / f"{self._me.id}.json", document)

    def show_files(self, sources: Mapping[str, str]) -> None:
        """Write down what this worker is made of."""
        files = digests(Path(self._me.paths["opt"]))
        write_aside(self._workers / f"{self._me.id}.files.json", {"files": files, "sources": dict(sources)})

    def _bury(self) -> None:
        """End the jobs that dead workers of this hostname had, and remove what they left."""
        for worker in self._others():
            if worker.rpartition("-")[0] == self._me.host and not self._lives(worker):
                self._bury_one(worker, RESTARTED)

    def bury_strangers(self) -> None:
        """The same for dead workers of other hostnames, once their heartbeats have stood still for a while."""
        for worker in self._others():
            beat = _read(self._workers / f"{worker}.json")
            known, since = self._strangers.get(worker, (None, 0.0))
            if known is None or known != beat:
                self._strangers[worker] = beat, time.monotonic()
            elif time.monotonic() - since > STRANGER_SECONDS and not self._lives(worker):
                self._bury_one(worker, "its warm worker is gone")
                del self._strangers[worker]

    def _others(self) -> List[str]:
        try:
            return [name for name in os.listdir(self.root / "claimed") if name != self._me.id]
        except OSError:
            return []

    def _bury_one(self, worker: str, why: str) -> None:
        for claim in (self.root / "claimed" / worker).glob("*.json"):
            self._end(claim, 137, why)
        self._forget(worker)

    def _lives(self, worker: str) -> bool:
        try:
            with (self._workers / f"{worker}.lock").open("r") as lock:
                return not _locks(lock)
        except OSError:
            return False

    def _forget(self, worker: str) -> None:
        for suffix in (".json", ".files.json", ".lock"):
            _remove(self._workers / f"{worker}{suffix}")
        try:
            (self.root / "claimed" / worker).rmdir()
        except OSError:
            pass


def _locks(lock: IO[str]) -> bool:
    """Lock the file; False if another process has it. File systems without locks lock nobody out."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _whose(root: Path, error: OSError) -> str:
    me = f"uid {os.getuid()}, gid {os.getgid()}"
    try:
        state = root.stat()
    except OSError:
        return f"there is no spool {root} for this worker to use ({error.strerror}); it runs as {me}"
    owner = f"uid {state.st_uid}, gid {state.st_gid}"
    return (
        f"cannot write to the spool {root} ({error.strerror}): it belongs to {owner}, and this worker runs as {me}. "
        f"On the host: orch compose --env --out .env, or chown -R {os.getuid()}:{os.getgid()} the folder mounted there"
    )


def digests(opt: Path) -> Dict[str, str]:
    """sha256 of the files an image was made of, by their path below `opt`."""
    found: Dict[str, str] = {}
    for name in ("requirements.lock", "build.lock", "runner", "stack"):
        top = opt / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[path.relative_to(opt).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def weights_there(folder: Path) -> Dict[str, List[int]]:
    """MODEL/FILE: [bytes, mtime in whole seconds] of the weights this worker can load."""
    found: Dict[str, List[int]] = {}
    for path in sorted(folder.glob("*/*"))[:_LONGEST_LISTING]:
        try:
            state = path.stat()
        except OSError:
            continue
        found[path.relative_to(folder).as_posix()] = [state.st_size, int(state.st_mtime)]
    return found


def digests_there(folder: Path) -> Dict[str, str]:
    """MODEL/FILE: sha256 of the small ones of them, which may be another copy than the host's, with another time."""
    found: Dict[str, str] = {}
    for path in sorted(folder.glob("*/*"))[:_LONGEST_LISTING]:
        try:
            state = path.stat()
            if path.is_file() and state.st_size <= _SMALL:
                found[path.relative_to(folder).as_posix()] = _digest(path, state.st_size, state.st_mtime_ns)
        except OSError:
            continue
    return found


@lru_cache(maxsize=_LONGEST_LISTING)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Read once for each state of a file."""
    del size, mtime_ns
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def write_aside(path: Path, document: Any) -> None:
    """Replace a JSON file in one step. Not fsynced: after the machine's own death nobody needs it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(document), encoding="utf-8")
        os.replace(aside, path)
    except OSError:  # a full disk, or a folder taken away: the next heartbeat tries again
        _remove(aside)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass

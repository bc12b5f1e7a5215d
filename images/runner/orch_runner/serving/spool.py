"""The spool folder as a worker uses it: claims, heartbeats, ends of jobs. Formats: orch_runner.serve."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import stat
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Dict, List, Mapping, Optional, Tuple

from orch_runner.files import hash_file, open_replacement, remove_file

TICKET_FORMAT = "orch-ticket/1"
DEFAULT_PATHS = {"data": "/data", "weights": "/weights", "cache": "/cache", "opt": "/opt/orch"}
RESTARTED = "the warm worker was restarted"
DEAD_SECONDS = 60.0
"""A worker of another hostname whose heartbeat has not changed for this long counts as dead."""
_MAX_LISTED = 500
_MAX_HASHED_BYTES = 16 << 20


class SpoolRefused(Exception):
    """The spool cannot be used; the message is the reason and what to do."""


@dataclass(frozen=True)
class WorkerIdentity:
    """The id, stack, variant, device, hostname and paths of this worker."""

    id: str
    stack: str
    variant: str
    device: str
    host: str
    paths: Mapping[str, str]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], spool: str) -> "WorkerIdentity":
        """Read the environment. Raises KeyError, ValueError for a missing or wrong variable."""
        paths = {**DEFAULT_PATHS, **json.loads(environment.get("ORCH_PATHS") or "{}"), "spool": os.path.abspath(spool)}
        host = socket.gethostname()
        stack, variant, device = (environment[name] for name in ("ORCH_STACK", "ORCH_VARIANT", "ORCH_DEVICE"))
        return cls(f"{host}-{secrets.token_hex(3)}", stack, variant, device, host, paths)


@dataclass(frozen=True)
class Ticket:
    """A waiting job."""

    job: str
    created: float
    may_take: bool
    """Whether this worker may take it."""


class WorkerSpool:
    """One worker's view of the spool folder."""

    def __init__(self, identity: WorkerIdentity) -> None:
        self._identity, self.root = identity, Path(identity.paths["spool"])
        self.tickets_folder = self.root / "tickets"
        self._workers, self._jobs = self.root / "workers", self.root / "jobs"
        self._claimed = self.root / "claimed" / identity.id
        self._lock: Optional[IO[str]] = None
        self._last_beats: Dict[str, Tuple[str, float]] = {}
        """The last heartbeats of other workers, and when each was first read."""

    def open(self) -> None:
        """Make the folders, lock this worker's id, clean up after its predecessors. Raises SpoolRefused."""
        try:
            _share_with_group(self.root)
            for folder in (self.tickets_folder, self._claimed, self._jobs, self._workers):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.tickets_folder, self._jobs):
                probe = folder / f".{self._identity.id}.probe"
                probe.touch()
                probe.unlink()
            self._lock = _make_locked(self._workers / f"{self._identity.id}.lock")
        except OSError as error:
            raise SpoolRefused(_explain_refusal(self.root, error)) from error
        for worker in self._list_others():
            if worker.rpartition("-")[0] == self._identity.host and not self._is_alive(worker):
                self._clean_up_after(worker, RESTARTED)

    def close(self) -> None:
        """Remove this worker's files at an orderly end."""
        self._remove_worker(self._identity.id)
        if self._lock is not None:
            self._lock.close()

    def job_folder(self, job: str) -> Path:
        """Return the folder of a job."""
        return self._jobs / job

    def list_tickets(self) -> List[str]:
        """Return the names of the ticket files."""
        try:
            return [name for name in os.listdir(self.tickets_folder) if name.endswith(".json") and name[0] != "."]
        except OSError:
            return []

    def read_tickets(self, names: List[str]) -> List[Ticket]:
        """Read these ticket files; return the tickets that still exist, the oldest first."""
        tickets = [ticket for ticket in map(self._read_ticket, names) if ticket is not None]
        return sorted(tickets, key=lambda ticket: (ticket.created, ticket.job))

    def _read_ticket(self, name: str) -> Optional[Ticket]:
        try:
            raw = json.loads((self.tickets_folder / name).read_text(encoding="utf-8"))
            if raw["format"] != TICKET_FORMAT:
                return None
            workers = raw.get("workers")
            return Ticket(name[: -len(".json")], float(raw["created"]), not workers or self._identity.id in workers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # another worker took it, or it is not a ticket

    def claim(self, job: str) -> bool:
        """Take a job; return False if another worker was faster or the host withdrew it."""
        try:
            (self.tickets_folder / f"{job}.json").rename(self._claimed / f"{job}.json")
        except OSError:
            return False
        return True

    def discard(self, job: str) -> None:
        """Remove the ticket of a job whose folder does not exist."""
        remove_file(self.tickets_folder / f"{job}.json")

    def mark_waiting(self, job: str, waits: bool) -> None:
        """Show the host whether a claimed job waits for a model process."""
        mark = self._jobs / job / "waiting"
        if not waits:
            remove_file(mark)
        elif not mark.exists():
            try:
                mark.touch()
            except OSError:  # the host deleted the folder
                pass

    def finish_job(self, job: str, code: int, detail: Optional[str] = None) -> None:
        """Record how a job ended, and release its claim."""
        self._finish_claim(self._claimed / f"{job}.json", code, detail)

    def _finish_claim(self, claim: Path, code: int, detail: Optional[str]) -> None:
        folder = self._jobs / claim.stem
        if folder.is_dir():
            _write_json(folder / "exit.json", {"code": code, "detail": detail})
        remove_file(claim)

    def write_heartbeat(self, document: Dict[str, Any]) -> None:
        """Replace the heartbeat."""
        _write_json(self._workers / f"{self._identity.id}.json", document)

    def write_file_list(self, sources: Mapping[str, str]) -> None:
        """Record the files and the upstream commits that this worker was made from."""
        files = _hash_image_files(Path(self._identity.paths["opt"]))
        _write_json(self._workers / f"{self._identity.id}.files.json", {"files": files, "sources": dict(sources)})

    def clean_up_after_others(self) -> None:
        """End the jobs of workers of other hostnames that have been dead for DEAD_SECONDS; remove their files."""
        others = self._list_others()
        for worker in self._last_beats.keys() - others:
            del self._last_beats[worker]
        for worker in others:
            beat = _read_text(self._workers / f"{worker}.json")
            last_beat, since = self._last_beats.get(worker, (None, 0.0))
            if last_beat is None or last_beat != beat:
                self._last_beats[worker] = beat, time.monotonic()
            elif time.monotonic() - since > DEAD_SECONDS and not self._is_alive(worker):
                self._clean_up_after(worker, "its warm worker is gone")
                del self._last_beats[worker]

    def _list_others(self) -> List[str]:
        try:
            claims, beats = os.listdir(self.root / "claimed"), os.listdir(self._workers)
        except OSError:
            return []
        workers = {*claims, *(name[: -len(".lock")] for name in beats if name.endswith(".lock"))}
        return sorted(workers - {self._identity.id})

    def _clean_up_after(self, worker: str, reason: str) -> None:
        for claim in (self.root / "claimed" / worker).glob("*.json"):
            self._finish_claim(claim, 137, reason)
        self._remove_worker(worker)

    def _is_alive(self, worker: str) -> bool:
        try:
            with (self._workers / f"{worker}.lock").open("r") as lock:
                # Not LOCK_EX: NFS has it only for files opened for writing, and two who look would see each other.
                return not _try_lock(lock, fcntl.LOCK_SH)
        except OSError:
            return False

    def _remove_worker(self, worker: str) -> None:
        for suffix in (".json", ".files.json", ".lock"):
            remove_file(self._workers / f"{worker}{suffix}")
        try:
            (self.root / "claimed" / worker).rmdir()
        except OSError:
            pass


def _share_with_group(root: Path) -> None:
    """In a spool that a group shares, let the group change all that this process and its children write."""
    shared = stat.S_ISGID | stat.S_IRWXG
    if root.stat().st_mode & shared == shared:
        os.umask(0o007)


def _make_locked(path: Path) -> IO[str]:
    """Make a file that is locked from the moment at which others see it. Raises OSError."""
    aside = path.with_name(f".{path.name}")
    lock = aside.open("w")
    _try_lock(lock, fcntl.LOCK_EX)
    aside.replace(path)
    return lock


def _try_lock(lock: IO[str], kind: int) -> bool:
    """Lock a file; return False if another process has it, True on file systems without locks."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _explain_refusal(root: Path, error: OSError) -> str:
    user = f"uid {os.getuid()}, gid {os.getgid()}"
    try:
        state = root.stat()
    except OSError:
        return f"cannot use the spool {root} ({error.strerror}); this worker runs as {user}"
    owner = f"uid {state.st_uid}, gid {state.st_gid}"
    return (
        f"cannot write to the spool {root} ({error.strerror}): it belongs to {owner}, this worker runs as {user}. "
        f"On the host: orch compose --env --out .env, or chown -R {os.getuid()}:{os.getgid()} the folder mounted there"
    )


def _hash_image_files(opt: Path) -> Dict[str, str]:
    """Return the SHA-256 of the files that an image was made from, by their path below `opt`."""
    digests: Dict[str, str] = {}
    for name in ("requirements.lock", "build.lock", "runner", "stack"):
        top = opt / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digests[path.relative_to(opt).as_posix()] = hash_file(path)
    return digests


def list_weights(folder: Path) -> Dict[str, List[int]]:
    """Return {MODEL/FILE: [bytes, mtime in whole seconds]} of the weights that this worker can load."""
    weights: Dict[str, List[int]] = {}
    for path in sorted(folder.glob("*/*"))[:_MAX_LISTED]:
        try:
            state = path.stat()
        except OSError:
            continue
        weights[path.relative_to(folder).as_posix()] = [state.st_size, int(state.st_mtime)]
    return weights


def hash_small_weights(folder: Path) -> Dict[str, str]:
    """Return {MODEL/FILE: SHA-256} of small weights files, which may be copies with times of their own."""
    digests: Dict[str, str] = {}
    for path in sorted(folder.glob("*/*"))[:_MAX_LISTED]:
        try:
            state = path.stat()
            if path.is_file() and state.st_size <= _MAX_HASHED_BYTES:
                digests[path.relative_to(folder).as_posix()] = _hash_once(path, state.st_size, state.st_mtime_ns)
        except OSError:
            continue
    return digests


@lru_cache(maxsize=_MAX_LISTED)
def _hash_once(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file; read it only once for each size and time."""
    del size, mtime_ns
    return hash_file(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _write_json(path: Path, document: Any) -> None:
    """Replace a JSON file. Not fsynced: these files are worthless after a crash of the machine."""
    try:
        with open_replacement(path, sync=False) as stream:
            stream.write(json.dumps(document).encode())
    except OSError:  # a full disk, or a deleted folder: the next heartbeat tries again
        pass

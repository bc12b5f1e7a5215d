"""Heartbeats of warm workers: read with bounds, and watched to see whether a worker is up (see orch_runner.serve)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.runtimes.warm.spool import CLAIMED, WORKERS
from orchestrator.system import GuestTree, parse_object

WORKER_FORMAT = "orch-worker/2"
GONE_SECONDS = 10.0
"""A worker whose heartbeat has not changed for this long counts as gone."""
STALE_SECONDS = 120.0
"""A heartbeat older than this, by its file system's clock, is not watched for changes."""
FORGOTTEN_SECONDS = 3600.0
"""A heartbeat older than this, by its file system's clock, is removed if its lock is free."""
UNLOCKED_SECONDS = 4.0
"""The same, where its lock is free as well. A free lock alone proves nothing: not all mounts pass locks on."""
MOST_WORKERS = 256
"""Heartbeats of one folder that are read."""
TEXT_LENGTH = 2000
_ENTRIES = 5000
"""Most entries of a list or mapping in a heartbeat."""
_FILES_BYTES = 4 << 20
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of a worker."""

    id: str
    stack: str
    variant: str
    device: str
    host: str
    uid: int
    gid: int
    threads: int
    beat: int
    state: str
    problem: str | None
    data_host: str | None
    data_inode: int | None
    weights: Mapping[str, tuple[int, int]]
    paths: Mapping[str, str]
    digests: Mapping[str, str] = field(default_factory=dict)
    contract: str | None = None
    """The version of jobs that it reads."""
    models: Sequence[str] = ()
    rss_mb: float | None = None
    gpu_mb: float | None = None
    waiting: int | None = None
    jobs: int | None = None
    images: int | None = None
    images_per_s: float | None = None


def parse_heartbeat(raw: Mapping[str, Any]) -> Heartbeat:
    """Parse a heartbeat's JSON, of which a guest may have written anything. Raises ValueError, KeyError."""
    if raw["format"] != WORKER_FORMAT:
        raise ValueError("a heartbeat of another version")
    models = [_mapping(model) for model in _list(raw.get("models") or [])]
    paths = _mapping(raw["paths"])
    gpu = [_number(model["gpu_mb"]) for model in models if model.get("gpu_mb") is not None]
    values: dict[str, Any] = {
        **{name: _name(raw[name]) for name in ("id", "stack", "variant", "device", "host", "state", "contract")},
        **{name: _count(raw[name]) for name in ("uid", "gid", "threads", "beat")},
        **{name: _optional(_count, raw.get(name)) for name in ("data_inode", "waiting", "jobs", "images")},
        **{name: _optional(_number, raw.get(name)) for name in ("rss_mb", "images_per_s")},
        "problem": _optional(clean_text, raw["problem"]),
        "data_host": _optional(_name, raw["data_host"]),
        "weights": {_name(name): _pair(value) for name, value in _mapping(raw["weights"]).items()},
        "paths": {name: _name(paths[name]) for name in ("spool", "data", "weights", "cache", "opt")},
        "digests": _names(raw.get("digests") or {}),
        "models": tuple(_name(model["name"]) for model in models),
        "gpu_mb": sum(gpu) if gpu else None,
    }
    return Heartbeat(**values)


def clean_text(value: Any) -> str:
    """Return a guest's message, cut, with what is not printable replaced. Raises ValueError for what is no text."""
    if not isinstance(value, str):
        raise ValueError("no text")
    return "".join(character if character.isprintable() else "?" for character in value[:TEXT_LENGTH])


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LENGTH or not value.isprintable():
        raise ValueError("no name")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1 << 53:
        raise ValueError("no number")
    return float(value)


def _optional(check: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else check(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _ENTRIES:
        raise ValueError("no list")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > _ENTRIES:
        raise ValueError("no object")
    return value


def _names(value: Any) -> dict[str, str]:
    return {_name(name): _name(text) for name, text in _mapping(value).items()}


def _pair(value: Any) -> tuple[int, int]:
    if len(_list(value)) != 2:
        raise ValueError("no pair")
    return _count(value[0]), _count(value[1])


def read_heartbeat(tree: GuestTree, worker: str) -> Heartbeat | None:
    """Return a worker's heartbeat; None where none of this version can be read."""
    raw = _read(tree, _beat(worker))
    try:
        heartbeat = None if raw is None else parse_heartbeat(raw)
    except (ValueError, KeyError):
        return None
    return heartbeat if heartbeat is not None and heartbeat.id == worker else None


def read_version(tree: GuestTree, worker: str) -> str | None:
    """Return the format that a worker's heartbeat names; None where none can be read."""
    raw = _read(tree, _beat(worker)) or {}
    try:
        return clean_text(raw.get("format"))
    except ValueError:
        return None


def read_file_list(tree: GuestTree, worker: str) -> dict[str, dict[str, str]]:
    """Return the digests of files and the commits that a worker was built from; {} where none can be read."""
    raw = _read(tree, f"{WORKERS}/{worker}.files.json", _FILES_BYTES)
    try:
        return {} if raw is None else {name: _names(raw[name]) for name in ("files", "sources")}
    except (ValueError, KeyError):
        return {}


def list_worker_ids(tree: GuestTree) -> list[str]:
    """Return the ids of the workers with a heartbeat, dead ones too."""
    try:
        names = tree.names(WORKERS)
    except OSError:
        return []
    beats = (name for name in names if name.endswith(".json") and not name.endswith(".files.json"))
    return [worker for name in beats if _ID.fullmatch(worker := name.removesuffix(".json"))][:MOST_WORKERS]


def is_locked(tree: GuestTree, worker: str) -> bool:
    """Return whether a process of this kernel holds the worker's lock."""
    return tree.is_locked(f"{WORKERS}/{worker}.lock")


class HeartbeatWatch:
    """Watches a worker's heartbeat by this process's own clock: the worker's clock may differ."""

    def __init__(self, tree: GuestTree, worker: str) -> None:
        self._tree, self.worker = tree, worker
        self._beat: int | None = None
        self._changed = time.monotonic()

    def is_gone(self) -> bool:
        """Return whether the heartbeat has not changed for too long. To be called again and again."""
        now, beat = time.monotonic(), _read_beat(self._tree, self.worker)
        if beat is not None and beat != self._beat:
            self._beat, self._changed = beat, now
        unchanged = now - self._changed
        return unchanged > GONE_SECONDS or (unchanged > UNLOCKED_SECONDS and not is_locked(self._tree, self.worker))


def find_all_alive(tree: GuestTree, workers: Sequence[str], patience: float) -> set[str]:
    """Return all workers that are up; where that is in doubt, their heartbeats are watched, all at the same time."""
    now = _file_system_time(tree)
    ages = {worker: _age(tree, worker, now) for worker in workers}
    alive = {worker for worker, age in ages.items() if age < GONE_SECONDS and is_locked(tree, worker)}
    doubtful = [worker for worker, age in ages.items() if age < STALE_SECONDS and worker not in alive]
    return alive | watch_for_beats(tree, doubtful, patience, is_first_enough=False)


def find_alive(tree: GuestTree, workers: Sequence[str], patience: float) -> set[str]:
    """Return the workers that are up: those with a held lock and a recent heartbeat, at once.

    Where there are none of these, the others' heartbeats are watched for up to `patience` seconds.
    """
    now = _file_system_time(tree)
    ages = {worker: _age(tree, worker, now) for worker in workers}
    alive = {worker for worker, age in ages.items() if age < GONE_SECONDS and is_locked(tree, worker)}
    doubtful = [worker for worker, age in ages.items() if age < STALE_SECONDS and worker not in alive]
    if alive or not doubtful:
        return alive
    return watch_for_beats(tree, doubtful, patience, is_first_enough=True)


def watch_for_beats(tree: GuestTree, workers: Sequence[str], patience: float, *, is_first_enough: bool) -> set[str]:
    """Return the workers whose heartbeats change within `patience` seconds, or the first of them to do so."""
    first = {worker: _read_beat(tree, worker) for worker in workers}
    alive: set[str] = set()
    until = time.monotonic() + patience
    while time.monotonic() < until and not (alive and is_first_enough) and len(alive) < len(first):
        time.sleep(0.1)
        alive |= {worker for worker in first if _read_beat(tree, worker) not in (None, first[worker])}
    return alive


def list_recent(tree: GuestTree) -> list[str]:
    """Return the workers that may be up, and remove the files of those that have been dead for long.

    Others, dead for a shorter time, are neither: their heartbeats are old and their locks are free.
    """
    now = _file_system_time(tree)
    recent: list[str] = []
    for worker in list_worker_ids(tree):
        age = _age(tree, worker, now)
        if age < STALE_SECONDS or is_locked(tree, worker):
            recent.append(worker)
        elif age > FORGOTTEN_SECONDS:
            _remove_worker(tree, worker)
    return recent


def remove_dead_workers(tree: GuestTree, patience: float = UNLOCKED_SECONDS) -> list[str]:
    """Remove the files of workers that are gone: their lock is free and their heartbeat does not change."""
    unlocked = [worker for worker in list_worker_ids(tree) if not is_locked(tree, worker)]
    now = _file_system_time(tree)
    doubtful = [worker for worker in unlocked if _age(tree, worker, now) < STALE_SECONDS]
    alive = watch_for_beats(tree, doubtful, patience, is_first_enough=False)
    dead = [worker for worker in unlocked if worker not in alive]
    for worker in dead:
        _remove_worker(tree, worker)
    return dead


def _remove_worker(tree: GuestTree, worker: str) -> None:
    for name in (f"{worker}.json", f"{worker}.files.json", f"{worker}.lock"):
        tree.remove_folder(f"{WORKERS}/{name}")
    with suppress(OSError):
        if not tree.names(f"{CLAIMED}/{worker}"):  # claims are for the next worker, which ends those jobs
            tree.remove_folder(f"{CLAIMED}/{worker}")


def _beat(worker: str) -> str:
    return f"{WORKERS}/{worker}.json"


def _read(tree: GuestTree, name: str, limit: int = 1 << 20) -> dict[str, Any] | None:
    try:
        return parse_object(tree.read(name, limit))
    except OSError:
        return None


def _read_beat(tree: GuestTree, worker: str) -> int | None:
    heartbeat = read_heartbeat(tree, worker)
    return None if heartbeat is None else heartbeat.beat


def _file_system_time(tree: GuestTree) -> int | None:
    """Return the time of the spool's file system in nanoseconds; None for a caller who cannot write there."""
    with suppress(OSError):
        return tree.clock_ns()
    return None


def _age(tree: GuestTree, worker: str, now: int | None) -> float:
    """Return the seconds since a heartbeat was written; 0 where that is unknown, so that it is watched."""
    state = tree.state(_beat(worker))
    if state is None:
        return STALE_SECONDS
    return 0.0 if now is None else max(0.0, (now - state.mtime_ns) / 1e9)

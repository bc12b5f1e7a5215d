"""What an attack can use inside a worker: its job, its folders, the stream of events, the host's paths.

An attack is a function of an `Act`. It is registered for a moment: "load", "predict", or the kind of an event that the
runner is about to send for the attacked shard ("shard_started", "shard_done", …). It returns False to keep that event
from being sent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from orch_runner.events import Emitter, log


class Act:
    """One moment of an attack."""

    def __init__(
        self, shard: int, target: Path, cache: Path, emitter: Optional[Emitter], fields: Dict[str, Any]
    ) -> None:
        self.shard, self.target, self.cache, self.emitter, self.fields = shard, target, cache, emitter, fields
        self.folder = job_folder(emitter)
        self.job: Dict[str, Any] = json.loads((self.folder / "job.json").read_text())
        self.out = Path(self.job["paths"]["out"])

    @property
    def npz(self) -> Path:
        """The file of the attacked shard."""
        return self.out / f"{self.shard:05d}.npz"

    def part(self, number: Optional[int] = None) -> Path:
        """The file of an unfinished shard."""
        return self.out / f"{self.shard if number is None else number:05d}.part.npz"

    def say(self, *lines: bytes) -> None:
        """Write raw bytes to the stream of events, a newline after each."""
        for line in lines:
            rest = line + b"\n"
            while rest:
                rest = rest[os.write(self.emitter._descriptor, rest) :]  # type: ignore[union-attr]

    def send(self, **event: Any) -> None:
        """Write an event as the runner would, but with the fields given and no others."""
        self.say(json.dumps(event).encode())

    def next_seq(self) -> int:
        """Take the number of the next event."""
        self.emitter._sequence += 1  # type: ignore[union-attr]
        return self.emitter._sequence  # type: ignore[union-attr]

    def replace(self, path: Path) -> Path:
        """Remove what is at `path`, and return it."""
        if path.is_symlink() or not path.is_dir():
            if path.is_symlink() or path.exists():
                path.unlink()
        else:
            path.rename(path.with_name(f".away-{os.urandom(3).hex()}"))
        return path


class Attack(NamedTuple):
    """An attack and its moment."""

    moment: str
    act: Callable[[Act], Any]


ATTACKS: Dict[str, Attack] = {}


def attack(name: str, moment: str = "shard_done") -> Callable[[Callable[[Act], Any]], Callable[[Act], Any]]:
    """Register an attack."""

    def register(function: Callable[[Act], Any]) -> Callable[[Act], Any]:
        ATTACKS[name] = Attack(moment, function)
        return function

    return register


def job_folder(emitter: Optional[Emitter]) -> Path:
    """The folder of the job that an emitter belongs to: a warm worker serves several."""
    if emitter is not None:
        try:
            stream = Path(os.readlink(f"/proc/self/fd/{emitter._descriptor}"))
        except OSError:
            stream = Path()
        if stream.name.startswith("events.jsonl"):
            return stream.parent
    return Path(sys.argv[1]).parent


class Attacker:
    """Carries out the attacks of a model's settings."""

    def __init__(self, model: Any) -> None:
        import attack_arrays  # noqa: F401  # each registers its attacks
        import attack_events  # noqa: F401
        import attack_files  # noqa: F401
        import attack_spool  # noqa: F401

        self.target, self.cache = Path(str(model.settings["target"])), Path(model.cache)
        self.wanted: List[Tuple[str, int]] = []
        for entry in filter(None, str(model.settings["attack"]).split(",")):
            name, _, shard = entry.partition("@")
            self.wanted.append((name, int(shard or 1)))
        self._emitter: Optional[Emitter] = None
        self._lock = threading.RLock()
        self._is_acting = threading.local()
        if self.wanted:
            self._watch_events()

    def on(self, moment: str, emitter: Optional[Emitter] = None, **fields: Any) -> bool:
        """Act if an attack is for this moment; return whether the event may be sent."""
        allowed = True
        for name, shard in self.wanted:
            wanted, act = ATTACKS[name]
            if wanted != moment or fields.get("shard", shard) != shard or getattr(self._is_acting, "now", False):
                continue
            self._is_acting.now = True
            try:
                marker = self.cache / f"attacked-{name}"
                if not marker.exists():
                    marker.touch()
                allowed = (
                    act(Act(shard, self.target, self.cache, emitter or self._emitter, fields)) is not False and allowed
                )
            except Exception as error:  # an attack that is impossible here must not spoil the run
                if moment in ("load", "predict") and not isinstance(error, OSError):
                    raise  # that is the attack
                log(f"attack {name}: {error!r}")
                (self.cache / f"failed-{name}").write_text(repr(error))
            finally:
                self._is_acting.now = False
        return allowed

    def _watch_events(self) -> None:
        send = Emitter.emit

        def emit(emitter: Emitter, event: str, **fields: Any) -> None:
            if event not in ("heartbeat", "stats", "loaded", "ended", "handed_over", "unusable", "out_of_memory"):
                self._emitter = emitter
                if not self.on(event, emitter, **fields):
                    return
            send(emitter, event, **fields)

        Emitter.emit = emit  # type: ignore[method-assign]

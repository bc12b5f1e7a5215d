"""A spool with a worker in it that is as alive as a test wants."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from orchestrator.runtimes.guest_contract import CONTRACT
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder


def heartbeat(**changes: Any) -> dict[str, Any]:
    """A heartbeat's document."""
    document = {
        "format": "orch-worker/2",
        "contract": CONTRACT,
        "id": "box-1",
        "stack": "faulty",
        "variant": "cpu",
        "device": "cpu",
        "host": "box",
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "threads": 2,
        "beat": 1,
        "state": "idle",
        "problem": None,
        "data_host": None,
        "data_inode": None,
        "weights": {"faulty-bright/level.json": [3, 1000]},
        "digests": {},
        "paths": {"spool": "/spool", "data": "/data", "weights": "/weights", "cache": "/cache", "opt": "/opt/orch"},
        "models": [],
    }
    return {**document, **changes}


class FakeWorker:
    """The files of a worker of the variant `faulty`, `cpu` in the spool at `root`; nobody works."""

    def __init__(self, root: Path, files: Mapping[str, str] | None = None, **changes: Any) -> None:
        self.spool = VariantSpool(root, "faulty", "cpu")
        self.document = heartbeat(**changes)
        self.id = str(self.document["id"])
        make_variant_folder(self.spool, (os.geteuid(), os.getegid()), is_default=False)
        self.workers, self.jobs = self.spool.root / "workers", self.spool.root / "jobs"
        self.tickets, self.claimed = self.spool.root / "tickets", self.spool.root / "claimed" / self.id
        self.claimed.mkdir()
        (self.workers / f"{self.id}.files.json").write_text(json.dumps({"files": dict(files or {}), "sources": {}}))
        self._lock: IO[str] | None = None
        self.beat()

    def beat(self) -> None:
        """Another beat of its heart."""
        self.document["beat"] += 1
        (self.workers / f"{self.id}.json").write_text(json.dumps(self.document))

    def lock(self) -> None:
        """Hold the lock as a live worker does."""
        self._lock = (self.workers / f"{self.id}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.close()

    def claim(self, job: str) -> bool:
        """Take a job."""
        try:
            (self.tickets / f"{job}.json").rename(self.claimed / f"{job}.json")
        except OSError:
            return False
        return True

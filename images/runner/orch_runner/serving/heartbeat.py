"""What a warm worker says of itself every second. The fields: orch_runner.serve."""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Mapping, Optional, Tuple

from orch_runner import __version__
from orch_runner.memory import resident_mb
from orch_runner.serving.model_pool import Room
from orch_runner.serving.spool import Me, digests_there, weights_there

FORMAT = "orch-worker/1"
RATE_SECONDS = 30.0
_GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/nvhost*")


class Heartbeat:
    """Makes the documents, and remembers what their rates need."""

    def __init__(self, me: Me, environment: Mapping[str, str]) -> None:
        self._me = me
        self._threads = int(environment.get("ORCH_THREADS") or len(os.sched_getaffinity(0)))
        self._data_host = environment.get("ORCH_DATA_HOST") or None
        self._started = time.time()
        self._beat = self._images = 0
        self._recent: Deque[Tuple[float, int]] = deque()
        self.problem = _problem(me.device)

    def predicted(self, images: int) -> None:
        """So many more images were predicted."""
        if images > 0:
            self._images += images
            self._recent.append((time.monotonic(), images))

    def document(self, room: Room, waiting: int, jobs: int) -> Dict[str, Any]:
        """The next heartbeat."""
        self._beat += 1
        me, paths = self._me, dict(self._me.paths)
        loading = any(not keeper.loaded for keeper in room.keepers)
        state = "unfit" if self.problem else "loading" if loading else "busy" if jobs else "idle"
        return {
            "format": FORMAT,
            "id": me.id,
            "stack": me.stack,
            "variant": me.variant,
            "device": me.device,
            "host": me.host,
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "threads": self._threads,
            "started": self._started,
            "beat": self._beat,
            "time": time.time(),
            "state": state,
            "problem": self.problem,
            "models": [keeper.describe() for keeper in room.keepers],
            "rss_mb": room.rss_mb + (resident_mb(os.getpid()) or 0),
            "memory_limit_mb": room.limit_mb,
            "waiting": waiting,
            "jobs": jobs,
            "images": self._images,
            "images_per_s": self._rate(),
            "data_host": self._data_host,
            "data_inode": _inode(Path(paths["data"])),
            "weights": weights_there(Path(paths["weights"])),
            "digests": digests_there(Path(paths["weights"])),
            "paths": paths,
            "runner": __version__,
        }

    def _rate(self) -> float:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()
        return round(sum(images for _, images in self._recent) / RATE_SECONDS, 2)


def _problem(device: str) -> Optional[str]:
    if device == "cuda" and not any(glob.glob(pattern) for pattern in _GPU_FILES):
        return "it is for a GPU, and there is none here"
    return None


def _inode(folder: Path) -> Optional[int]:
    try:
        return folder.stat().st_ino
    except OSError:
        return None

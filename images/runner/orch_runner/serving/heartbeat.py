"""Make the heartbeat documents of a warm worker. Their fields: orch_runner.serve."""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Mapping, Optional, Tuple

from orch_runner import __version__
from orch_runner.contract import CONTRACT
from orch_runner.memory import resident_mb
from orch_runner.serving.model_pool import ModelPool
from orch_runner.serving.spool import WorkerIdentity, hash_small_weights, list_weights

FORMAT = "orch-worker/2"
RATE_SECONDS = 30.0
_GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/nvhost*")


class HeartbeatWriter:
    """Make the documents, and keep the counts that their rates need."""

    def __init__(self, identity: WorkerIdentity, environment: Mapping[str, str]) -> None:
        self._identity = identity
        self._threads = int(environment.get("ORCH_THREADS") or len(os.sched_getaffinity(0)))
        self._data_host = environment.get("ORCH_DATA_HOST") or None
        self._started = time.time()
        self._beat = self._images = 0
        self._recent: Deque[Tuple[float, int]] = deque()
        self.problem = _find_problem(identity.device)

    def add_images(self, images: int) -> None:
        """Count further predicted images."""
        if images > 0:
            self._images += images
            self._recent.append((time.monotonic(), images))

    def make_document(self, pool: ModelPool, waiting: int, jobs: int) -> Dict[str, Any]:
        """Return the next heartbeat."""
        self._beat += 1
        identity, paths = self._identity, dict(self._identity.paths)
        is_loading = any(not process.is_loaded for process in pool.processes)
        state = "unfit" if self.problem else "loading" if is_loading else "busy" if jobs else "idle"
        return {
            "format": FORMAT,
            "contract": CONTRACT,
            "id": identity.id,
            "stack": identity.stack,
            "variant": identity.variant,
            "device": identity.device,
            "host": identity.host,
            "pid": os.getpid(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "threads": self._threads,
            "started": self._started,
            "beat": self._beat,
            "time": time.time(),
            "state": state,
            "problem": self.problem,
            "models": [process.describe() for process in pool.processes],
            "rss_mb": pool.rss_mb + (resident_mb(os.getpid()) or 0),
            "memory_limit_mb": pool.limit_mb,
            "waiting": waiting,
            "jobs": jobs,
            "images": self._images,
            "images_per_s": self._compute_rate(),
            "data_host": self._data_host,
            "data_inode": _read_inode(Path(paths["data"])),
            "weights": list_weights(Path(paths["weights"])),
            "digests": hash_small_weights(Path(paths["weights"])),
            "paths": paths,
            "runner": __version__,
        }

    def _compute_rate(self) -> float:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()
        return round(sum(images for _, images in self._recent) / RATE_SECONDS, 2)


def _find_problem(device: str) -> Optional[str]:
    if device == "cuda" and not any(glob.glob(pattern) for pattern in _GPU_FILES):
        return "this worker needs a GPU, but sees none"
    return None


def _read_inode(folder: Path) -> Optional[int]:
    try:
        return folder.stat().st_ino
    except OSError:
        return None

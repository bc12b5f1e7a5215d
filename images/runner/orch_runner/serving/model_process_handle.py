"""A keeper as the supervisor sees it: a child process told by lines on its stdin, known by its reports on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set


class KeeperProcess:
    """One started keeper (orch_runner.serving.model_process); `key` says what is loaded, `model` names it.

    `others_idle`: should the device's memory be full, it says so and nothing is lost: room can be made.
    """

    def __init__(self, first_job: Path, key: str, model: str, private: bool, others_idle: bool = False) -> None:
        kinds = ["private" if private else "shared", "crowded" if others_idle else "alone"]
        command = [sys.executable, "-m", "orch_runner.serving.model_process", str(first_job), *kinds]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert self._process.stdout is not None
        self.descriptor = self._process.stdout.fileno()
        os.set_blocking(self.descriptor, False)
        self.key, self.model, self.private = key, model, private
        self.loaded = False
        self.sound = True
        """Whether jobs may still be given to it."""
        self.jobs: Set[str] = set()
        self.idle_since = time.monotonic()
        self.rss_mb, self.images = 0, 0
        self.gpu_mb: Optional[int] = None
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    @property
    def idle(self) -> bool:
        """Loaded, with nothing to do."""
        return self.loaded and not self.jobs

    def serve(self, job: str, folder: Path, seen: List[str], sequence: int) -> None:
        """Give it a job, or the rest of one."""
        self.jobs.add(job)
        self._tell(do="serve", job=job, folder=str(folder), seen=seen, sequence=sequence)

    def stop(self, job: str) -> None:
        """Have it finish the batch at hand of a job and end it."""
        self._tell(do="stop", job=job)

    def drop(self, job: str) -> None:
        """Have it end a job of which nothing is wanted any more."""
        self._tell(do="drop", job=job)

    def leave(self) -> None:
        """Have it stop all jobs and end."""
        self.sound = False
        self._tell(do="leave")

    def kill(self) -> None:
        """End it now."""
        self.sound = False
        self._process.kill()

    def release(self, job: str) -> None:
        """It has nothing to do with this job any more."""
        self.jobs.discard(job)
        self.idle_since = time.monotonic()

    def reports(self) -> Iterator[Dict[str, Any]]:
        """What it said since the last call; ends with {"event": "gone"} once it has ended."""
        while True:
            try:
                block = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            if not block:
                yield {"event": "gone"}
                return
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def has_ended(self) -> bool:
        """Whether the process is no more."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Its exit status as a shell gives it, once it has ended."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return 128 - code if code < 0 else code

    def describe(self) -> Dict[str, Any]:
        """What the heartbeat says of its model."""
        state = ("busy" if self.jobs else "idle") if self.loaded else "loading"
        idle = round(time.monotonic() - self.idle_since, 1) if self.idle else 0.0
        return {
            "name": self.model,
            "state": state,
            "private": self.private,
            "sessions": len(self.jobs),
            "idle_seconds": idle,
            "rss_mb": self.rss_mb,
            "gpu_mb": self.gpu_mb,
        }

    def _tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(command) + "\n").encode())
        except OSError:  # it ended; its last report says so
            pass

"""A model process as its supervisor sees it: commands go to its stdin, reports come from its stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set


class ModelProcessHandle:
    """One started model process (see serving.model_process). `load_key` identifies what is loaded.

    `can_evict`: other models could be unloaded, so a full device is reported instead of failing the jobs.
    """

    def __init__(self, first_job: Path, load_key: str, model: str, private: bool, can_evict: bool = False) -> None:
        kinds = ["private" if private else "shared", "can-evict" if can_evict else "alone"]
        command = [sys.executable, "-m", "orch_runner.serving.model_process", str(first_job), *kinds]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert self._process.stdout is not None
        self.descriptor = self._process.stdout.fileno()
        os.set_blocking(self.descriptor, False)
        self.load_key, self.model, self.private = load_key, model, private
        self.is_loaded = False
        self.is_usable = True
        """Whether it may get further jobs."""
        self.jobs: Set[str] = set()
        self.idle_since = time.monotonic()
        self.rss_mb, self.images = 0, 0
        self.gpu_mb: Optional[int] = None
        self._incomplete_line = b""

    @property
    def is_idle(self) -> bool:
        """Return whether it is loaded and has no job."""
        return self.is_loaded and not self.jobs

    def serve(self, job: str, folder: Path, seen: List[str], sequence: int) -> None:
        """Give it a job, or the rest of one."""
        self.jobs.add(job)
        self._send(command="serve", job=job, folder=str(folder), seen=seen, sequence=sequence)

    def stop(self, job: str) -> None:
        """Make it end a job after the current batch."""
        self._send(command="stop", job=job)

    def drop(self, job: str) -> None:
        """Make it end a job whose results are no longer needed."""
        self._send(command="drop", job=job)

    def shut_down(self) -> None:
        """Make it stop all jobs and exit."""
        self.is_usable = False
        self._send(command="shut_down")

    def kill(self) -> None:
        """End it at once."""
        self.is_usable = False
        self._process.kill()

    def release(self, job: str) -> None:
        """Record that it no longer has this job."""
        self.jobs.discard(job)
        self.idle_since = time.monotonic()

    def read_reports(self) -> Iterator[Dict[str, Any]]:
        """Yield its reports since the last call; the last one of a process that ended is {"event": "exited"}."""
        while True:
            try:
                block = os.read(self.descriptor, 65536)
            except BlockingIOError:
                return
            if not block:
                yield {"event": "exited"}
                return
            *lines, self._incomplete_line = (self._incomplete_line + block).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def has_exited(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for its end; return its exit status as a shell reports it."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return 128 - code if code < 0 else code

    def describe(self) -> Dict[str, Any]:
        """Return the heartbeat's entry for its model."""
        state = ("busy" if self.jobs else "idle") if self.is_loaded else "loading"
        idle = round(time.monotonic() - self.idle_since, 1) if self.is_idle else 0.0
        return {
            "name": self.model,
            "state": state,
            "private": self.private,
            "sessions": len(self.jobs),
            "idle_seconds": idle,
            "rss_mb": self.rss_mb,
            "gpu_mb": self.gpu_mb,
        }

    def _send(self, **command: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(command) + "\n").encode())
        except OSError:  # it has ended, which its last report shows
            pass

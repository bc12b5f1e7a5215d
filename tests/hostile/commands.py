"""The command line of orch under a time limit and an audit hook: what it did, what it said, how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = float(os.environ.get("ORCH_HOSTILE_TIMEOUT", "180"))
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True)
class Done:
    """A command that has ended, or was killed as hung."""

    arguments: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    hung: bool
    calls: tuple[Mapping[str, str], ...] = ()
    """What the audit hook recorded: calls below guests' trees by other code than the door's."""

    def __str__(self) -> str:
        shown = self.stderr.decode(errors="backslashreplace")[-3000:]
        how = f"hung for {self.seconds:.0f} s" if self.hung else f"exit {self.code} after {self.seconds:.1f} s"
        return f"orch {' '.join(self.arguments)}\n{how}\n{shown}"


@dataclass
class Commands:
    """Runs commands one after another in forks of one server, which saves their imports."""

    environment: Mapping[str, str]
    folder: Path
    """For the output of commands."""
    _answers: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)
    _server: subprocess.Popen[str] | None = None
    _count: int = 0

    def run(
        self,
        *arguments: object,
        timeout: float = TIMEOUT,
        trees: tuple[str, ...] = (),
        interrupt_when: Callable[[], bool] | None = None,
        cwd: Path | None = None,
        **environment: str,
    ) -> Done:
        """Run a command. `interrupt_when`: it gets SIGINT once that holds, and again 20 s later."""
        given = tuple(str(one) for one in arguments)
        self._count += 1
        number, server = self._count, self._serving()
        names = {name: str(self.folder / f"{number}.{name}") for name in ("stdout", "stderr", "audit")}
        wanted = {
            "id": number,
            "arguments": given,
            "environment": {**os.environ, **self.environment, **environment},
            "folder": str(cwd or self.folder),
            "trees": list(trees),
            **names,
        }
        started = time.monotonic()
        assert server.stdin is not None
        server.stdin.write(json.dumps(wanted) + "\n")
        server.stdin.flush()
        pid = int(self._answers.get(timeout=TIMEOUT)["pid"])
        code, hung = self._wait(pid, started + timeout, interrupt_when)
        seconds = time.monotonic() - started
        calls = [json.loads(line) for line in Path(names["audit"]).read_text().splitlines()]
        outputs = [Path(names[name]).read_bytes() for name in ("stdout", "stderr")]
        return Done(given, code, outputs[0], outputs[1], seconds, hung, tuple(calls))

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            assert self._server.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()
            self._server.wait(timeout=10)
            assert self._server.stdout is not None
            self._server.stdout.close()
            self._server = None

    def _serving(self) -> subprocess.Popen[str]:
        if self._server is None or self._server.poll() is not None:
            self._answers = queue.SimpleQueue()
            command = [sys.executable, "-W", "ignore", "-m", "tests.hostile.command_server"]
            self._server = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self._listen, args=(self._server, self._answers), daemon=True).start()
        return self._server

    @staticmethod
    def _listen(server: subprocess.Popen[str], answers: queue.SimpleQueue[dict[str, Any]]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            answers.put(json.loads(line))

    def _wait(self, pid: int, deadline: float, interrupt_when: Callable[[], bool] | None) -> tuple[int, bool]:
        next_interrupt = float("inf") if interrupt_when is None else 0.0
        while True:
            try:
                return int(self._answers.get(timeout=0.05)["code"]), False
            except queue.Empty:
                now = time.monotonic()
            if interrupt_when is not None and now > next_interrupt and interrupt_when():
                next_interrupt = now + 20
                os.kill(pid, signal.SIGINT)
            if self._server is None or self._server.poll() is not None:
                self._server = None
                raise RuntimeError("the server of commands was ended by somebody else")
            if now > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return int(self._answers.get(timeout=10)["code"]), True

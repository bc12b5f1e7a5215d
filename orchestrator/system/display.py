"""Print lines, and show the progress of runs: the Display protocols, plain lines for logs, silent displays for JSON."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

PLAIN_EVERY_SECONDS = 10.0

Report = Callable[[str], None]
"""Take one line on the current step; may be called often."""


_HIDDEN = (
    *(code for code in range(0x20) if chr(code) != "\t"),
    *range(0x7F, 0xA0),  # DEL and the C1 controls
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),  # marks of direction, separators of lines
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # overrides of direction
)
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _HIDDEN}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r"}
_CI_COMMAND = re.compile(r"\A(\s*):(?=:)")
_OLD_CI_COMMAND = re.compile(r"#(?=#(?:\[|vso\[))")


def printable(text: str) -> str:
    """Return text as one line that neither a terminal nor a CI system takes for an instruction.

    File names, messages of guests and lines of logs are foreign: control characters, line breaks and overrides of the
    direction of writing become escapes such as \\x1b, and what CI systems take for commands (::error, ##[error]) is
    broken up. Tabs stay.
    """
    line = _CI_COMMAND.sub(r"\1\\x3a", text.translate(_ESCAPES))
    return _OLD_CI_COMMAND.sub(r"\\x23", line)


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it belongs: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


_live_lines: list[Callable[[], None]] = []


def register_live_line(end: Callable[[], None]) -> None:
    """Note how to end a line of the terminal that changes by itself, such as a spinner."""
    _live_lines.append(end)


def end_live_lines() -> None:
    """End all lines that change by themselves, so that what is printed next stays the last."""
    while _live_lines:
        _live_lines.pop()()


def print_line(text: str, *, on_stdout: bool = False) -> None:
    """Print one line, escaped, on stderr or stdout. All that orch prints outside of tables and JSON goes this way."""
    print(printable(text), file=sys.stdout if on_stdout else sys.stderr, flush=True)


class Display(Protocol):
    """Show the progress of one run to people, on stderr."""

    def say(self, message: str) -> None:
        """Show a line that stays."""

    def detail(self, message: str) -> None:
        """Show the current step; it replaces the step before it and may be dropped."""

    def transfer(self, there: int, total: int | None) -> None:
        """Show how many bytes of a download have arrived."""

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Show the number of images done so far, and the state of each worker."""

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Enclose the time in which images are predicted."""
        yield


class BatchDisplay(Protocol):
    """Show the progress of several runs, which report from several threads."""

    def display(self, name: str, check: Callable[[], None]) -> Display:
        """Return the display of one run; `check` is called while it builds or downloads, and may raise."""

    def set_state(self, name: str, state: str) -> None:
        """Show what a run is doing."""

    def finish(self, name: str, result: str) -> None:
        """Show how a run ended."""

    @contextmanager
    def live(self) -> Iterator[None]:
        """Enclose all runs."""
        yield


class SilentDisplay:
    """Show nothing: for --json and for tests."""

    def say(self, message: str) -> None:
        """Do nothing."""

    def detail(self, message: str) -> None:
        """Do nothing."""

    def transfer(self, there: int, total: int | None) -> None:
        """Do nothing."""

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Do nothing."""

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Do nothing."""
        yield


class PlainDisplay:
    """Print lines for logs and CI; progress at most every ten seconds."""

    def __init__(self) -> None:
        self._total = self._already = 0
        self._started = self._spoken = time.monotonic()

    def say(self, message: str) -> None:
        """Print a line."""
        print_line(message)

    def detail(self, message: str) -> None:
        """Print the current step at most every ten seconds, so that a long build does not look stuck."""
        if message and self._due():
            print_line(f"  {message[:160]}")

    def transfer(self, there: int, total: int | None) -> None:
        """Print the bytes that arrived, at most every ten seconds."""
        if self._due():
            self.say(f"  {there >> 20} of {f'{total >> 20}' if total else '?'} MB")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Print counts and rate, at most every ten seconds."""
        if self._due():
            self.say(f"  {rate_line(done, self._total, failed, self._already, time.monotonic() - self._started)}")

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Start the count and the clock of the rate."""
        self._total, self._already = total, already
        self._started = self._spoken = time.monotonic()
        yield

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._spoken < PLAIN_EVERY_SECONDS:
            return False
        self._spoken = now
        return True


def rate_line(done: int, total: int, failed: int, already: int, seconds: float) -> str:
    """Return "120 of 400 images, 2 failed, 14.1 images/s, 0:20 left".

    The rate counts the images of this session alone: `already` of `done` are from earlier ones.
    """
    rate = (done - already) / seconds if seconds > 0 else 0.0
    words = [f"{done} of {total} images"]
    if failed:
        words.append(f"{failed} failed")
    if rate > 0:
        words.append(f"{rate:.1f} images/s")
        words.append(f"{clock((total - done) / rate)} left")
    return ", ".join(words)


def clock(seconds: float) -> str:
    """Return a duration as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class RunStatus:
    """The current state of one of several runs, as its display reports it."""

    name: str
    state: str = "waiting"
    total: int | None = None
    already: int = 0
    done: int = 0
    failed: int = 0
    workers: int = 0
    since: float = 0.0
    """When prediction began, on the monotonic clock."""
    is_predicting: bool = False
    is_over: bool = False

    def rate(self) -> str:
        """Return "120 of 400 images, 14.1 images/s, 0:20 left"."""
        seconds = time.monotonic() - self.since
        return rate_line(self.done, self.total or 0, self.failed, self.already, seconds)


class StatusDisplay:
    """The display of one of several runs: it keeps the run's status and passes its lines on."""

    def __init__(self, status: RunStatus, say: Callable[[str, str], None], check: Callable[[], None]) -> None:
        self._status, self._say, self._check = status, say, check

    def say(self, message: str) -> None:
        """Pass on a line with the run's name."""
        self._say(self._status.name, message)

    def detail(self, message: str) -> None:
        """Keep the current step as the state."""
        self._check()
        if message:
            self._status.state = message

    def transfer(self, there: int, total: int | None) -> None:
        """Keep the bytes that arrived as the state."""
        self.detail(f"fetching {there >> 20} of {f'{total >> 20}' if total else '?'} MB")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Keep counts, and whether any worker predicts yet."""
        status = self._status
        status.done, status.failed, status.workers = done, failed, len(workers)
        if workers:
            is_ready = any(state not in ("starting", "loading") for state in workers.values())
            status.state = "predicting" if is_ready else "loading"

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Mark the time in which images are predicted."""
        status = self._status
        status.total, status.already, status.done = total, already, already
        status.since, status.is_predicting = time.monotonic(), True
        try:
            yield
        finally:
            status.is_predicting = False
            status.state = "collecting"


class SilentBatchDisplay:
    """Keep the status of each run and show nothing: for --json and --quiet."""

    def __init__(self, names: Sequence[str]) -> None:
        self.runs = {name: RunStatus(name) for name in names}

    def display(self, name: str, check: Callable[[], None]) -> Display:
        """Return the display of one run, which calls `check` while it builds or downloads."""
        return StatusDisplay(self.runs[name], self.say, check)

    def say(self, name: str, message: str) -> None:
        """Do nothing."""

    def set_state(self, name: str, state: str) -> None:
        """Keep what a run is doing."""
        self.runs[name].state = state

    def finish(self, name: str, result: str) -> None:
        """Keep how a run ended."""
        self.runs[name].state, self.runs[name].is_over = result, True

    @contextmanager
    def live(self) -> Iterator[None]:
        """Do nothing."""
        yield


class PlainBatchDisplay(SilentBatchDisplay):
    """Print the lines of all runs, and every ten seconds the status of each active one."""

    def say(self, name: str, message: str) -> None:
        """Print a line with the run's name."""
        print_line(with_name(name, message))

    def finish(self, name: str, result: str) -> None:
        """Print how a run ended."""
        super().finish(name, result)
        self.say(name, result)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Print the status of active runs from a thread of its own."""
        is_over = threading.Event()

        def speak() -> None:
            while not is_over.wait(PLAIN_EVERY_SECONDS):
                self._say_status()

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            is_over.set()
            speaker.join()

    def _say_status(self) -> None:
        for run in self.runs.values():
            if run.is_predicting:
                self.say(run.name, f"  {run.rate()}")
            elif not run.is_over and not run.state.startswith("waiting"):
                self.say(run.name, f"  {run.state[:160]}")


def with_name(name: str, message: str) -> str:
    """Return a line that begins with the run's name."""
    return message if message.startswith(f"{name}: ") else f"{name}: {message}"

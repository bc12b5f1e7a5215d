"""How a run shows itself: bars in a terminal, plain lines in a log, nothing where JSON is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_EVERY_SECONDS = 10.0

Report = Callable[[str], None]
"""Take one line about what is being done at the moment; may be called often."""


class Display(Protocol):
    """Told what happens; says it to people on stderr."""

    def say(self, message: str) -> None:
        """A line that stays."""

    def detail(self, message: str) -> None:
        """What is being done at the moment; replaces the detail before it, may be dropped."""

    def transfer(self, there: int, total: int | None) -> None:
        """Bytes of a download."""

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Images done so far, and a few words on each worker."""

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Around the time in which images are predicted."""
        yield


class SilentDisplay:
    """Says nothing: for --json and for tests."""

    def say(self, message: str) -> None:
        """Nothing."""

    def detail(self, message: str) -> None:
        """Nothing."""

    def transfer(self, there: int, total: int | None) -> None:
        """Nothing."""

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Nothing."""

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Nothing."""
        yield


class PlainDisplay:
    """Lines, one every ten seconds at most, for logs and CI."""

    def __init__(self) -> None:
        self._total = self._already = 0
        self._started = self._spoken = time.monotonic()

    def say(self, message: str) -> None:
        """A line."""
        print(message, file=sys.stderr, flush=True)

    def detail(self, message: str) -> None:
        """A line now and then: a long build must not look dead."""
        if message and self._due():
            print(f"  {message[:160]}", file=sys.stderr, flush=True)

    def transfer(self, there: int, total: int | None) -> None:
        """A line now and then."""
        if self._due():
            self.say(f"  {there >> 20} of {f'{total >> 20}' if total else '?'} MB")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """A line now and then."""
        if self._due():
            self.say(f"  {rate_line(done, self._total, failed, self._already, time.monotonic() - self._started)}")

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Start counting."""
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
    """ "120 of 400 images, 2 failed, 14.1 images/s, 0:20 left"; the rate counts this session's images only."""
    rate = (done - already) / seconds if seconds > 0 else 0.0
    words = [f"{done} of {total} images"]
    if failed:
        words.append(f"{failed} failed")
    if rate > 0:
        words.append(f"{rate:.1f} images/s")
        words.append(f"{clock((total - done) / rate)} left")
    return ", ".join(words)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RichDisplay:
    """Live bars in a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._live = False
        self._bar: _Bar | None = None

    def say(self, message: str) -> None:
        """A line that stays above the moving part."""
        self._rest()
        self._console.print(message, markup=False)

    def detail(self, message: str) -> None:
        """The moving line."""
        if self._bar is not None or not message:
            return
        from rich.markup import escape

        width = max(20, self._console.width - 4)
        self._status.update(f"[dim]{escape(message[:width])}[/dim]")
        if not self._live:
            self._live = True
            self._status.start()

    def transfer(self, there: int, total: int | None) -> None:
        """As the moving line."""
        share = f" ({100 * there / total:.0f}%)" if total else ""
        self.detail(f"{there / 2**20:.1f} of {f'{total / 2**20:.1f}' if total else '?'} MB{share}")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """The bar and a line for each worker."""
        if self._bar is not None:
            self._bar.show(done, failed, workers)

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Show the bar."""
        self._rest()
        self._bar = _Bar(self._console, total, already)
        try:
            with self._bar.live():
                yield
        finally:
            self._bar = None

    def _rest(self) -> None:
        if self._live:
            self._status.stop()
            self._live = False


class _Bar:
    """The bar of images and the workers' lines."""

    def __init__(self, console: Console, total: int, already: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._total, self._already, self._started = total, already, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._images = self._progress.add_task("images", total=total, completed=already, note="starting")

    @contextmanager
    def live(self) -> Iterator[None]:
        """While images are predicted."""
        with self._progress:
            yield

    def show(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Bring the bar up to date."""
        line = rate_line(done, self._total, failed, self._already, time.monotonic() - self._started)
        note = ", ".join(line.split(", ")[1:])
        for worker, state in workers.items():
            note += f"\n  {worker}: {state}" if len(workers) > 1 else f"  {state}"
        self._progress.update(self._images, completed=done, note=note)


def make_display(*, json: bool, quiet: bool) -> Display:
    """The display that fits: bars only where stderr is a terminal."""
    if json or quiet:
        return SilentDisplay()
    return RichDisplay() if sys.stderr.isatty() else PlainDisplay()

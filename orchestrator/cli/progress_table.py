"""How several runs show themselves: one live table in a terminal, lines with the model's name in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.system.display import PLAIN_EVERY_SECONDS, Display, rate_line

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_PER_SECOND = 4


@dataclass
class Row:
    """What is known of one run at the moment."""

    name: str
    state: str = "waiting"
    total: int | None = None
    already: int = 0
    done: int = 0
    failed: int = 0
    workers: int = 0
    since: float = 0.0
    live: bool = False
    """Whether images are being predicted."""
    over: bool = False

    def rate(self) -> str:
        """ "120 of 400 images, 14.1 images/s, 0:20 left"."""
        seconds = time.monotonic() - self.since
        return rate_line(self.done, self.total or 0, self.failed, self.already, seconds)


class Board(Protocol):
    """Told what happens in several runs, from several threads."""

    def display(self, name: str, check: Callable[[], None]) -> Display:
        """The display of one run; `check` is called while it builds or fetches, and may raise."""

    def state(self, name: str, words: str) -> None:
        """What a run is doing."""

    def ended(self, name: str, words: str) -> None:
        """A run has ended, and how."""

    @contextmanager
    def live(self) -> Iterator[None]:
        """Around all runs."""
        yield


class RowDisplay:
    """A run's display, in its row of a board."""

    def __init__(self, row: Row, say: Callable[[str, str], None], check: Callable[[], None]) -> None:
        self._row, self._say, self._check = row, say, check

    def say(self, message: str) -> None:
        """A line with the run's name."""
        self._say(self._row.name, message)

    def detail(self, message: str) -> None:
        """What it is doing."""
        self._check()
        if message:
            self._row.state = message

    def transfer(self, there: int, total: int | None) -> None:
        """A download."""
        self.detail(f"fetching {there >> 20} of {f'{total >> 20}' if total else '?'} MB")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        """Its figures."""
        row = self._row
        row.done, row.failed, row.workers = done, failed, len(workers)
        if workers:
            ready = any(state not in ("starting", "loading") for state in workers.values())
            row.state = "predicting" if ready else "loading"

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Predicting begins."""
        row = self._row
        row.total, row.already, row.done, row.since, row.live = total, already, already, time.monotonic(), True
        try:
            yield
        finally:
            row.live = False
            row.state = "collecting"


class SilentBoard:
    """Says nothing: for --json and --quiet."""

    def __init__(self, names: Sequence[str]) -> None:
        self.rows = {name: Row(name) for name in names}

    def display(self, name: str, check: Callable[[], None]) -> Display:
        """One that keeps its row and says nothing."""
        return RowDisplay(self.rows[name], self.say, check)

    def say(self, name: str, message: str) -> None:
        """Nothing."""

    def state(self, name: str, words: str) -> None:
        """Noted."""
        self.rows[name].state = words

    def ended(self, name: str, words: str) -> None:
        """Noted."""
        self.rows[name].state, self.rows[name].over = words, True

    @contextmanager
    def live(self) -> Iterator[None]:
        """Nothing."""
        yield


class PlainBoard(SilentBoard):
    """Lines: what a run says, and every ten seconds where each is."""

    def say(self, name: str, message: str) -> None:
        """A line with the run's name."""
        print(named(name, message), file=sys.stderr, flush=True)

    def ended(self, name: str, words: str) -> None:
        """A line."""
        super().ended(name, words)
        self.say(name, words)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Speak now and then, in a thread."""
        over = threading.Event()

        def speak() -> None:
            while not over.wait(PLAIN_EVERY_SECONDS):
                for row in self.rows.values():
                    if row.live:
                        self.say(row.name, f"  {row.rate()}")
                    elif not row.over and not row.state.startswith("waiting"):
                        self.say(row.name, f"  {row.state[:160]}")

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            over.set()
            speaker.join()


class TableBoard(SilentBoard):
    """One live table, with what runs say above it."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            get_renderable=self.table, console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True
        )

    def say(self, name: str, message: str) -> None:
        """A line above the table."""
        self._console.print(named(name, message), markup=False)

    def table(self) -> Table:
        """All runs as they are now."""
        from rich import box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, expand=True)
        table.add_column("model", no_wrap=True)
        table.add_column("images", width=16)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in self.rows.values():
            bar = ProgressBar(total=row.total or 1, completed=row.done, width=16)
            count = f"{row.done}/{row.total}" if row.total is not None else ""
            table.add_row(row.name, bar, count, Text(row_words(row)))
        return table

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the table."""
        with self._live:
            yield


def row_words(row: Row) -> str:
    """What a row says: the rate while images are predicted, else the state."""
    if not row.live or row.state != "predicting":
        return row.state
    words = row.rate().split(", ")[1:]
    workers = [f"{row.workers} workers"] if row.workers > 1 else []
    return ", ".join([*words, *workers]) or row.state


def named(name: str, message: str) -> str:
    """A line with the run's name, unless it begins with it."""
    return message if message.startswith(f"{name}: ") else f"{name}: {message}"


def make_board(names: Sequence[str], *, json: bool, quiet: bool) -> Board:
    """The board that fits: a table only where stderr is a terminal."""
    if json or quiet:
        return SilentBoard(names)
    return TableBoard(names) if sys.stderr.isatty() else PlainBoard(names)

"""Show progress in a terminal: live bars of one run, a live table of several."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.system import (
    BatchDisplay,
    Display,
    PlainBatchDisplay,
    PlainDisplay,
    RunStatus,
    SilentBatchDisplay,
    SilentDisplay,
    printable,
    rate_line,
    register_live_line,
    with_name,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

REFRESH_PER_SECOND = 4


def make_display(*, json: bool, quiet: bool) -> Display:
    """Return the display of one run: silent for --json and --quiet, bars where stderr is a terminal, else lines."""
    if json or quiet:
        return SilentDisplay()
    return RichDisplay() if sys.stderr.isatty() else PlainDisplay()


def make_batch_display(names: Sequence[str], *, json: bool, quiet: bool) -> BatchDisplay:
    """Return the display of several runs: silent for --json and --quiet, a table in a terminal, else lines."""
    if json or quiet:
        return SilentBatchDisplay(names)
    return TableBatchDisplay(names) if sys.stderr.isatty() else PlainBatchDisplay(names)


class RichDisplay:
    """Show live bars in a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._is_live = False
        self._bar: _Bar | None = None

    def say(self, message: str) -> None:
        self._stop_status()
        self._console.print(printable(message), markup=False)

    def detail(self, message: str) -> None:
        """Show the current step in the live line."""
        if self._bar is not None or not message:
            return
        from rich.markup import escape

        width = max(20, self._console.width - 4)
        self._status.update(f"[dim]{escape(printable(message)[:width])}[/dim]")
        if not self._is_live:
            self._is_live = True
            self._status.start()
            register_live_line(self._stop_status)

    def transfer(self, there: int, total: int | None) -> None:
        share = f" ({100 * there / total:.0f}%)" if total else ""
        self.detail(f"{there / 2**20:.1f} of {f'{total / 2**20:.1f}' if total else '?'} MB{share}")

    def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
        if self._bar is not None:
            self._bar.show(done, failed, workers)

    @contextmanager
    def images(self, total: int, already: int) -> Iterator[None]:
        """Show the bar."""
        self._stop_status()
        self._bar = _Bar(self._console, total, already)
        try:
            with self._bar.progress:
                yield
        finally:
            self._bar = None

    def _stop_status(self) -> None:
        if self._is_live:
            self._status.stop()
            self._is_live = False


class _Bar:
    """The bar of images with a line for each worker."""

    def __init__(self, console: Console, total: int, already: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._total, self._already, self._started = total, already, time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._images = self.progress.add_task("images", total=total, completed=already, note="starting")

    def show(self, done: int, failed: int, workers: dict[str, str]) -> None:
        line = rate_line(done, self._total, failed, self._already, time.monotonic() - self._started)
        note = ", ".join(line.split(", ")[1:])
        for worker, state in workers.items():
            note += f"\n  {worker}: {state}" if len(workers) > 1 else f"  {state}"
        self.progress.update(self._images, completed=done, note=note)


class TableBatchDisplay(SilentBatchDisplay):
    """Show one live table of all runs, with their lines above it."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(
            get_renderable=self.table, console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True
        )

    def say(self, name: str, message: str) -> None:
        self._console.print(printable(with_name(name, message)), markup=False)

    def table(self) -> Table:
        """Return the table of all runs in their current state."""
        from rich import box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, expand=True)
        table.add_column("model", no_wrap=True)
        table.add_column("images", width=16)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("state", no_wrap=True, overflow="ellipsis", ratio=1)
        for run in self.runs.values():
            bar = ProgressBar(total=run.total or 1, completed=run.done, width=16)
            count = f"{run.done}/{run.total}" if run.total is not None else ""
            table.add_row(run.name, bar, count, Text(printable(describe(run))))
        return table

    @contextmanager
    def live(self) -> Iterator[None]:
        with self._live:
            yield


def describe(run: RunStatus) -> str:
    """Return the state column of a run: the rate while images are predicted, else the state."""
    if not run.is_predicting or run.state != "predicting":
        return run.state
    parts = run.rate().split(", ")[1:]
    workers = [f"{run.workers} workers"] if run.workers > 1 else []
    return ", ".join([*parts, *workers]) or run.state

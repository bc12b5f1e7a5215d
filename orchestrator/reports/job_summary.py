"""The job summary: the runs as GitHub's Markdown, appended to a file that other steps also append to."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.evaluation import GateResult
from orchestrator.system import count_of, printable

SHOWN_FAILURES = 50  # per model: GitHub accepts 1 MiB of summary per step
SHOWN_CHARACTERS = 300
COLUMNS = ("model", "variant", "device", "images", "failed", "instances", "images/s", "AP", "baseline", "difference")
WORDS = 3  # columns of text


def append_summary(path: Path, results: Sequence[GateResult]) -> None:
    """Append the runs to the file `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(format_summary(results))


def format_summary(results: Sequence[GateResult]) -> str:
    """Return a table of all runs, then each run's errors, verdicts and failed images."""
    rule = ["---"] * WORDS + ["---:"] * (len(COLUMNS) - WORDS)
    rows = [_format_row(result) for result in results]
    lines = ["### orch run", "", *(f"| {' | '.join(row)} |" for row in [list(COLUMNS), rule, *rows])]
    for result in results:
        lines += _list_remarks(result, "" if len(results) == 1 else f"{escape_cell(result.model)}: ")
    return "\n".join(lines) + "\n\n"


def _format_row(result: GateResult) -> list[str]:
    summary = result.summary
    if summary is None:
        return [escape_cell(result.model), *["–"] * (len(COLUMNS) - 1)]
    seconds = summary["seconds"]["dispatch"]
    speed = f"{summary['images'] / seconds:.2f}" if seconds else "–"
    words = [escape_cell(str(word)) for word in (result.model, summary["variant"], summary["device"])]
    counts = [str(summary[name]) for name in ("images", "failed", "instances")]
    ap = next((change for change in result.changes if change.name == "AP"), None)
    difference = ["–", "–"] if ap is None else [_format_figure(ap.baseline), _format_figure(ap.difference, "+")]
    return [*words, *counts, speed, _format_figure(result.figures.get("AP")), *difference]


def _format_figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else format(value, f"{sign}.4f").replace("-", "−")


def _list_remarks(result: GateResult, prefix: str) -> Iterator[str]:
    if result.error is not None:
        yield from ("", f"**{escape_cell(result.model)}: {escape_cell(result.error.message)}**")
        for word, text in (("why", result.error.why), ("log", result.error.log), ("next", result.error.hint)):
            if text:
                yield from ("", f"{word}: {escape_cell(text)}")
    if result.warnings:
        yield ""
    for warning in result.warnings:
        yield f"- {prefix}warning: {escape_cell(warning)}"
    if result.verdicts:
        yield ""
    for verdict in result.verdicts:
        kept = "**broken**" if verdict.is_broken else "kept"
        yield f"- {prefix}{kept}: `{verdict.rule}` – {escape_cell(verdict.message)}"
    failures = [] if result.summary is None else result.summary["failures"]
    if not failures:
        return
    shown = f", the first {SHOWN_FAILURES}" if len(failures) > SHOWN_FAILURES else ""
    heading = f"{escape_cell(result.model)}: {count_of(len(failures), 'image')} failed{shown}"
    yield from ("", f"<details><summary>{heading}</summary>", "", "| image | why |", "| --- | --- |")
    for failure in failures[:SHOWN_FAILURES]:
        yield f"| {escape_cell(failure['image_file'])} | {escape_cell(failure['error'])} |"
    yield from ("", "</details>")


def escape_cell(text: str) -> str:
    """Return text for a table cell, cut to SHOWN_CHARACTERS; nothing in a file name becomes markup."""
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    line = html.escape(printable(" ".join(short.split())), quote=False)
    for sign in "\\`*_[]|~":
        line = line.replace(sign, f"\\{sign}")
    return line

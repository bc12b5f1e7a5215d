"""The job summary: the runs as GitHub's Markdown, appended to a file that other steps write to as well."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.evaluation.gate.gate import Checked

SHOWN_FAILURES = 50
"""GitHub takes 1 MiB of summary a step."""
SHOWN_CHARACTERS = 300
COLUMNS = ("model", "variant", "device", "images", "failed", "instances", "images/s", "AP", "baseline", "difference")
WORDS = 3  # columns of text


def append_summary(path: Path, checked: Sequence[Checked]) -> None:
    """Add the runs to the end of `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(as_markdown(checked))


def as_markdown(checked: Sequence[Checked]) -> str:
    """A table of all runs, then of each what went wrong."""
    rule = ["---"] * WORDS + ["---:"] * (len(COLUMNS) - WORDS)
    rows = [_row(one) for one in checked]
    lines = ["### orch run", "", *(f"| {' | '.join(row)} |" for row in [list(COLUMNS), rule, *rows])]
    for one in checked:
        lines += _remarks(one, "" if len(checked) == 1 else f"{cell(one.model)}: ")
    return "\n".join(lines) + "\n\n"


def _row(one: Checked) -> list[str]:
    summary = one.summary
    if summary is None:
        return [cell(one.model), *["–"] * (len(COLUMNS) - 1)]
    seconds = summary["seconds"]["dispatch"]
    speed = f"{summary['images'] / seconds:.2f}" if seconds else "–"
    words = [cell(str(word)) for word in (one.model, summary["variant"], summary["device"])]
    counts = [str(summary[name]) for name in ("images", "failed", "instances")]
    ap = next((change for change in one.changes if change.name == "AP"), None)
    then = ["–", "–"] if ap is None else [_figure(ap.baseline), _figure(ap.difference, "+")]
    return [*words, *counts, speed, _figure(one.figures.get("AP")), *then]


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else format(value, f"{sign}.4f").replace("-", "−")


def _remarks(one: Checked, which: str) -> Iterator[str]:
    if one.error is not None:
        yield from ("", f"**{cell(one.model)}: {cell(one.error.message)}**")
        for word, text in (("why", one.error.why), ("log", one.error.log), ("next", one.error.hint)):
            if text:
                yield from ("", f"{word}: {cell(text)}")
    if one.verdicts:
        yield ""
    for verdict in one.verdicts:
        kept = "**broken**" if verdict.broken else "kept"
        yield f"- {which}{kept}: `{verdict.rule}` – {cell(verdict.message)}"
    failures = [] if one.summary is None else one.summary["failures"]
    if not failures:
        return
    shown = f", the first {SHOWN_FAILURES}" if len(failures) > SHOWN_FAILURES else ""
    yield from ("", f"<details><summary>{cell(one.model)}: {len(failures)} images failed{shown}</summary>", "")
    yield from ("| image | why |", "| --- | --- |")
    for failure in failures[:SHOWN_FAILURES]:
        yield f"| {cell(failure['image_file'])} | {cell(failure['error'])} |"
    yield from ("", "</details>")


def cell(text: str) -> str:
    """Text as it is in a table: nothing in a file name becomes markup."""
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    line = html.escape(" ".join(short.split()), quote=False)
    for sign in "\\`*_[]|~":
        line = line.replace(sign, f"\\{sign}")
    return line

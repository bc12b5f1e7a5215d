"""Compare the finished runs of an orch.yaml, and write their report: what `orch compare` and `orch report` do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.dispatch import Outcome
from orchestrator.errors import EXIT_OK, Interrupted, OrchError
from orchestrator.evaluation import CompareOptions, Comparison, compare_runs
from orchestrator.reports import (
    PageLimits,
    ReportOptions,
    format_json,
    format_markdown,
    make_document,
    make_tables,
    write_report,
)
from orchestrator.system import Display, write_text
from orchestrator.workflows.batch import RunResult
from orchestrator.workflows.comparison_file import ComparisonFile, ReportSpec

COMPARISON = ("comparison.json", "comparison.md")
REPORT = "report.html"


@dataclass(frozen=True)
class Compared:
    """The comparison if there was one, the files that were written, and the errors."""

    comparison: Comparison | None
    written: tuple[Path, ...]
    errors: tuple[OrchError, ...]

    @property
    def exit_code(self) -> int:
        return max((error.exit_code for error in self.errors), default=EXIT_OK)

    def as_json(self) -> dict[str, Any]:
        return {
            "comparison": None if self.comparison is None else make_document(self.comparison),
            "written": [str(path) for path in self.written],
            "errors": [error.as_json() for error in self.errors],
        }


def compare_and_report(file: ComparisonFile, results: Mapping[str, RunResult], display: Display) -> Compared:
    """Compare the complete runs if there are two or more, and write the report; with annotations one run is enough.

    While a run is interrupted, or continues on a cluster, nothing is compared: it has to be resumed first.
    """
    complete = [one.paths.root for one in results.values() if isinstance(one, Outcome) and one.complete]
    if any(not one.complete if isinstance(one, Outcome) else isinstance(one, Interrupted) for one in results.values()):
        return Compared(None, (), ())
    comparison: Comparison | None = None
    written: list[Path] = []
    errors: list[OrchError] = []
    if len(complete) > 1:
        try:
            comparison = _compare(file, complete, written, display)
        except OrchError as error:
            errors.append(error)
    if file.report is not None and complete and not errors and (len(complete) > 1 or file.annotations):
        try:
            written.append(_report(file, complete, display))
        except OrchError as error:
            errors.append(error)
    return Compared(comparison, tuple(written), tuple(errors))


def _compare(file: ComparisonFile, complete: list[Path], written: list[Path], display: Display) -> Comparison:
    display.detail("comparing")
    comparison = compare_runs(complete, file.annotations, CompareOptions(**file.compare.model_dump()))
    texts = (format_json(comparison), format_markdown(make_tables(comparison, per_category=True)))
    for name, text in zip(COMPARISON, texts, strict=True):
        write_text(file.out / name, text)
        written.append(file.out / name)
    return comparison


def _report(file: ComparisonFile, complete: list[Path], display: Display) -> Path:
    spec = file.report or ReportSpec()
    limits = PageLimits(spec.max_images, spec.max_megabytes, min_score=spec.min_score)
    options = ReportOptions(CompareOptions(**file.compare.model_dump()), limits, None, spec.title)
    return write_report(complete, file.annotations, file.out / REPORT, options, display).path

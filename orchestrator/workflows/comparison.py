"""What an orch.yaml makes of its runs once they have ended: what `orch compare` and `orch report` make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import EXIT_OK, Interrupted, OrchError
from orchestrator.system.display import Display
from orchestrator.workflows.batch import Ended
from orchestrator.workflows.comparison_file import ComparisonFile

if TYPE_CHECKING:
    from orchestrator.evaluation.compare.compare import Comparison

COMPARISON = ("comparison.json", "comparison.md")
REPORT = "report.html"


@dataclass(frozen=True)
class Compared:
    """The comparison, where there was one, what was written, and what failed."""

    comparison: Comparison | None
    written: tuple[Path, ...]
    errors: tuple[OrchError, ...]

    @property
    def exit_code(self) -> int:
        """The worst."""
        return max((error.exit_code for error in self.errors), default=EXIT_OK)

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        from orchestrator.reports.tables import make_document

        return {
            "comparison": None if self.comparison is None else make_document(self.comparison),
            "written": [str(path) for path in self.written],
            "errors": [error.as_json() for error in self.errors],
        }


def compare_and_report(file: ComparisonFile, ended: Mapping[str, Ended], display: Display) -> Compared:
    """Compare the runs that are complete, two at least, and write the page: one run is enough with annotations.

    Nothing is made of them before all have ended well or for good: one that is interrupted, or that goes on by
    itself on a cluster, has to be resumed first.
    """
    complete = [one.paths.root for one in ended.values() if isinstance(one, Outcome) and one.complete]
    if any(isinstance(one, Interrupted) or (isinstance(one, Outcome) and not one.complete) for one in ended.values()):
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
    from orchestrator.evaluation.compare.compare import CompareOptions, compare_runs
    from orchestrator.reports.tables import format_json, format_markdown, make_tables
    from orchestrator.system.files import write_text

    display.detail("comparing")
    found = compare_runs(complete, file.annotations, CompareOptions(**file.compare.model_dump()))
    texts = (format_json(found), format_markdown(make_tables(found, per_category=True)))
    for name, text in zip(COMPARISON, texts, strict=True):
        write_text(file.out / name, text)
        written.append(file.out / name)
    return found


def _report(file: ComparisonFile, complete: list[Path], display: Display) -> Path:
    from orchestrator.evaluation.compare.compare import CompareOptions
    from orchestrator.reports.html.gallery import PageLimits
    from orchestrator.reports.html.write import ReportOptions, write_report

    assert file.report is not None
    limits = PageLimits(file.report.max_images, file.report.max_megabytes, min_score=file.report.min_score)
    options = ReportOptions(CompareOptions(**file.compare.model_dump()), limits, None, file.report.title)
    return write_report(complete, file.annotations, file.out / REPORT, options, display).path

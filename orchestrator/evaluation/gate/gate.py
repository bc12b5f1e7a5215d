"""The gate of `orch run`: judge each finished run by the rules of --fail-on. Writing reports is cli/gate.py's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, OrchError, UsageError
from orchestrator.evaluation.gate.rules import (
    ApDrop,
    FigureChange,
    Findings,
    Rule,
    Verdict,
    format_verdicts,
    judge_rules,
)


@dataclass(frozen=True)
class Measurement:
    """Figures of a run's predictions, and warnings; with a baseline also the changes, and the baseline's AP."""

    figures: Mapping[str, float | None]
    changes: tuple[FigureChange, ...] = ()
    baseline_ap: float | None = None
    warnings: tuple[str, ...] = ()


Measure = Callable[[str, Path], Measurement]
"""Evaluates a model's predictions file; `gate.baseline.Baselines.measure` is one."""


@dataclass(frozen=True)
class GateResult:
    """One model's run and its verdicts; `summary` of a finished run, or the `error` that ended it.

    A run that continues on a cluster has neither. `figures` need annotations, `changes` a baseline too; `warnings` say
    what of the annotations is doubtful.
    """

    model: str
    summary: Mapping[str, Any] | None = None
    error: OrchError | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    changes: tuple[FigureChange, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.is_broken)

    @property
    def exit_code(self) -> int:
        """The exit code of this model's run."""
        if self.error is not None:
            return self.error.exit_code
        return EXIT_SOME_FAILED if self.broken else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """Return what `orch run --json` prints besides the run's summary or error."""
        document = format_verdicts(self.verdicts)
        if self.error is not None:
            document |= self.error.as_json()
        if self.figures:
            document["figures"] = dict(self.figures)
            document["warnings"] = list(self.warnings)
        if self.changes:
            document["baseline"] = {change.name: change.as_json() for change in self.changes}
        return document


def check_gate_options(rules: Sequence[Rule], annotations: Path | None, baseline: Path | None) -> None:
    """Check before anything runs that the rules can be judged. Raises UsageError."""
    if baseline is not None and annotations is None:
        raise UsageError("--baseline needs annotations", hint="add --annotations COCO.json")
    if annotations is not None and not annotations.is_file():
        raise UsageError(f"no such file: {annotations}")
    if any(isinstance(rule, ApDrop) for rule in rules) and baseline is None:
        hint = "add --baseline FILE|RUN; orch eval RUN --save-baseline FILE makes one"
        raise UsageError("ap-drop needs a baseline", hint=hint)


class Gate:
    """Judges the runs of one `orch run` by rules, and keeps their results."""

    def __init__(self, rules: Sequence[Rule], models: Sequence[str], measure: Measure | None = None) -> None:
        """`measure` evaluates a finished run's predictions; None: figures are not needed."""
        self._rules, self._models, self._measure = rules, models, measure
        self.results: list[GateResult] = []

    def judge_end(self, model: str, end: Mapping[str, Any] | OrchError) -> GateResult:
        """Judge one of several runs by its summary or error; an error of judging becomes the result's."""
        if isinstance(end, OrchError) or not end:
            self.results.append(GateResult(model, error=end if isinstance(end, OrchError) else None))
            return self.results[-1]
        try:
            return self.judge(model, end)
        except OrchError as error:
            self.results[-1] = replace(self.results[-1], error=error)
        return self.results[-1]

    def judge(self, model: str, summary: Mapping[str, Any]) -> GateResult:
        """Judge a finished run. Raises PredictionsError when it cannot be evaluated or compared."""
        result = GateResult(model, summary)
        self.results.append(result)
        measured = Measurement({})
        if self._measure is not None:
            measured = self._measure(model, Path(str(summary["predictions"])))
            result = replace(result, figures=measured.figures, changes=measured.changes, warnings=measured.warnings)
        ap = measured.figures.get("AP")
        findings = Findings(int(summary["images"]), int(summary["failed"]), ap, measured.baseline_ap)
        result = replace(result, verdicts=judge_rules(self._rules, findings))
        self.results[-1] = result
        return result

    def record_failure(self, error: BaseException) -> None:
        """Give `error`, which ended the command, to every model that was not judged before."""
        known = error if isinstance(error, OrchError) else OrchError(f"{type(error).__name__}: {error}".rstrip(": "))
        self.results = [result if result.verdicts else replace(result, error=known) for result in self.results]
        self._complete(known)

    def finish(self) -> list[GateResult]:
        """Return a result for every model, an empty one for those that did not end."""
        self._complete(None)
        return self.results

    def _complete(self, error: OrchError | None) -> None:
        known = {result.model for result in self.results}
        self.results += [GateResult(model, error=error) for model in self._models if model not in known]

    @property
    def exit_code(self) -> int:
        """0, 1 if a rule is broken, or the code of the worst error."""
        return max((result.exit_code for result in self.results), default=EXIT_OK)

"""What a CI job wants of a run: rules that fail it, a baseline to hold it against, a JUnit report, a job summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import EXIT_OK, EXIT_SOME_FAILED, OrchError, UsageError
from orchestrator.evaluation.gate.rules import ApDrop, Findings, Rule, Verdict, judge, parse_rules, verdicts_json
from orchestrator.paths import RunPaths

if TYPE_CHECKING:  # numpy and the engines of evaluation: a run without annotations needs none of them
    from orchestrator.evaluation.coco.ground_truth import Iou
    from orchestrator.evaluation.gate.baseline import Baseline, Change

__all__ = ["Checked", "Checks", "Request", "Verdict"]


@dataclass(frozen=True)
class Request:
    """What was asked: texts of rules, a stored baseline, a run or a folder of MODEL.json files, and files to write."""

    fail_on: Sequence[str] = ()
    baseline: Path | None = None
    annotations: Path | None = None
    junit: Path | None = None
    summary: Path | None = None


@dataclass(frozen=True)
class Checked:
    """One model's run and what is to be said of it: `summary` is that of a finished run, `error` why there is none.

    Neither is there of a run that was handed over to a cluster and goes on. `figures` are there with annotations,
    `changes` with a baseline too.
    """

    model: str
    summary: Mapping[str, Any] | None = None
    error: OrchError | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The rules that the run broke."""
        return tuple(one for one in self.verdicts if one.broken)

    @property
    def exit_code(self) -> int:
        """Of this model alone."""
        if self.error is not None:
            return self.error.exit_code
        return EXIT_SOME_FAILED if self.broken else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """What `orch run --json` says besides the run's summary or error."""
        told = verdicts_json(self.verdicts)
        if self.error is not None:
            told |= self.error.as_json()
        if self.figures:
            told["figures"] = dict(self.figures)
        if self.changes:
            told["baseline"] = {one.name: one.as_json() for one in self.changes}
        return told


class Checks:
    """The checks of one `orch run`: told of each model's end, they judge it, and write their reports at the end."""

    def __init__(self, request: Request, models: Sequence[str]) -> None:
        """UsageError, PredictionsError for what can be known before anything runs."""
        self._request, self._models = request, models
        self._rules: tuple[Rule, ...] = parse_rules(request.fail_on)
        self.checked: list[Checked] = []
        if request.baseline is not None and request.annotations is None:
            raise UsageError("--baseline needs the truth too", hint="add --annotations COCO.json")
        if request.annotations is not None and not request.annotations.is_file():
            raise UsageError(f"there is no file {request.annotations}")
        if any(isinstance(rule, ApDrop) for rule in self._rules) and request.baseline is None:
            hint = "add --baseline FILE|RUN; orch eval RUN --save-baseline FILE makes one"
            raise UsageError("ap-drop needs a baseline", hint=hint)
        self._baselines = {model: self._baseline(model) for model in models}

    def _baseline(self, model: str) -> Baseline | None:
        path, annotations = self._request.baseline, self._request.annotations
        if path is None or annotations is None:
            return None
        from orchestrator.evaluation.gate.baseline import check_annotations, is_stored, make_baseline, read_baseline

        run = RunPaths(path)
        if path.is_dir() and not (run.run_json.exists() or run.predictions.exists()):
            path = path / f"{model}.json"
        if not is_stored(path):
            return make_baseline(path, annotations)
        stored = read_baseline(path)
        check_annotations(stored, annotations)
        return stored

    def ended(self, model: str, result: Mapping[str, Any] | OrchError) -> Checked:
        """One of several runs: its summary, or the error it ended with. What `finished` raises is its error alone."""
        if isinstance(result, OrchError) or not result:
            self.checked.append(Checked(model, error=result if isinstance(result, OrchError) else None))
            return self.checked[-1]
        try:
            return self.finished(model, result)
        except OrchError as error:
            self.checked[-1] = replace(self.checked[-1], error=error)
            return self.checked[-1]

    def finished(self, model: str, summary: Mapping[str, Any]) -> Checked:
        """A run that finished. Raises PredictionsError where it cannot be evaluated or compared."""
        one = Checked(model, summary)
        self.checked.append(one)
        baseline = self._baselines.get(model)
        if self._request.annotations is not None:
            one = self._evaluated(one, self._request.annotations, baseline)
        ap = None if baseline is None else baseline.figures.get("AP")
        found = Findings(int(summary["images"]), int(summary["failed"]), one.figures.get("AP"), ap)
        one = replace(one, verdicts=judge(self._rules, found))
        self.checked[-1] = one
        return one

    def _evaluated(self, one: Checked, annotations: Path, baseline: Baseline | None) -> Checked:
        assert one.summary is not None
        from orchestrator.evaluation.gate.baseline import changes, make_baseline

        predictions = Path(str(one.summary["predictions"]))
        if baseline is None:
            return replace(one, figures=make_baseline(predictions, annotations).figures)
        iou = cast("Iou", baseline.settings["iou"])
        now = make_baseline(predictions, annotations, iou, baseline.settings["evaluated categories"])
        return replace(one, figures=now.figures, changes=changes(baseline, now))

    def failed(self, error: BaseException) -> None:
        """What ended the run: the error of every model that is not judged by then."""
        told = error if isinstance(error, OrchError) else OrchError(f"{type(error).__name__}: {error}".rstrip(": "))
        self.checked = [one if one.verdicts else replace(one, error=told) for one in self.checked]
        known = {one.model for one in self.checked}
        self.checked += [Checked(model, error=told) for model in self._models if model not in known]

    def write(self) -> None:
        """The JUnit report and the job summary, if wanted. Raises OSError."""
        known = {one.model for one in self.checked}
        self.checked += [Checked(model) for model in self._models if model not in known]
        if self._request.junit is not None:
            from orchestrator.reports.junit import write_junit

            write_junit(self._request.junit, self.checked)
        if self._request.summary is not None:
            from orchestrator.reports.job_summary import append_summary

            append_summary(self._request.summary, self.checked)

    @property
    def exit_code(self) -> int:
        """0, 1 where a rule is broken, or the code of the worst error."""
        return max((one.exit_code for one in self.checked), default=EXIT_OK)

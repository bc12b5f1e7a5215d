"""What is said of a run's figures, the highest exit code of a comparison, and the equivalence of two variants."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from orchestrator.cli import main
from orchestrator.cli.gate import say_verdicts
from orchestrator.cli.progress import _Bar
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import OrchError
from orchestrator.evaluation.agreement import ImageAgreement, ToleranceAgreement, Tolerances
from orchestrator.evaluation.gate.gate import GateResult
from orchestrator.evaluation.gate.rules import FigureChange, Verdict
from orchestrator.predictions.predictions import Predictions
from tests.unit.cli.test_gate import Stage
from tests.unit.evaluation.compare_samples import changed, two_runs
from tests.unit.predictions.predictions_samples import save

Captured = pytest.CaptureFixture[str]
CHANGE = FigureChange("AP", 0.625, 0.5)
OTHER = FigureChange("AP50", 0.9, 0.8)


@pytest.mark.parametrize(
    ("figures", "changes", "quiet", "said"),
    [
        ({"AP": 0.5}, (OTHER, CHANGE), False, "m: AP 0.5000, baseline 0.6250, difference -0.1250\n"),
        ({"AP": 0.5}, (), False, "m: AP 0.5000\n"),
        ({"AP": 0.5}, (FigureChange("AP", None, 0.5),), False, "m: AP 0.5000\n"),
        ({"AP": None}, (FigureChange("AP", 0.5, None),), False, ""),
        ({}, (), False, ""),
        ({"AP": 0.5}, (CHANGE,), True, ""),
    ],
)
def test_ap_is_said_with_its_baseline_if_there_is_one(
    capsys: Captured, figures: dict[str, float | None], changes: tuple[FigureChange, ...], quiet: bool, said: str
) -> None:
    say_verdicts(GateResult("m", {}, None, figures, changes), "m", quiet=quiet)
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("quiet", [True, False])
def test_rules_that_were_given_are_said_when_broken(capsys: Captured, quiet: bool) -> None:
    verdicts = (Verdict("failed-images", True, "x"), Verdict("a", False, "y"), Verdict("ap-drop:0.1", True, "it fell"))
    say_verdicts(GateResult("m", {}, verdicts=verdicts), quiet=quiet)
    assert capsys.readouterr().err == "broken: ap-drop:0.1: it fell\n"


def test_a_comparison_ends_with_the_worst_of_its_rules_and_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """Two runs that cannot be compared (6), one of which has too many failed images (1)."""
    good, worse, truth = two_runs(tmp_path)
    unlike = save(changed(dict(Predictions.load(worse).arrays), score_threshold=0.5), worse)
    folders = []
    for name, file in (("one", good), ("two", unlike)):
        folders.append(tmp_path / name / "predictions.npz")
        folders[-1].parent.mkdir()
        file.rename(folders[-1])
    (tmp_path / "images").mkdir()
    wanted = {
        "images": "images",
        "annotations": truth.name,
        "out": "out",
        "models": ["garments-tiny", "ppocr-det"],
        "report": False,
    }
    (tmp_path / "orch.yaml").write_text(yaml.safe_dump(wanted))
    ended: dict[str, Outcome | OrchError] = {
        "garments-tiny": Stage(folders[0], failed=2)(), "ppocr-det": Stage(folders[1])()
    }  # fmt: skip
    monkeypatch.setattr("orchestrator.workflows.batch.run_batch", lambda asked, board: ended)
    assert main(["run", "-f", str(tmp_path / "orch.yaml"), "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    assert found["runs"]["garments-tiny"]["broken_rules"] == ["failed-images"]
    assert [one["error"] for one in found["errors"]] == ["PredictionsError"]


def test_a_bar_names_workers_where_there_are_several() -> None:
    bar = _Bar(Console(file=io.StringIO()), 10, 0)
    bar.show(3, 0, {"w0": "predicting"})
    assert bar.progress.tasks[0].fields["note"].endswith("  predicting")
    bar.show(4, 1, {"w0": "predicting", "w1": "starting"})
    (task,) = bar.progress.tasks
    assert task.fields["note"].endswith("\n  w0: predicting\n  w1: starting")
    assert "1 failed" in task.fields["note"]
    assert task.completed == 4


def test_an_equivalence_is_shown_image_by_image(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def agreement(file: str, **changes: Any) -> ImageAgreement:
        same = {"instances": 3, "alone": 1, "at_floor": 1, "score_difference": 1e-5, "least_iou": 0.9995,
                "attribute_difference": 0.25, "box_difference": 0.0, "image_score_difference": 2e-5}  # fmt: skip
        return ImageAgreement(file, **{**same, **changes})

    images = (agreement("a"), agreement("b", alone=3), agreement("c", fault="failed in one of the two: x"))

    class Result:
        model, variants, random_weights, record = "garments-tiny", ("cpu", "cuda"), True, Path("/record.json")
        agreement = ToleranceAgreement(Tolerances(), images)

    monkeypatch.setattr("orchestrator.workflows.equivalence.check_equivalence", lambda *_, **__: Result)
    assert main(["equivalence", "garments-tiny", "--variants", "cpu,cuda"]) == 6
    out, err = capsys.readouterr()
    assert [line.split("\t") for line in out.splitlines()[1:]] == [
        ["a", "3", "0", "2.0e-05", "0.99950", "2.5e-01", "yes"],
        ["b", "3", "2", "2.0e-05", "0.99950", "2.5e-01", "no"],
        ["c", "3", "0", "2.0e-05", "0.99950", "2.5e-01", "failed in one of the two: x"],
    ]
    assert "garments-tiny: cpu and cuda are NOT equivalent (random weights); required: equal labels" in err
    assert "recorded: /record.json" in err

"""The checks around `orch run`: exit codes, JSON, and reports that are there however the run ended."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from orchestrator.cli import main
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError
from orchestrator.evaluation.gate.baseline import make_baseline, write_baseline
from orchestrator.paths import RunPaths
from orchestrator.predictions.predictions import Predictions
from tests.unit.evaluation.compare_samples import two_runs
from tests.unit.predictions.predictions_samples import save

Captured = pytest.CaptureFixture[str]
RUN = ["run", "-m", "garments-tiny", "-i", "x"]


class Stage:
    """Stands in for the stage behind `orch run`: ends as it is told to, with predictions that are there already."""

    def __init__(self, predictions: Path, failed: int = 0, error: BaseException | None = None) -> None:
        self.predictions, self.failed, self.error = predictions, failed, error

    def __call__(self, *_arguments: Any) -> Outcome:
        if self.error is not None:
            raise self.error
        loaded = Predictions.load(self.predictions)
        summary = {
            "model": "garments-tiny",
            "images": len(loaded),
            "predicted": len(loaded) - self.failed,
            "failed": self.failed,
            "instances": len(loaded.scores),
            "failures": [{"image_file": f"{number}.jpg", "error": "cut"} for number in range(self.failed)],
            "predictions": str(self.predictions),
            "runtime": "venv",
            "variant": "cpu",
            "device": "cpu",
            "seconds": {"dispatch": 2.0, "collect": 0.5},
        }
        return Outcome(RunPaths(self.predictions.parent), summary)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A good and a worse model's predictions, and the truth."""
    return two_runs(tmp_path)


def orch_run(monkeypatch: pytest.MonkeyPatch, stage: Stage, *arguments: object) -> int:
    monkeypatch.setattr("orchestrator.workflows.run.run_model", stage)
    return main([*RUN, *map(str, arguments)])


def orch_run_batch(monkeypatch: pytest.MonkeyPatch, ended: dict[str, Outcome | OrchError], *arguments: object) -> int:
    """Two models, which end as told."""
    monkeypatch.setattr("orchestrator.workflows.batch.run_batch", lambda asked, board: ended)
    models = [part for name in ended for part in ("-m", name)]
    return main(["run", *models, "-i", "x", *map(str, arguments)])


def suites(path: Path) -> dict[str, ElementTree.Element]:
    return {str(found.get("name")): found for found in ElementTree.fromstring(path.read_bytes())}


def suite(path: Path) -> ElementTree.Element:
    (found,) = ElementTree.fromstring(path.read_bytes())
    return found


def test_people_are_told_of_failed_images_once_and_of_a_rule_they_gave(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert orch_run(monkeypatch, Stage(runs[0], 2)) == 1
    told = capsys.readouterr().err
    assert "failed: 0.jpg: cut" in told
    assert "broken" not in told
    assert orch_run(monkeypatch, Stage(runs[0], 2), "--fail-on", "failed-images:1") == 1
    assert "broken: failed-images:1: 2 of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failed", "rules", "code"),
    [(0, [], 0), (1, [], 1), (1, ["failed-images:1"], 0), (2, ["failed-images:1"], 1), (1, ["failed-images:10%"], 0),
     (2, ["failed-images:10%"], 1)],
)  # fmt: skip
def test_exit_code_and_report_agree_on_failed_images(
    runs: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    failed: int,
    rules: list[str],
    code: int,
) -> None:
    report = tmp_path / "report.xml"
    options = [part for rule in rules for part in ("--fail-on", rule)]
    assert orch_run(monkeypatch, Stage(runs[0], failed), "--junit", report, "--json", *options) == code
    found = json.loads(capsys.readouterr().out)
    assert found["broken_rules"] == ((rules or ["failed-images"]) if code else [])
    assert found["failed"] == failed
    assert (suite(report).get("failures") != "0") == bool(code)


def test_a_drop_against_the_baseline_ends_with_1(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    good, worse, truth = runs
    stored, report, page = tmp_path / "b.json", tmp_path / "report.xml", tmp_path / "page.md"
    write_baseline(stored, make_baseline(good, truth))
    options = ["--baseline", stored, "-a", truth, "--fail-on", "ap-drop:0.05", "--junit", report, "--summary", page]
    assert orch_run(monkeypatch, Stage(good), *options) == 0
    assert suite(report).get("failures") == "0"
    assert orch_run(monkeypatch, Stage(worse), *options) == 1
    assert "broken: ap-drop:0.05: AP fell by" in capsys.readouterr().err
    case = suite(report).findall("testcase")[-1]
    assert (case.get("name"), case[0].tag) == ("ap-drop:0.05", "failure")
    assert page.read_text().count("### orch run") == 2
    assert "**broken**: `ap-drop:0.05`" in page.read_text()


def test_a_folder_of_baselines_is_looked_up_by_model(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, worse, truth = runs
    write_baseline(tmp_path / "baselines" / "garments-tiny.json", make_baseline(good, truth))
    options = ["--baseline", tmp_path / "baselines", "-a", truth, "--fail-on", "ap-drop:0.05"]
    assert orch_run(monkeypatch, Stage(worse), *options) == 1
    assert orch_run(monkeypatch, Stage(good), *options) == 0


def test_annotations_alone_give_figures(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert orch_run(monkeypatch, Stage(runs[0]), "-a", runs[2], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == make_baseline(runs[0], runs[2]).figures
    assert "baseline" not in found


def test_warnings_about_the_truth_are_in_json_messages_and_summary(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    good, _, truth = runs
    document = json.loads(truth.read_text())
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    crowds, page = tmp_path / "crowds.json", tmp_path / "page.md"
    crowds.write_text(json.dumps(document))
    assert orch_run(monkeypatch, Stage(good), "-a", crowds, "--json", "--summary", page) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "are crowd regions" in warning
    assert "- warning: all " in page.read_text()
    assert orch_run(monkeypatch, Stage(good), "-a", crowds) == 0
    assert f"warning: {warning}" in capsys.readouterr().err
    for options in (["--quiet"], ["-a", truth]):
        assert orch_run(monkeypatch, Stage(good), "-a", crowds, *options) == 0
        assert "warning:" not in capsys.readouterr().err
    stored = tmp_path / "b.json"
    write_baseline(stored, replace(make_baseline(good, truth), images={}))
    assert orch_run(monkeypatch, Stage(good), "-a", truth, "--baseline", stored, "--json") == 0
    assert "digests" in json.loads(capsys.readouterr().out)["warnings"][0]


def test_an_incomparable_run_ends_with_6_and_is_reported(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, _, truth = runs
    arrays = dict(Predictions.load(good).arrays)
    arrays["image_file"] = np.array([*arrays["image_file"][:-1].tolist(), "q/another.jpg"])
    other, report = save(arrays, tmp_path / "other.npz"), tmp_path / "report.xml"
    stage = Stage(other, failed=1)
    assert orch_run(monkeypatch, stage, "--baseline", good, "-a", truth, "--junit", report) == 6
    cases = suite(report).findall("testcase")
    assert (cases[0][0].tag, cases[0][0].get("type")) == ("error", "PredictionsError")
    assert cases[1][0].tag == "failure", "no rule was judged, so none tolerates a failed image"


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (RunError("all workers died", why="bus error"), 5, "RunError"),
        (Interrupted("stopped"), 130, "Interrupted"),
        (KeyboardInterrupt(), 130, "OrchError"),
        (ZeroDivisionError("odd"), 70, "OrchError"),
    ],
)
def test_the_reports_are_written_when_the_run_fails(
    runs: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    kind: str,
) -> None:
    report, page = tmp_path / "report.xml", tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert orch_run(monkeypatch, Stage(runs[0], error=error), "--junit", report) == code
    (case,) = suite(report).findall("testcase")
    assert (case.get("classname"), case[0].tag, case[0].get("type")) == ("garments-tiny.run", "error", kind)
    assert "| garments-tiny | – |" in page.read_text()


def test_a_report_that_cannot_be_written_does_not_hide_why_the_run_failed(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fill(path: Path, results: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("orchestrator.reports.junit.write_junit", fill)
    report = tmp_path / "y.xml"
    assert orch_run(monkeypatch, Stage(runs[0], error=RunError("all workers died")), "--junit", report) == 5
    err = capsys.readouterr().err
    assert "cannot write the reports" in err
    assert "error: all workers died" in err
    assert orch_run(monkeypatch, Stage(runs[0]), "--junit", report) == 4


@pytest.mark.parametrize("option", ["--junit", "--summary", "GITHUB_STEP_SUMMARY"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, option: str
) -> None:
    never = Stage(runs[0], error=AssertionError("it ran"))
    if option.startswith("--"):
        assert orch_run(monkeypatch, never, option, tmp_path) == 2
    else:
        monkeypatch.setenv(option, str(tmp_path))
        assert orch_run(monkeypatch, never) == 2
    assert f"error: cannot write {tmp_path}\n  why:  it is a folder\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fail-on", "ap-drop:0.1"], 2, "ap-drop needs a baseline"),
        (["--baseline", "GOOD"], 2, "--baseline needs annotations"),
        (["--annotations", "none.json"], 2, "no such file: none.json"),
        (["--fail-on", "speed"], 2, "unknown rule"),
        (["--baseline", "none.json", "-a", "TRUTH"], 2, "cannot read the baseline"),
        (["--baseline", "STORED", "-a", "EDITED"], 6, "they differ in annotations"),
    ],
)
def test_what_can_be_known_is_refused_before_anything_runs(
    runs: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    options: list[str],
    code: int,
    message: str,
) -> None:
    names = {"GOOD": runs[0], "TRUTH": runs[2], "STORED": tmp_path / "b.json", "EDITED": tmp_path / "edited.json"}
    write_baseline(names["STORED"], make_baseline(runs[0], runs[2]))
    names["EDITED"].write_text(runs[2].read_text() + "\n")
    never = Stage(runs[0], error=AssertionError("it ran"))
    assert orch_run(monkeypatch, never, *(names.get(one, one) for one in options)) == code
    assert message in capsys.readouterr().err


def test_each_of_several_models_is_judged_and_reported_for_itself(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    good, worse, truth = runs
    stored, report, page = tmp_path / "baselines", tmp_path / "report.xml", tmp_path / "page.md"
    for name in ("garments-tiny", "ppocr-det", "facere"):
        write_baseline(stored / f"{name}.json", make_baseline(good, truth))
    ended: dict[str, Outcome | OrchError] = {"garments-tiny": Stage(good)(), "ppocr-det": Stage(worse)()}
    options = ["--baseline", stored, "-a", truth, "--fail-on", "ap-drop:0.05", "--junit", report, "--summary", page]
    assert orch_run_batch(monkeypatch, ended, *options, "--json") == 1
    told = json.loads(capsys.readouterr().out)["runs"]
    assert [one["broken_rules"] for one in told.values()] == [[], ["ap-drop:0.05"]]
    assert [one.get("failures") for one in suites(report).values()] == ["0", "1"]

    ended["facere"] = MachineError("no GPU")
    assert orch_run_batch(monkeypatch, ended, *options) == 4, "the worst of all"
    assert [one.get("errors") for one in suites(report).values()] == ["0", "0", "1"]
    assert "ppocr-det: broken: ap-drop:0.05" in capsys.readouterr().err
    assert "| facere | – |" in page.read_text()


def test_one_model_that_cannot_be_compared_does_not_keep_the_others_from_it(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    good, _, truth = runs
    arrays = dict(Predictions.load(good).arrays)
    arrays["image_file"] = np.array([*arrays["image_file"][:-1].tolist(), "q/another.jpg"])
    other = save(arrays, tmp_path / "other.npz")
    report = tmp_path / "report.xml"
    ended: dict[str, Outcome | OrchError] = {"garments-tiny": Stage(other)(), "ppocr-det": Stage(good)()}
    options = ["--baseline", good, "-a", truth, "--junit", report]
    assert orch_run_batch(monkeypatch, ended, *options, "--json") == 6
    told = json.loads(capsys.readouterr().out)["runs"]
    assert (told["garments-tiny"]["error"], told["garments-tiny"]["exit_code"]) == ("PredictionsError", 6)
    assert told["ppocr-det"]["baseline"]["AP"]["difference"] == 0
    assert [one.get("errors") for one in suites(report).values()] == ["1", "0"]
    assert orch_run_batch(monkeypatch, ended, *options) == 6
    assert "they differ in image list" in capsys.readouterr().err


def test_a_comparisons_runs_are_checked_with_its_annotations(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    good, worse, truth = runs
    (tmp_path / "images").mkdir()
    wanted = {"images": "images", "annotations": truth.name, "out": "out", "models": ["garments-tiny"], "report": False}
    (tmp_path / "orch.yaml").write_text(yaml.safe_dump(wanted))
    ended: dict[str, Outcome | OrchError] = {"garments-tiny": Stage(worse)()}
    monkeypatch.setattr("orchestrator.workflows.batch.run_batch", lambda asked, board: ended)
    report = tmp_path / "report.xml"
    options = ["--baseline", str(good), "--fail-on", "ap-drop:0.05", "--junit", str(report)]
    assert main(["run", "-f", str(tmp_path / "orch.yaml"), *options, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["runs"]["garments-tiny"]["broken_rules"] == ["ap-drop:0.05"]
    assert suite(report).get("failures") == "1"


def test_a_run_that_was_handed_over_is_reported_as_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.xml"
    monkeypatch.setattr("orchestrator.workflows.run.run_model", lambda *_: Outcome(RunPaths(tmp_path / "run"), {}))
    assert main([*RUN, "--junit", str(report)]) == 0
    (case,) = suite(report).findall("testcase")
    assert case[0].tag == "skipped"


def test_a_folder_without_a_models_baseline_says_how_to_make_it(
    runs: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "baselines").mkdir()
    assert orch_run(monkeypatch, Stage(runs[0]), "--baseline", tmp_path / "baselines", "-a", runs[2]) == 2
    err = capsys.readouterr().err
    assert f"--save-baseline {tmp_path}/baselines/garments-tiny.json" in err

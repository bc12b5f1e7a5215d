"""`orch run` with several models, --all and -f: usage, JSON, tables, exit codes; the runs themselves are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.dispatch.outcome import Outcome
from orchestrator.errors import Interrupted, MachineError, PredictionsError
from orchestrator.evaluation.compare.compare import CompareOptions, Comparison
from orchestrator.paths import RunPaths
from orchestrator.system.display import BatchDisplay, Display
from orchestrator.workflows import batch as several_runs
from orchestrator.workflows import comparison as comparison_run
from orchestrator.workflows.batch import RunRequest, RunResult
from orchestrator.workflows.comparison_file import ComparisonFile

Captured = pytest.CaptureFixture[str]


def outcome(one: RunRequest, failed: int = 0) -> Outcome:
    assert one.options.out is not None
    counts = {"images": 3, "predicted": 3, "failed": failed, "failures": [], "instances": 7}
    summary = {**counts, "seconds": {"dispatch": 1.25}, "predictions": "p.npz"}
    return Outcome(RunPaths(one.options.out), summary)


class Runs:
    """Stands in for run_batch: remembers what was asked, and ends as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[RunRequest] = []
        self.ends: dict[str, RunResult] = {}
        monkeypatch.setattr(several_runs, "run_batch", self)

    def __call__(self, asked: Sequence[RunRequest], display: BatchDisplay) -> dict[str, RunResult]:
        self.asked = list(asked)
        return {one.name: self.ends.get(one.name) or outcome(one) for one in asked}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-i", "x"], "no model was given"),
        (["--all"], "no images were given"),
        (["-m", "a", "-m", "b"], "orch run --model a --model b --images FOLDER"),
        (["--all", "-m", "a", "-i", "x"], "--all and --model were given"),
        (["-m", "garments-tiny", "-m", "garments-tny", "-i", "x"], "did you mean garments-tiny?"),
        (["-m", "garments-tiny", "-i", "x", "--workers-per-gpu", "0"], "a number from 1 to 64, or auto"),
        (["-f", "/none.yaml"], "no such file: /none.yaml"),
        (["-f", "orch.yaml", "--workers", "2"], "--workers and --file were given"),
        (["-f", "orch.yaml", "--model", "x"], "--model and --file were given"),
    ],
)
def test_mistakes(arguments: list[str], says: str, capsys: Captured) -> None:
    assert main(["run", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_several_models_get_the_same_options_and_a_folder_each(runs: Runs, tmp_path: Path, capsys: Captured) -> None:
    names = ["garments-tiny", "ppocr-det"]
    arguments = ["-m", names[0], "-m", names[1], "-m", names[0], "-i", "x", "-o", str(tmp_path), "--workers", "3"]
    assert main(["run", *arguments, "--workers-per-gpu", "2", "--no-wait"]) == 0
    assert [(one.name, one.options.out) for one in runs.asked] == [(name, tmp_path / name) for name in names]
    options = runs.asked[0].options
    assert (options.workers, options.workers_per_gpu, options.wait) == (3, 2, False)
    assert capsys.readouterr().out == (
        "model\tpredicted\tfailed\tinstances\tseconds\tpredictions\n"
        "garments-tiny\t3\t0\t7\t1.2\tp.npz\nppocr-det\t3\t0\t7\t1.2\tp.npz\n"
    )


def test_json_has_a_summary_or_an_error_for_each(runs: Runs, tmp_path: Path, capsys: Captured) -> None:
    runs.ends["ppocr-det"] = MachineError("no space", hint="orch doctor")
    arguments = ["-m", "garments-tiny", "-m", "ppocr-det", "-i", "x", "-o", str(tmp_path), "--json"]
    assert main(["run", *arguments]) == 4
    out, err = capsys.readouterr()
    found = json.loads(out)["runs"]
    assert err == ""
    assert (found["garments-tiny"]["predicted"], found["ppocr-det"]["message"]) == (3, "no space")


def test_a_run_handed_to_a_cluster_is_no_summary_yet(runs: Runs, file: Path, capsys: Captured) -> None:
    runs.ends["again"] = Outcome(RunPaths(Path("/x")), {})
    assert main(["run", "-f", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"]["again"] == {"run": "/x", "state": "submitted"}
    assert (found["comparison"], found["written"]) == (None, [])
    runs.ends["ppocr-det"] = runs.ends["again"]
    assert main(["run", "-m", "garments-tiny", "-m", "ppocr-det", "-i", "x", "-o", str(file.parent)]) == 0
    assert "ppocr-det: the run continues on the cluster; to follow it: orch attach /x" in capsys.readouterr().err


def test_errors_name_the_run(runs: Runs, tmp_path: Path, capsys: Captured) -> None:
    runs.ends["ppocr-det"] = MachineError("no space", hint="orch doctor")
    assert main(["run", "-m", "garments-tiny", "-m", "ppocr-det", "-i", "x", "-o", str(tmp_path)]) == 4
    assert "error: ppocr-det: no space\n  next: orch doctor" in capsys.readouterr().err


def test_all_says_what_is_left_out(runs: Runs, tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", "--all", "-i", "x", "-o", str(tmp_path), "--device", "cpu", "--offline", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"garments-tiny", "ppocr-det"} == set(found["runs"])
    assert "orch weights add fformer-swin FILE" in found["left_out"]["fformer-swin"]
    assert "--offline" in found["left_out"]["facere"]
    assert main(["run", "--all", "-i", "x", "-o", str(tmp_path), "--variant", "none", "--device", "cpu"]) == 4


FILE = "models: [garments-tiny, {model: garments-tiny, name: again}]\nimages: x\nout: result\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "orch.yaml").write_text(FILE)
    return tmp_path / "orch.yaml"


def test_a_comparison_is_made_of_what_is_complete(
    runs: Runs, file: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []

    def refuse(paths: Sequence[Path], annotations: Path | None, options: CompareOptions) -> Comparison:
        compared.append((list(paths), annotations, options))
        raise PredictionsError("these runs are not comparable", why="image list")

    monkeypatch.setattr(comparison_run, "compare_runs", refuse)
    assert main(["run", "-f", str(file), "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    out = file.parent / "result"
    assert compared == [([out / "garments-tiny", out / "again"], None, CompareOptions())]
    assert set(found) == {"runs", "comparison", "written", "errors"}
    assert (found["comparison"], found["errors"][0]["why"]) == (None, "image list")
    assert main(["run", "-f", str(file)]) == 6
    assert "error: these runs are not comparable" in capsys.readouterr().err


def test_one_run_is_reported_only_where_there_is_a_truth(
    runs: Runs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def report(file: ComparisonFile, complete: list[Path], display: Display) -> Path:
        written.append(file.out)
        return file.out

    monkeypatch.setattr(comparison_run, "_report", report)
    runs.ends["again"] = MachineError("no space")
    assert main(["run", "-f", str(file), "-q"]) == 4
    assert written == []
    (file.parent / "truth.json").touch()
    file.write_text(FILE + "annotations: truth.json\n")
    assert main(["run", "-f", str(file), "-q"]) == 4
    assert written == [file.parent / "result"]


def test_an_interrupted_comparison_compares_nothing(runs: Runs, file: Path, capsys: Captured) -> None:
    runs.ends["again"] = Interrupted("stopped", hint="the same command resumes it")
    assert main(["run", "-f", str(file), "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["comparison"], found["written"], found["errors"]) == (None, [], [])


def test_the_example_is_written_once(tmp_path: Path, capsys: Captured) -> None:
    assert main(["new", "comparison", str(tmp_path / "o.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(tmp_path / "o.yaml")}
    assert main(["new", "comparison", str(tmp_path / "o.yaml")]) == 2


def test_a_closed_standard_input_has_no_names(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["run", "garments-tiny", "-"]) == 2
    assert "no names of images came" in capsys.readouterr().err

"""`orch ls` and `orch rerun`: runs are found with and without the list of paths; a run is repeated from its record."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.paths import history_file
from orchestrator.workflows import find_differences, list_runs, read_repetition
from orchestrator.workflows.history import remember_run
from tests.unit.predictions.predictions_samples import sample_arrays, save

REQUEST = {
    "model": "garments-tiny",
    "images": ["/photos"],
    "image_root": None,
    "runtime": "venv",
    "variant": "cpu",
    "device": "cpu",
    "exif": "apply",
    "score_threshold": 0.05,
    "max_detections": 24,
    "batch_size": 1,
    "settings": {"nms_iou": 0.6},
    "shard_size": None,
}


def write_run(folder: Path, *, complete: bool = True, age: float = 0) -> Path:
    folder.mkdir(parents=True)
    document = {
        "format": "orch-run/1",
        "request": REQUEST,
        "plan": "0" * 64,
        "resolved": {"model": "garments-tiny", "inputs": {"count": 3, "digest": "1" * 64}},
        "shard_size": 1,
        "shards": 3,
        "roots": [],
        "ignored": [],
    }
    files = {"run.json": document}
    if complete:
        files["summary.json"] = {"failed": 1, "instances": 7, "seconds": {"dispatch": 1.5}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
        times = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (times, times))
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_runs_are_listed_newest_first_with_what_they_say(tmp_path: Path) -> None:
    write_run(tmp_path / "work" / "runs" / "old", age=100)
    write_run(tmp_path / "work" / "runs" / "new", complete=False)
    new, old = list_runs()
    assert (Path(new.path).name, new.state, new.failed, new.images) == ("new", "stopped", None, 3)
    assert (Path(old.path).name, old.state, old.failed, old.instances, old.seconds) == ("old", "complete", 1, 7, 1.5)
    assert (old.model, old.variant, old.device, old.runtime) == ("garments-tiny", "cpu", "cpu", "venv")


def test_a_run_elsewhere_is_known_by_the_list_and_the_list_is_made_again(tmp_path: Path) -> None:
    elsewhere = write_run(tmp_path / "elsewhere" / "run")
    assert list_runs() == []
    remember_run(elsewhere)
    remember_run(elsewhere)
    assert [run.path for run in list_runs()] == [str(elsewhere)]
    history_file().unlink()
    assert list_runs() == []
    assert [run.path for run in list_runs(tmp_path / "elsewhere")] == [str(elsewhere)]
    assert [run.path for run in list_runs()] == [str(elsewhere)]


def test_a_run_that_was_removed_is_not_listed(tmp_path: Path) -> None:
    gone = write_run(tmp_path / "elsewhere" / "gone")
    remember_run(gone)
    (gone / "run.json").unlink()
    assert list_runs() == []


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]\n", b'"relative"\n', b'"/a\\u0000b"\n', b"{", b"12\n"])
def test_a_damaged_list_is_no_error(tmp_path: Path, content: bytes) -> None:
    run = write_run(tmp_path / "work" / "run")
    history_file().parent.mkdir(parents=True, exist_ok=True)
    history_file().write_bytes(content)
    assert [one.path for one in list_runs()] == [str(run)]


def test_a_list_that_cannot_be_written_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ORCH_HOME", str(tmp_path / "file"))
    remember_run(tmp_path)


def test_damaged_runs_are_listed_as_such_and_links_are_not_followed(tmp_path: Path) -> None:
    damaged = write_run(tmp_path / "work" / "damaged")
    (damaged / "run.json").write_text("{")
    (tmp_path / "work" / "link").symlink_to(tmp_path)
    assert [run.state for run in list_runs()] == ["damaged"]


def test_a_run_is_repeated_by_the_same_request(tmp_path: Path) -> None:
    run = write_run(tmp_path / "work" / "run")
    repetition = read_repetition(run, [], None, None)
    options = repetition.options
    assert (repetition.model, list(options.images), list(options.settings)) == (
        "garments-tiny",
        ["/photos"],
        ["nms_iou=0.6"],
    )
    assert (options.runtime, options.variant, options.device, options.score_threshold) == ("venv", "cpu", "cpu", 0.05)
    assert options.out == tmp_path / "work" / "run-rerun"
    write_run(tmp_path / "work" / "run-rerun", complete=False)
    assert read_repetition(run, [], None, None).options.out == tmp_path / "work" / "run-rerun"
    (tmp_path / "work" / "run-rerun" / "summary.json").write_text("{}")
    assert read_repetition(run, ["x"], None, "docker").options.out == tmp_path / "work" / "run-rerun-2"
    assert read_repetition(run, ["x"], None, "docker").options.runtime == "docker"


def test_a_run_is_not_compared_with_itself_or_with_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "work" / "run")
    with pytest.raises(UsageError, match="is the run to be repeated"):
        read_repetition(run, [], tmp_path / "work" / "other" / ".." / "run", None)
    assert main(["rerun", str(run)]) == 2
    assert "no predictions to compare with" in capsys.readouterr().err


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        read_repetition(tmp_path, [], None, None)


def test_differences_name_arrays_and_provenance(tmp_path: Path) -> None:
    arrays = sample_arrays()
    one = save(arrays, tmp_path / "one.npz")
    assert find_differences(one, one).as_json() == {"provenance": {}, "arrays": [], "equal": True}
    meta = {**json.loads(str(arrays["meta"][()])), "build": "another"}
    scores = np.nextafter(arrays["scores"], np.float32(0))
    two = save({**arrays, "scores": scores, "meta": np.array(json.dumps(meta))}, tmp_path / "two.npz")
    found = find_differences(one, two)
    assert found.arrays == ["scores"]
    assert found.provenance["build"][1] == "another"

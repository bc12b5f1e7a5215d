"""Every JSON file that orch keeps between runs has a version: one of the version before is used, another is refused.

`KEPT` lists them. Those of the version before are spelled out here as that version wrote them, without a format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog import upstream_code
from orchestrator.catalog.weights import add_weights, ensure_weights
from orchestrator.dispatch.executors import find_submission
from orchestrator.dispatch.outcome import read_outcome
from orchestrator.dispatch.shared.task_records import read_records
from orchestrator.errors import MachineError, OrchError
from orchestrator.paths import RunPaths, weights_folder
from orchestrator.runtimes.environments import is_complete
from tests.unit.stack_samples import model_entry

ROOT = Path(__file__).parents[2] / "orchestrator"
KEPT = {
    "catalog/upstream_code.py": "source.json of upstream code: fetched again",
    "catalog/weights.py": "record of weights: refused",
    "runtimes/environments.py": "orch-environment.json: made again",
    "inputs/sources.py": "unpacked.json of an archive: unpacked again",
    "inputs/remote.py": "note on a fetched image: fetched again (test_remote.py)",
    "plan/run_directory.py": "run.json: refused (test_plan.py)",
    "plan/update.py": "run.json of a prepared update, the same",
    "dispatch/outcome.py": "summary.json: refused",
    "dispatch/slurm/executor.py": "slurm.json: refused",
    "dispatch/shared/work_file.py": "work.json and run.json: refused (test_task.py)",
    "dispatch/shared/task_records.py": "tasks/*.json: refused",
    "evaluation/equivalence_record.py": "recorded equivalence: not used (test_compare.py)",
    "evaluation/gate/baseline.py": "baseline: refused (test_baseline.py)",
}
NOT_ORCHS = {"predictions/export_imdlbenco.py": "IMDL-BenCo's own format"}
SUMMARY = {
    "model": "m", "images": 1, "predicted": 1, "failed": 0, "instances": 0, "failures": [], "ignored": 0,
    "predictions": "p", "runtime": "venv", "variant": "cpu", "device": "cpu", "versions": {}, "notices": [],
    "lost_workers": 0, "retired": [], "seconds": {"dispatch": 1.0, "collect": 0.1},
}  # fmt: skip
SUBMISSION = {"job": "12", "tasks": 2, "submitted": 1.0, "options": {}}
TASK = {"task": "0-0", "index": 0, "job": "12_0", "restarts": 0, "node": "n", "scratch": "/s", "process": 1,
        "started": 1.0, "state": "done", "since": 2.0}  # fmt: skip
SOURCE = {"name": "x", "url": "https://example.org/x", "commit": "0" * 40, "files": {}}
ENVIRONMENT = {"lock": "cpu.lock", "python": "/usr/bin/python3", "uv": True}


def test_every_module_that_writes_json_is_listed() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if path.name != "files.py" and re.search(r"\bwrite_json\(", path.read_text(encoding="utf-8"))
    }
    assert found == set(KEPT) | set(NOT_ORCHS)


def test_every_module_that_writes_json_names_a_format() -> None:
    for name in KEPT:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert '"format": ' in text or "run_document" in text, name


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def open_summary(folder: Path, document: dict[str, Any]) -> object:
    paths = RunPaths(folder)
    write(paths.summary, {**SUMMARY, **document})
    paths.predictions.write_bytes(b"x")
    return read_outcome(paths)


def open_submission(folder: Path, document: dict[str, Any]) -> object:
    write(RunPaths(folder).submission("slurm"), {**SUBMISSION, **document})
    return find_submission(RunPaths(folder))


def open_task(folder: Path, document: dict[str, Any]) -> object:
    write(RunPaths(folder).tasks / "0-0.json", {**TASK, **document})
    return read_records(RunPaths(folder), "12")


def open_weights(folder: Path, document: dict[str, Any]) -> object:
    weights = {"pth": {"file": "w.pth", "licence": "MIT", "manual": "ask the authors"}}
    entry = model_entry(folder / "stack", weights=weights)
    (folder / "w.pth").write_bytes(b"PK\x03\x04weights")
    add_weights(entry, folder / "w.pth")
    (record,) = weights_folder(entry.stack.name, entry.name).glob("*.json")
    kept = json.loads(record.read_text())
    del kept["format"]
    write(record, {**kept, **document})
    return ensure_weights(entry, offline=True, progress=lambda there, total: None)["pth"].sha256


REFUSED: dict[str, Callable[[Path, dict[str, Any]], object]] = {
    "summary.json": open_summary, "slurm.json": open_submission, "tasks": open_task, "weights": open_weights,
}  # fmt: skip


FORMATS = {
    "summary.json": "orch-summary", "slurm.json": "orch-submission", "tasks": "orch-task", "weights": "orch-weights",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_the_version_before_is_used(name: str, tmp_path: Path) -> None:
    assert REFUSED[name](tmp_path, {})


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_a_later_version_is_refused_with_the_next_step(name: str, tmp_path: Path) -> None:
    with pytest.raises(OrchError) as caught:
        REFUSED[name](tmp_path, {"format": f"{FORMATS[name]}/99"})
    assert isinstance(caught.value, MachineError)
    assert "was written by another version of orch" in caught.value.message
    assert f"{FORMATS[name]}/99" in str(caught.value.why)
    assert caught.value.hint


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("damage", [[], 7, "orch-othes/1", "orch-summary/x"])
def test_a_format_that_is_damaged_is_no_version(name: str, damage: object, tmp_path: Path) -> None:
    REFUSED[name](tmp_path, {"format": damage})


@pytest.mark.parametrize(("form", "is_used"), [({}, True), ({"format": "orch-other/99"}, False)])
def test_what_can_be_made_again_is(form: dict[str, str], is_used: bool, tmp_path: Path) -> None:
    write(tmp_path / "orch-environment.json", {**ENVIRONMENT, **form})
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert is_complete(tmp_path) == is_used
    (tmp_path / upstream_code.TREE).mkdir()
    write(tmp_path / upstream_code.MANIFEST, {**SOURCE, **form})
    assert upstream_code._is_intact(tmp_path) == is_used


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_damaged_environment_is_made_again(text: str, tmp_path: Path) -> None:
    (tmp_path / "orch-environment.json").write_text(text)
    assert not is_complete(tmp_path)

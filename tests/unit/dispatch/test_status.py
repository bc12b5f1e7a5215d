"""The state of a run, on a cluster and on this machine; Slurm is a stand-in here."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.dispatch.status import read_status
from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.system.files import write_json
from orchestrator.system.locks import hold_lock
from tests.unit.dispatch.slurm_samples import FakeSlurm, begun, finish_shards, make_plan, task_record

SUMMARY = {"images": 5, "failed": 0}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return begun(tmp_path, make_plan(tmp_path))


def test_the_states_of_a_run(slurm: FakeSlurm, paths: RunPaths) -> None:
    finish_shards(paths, [0])
    slurm.answers("squeue", "0|RUNNING|n1|None\n1|PENDING||Priority\n")
    task_record(paths, 0, "predicting")
    state = read_status(paths)
    assert (state["state"], state["job"], state["shards_done"], state["shards"]) == ("running", "12", 1, 3)
    assert state["tasks"] == {"task 0": "predicting, on n1", "task 1": "pending (Priority)"}
    slurm.answers("squeue", "0|PENDING||Resources\n")
    assert read_status(paths)["state"] == "waiting"
    slurm.answers("squeue", "")
    assert read_status(paths)["state"] == "stopped"
    paths.cancelled.touch()
    assert read_status(paths)["state"] == "cancelled"
    slurm.refuses("squeue", "Unable to contact slurm controller")
    assert read_status(paths)["state"] == "unknown"
    write_json(paths.summary, SUMMARY)
    assert (read_status(paths)["state"], read_status(paths)["shards_done"]) == ("complete", 3)


def test_a_job_slurm_has_forgotten_is_over(slurm: FakeSlurm, paths: RunPaths) -> None:
    slurm.refuses("squeue", "slurm_load_jobs error: Invalid job id specified")
    assert read_status(paths)["state"] == "stopped"


def test_a_run_of_this_machine_runs_while_its_lock_is_held(tmp_path: Path) -> None:
    paths = begun(tmp_path, make_plan(tmp_path), job=None)
    assert (read_status(paths)["state"], read_status(paths)["executor"]) == ("stopped", "local")
    with hold_lock(paths.lock, wait=False):
        assert read_status(paths)["state"] == "running"
    write_json(paths.summary, SUMMARY)
    assert read_status(paths)["state"] == "complete"


def test_a_folder_that_is_no_run_directory_has_no_state(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        read_status(RunPaths(tmp_path))

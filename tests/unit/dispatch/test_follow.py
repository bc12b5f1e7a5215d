"""A run on a cluster, followed and cancelled from a login shell; Slurm is a stand-in here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch.shared import follow
from orchestrator.dispatch.shared.follow import cancel_run, follow_run
from orchestrator.dispatch.slurm import executor as slurm_executor
from orchestrator.errors import Interrupted, MachineError, RunError, UsageError
from orchestrator.paths import RunPaths
from orchestrator.system.display import SilentDisplay
from tests.unit.dispatch.slurm_samples import FakeSlurm, begun, complete, finish_shards, make_plan, task_record

UNFIT = {"message": "the variant gpu does not fit this machine", "why": "its binaries have no code for Older"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(follow, "QUEUE_POLL_SECONDS", 0.01)
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return begun(tmp_path, make_plan(tmp_path))


def test_a_run_of_this_machine_is_not_followed(tmp_path: Path) -> None:
    paths = begun(tmp_path, make_plan(tmp_path), job=None)
    for command in (follow_run, cancel_run):
        with pytest.raises(UsageError, match="was not submitted to a cluster"):
            command(paths, SilentDisplay())


def test_a_folder_that_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    for command in (follow_run, cancel_run):
        with pytest.raises(UsageError, match="is not a run directory"):
            command(RunPaths(tmp_path), SilentDisplay())


def test_attached_to_a_complete_run_gives_its_summary(paths: RunPaths) -> None:
    summary = complete(paths)
    assert follow_run(paths, SilentDisplay()).summary == summary


@pytest.mark.parametrize("damage", [lambda paths: paths.predictions.write_bytes(b"others"),
                                    lambda paths: paths.summary.write_text("{}"),
                                    lambda paths: (paths.summary.unlink(), paths.summary.symlink_to("run.json"))],
                         ids=["predictions", "summary", "link"])  # fmt: skip
def test_attached_to_a_run_with_a_damaged_result_names_it(paths: RunPaths, damage: Callable[[RunPaths], Any]) -> None:
    complete(paths)
    damage(paths)
    with pytest.raises(RunError, match=str(paths.summary)):
        follow_run(paths, SilentDisplay())


def test_tasks_that_are_gone_before_all_is_done_are_an_error_with_their_reasons(
    slurm: FakeSlurm, paths: RunPaths
) -> None:
    finish_shards(paths, [0])
    slurm.answers("squeue", "")
    with pytest.raises(RunError) as caught:
        follow_run(paths, SilentDisplay())
    assert caught.value.message == "all tasks have ended and 2 shards are missing"
    assert "sacct" in str(caught.value.why)
    task_record(paths, 0, "done")
    task_record(paths, 1, "failed", {"message": "shard 2 cost too many workers", "why": "the last one: killed"})
    with pytest.raises(RunError) as caught:
        follow_run(paths, SilentDisplay())
    assert caught.value.why == "task 1: shard 2 cost too many workers: the last one: killed"
    assert caught.value.log == str(paths.logs / "task-1.log")


def test_tasks_are_gone_once_slurm_lists_none_twice(slurm: FakeSlurm, paths: RunPaths) -> None:
    slurm.answers("squeue", "")
    with pytest.raises(RunError):
        follow_run(paths, SilentDisplay())
    assert sum(line.startswith("squeue") for line in slurm.asked) == 2


def test_tasks_that_were_killed_are_named_with_their_nodes(slurm: FakeSlurm, paths: RunPaths) -> None:
    task_record(paths, 1, "predicting")
    with pytest.raises(RunError) as caught:
        follow_run(paths, SilentDisplay())
    assert caught.value.why == "task 1: ended without giving a reason on n1, predicting"


def test_where_no_node_fits_the_machine_cannot(slurm: FakeSlurm, paths: RunPaths) -> None:
    for index in range(2):
        task_record(paths, index, "unfit", UNFIT)
    with pytest.raises(MachineError) as caught:
        follow_run(paths, SilentDisplay())
    assert caught.value.exit_code == 4
    assert str(caught.value.why).splitlines()[0] == f"task 0: {UNFIT['message']}: {UNFIT['why']}"


def test_what_tasks_of_an_earlier_job_said_is_over(slurm: FakeSlurm, paths: RunPaths) -> None:
    task_record(paths, 0, "unfit", UNFIT, job="11")
    with pytest.raises(RunError):
        follow_run(paths, SilentDisplay())


def test_a_slurm_that_is_away_for_a_while_does_not_end_the_following(slurm: FakeSlurm, paths: RunPaths) -> None:
    slurm.refuses("squeue", "Unable to contact slurm controller")

    def complete_in_the_end() -> None:
        while len(slurm.asked) < 5:
            time.sleep(0.01)
        complete(paths)

    thread = threading.Thread(target=complete_in_the_end)
    thread.start()
    assert follow_run(paths, SilentDisplay()).failed == 1
    thread.join()


def test_ctrl_c_leaves_the_run_going_and_says_so(slurm: FakeSlurm, paths: RunPaths) -> None:
    slurm.answers("squeue", "0|RUNNING|n1|None\n")

    class Impatient(SilentDisplay):
        def progress(self, done: int, failed: int, workers: dict[str, str]) -> None:
            assert workers == {"task 0": "running"}
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        follow_run(paths, Impatient())
    assert caught.value.message == "no longer attached; the run continues as job 12"
    assert f"orch cancel {paths.root}" in str(caught.value.hint)
    assert not any(line.startswith("scancel") for line in slurm.asked)


def test_cancelled_first_politely(slurm: FakeSlurm, paths: RunPaths) -> None:
    slurm.answers("squeue", "")
    assert cancel_run(paths, SilentDisplay()) == "12"
    assert paths.cancelled.exists()
    assert [line for line in slurm.asked if line.startswith("scancel")] == [
        "scancel --state=PENDING 12", "scancel --batch --signal=TERM 12"
    ]  # fmt: skip


def test_cancelled_for_good_where_that_does_not_do(
    slurm: FakeSlurm, paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.answers("squeue", "0|RUNNING|n1|None\n")
    monkeypatch.setattr(slurm_executor, "STOP_SECONDS", 0.0)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(MachineError, match="job 12 is still there"):
        cancel_run(paths, SilentDisplay())
    assert slurm.asked[-2:] == ["scancel 12", "squeue --noheader --array --jobs 12 --format %K|%T|%N|%r"]

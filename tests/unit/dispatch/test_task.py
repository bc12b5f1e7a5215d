"""One task of a job: what it does where nothing can be predicted, how it ends, and that a run is collected once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.dispatch.dispatcher import DispatchResult
from orchestrator.dispatch.shared import collection, task
from orchestrator.dispatch.shared.claims import Claims
from orchestrator.dispatch.shared.collection import COLLECT_CLAIM, collect_once
from orchestrator.dispatch.shared.task import main
from orchestrator.dispatch.shared.task_records import find_abandoned, merge_records, read_records
from orchestrator.dispatch.submitter import TaskAttempt
from orchestrator.errors import Interrupted
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.display import SilentDisplay
from orchestrator.system.files import write_json
from tests.unit.dispatch.slurm_samples import FakeSlurm, begun, document, finish_shards, make_plan
from tests.unit.stack_samples import MINIMAL, write_stack

GPU = {"base_image": "python:3.11-slim", "lock": "cpu.lock", "python": "3.11", "device": "cuda", "cuda": "12.1"}
TASK = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[DispatchResult]:
    """What collecting was told, each time; it writes nothing but the summary."""
    times: list[DispatchResult] = []

    def finish(plan: Plan, paths: RunPaths, dispatched: DispatchResult) -> None:
        times.append(dispatched)
        write_json(paths.summary, {"images": len(plan.inputs.images)})

    monkeypatch.setattr(collection, "finish", finish)
    return times


def gpu_run(folder: Path) -> RunPaths:
    """A run whose variant needs a GPU."""
    paths = begun(folder, make_plan(folder, variant="gpu", device="cuda"))
    write_stack(folder / "stack", {**MINIMAL, "variants": {**MINIMAL["variants"], "gpu": GPU}})
    return paths


def test_a_node_that_does_not_fit_leaves_its_shards_and_says_why(
    slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = gpu_run(tmp_path)
    monkeypatch.setenv("PATH", str(slurm.folder) + ":/usr/bin:/bin")
    assert main([str(paths.root)]) == 4
    record = read_records(paths, "12")[0]
    assert (record["index"], record["job"], record["state"]) == (1, "12_1", "unfit")
    assert record["error"]["message"] == "this machine has no GPU that can be used"
    assert "no GPU that can be used" in capsys.readouterr().err
    assert list(paths.claims.iterdir()) == []


def test_what_is_done_already_is_collected_by_the_task_that_finds_it(
    slurm: FakeSlurm, tmp_path: Path, collected: list[DispatchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path)
    paths = begun(tmp_path, plan)
    finish_shards(paths, plan.shards)
    monkeypatch.setattr(task, "_prepare", lambda _, work, *__: task._ReadyTask(work, plan, get_runtime("venv")))
    assert main([str(paths.root)]) == 0
    assert main([str(paths.root)]) == 0
    assert len(collected) == 1
    assert "scancel --state=PENDING 12" in slurm.asked, "tasks that have yet to begin would find nothing to do"
    assert [record["state"] for record in read_records(paths, "12")] == ["done", "done"]


def test_of_many_tasks_that_see_all_done_one_collects(
    slurm: FakeSlurm, tmp_path: Path, collected: list[DispatchResult]
) -> None:
    plan = make_plan(tmp_path)
    paths = begun(tmp_path, plan)
    start = threading.Barrier(5)
    did: list[bool] = []

    def one_task(name: str) -> None:
        claims = Claims(paths.claims, name)
        start.wait()
        did.append(collect_once(paths, plan, claims, SilentDisplay()))

    threads = [threading.Thread(target=one_task, args=(f"t{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(did), len(collected)) == ([False, False, False, False, True], 1)


def test_collecting_that_was_cut_off_is_taken_over(
    tmp_path: Path, slurm: FakeSlurm, collected: list[DispatchResult]
) -> None:
    plan = make_plan(tmp_path)
    paths = begun(tmp_path, plan)
    Claims(paths.claims, "dead").take(COLLECT_CLAIM)
    heir = Claims(paths.claims, "heir", lease=60)
    assert not collect_once(paths, plan, heir, SilentDisplay())
    os.utime(paths.claims / COLLECT_CLAIM, (1, 1))
    assert collect_once(paths, plan, heir, SilentDisplay())
    assert len(collected) == 1


@pytest.mark.parametrize(
    ("state", "cancelled", "asked"),
    [
        ("RUNNING", False, ["scontrol requeue 12_1"]),
        ("RUNNING", True, []),
        ("CANCELLED", False, []),
        ("COMPLETING", False, []),
        ("", False, []),
    ],
)
def test_a_task_has_itself_requeued_unless_a_person_ended_it(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, cancelled: bool, asked: list[str]
) -> None:
    paths = begun(tmp_path, make_plan(tmp_path))
    slurm.answers("squeue", f"{state}\n")
    if cancelled:
        paths.cancelled.touch()

    def stopped(*_: Any) -> None:
        raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr(task, "_prepare", stopped)
    assert main([str(paths.root)]) == 143
    assert [line for line in slurm.asked if line.startswith("scontrol")] == asked
    assert read_records(paths, "12")[0]["state"] == "stopped"
    assert list(paths.claims.iterdir()) == []


def test_the_first_node_decides_for_all(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = begun(tmp_path, make_plan(tmp_path, variant="auto", device="auto"))
    seen: list[Plan] = []
    monkeypatch.setattr(task, "choose_runtime", lambda name: (Preparing(), name))

    def predict(paths: RunPaths, here: object, ready: Any, *_: object) -> DispatchResult:
        seen.append(ready.plan)
        return DispatchResult((), 0, 0)

    monkeypatch.setattr(task, "_predict", predict)
    monkeypatch.setattr(task, "collect_once", lambda *_: True)
    assert main([str(paths.root)]) == 0
    first = document(paths.run_json)
    assert (first["request"]["variant"], first["request"]["device"]) == ("cpu", "cpu")
    assert first["why_variant"] == "this stack uses no GPU"
    assert main([str(paths.root)]) == 0
    assert document(paths.run_json) == first
    assert [plan.digest() for plan in seen] == [first["plan"]] * 2


def test_a_node_that_would_run_something_else_is_refused(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = begun(tmp_path, make_plan(tmp_path))
    monkeypatch.setattr(task, "choose_runtime", lambda name: (Preparing(), name))
    (tmp_path / "stack" / "predictor.py").write_text("# edited\n")
    assert main([str(paths.root)]) == 5
    error = read_records(paths, "12")[0]["error"]
    assert "would not run what was planned" in error["message"]
    assert error["why"] == "here it is a run with other predictor"


def test_a_folder_without_a_run_ends_the_task_with_the_reason(
    slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 5
    assert "is not a run that can be continued here" in capsys.readouterr().err


def test_what_a_killed_attempt_of_the_same_task_left_on_the_same_node_is_reaped() -> None:
    dead = {
        "task": "t0-dead",
        "job": "12_0",
        "node": "n1",
        "restarts": 0,
        "state": "predicting",
        "scratch": "/x/orch-t0-dead-1",
    }
    others = [
        {**dead, "node": "n2"}, {**dead, "job": "12_1"}, {**dead, "state": "stopped"}, {**dead, "restarts": 1},
        {**dead, "job": None}, {**dead, "scratch": "/home/somebody"},
    ]  # fmt: skip
    assert find_abandoned([*others, dead], TaskAttempt(0, 2, "12_0", 1, "n1")) == [dead]
    assert find_abandoned([dead], TaskAttempt(0, 1, None, 1, "n1")) == [], "started by hand: it may well be alive"


def test_what_all_tasks_said_is_added_up_those_of_other_jobs_left_out(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for number, (job, notices, lost) in enumerate(
        [("12_0", ["slow"], 1), ("12_1", ["slow", "odd"], 2), ("11_0", ["old"], 9), (None, [], 0)]
    ):
        content = {"task": f"t{number}", "index": 0, "node": "n", "state": "done", "job": job, "started": 1.0}
        content |= {"notices": notices, "lost_workers": lost}
        write_json(paths.tasks / f"t{number}.json", content)
    (paths.tasks / "cut-off.json").write_text(json.dumps({})[:1])
    write_json(paths.tasks / "odd.json", {**content, "job": "12_3", "lost_workers": "many"})
    os.mkfifo(paths.tasks / "pipe.json")
    merged = merge_records(paths, "12")
    assert (merged.notices, merged.lost_workers) == (("slow", "odd"), 3)


class Preparing:
    """A runtime whose environments are there."""

    name = "venv"

    def __init__(self, identity: str = "b1") -> None:
        self.identity = identity

    def prepare(self, stack: Any, variant: str, *_: Any) -> Any:
        from orchestrator.runtimes.base import Prepared

        return Prepared(stack, variant, "venv", self.identity, "/envs/e")


def test_the_module_path_in_older_job_scripts_still_starts_a_task(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, "-m", "orchestrator.task", str(tmp_path / "none")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert "is not a run that can be continued here" in done.stderr

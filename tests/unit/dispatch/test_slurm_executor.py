"""Handing a run to Slurm, on a login node: what is submitted, and when nothing is; Slurm is a stand-in here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.catalog.loader import ModelEntry
from orchestrator.dispatch.executors import EXECUTORS, Work, get_executor
from orchestrator.dispatch.local import LocalExecutor
from orchestrator.dispatch.shared.work_file import WorkersPerTask, make_placeholder, read_work_file
from orchestrator.dispatch.slurm.executor import SlurmExecutor
from orchestrator.dispatch.slurm.settings import SlurmSettings
from orchestrator.dispatch.submitter import Submission
from orchestrator.errors import MachineError, UsageError
from orchestrator.hardware import Selection
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import AUTO
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.display import SilentDisplay
from orchestrator.system.files import write_json
from tests.unit.dispatch.slurm_samples import FakeSlurm, begun, document, make_plan
from tests.unit.stack_samples import MINIMAL, model_entry, stack_entry

GPU = {"base_image": "python:3.11-slim", "lock": "cpu.lock", "python": "3.11", "device": "cuda", "cuda": "12.1"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path)


def work(plan: Plan, paths: RunPaths, **options: object) -> Work:
    settings = SlurmSettings.model_validate(options)
    return Work(plan, paths, get_runtime("venv"), paths.root / "weights", ("cpu",), settings=settings)


def execute(plan: Plan, paths: RunPaths, **options: object) -> bool:
    """Whether the run is complete."""
    return SlurmExecutor().execute(work(plan, paths, **options), SilentDisplay()).complete


def picky_entry(folder: Path) -> ModelEntry:
    """A model whose stack has a variant for GPUs too."""
    entry = stack_entry(folder / "stack", variants={**MINIMAL["variants"], "gpu": GPU})
    return ModelEntry("tiny-model", entry.spec.models["tiny-model"], entry)


def test_one_array_is_submitted_and_remembered(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.answers("sbatch", "77;cluster\n")
    paths = begun(tmp_path, plan, job=None)
    paths.cancelled.touch()
    paths.claims.mkdir()
    (paths.claims / "00001").write_text("killed")
    assert not execute(plan, paths, tasks=2, partition="gpu")
    assert slurm.asked == [f"sbatch --parsable {paths.job_script}"]
    assert document(paths.submission("slurm"))["job"] == "77"
    assert document(paths.submission("slurm"))["options"]["partition"] == "gpu"
    script = paths.job_script.read_text()
    assert "#SBATCH --array=0-1\n" in script
    assert f"exec {sys.executable} -m orchestrator.dispatch.shared.task {paths.root}\n" in script
    assert not paths.cancelled.exists()
    assert list(paths.claims.iterdir()) == []


def test_there_are_never_more_tasks_than_shards(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.answers("sbatch", "77\n")
    paths = begun(tmp_path, plan, job=None)
    execute(plan, paths, tasks=64)
    assert document(paths.submission("slurm"))["tasks"] == 3


def test_nothing_is_submitted_while_a_job_is_under_way(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.answers("squeue", "0|RUNNING|n1|None\n")
    assert not execute(plan, begun(tmp_path, plan))
    assert not any(line.startswith("sbatch") for line in slurm.asked)


def test_a_job_that_may_be_under_way_is_not_submitted_again(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.refuses("squeue", "Unable to contact slurm controller")
    with pytest.raises(MachineError, match="Slurm does not answer"):
        execute(plan, begun(tmp_path, plan))


def test_a_job_that_is_over_is_followed_by_another(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.answers("squeue", "")
    slurm.answers("sbatch", "78\n")
    paths = begun(tmp_path, plan)
    paths.shard(1).write_bytes(b"cut off")
    assert not execute(plan, paths)
    assert document(paths.submission("slurm"))["job"] == "78"
    assert not paths.shard(1).exists(), "a task would take it for whole"


def test_the_number_of_a_submitted_job_is_told(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    class Noted(SilentDisplay):
        def say(self, message: str) -> None:
            lines.append(message)

    lines: list[str] = []
    slurm.answers("sbatch", "77;cluster\n")
    asked = work(plan, begun(tmp_path, plan, job=None), tasks=2, wait=False)
    SlurmExecutor().execute(asked, Noted())
    assert lines[0] == "submitted job 77: 2 tasks for 3 shards"


def test_a_refusal_is_told_in_slurms_own_words(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.refuses("sbatch", "sbatch: error: invalid partition specified: nope\n")
    paths = begun(tmp_path, plan, job=None)
    with pytest.raises(MachineError) as caught:
        execute(plan, paths, partition="nope")
    assert caught.value.why == "invalid partition specified: nope"
    assert not paths.submission("slurm").exists()


def test_without_slurm_the_machine_cannot(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = begun(tmp_path, plan, job=None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        execute(plan, paths)
    assert (caught.value.exit_code, caught.value.message) == (4, "Slurm is not installed on this machine")
    assert "--executor local" in str(caught.value.hint)


def test_a_run_that_is_under_way_is_not_resumed_here(slurm: FakeSlurm, plan: Plan, tmp_path: Path) -> None:
    slurm.answers("squeue", "0|PENDING||Priority\n")
    with pytest.raises(UsageError, match="is running as job 12"):
        LocalExecutor().execute(work(plan, begun(tmp_path, plan)), SilentDisplay())


@pytest.mark.parametrize(
    ("variant", "device", "choice"),
    [
        (None, None, Selection(AUTO, AUTO, "chosen by the first task, on its node")),
        (None, "cuda", Selection(AUTO, "cuda", "chosen by the first task, on its node")),
        ("gpu", None, Selection("gpu", "cuda", "asked for; checked on the nodes")),
        ("cpu", None, Selection("cpu", "cpu", "asked for")),
        (None, "cpu", Selection("cpu", "cpu", "--device cpu")),
    ],
)
def test_what_only_a_node_can_tell_is_left_to_it(
    variant: str | None, device: str | None, choice: Selection, tmp_path: Path
) -> None:
    entry = picky_entry(tmp_path)
    assert SlurmExecutor().select(entry, variant, device) == (choice, ())


def test_a_numbered_gpu_and_an_unknown_variant_are_refused(tmp_path: Path) -> None:
    entry = picky_entry(tmp_path)
    for device in ("cuda:1", "0,1", "GPU-1"):
        with pytest.raises(UsageError, match="Slurm assigns the GPUs"):
            SlurmExecutor().select(entry, None, device)
    with pytest.raises(UsageError, match="no variant"):
        SlurmExecutor().select(entry, "gpo", None)


def test_a_stack_without_gpu_variants_leaves_nothing_to_the_node(tmp_path: Path) -> None:
    choice, _ = SlurmExecutor().select(model_entry(tmp_path / "stack"), None, None)
    assert (choice.variant, choice.device) == ("cpu", "cpu")


def test_what_is_handed_over_is_read_as_the_same_plan(plan: Plan, tmp_path: Path) -> None:
    recorded = read_work_file(begun(tmp_path, plan))
    assert recorded.make_plan(plan.prepared) == plan
    assert recorded.plan == plan.digest()
    assert recorded.build == BuildOptions(offline=True)
    assert recorded.workers == WorkersPerTask(threads=3, batch_timeout=90.0)
    assert replace(recorded.restore_prepared(), location="/envs/e") == plan.prepared


def test_a_run_whose_variant_is_open_is_recorded_and_read(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, variant=AUTO, device=AUTO)
    plan = replace(plan, prepared=make_placeholder(plan.entry.stack, "venv"))
    assert read_work_file(begun(tmp_path, plan)).request.variant == AUTO


def test_an_unknown_executor_is_refused_with_suggestions() -> None:
    with pytest.raises(UsageError, match="unknown executor 'slrum'") as caught:
        get_executor("slrum")
    assert "slurm" in str(caught.value.why)


def test_a_new_executor_is_a_class_and_a_line_in_the_registry(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(LocalExecutor):
        """Says that it works on all that was submitted to it."""

        def is_active(self, submission: Submission) -> bool:
            return (submission.executor, submission.job) == ("elsewhere", "7")

    monkeypatch.setitem(EXECUTORS, "elsewhere", Elsewhere)
    assert isinstance(get_executor("elsewhere"), Elsewhere)
    paths = begun(tmp_path, plan, job=None)
    write_json(paths.submission("elsewhere"), {"job": 7})
    with pytest.raises(UsageError, match="is running as job 7"):
        LocalExecutor().execute(work(plan, paths), SilentDisplay())


def test_an_executor_without_settings_refuses_any() -> None:
    settings_type = get_executor("local").settings_type
    assert settings_type.parse(()).wait
    with pytest.raises(UsageError, match="no settings"):
        settings_type.parse(["partition=gpu"])

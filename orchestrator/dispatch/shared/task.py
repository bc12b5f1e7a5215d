"""`python -m orchestrator.dispatch.shared.task RUN`: one of the tasks that share a run.

A task may be stopped, started again, or run twice at the same time.

Exit codes: 0 no work is left; 4 this node cannot do the work (other tasks take the task's shards); 5 the run failed;
143 stopped by SIGTERM: the task released its claims, and had itself requeued unless the run was cancelled.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.dispatch.batch_timer import make_batch_limits
from orchestrator.dispatch.dispatcher import Dispatcher, DispatchResult
from orchestrator.dispatch.executors import find_attempt, find_submission
from orchestrator.dispatch.launcher import Launcher, readable_images
from orchestrator.dispatch.shard_intake import ShardIntake, remove_job_folders
from orchestrator.dispatch.shared.claiming_scheduler import ClaimingScheduler
from orchestrator.dispatch.shared.claims import Claims
from orchestrator.dispatch.shared.collection import collect_once
from orchestrator.dispatch.shared.task_records import TaskRecord, find_abandoned, read_records
from orchestrator.dispatch.shared.work_file import RecordedWork, read_work_file, record_variant
from orchestrator.dispatch.slots import OwnedSlots, assign_devices
from orchestrator.dispatch.submitter import Submitter, TaskAttempt
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError
from orchestrator.hardware import Gpu, cores, gpus_for
from orchestrator.paths import RunPaths, TaskPaths
from orchestrator.plan import AUTO, Plan
from orchestrator.runtimes import OUT_SIZE, Runtime, choose_runtime, select_variant
from orchestrator.system import Display, PlainDisplay, call_on_signal, raise_on_sigterm

EXIT_STOPPED = 143
PLAN_CLAIM = "plan"
POLL_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Carry out one task and return its exit code."""
    attempt, submitter = find_attempt() or (TaskAttempt(0, 1, None, 0, socket.gethostname()), None)
    name = f"t{attempt.index:03d}-{secrets.token_hex(4)}"
    scratch = Path(tempfile.mkdtemp(prefix=f"orch-{name}-"))
    paths = TaskPaths(Path(arguments[0]).absolute(), name, scratch)
    display = PlainDisplay()
    display.say(f"task {name} on {socket.gethostname()}, process {os.getpid()}, job {attempt.job or 'none'}")
    record = TaskRecord(paths, attempt)
    try:
        with raise_on_sigterm(Interrupted("stopped by SIGTERM")):  # while workers run, the dispatcher gets the signal
            _carry_out(paths, attempt, record, display)
        return 0
    except Interrupted:
        record.update("stopped")
        if submitter is not None:
            _requeue(paths, attempt, submitter, display)
        return EXIT_STOPPED
    except OrchError as error:
        record.update("unfit" if isinstance(error, MachineError) else "failed", error=error.as_json())
        for key, value in error.as_json().items():
            if value:
                display.say(f"{key}: {value}")
        return error.exit_code
    finally:
        remove_job_folders(scratch)


def _carry_out(paths: TaskPaths, attempt: TaskAttempt, record: TaskRecord, display: Display) -> None:
    work = read_work_file(paths)
    with Claims(paths.claims, paths.task, work.lease) as claims:
        record.update("preparing")
        ready = _prepare(paths, work, claims, display)
        record.update("predicting", gpus=[gpu.name for gpu in ready.gpus])
        dispatched = _predict(paths, attempt, ready, claims, display)
        record.update("done", notices=list(dispatched.notices), lost_workers=dispatched.lost_workers)
        collect_once(paths, ready.work.with_recorded_digest(ready.plan), claims, display)


@dataclass(frozen=True)
class _ReadyTask:
    """A task whose node is checked and whose variant is built on it."""

    work: RecordedWork
    plan: Plan
    runtime: Runtime
    gpus: Sequence[Gpu] = field(default=())


def _prepare(paths: TaskPaths, work: RecordedWork, claims: Claims, display: Display) -> _ReadyTask:
    """Check that the variant fits this node, and build it here. Raises MachineError, BuildError, RunError."""
    while work.request.variant == AUTO:
        if claims.take(PLAN_CLAIM) or claims.take_over(PLAN_CLAIM):
            _select_for_all(paths, display)
            claims.release(PLAN_CLAIM)
        else:
            time.sleep(POLL_SECONDS)
        work = read_work_file(paths)
    request, stack = work.request, work.entry.stack
    present = gpus_for(stack, request.device, request.variant)
    for gpu in present:  # each one: the cluster gave all of them to this task
        select_variant(stack, request.variant, request.device, [gpu], work.entry.spec.gpu_memory)
    runtime = choose_runtime(request.runtime)[0]
    plan = work.make_plan(runtime.prepare(stack, request.variant, work.build, display.detail))
    if plan.digest() != work.plan:
        parts = plan.result_parts()
        changed = [name for name in {**work.parts, **parts} if work.parts.get(name) != parts.get(name)]
        raise RunError(
            "this node would not run what was planned",
            why=f"here it is a run with other {', '.join(changed) or 'images or weights'}",
            hint="cancel the run and start a new one",
        )
    display.say(f"variant {request.variant}, {', '.join(gpu.name for gpu in present) or 'no GPU'}")
    return _ReadyTask(work, plan, runtime, present)


def _select_for_all(paths: TaskPaths, display: Display) -> None:
    """Select the variant for all tasks, on the first node: results must not depend on the node."""
    work = read_work_file(paths)
    if work.request.variant != AUTO:  # another task was faster
        return
    stack, device = work.entry.stack, None if work.request.device == AUTO else work.request.device
    present = gpus_for(stack, device)
    choice = select_variant(stack, None, device, present[:1], work.entry.spec.gpu_memory)
    request = replace(work.request, variant=choice.variant, device=choice.device)
    prepared = choose_runtime(request.runtime)[0].prepare(stack, choice.variant, work.build, display.detail)
    plan = replace(work, request=request).make_plan(prepared)
    record_variant(paths, plan, choice, [asdict(gpu) for gpu in present])
    display.say(f"variant {choice.variant} for the whole run ({choice.why})")


def _predict(
    paths: TaskPaths, attempt: TaskAttempt, ready: _ReadyTask, claims: Claims, display: Display
) -> DispatchResult:
    """Predict shards until all of the run's are on disk. Raises Interrupted, RunError, MachineError."""
    plan, runtime = ready.plan, ready.runtime
    images = readable_images(plan, paths, runtime, display.say)
    scheduler = ClaimingScheduler(
        plan.shards,
        images.images_of,
        claims,
        lambda number: paths.shard(number).exists(),
        (attempt.index, attempt.count),
    )
    while not scheduler.pending:  # a worker holds a GPU: none is started before there is work for it
        if not scheduler.remaining:
            return DispatchResult((), 0, 0.0)
        time.sleep(POLL_SECONDS)
    for folder in (paths.shards, paths.logs, paths.task_events):
        folder.mkdir(parents=True, exist_ok=True)
    _reap_abandoned(paths, attempt, plan, runtime)
    devices, workers = _devices_of_workers(ready)
    available = cores() if attempt.cores is None else min(cores(), attempt.cores)
    threads = ready.work.workers.threads or max(1, available // workers)
    label = _worker_label(plan, paths.task)
    runtime.set_limits(ready.work.workers.limits)
    launcher = Launcher(
        plan,
        paths,
        runtime,
        devices,
        threads,
        ready.work.weights_folder,
        label,
        images=images,
        workers=workers,
        say=display.say,
    )
    intake, out_size = ShardIntake(plan, paths), launcher.limits.out_size or OUT_SIZE
    batches = make_batch_limits(plan, ready.work.workers.batch_timeout)
    dispatcher = Dispatcher(paths, launcher.start, display, scheduler, images.images_of, intake, out_size, batches)
    try:
        with call_on_signal(dispatcher.interrupt):
            return dispatcher.run(OwnedSlots(workers, devices), len(plan.inputs.images), 0)
    finally:
        runtime.reap(label, paths.jobs)


def _devices_of_workers(ready: _ReadyTask) -> tuple[tuple[str, ...], int]:
    devices = [gpu.device for gpu in ready.gpus] if ready.plan.request.device == "cuda" else ["cpu"]
    memory = {gpu.device: gpu.memory for gpu in ready.gpus}
    asked = ready.work.workers
    return assign_devices(devices, asked.workers, asked.per_gpu, memory, ready.plan.entry.spec.gpu_memory)


def _worker_label(plan: Plan, task: str) -> str:
    """Return the label of this attempt's workers. A node may have other tasks of the same run."""
    return f"{plan.run_id()}-{task}"


def _reap_abandoned(paths: TaskPaths, attempt: TaskAttempt, plan: Plan, runtime: Runtime) -> None:
    """End workers and remove folders that earlier, killed attempts of this task left on this node."""
    submission = find_submission(paths)
    records = read_records(paths, None if submission is None else submission.job)
    for record in find_abandoned(records, attempt):
        scratch = Path(record["scratch"])
        runtime.reap(_worker_label(plan, record["task"]), scratch)
        remove_job_folders(scratch)


def _requeue(paths: RunPaths, attempt: TaskAttempt, submitter: Submitter, display: Display) -> None:
    """Have this task start again later if a time limit or another job stopped it; not if a person did."""
    if attempt.job is None or paths.cancelled.exists():
        return
    problem = submitter.requeue(attempt.job)
    display.say(f"stopped; {'requeued' if problem is None else f'not requeued: {problem}'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m orchestrator.dispatch.shared.task RUN`: one worker task of a run that several machines share.

A task may be stopped, started again, or run twice.

Exit codes: 0 nothing is left to do; 4 this node cannot (the task's shards are left to others); 5 the run failed;
143 stopped by SIGTERM: what it had is given back, and it has itself requeued unless the run was cancelled.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.dispatch.dispatcher import Dispatched, Dispatcher
from orchestrator.dispatch.launcher import Launcher
from orchestrator.dispatch.shared.claiming_scheduler import SharedSchedule
from orchestrator.dispatch.shared.claims import Claims
from orchestrator.dispatch.shared.task_records import TaskRecord, dispatched_by_all, left_behind, read_records
from orchestrator.dispatch.shared.work_file import Handover, read_handover, record_choice
from orchestrator.dispatch.slots import OwnPlaces, devices_of_places
from orchestrator.dispatch.slurm.array_task import Place, allotted_cores, place
from orchestrator.dispatch.slurm.commands import end, requeue, state_of
from orchestrator.dispatch.slurm.executor import recorded_job
from orchestrator.errors import Interrupted, MachineError, OrchError, RunError
from orchestrator.hardware import Gpu, cores, gpus_for
from orchestrator.paths import RunPaths, TaskPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import AUTO
from orchestrator.runtimes.base import Runtime
from orchestrator.runtimes.built import select_variant
from orchestrator.runtimes.registry import choose_runtime
from orchestrator.system.display import Display, PlainDisplay
from orchestrator.system.signals import call_on_signal, raise_on_sigterm

EXIT_STOPPED = 143
PLAN_CLAIM = "plan"
COLLECT_CLAIM = "collect"
LOOK_AGAIN_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    """Carry out one task; its exit code."""
    root, here = Path(arguments[0]), place(os.environ)
    name = f"t{here.index:03d}-{secrets.token_hex(4)}"
    scratch = Path(tempfile.mkdtemp(prefix=f"orch-{name}-"))
    paths = TaskPaths(root.absolute(), name, scratch)
    display = PlainDisplay()
    display.say(f"task {name} on {socket.gethostname()}, process {os.getpid()}, job {here.job or 'none'}")
    record = TaskRecord(paths, name, here)
    try:
        with raise_on_sigterm(Interrupted("stopped by SIGTERM")):  # while workers run, the dispatcher takes it instead
            return _carried_out(paths, here, record, display)
    except Interrupted:
        record.now("stopped")
        _start_again_later(paths, here, display)
        return EXIT_STOPPED
    except OrchError as error:
        record.now("unfit" if isinstance(error, MachineError) else "failed", error=error.as_json())
        display.say("\n".join(f"{key}: {value}" for key, value in error.as_json().items() if value))
        return error.exit_code
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _carried_out(paths: TaskPaths, here: Place, record: TaskRecord, display: Display) -> int:
    handover = read_handover(paths)
    with Claims(paths.claims, paths.task, handover.lease) as claims:
        record.now("preparing")
        ready = _prepare(paths, handover, claims, display)
        record.now("predicting", gpus=[gpu.name for gpu in ready.gpus])
        dispatched = _predict(paths, here, ready, claims, display)
        record.now("done", notices=list(dispatched.notices), lost_workers=dispatched.lost_workers)
        collect_once(paths, ready.handover.recorded(ready.plan), claims, display)
    return 0


@dataclass(frozen=True)
class _Ready:
    """A task that has looked at its node."""

    handover: Handover
    plan: Plan
    runtime: Runtime
    gpus: Sequence[Gpu] = field(default=())


def _prepare(paths: TaskPaths, handover: Handover, claims: Claims, display: Display) -> _Ready:
    """Check that the variant fits this node, and make it real here. Raises MachineError, BuildError, RunError."""
    while handover.request.variant == AUTO:
        if claims.take(PLAN_CLAIM) or claims.take_over(PLAN_CLAIM):
            _choose_for_all(paths, display)
            claims.release(PLAN_CLAIM)
        else:
            time.sleep(LOOK_AGAIN_SECONDS)
        handover = read_handover(paths)
    request = handover.request
    entry, kind = handover.entry, request.device
    stack = entry.stack
    present = gpus_for(stack, kind, request.variant)
    for gpu in present:  # each of them: Slurm gave them all to this task
        select_variant(stack, request.variant, kind, [gpu], entry.spec.gpu_memory)
    runtime = choose_runtime(request.runtime)[0]
    plan = handover.planned(runtime.prepare(stack, request.variant, handover.build, display.detail))
    if plan.digest() != handover.plan:
        raise RunError(
            "this node would not run what was planned",
            why=f"the build is {plan.prepared.identity} here; the stack or its weights changed since the run began",
            hint="cancel the run and begin another",
        )
    display.say(f"variant {request.variant}, {', '.join(gpu.name for gpu in present) or 'no GPU'}")
    return _Ready(handover, plan, runtime, present)


def _choose_for_all(paths: TaskPaths, display: Display) -> None:
    """The first task to get here chooses the variant for all: results must not depend on the node."""
    handover = read_handover(paths)
    if handover.request.variant != AUTO:  # another did, just before
        return
    entry, asked = handover.entry, handover.request.device
    stack, device = entry.stack, None if asked == AUTO else asked
    present = gpus_for(stack, device)
    choice = select_variant(stack, None, device, present[:1], entry.spec.gpu_memory)
    request = replace(handover.request, variant=choice.variant, device=choice.device)
    prepared = choose_runtime(request.runtime)[0].prepare(stack, choice.variant, handover.build, display.detail)
    plan = replace(handover, request=request).planned(prepared)
    record_choice(paths, plan, choice, [asdict(gpu) for gpu in present])
    display.say(f"variant {choice.variant} for the whole run ({choice.why})")


def _predict(paths: TaskPaths, here: Place, ready: _Ready, claims: Claims, display: Display) -> Dispatched:
    """Predict shards until all of the run's are on disk. Raises Interrupted, RunError, MachineError."""
    plan, runtime, handover = ready.plan, ready.runtime, ready.handover
    schedule = SharedSchedule(
        plan.shards, plan.images_of, claims, lambda number: paths.shard(number).exists(), (here.index, here.count)
    )
    while not schedule.pending:  # no worker, which holds a GPU, before there is something for it
        if not schedule.remaining:
            return Dispatched((), 0, 0.0)
        time.sleep(LOOK_AGAIN_SECONDS)
    for folder in (paths.shards, paths.logs, paths.task_events):
        folder.mkdir(parents=True, exist_ok=True)
    crew = handover.crew
    devices, workers = devices_of_places(
        [gpu.device for gpu in ready.gpus] if plan.request.device == "cuda" else ["cpu"],
        crew.workers,
        crew.per_gpu,
        {gpu.device: gpu.memory for gpu in ready.gpus},
        plan.entry.spec.gpu_memory,
    )
    threads = crew.threads or max(1, allotted_cores(cores(), os.environ) // workers)
    _reap_left_behind(paths, here, plan, runtime)
    label = _label(plan, paths.task)
    launcher = Launcher(plan, paths, runtime, devices, threads, handover.weights_folder, label)
    dispatcher = Dispatcher(paths, launcher.start, display, schedule, plan.images_of)
    try:
        with call_on_signal(dispatcher.interrupt):
            return dispatcher.run(OwnPlaces(workers, devices), len(plan.inputs.images), 0)
    finally:
        runtime.reap(label, paths.jobs)


def _label(plan: Plan, task: str) -> str:
    """By what a runtime finds the workers of one start of a task: others of the run may be on the same node."""
    return f"{plan.run_id()}-{task}"


def _reap_left_behind(paths: TaskPaths, here: Place, plan: Plan, runtime: Runtime) -> None:
    """End what earlier starts of this task that were killed left on this node: workers, containers, their folders."""
    for record in left_behind(read_records(paths, recorded_job(paths)), here):
        scratch = Path(record["scratch"])
        runtime.reap(_label(plan, record["task"]), scratch)
        shutil.rmtree(scratch, ignore_errors=True)


def collect_once(paths: RunPaths, plan: Plan, claims: Claims, display: Display) -> bool:
    """Collect unless it was done or another task is at it; whether it was done here."""
    from orchestrator.dispatch.outcome import finish

    if not (claims.take(COLLECT_CLAIM) or claims.take_over(COLLECT_CLAIM)):
        return False
    collected = not paths.summary.exists()
    if collected:
        display.say("all shards are there: collecting")
        job = recorded_job(paths)
        finish(plan, RunPaths(paths.root), dispatched_by_all(paths, job))
        if job is not None:
            with suppress(MachineError):
                end(job, pending=True)  # tasks that have yet to begin would find nothing to do
    claims.release(COLLECT_CLAIM)
    return collected


def _start_again_later(paths: RunPaths, here: Place, display: Display) -> None:
    """Have this task requeued if it was stopped for the time limit or another job's sake, not by a person."""
    if here.job is None or paths.cancelled.exists():
        return
    # A job that a person ended with scancel is not RUNNING any more when its signal comes, and must not rise again.
    if state_of(here.job) != "RUNNING":
        return
    problem = requeue(here.job)
    display.say(f"stopped; {'requeued' if problem is None else f'not requeued: {problem}'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

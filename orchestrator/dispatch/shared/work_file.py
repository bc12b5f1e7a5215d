"""work.json: what tasks on other machines need beyond run.json. Only the orch version that wrote it reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.catalog import MODEL_FILE, ModelEntry, StackEntry, Stored, read_model, read_stack
from orchestrator.errors import RunError
from orchestrator.hardware import Selection
from orchestrator.inputs import InputSet, SkippedFile, open_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan import AUTO, Plan, Request, read_run_document, run_document
from orchestrator.runtimes import NO_LIMITS, BuildOptions, Limits, Prepared, result_parts
from orchestrator.system import __version__, is_regular_file, read_json_object, write_json

WORK_FORMAT = "orch-work/1"


@dataclass(frozen=True)
class WorkersPerTask:
    """The workers of each task, as the user asked; None: decided by the node's GPUs and cores."""

    workers: int | None = None
    per_gpu: int | Literal["auto"] | None = None
    threads: int | None = None
    """Threads of each worker."""
    limits: Limits = NO_LIMITS
    batch_timeout: float | None = None
    """Seconds for one batch, as in executors.Work."""


@dataclass(frozen=True)
class RecordedWork:
    """A run as read from its directory, before the task looks at its node."""

    entry: ModelEntry
    request: Request
    """Its variant is AUTO until the first task has selected one on its node."""
    weights: Mapping[str, Stored]
    weights_folder: Path
    inputs: InputSet
    shard_size: int
    build: BuildOptions
    workers: WorkersPerTask
    lease: float
    """Seconds after which a claim that is not renewed may be taken over."""
    plan: str
    """Digest of the recorded plan."""
    build_identity: str
    image_digest: str | None
    parts: Mapping[str, str]
    """Plan.result_parts as recorded."""

    def make_plan(self, prepared: Prepared) -> Plan:
        """Return the plan with the variant as it was built on this node."""
        parts = result_parts(self.entry.stack, self.request.variant, self.build)
        return Plan(self.request, self.entry, prepared, self.weights, self.inputs, self.shard_size, parts)

    def restore_plan(self) -> Plan:
        """Return the plan as run.json records it: enough to collect, not to start workers."""
        plan = Plan(self.request, self.entry, self.restore_prepared(), self.weights, self.inputs, self.shard_size)
        return replace(plan, build_parts=self.parts)

    def with_recorded_digest(self, plan: Plan) -> Plan:
        """Return the plan with the image id of run.json: an image built on another node has another id."""
        return replace(plan, prepared=replace(plan.prepared, digest=self.image_digest))

    def restore_prepared(self) -> Prepared:
        """Return the built variant as run.json records it."""
        request = self.request
        return Prepared(self.entry.stack, request.variant, request.runtime, self.build_identity, "", self.image_digest)


def make_placeholder(stack: StackEntry, runtime: str) -> Prepared:
    """Return what stands for the built variant until a node has selected one."""
    return Prepared(stack, AUTO, runtime, "chosen on the node", "")


def write_work_file(
    paths: RunPaths, plan: Plan, weights_folder: Path, build: BuildOptions, workers: WorkersPerTask, lease: float
) -> None:
    """Write work.json beside run.json and inputs.jsonl."""
    weights = {
        key: {**asdict(stored), "path": None if stored.path is None else str(stored.path)}
        for key, stored in plan.weights.items()
    }
    document = {
        "format": WORK_FORMAT,
        "orch": __version__,
        "stack": str(plan.entry.stack.folder),
        "model_file": str(plan.entry.file),
        "weights": weights,
        "weights_folder": str(weights_folder),
        "build": asdict(build),
        "crew": asdict(workers),
        "lease": lease,
    }
    write_json(paths.work, document)


def read_work_file(paths: RunPaths) -> RecordedWork:
    """Read the run back on another machine. Raises RunError, SpecError."""
    try:
        run = read_run_document(paths)
        work = read_json_object(paths.work)
        if (work["format"], work["orch"]) != (WORK_FORMAT, __version__):
            raise RunError(
                f"{paths.root} was submitted by orch {work['orch']}, this is {__version__}",
                hint="cancel the run and start it again: orch cancel, orch run",
            )
        return _parse(paths, run, work)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RunError(f"{paths.root} is not a run that can be continued here", why=why) from error


def _parse(paths: RunPaths, run: Mapping[str, Any], work: Mapping[str, Any]) -> RecordedWork:
    stack, model_file = read_stack(Path(work["stack"])), Path(work["model_file"])
    if model_file.name == MODEL_FILE:
        stack = read_model(model_file, stack)
    request = Request(**{**run["request"], "images": tuple(run["request"]["images"])})
    weights = {
        key: Stored(**{**stored, "path": None if stored["path"] is None else Path(stored["path"])})
        for key, stored in work["weights"].items()
    }
    if not is_regular_file(paths.inputs):
        raise ValueError(f"{paths.inputs.name} is missing, or no file")
    inputs = InputSet(
        open_inputs(paths.inputs, run["resolved"]["inputs"]["digest"]),
        tuple(Path(root) for root in run["roots"]),
        tuple(SkippedFile(**skipped) for skipped in run["ignored"]),
    )
    return RecordedWork(
        ModelEntry(request.model, stack.spec.models[request.model], stack),
        request,
        weights,
        Path(work["weights_folder"]),
        inputs,
        int(run["shard_size"]),
        BuildOptions(**work["build"]),
        WorkersPerTask(**{**work["crew"], "limits": Limits(**work["crew"]["limits"])}),
        float(work["lease"]),
        str(run["plan"]),
        run["resolved"]["build"],
        run["resolved"]["image_digest"],
        run["parts"],
    )


def record_variant(paths: RunPaths, plan: Plan, choice: Selection, gpus: list[dict[str, Any]]) -> None:
    """Complete run.json with the variant that was selected on a node."""
    earlier = read_run_document(paths)
    notes = {key: value for key, value in earlier.items() if key not in run_document(plan, {})}
    write_json(paths.run_json, run_document(plan, {**notes, "why_variant": choice.why, "gpus": gpus}))

"""A run handed over to other machines: what they need beyond run.json, written by one orch and read by others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator import __version__
from orchestrator.catalog.loader import ModelEntry, StackEntry, read_stack
from orchestrator.catalog.weights import Stored
from orchestrator.errors import RunError
from orchestrator.hardware import Selection
from orchestrator.inputs.collect import InputSet
from orchestrator.inputs.folders import SkippedFile
from orchestrator.inputs.manifest import open_inputs
from orchestrator.paths import RunPaths
from orchestrator.plan.plan import Plan
from orchestrator.plan.request import AUTO, Request
from orchestrator.plan.run_directory import run_document
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.system.files import write_json

WORK_FORMAT = "orch-work/1"


@dataclass(frozen=True)
class Crew:
    """The workers of each task, as they were asked for; None: as the node has GPUs and cores."""

    workers: int | None = None
    per_gpu: int | Literal["auto"] | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Handover:
    """What a task knows of its run before it looks at its node."""

    entry: ModelEntry
    request: Request
    """Its variant may be AUTO: the first task on a node chooses one."""
    weights: Mapping[str, Stored]
    weights_folder: Path
    inputs: InputSet
    shard_size: int
    build: BuildOptions
    crew: Crew
    lease: float
    plan: str
    build_identity: str
    image_digest: str | None

    def planned(self, prepared: Prepared) -> Plan:
        """The plan with what was prepared on this node."""
        return Plan(self.request, self.entry, prepared, self.weights, self.inputs, self.shard_size)

    def recorded(self, plan: Plan) -> Plan:
        """The plan as run.json has it: an image built on another node is the same but for its own id."""
        return replace(plan, prepared=replace(plan.prepared, digest=self.image_digest))

    def recorded_prepared(self) -> Prepared:
        """What was prepared, as run.json has it: enough to collect, not to start workers."""
        request = self.request
        return Prepared(self.entry.stack, request.variant, request.runtime, self.build_identity, "", self.image_digest)


def unresolved(stack: StackEntry, runtime: str) -> Prepared:
    """Stands for what is prepared once a node has chosen the variant."""
    return Prepared(stack, AUTO, runtime, "chosen on the node", "")


def record_work(
    paths: RunPaths, plan: Plan, weights_folder: Path, build: BuildOptions, crew: Crew, lease: float
) -> None:
    """Write work.json beside run.json and inputs.jsonl."""
    weights = {
        key: {**asdict(one), "path": None if one.path is None else str(one.path)} for key, one in plan.weights.items()
    }
    document = {
        "format": WORK_FORMAT,
        "orch": __version__,
        "stack": str(plan.entry.stack.folder),
        "weights": weights,
        "weights_folder": str(weights_folder),
        "build": asdict(build),
        "crew": asdict(crew),
        "lease": lease,
    }
    write_json(paths.work, document)


def read_handover(paths: RunPaths) -> Handover:
    """What was recorded, on another machine. Raises RunError, SpecError."""
    try:
        run = json.loads(paths.run_json.read_text(encoding="utf-8"))
        work = json.loads(paths.work.read_text(encoding="utf-8"))
        if (work["format"], work["orch"]) != (WORK_FORMAT, __version__):
            raise RunError(
                f"{paths.root} was handed over by orch {work['orch']}, this is {__version__}",
                hint="cancel the run and start it again: orch cancel, orch run",
            )
        return _handover(paths, run, work)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise RunError(f"{paths.root} holds no run that can be carried out here", why=why) from error


def _handover(paths: RunPaths, run: Mapping[str, Any], work: Mapping[str, Any]) -> Handover:
    stack = read_stack(Path(work["stack"]))
    request = Request(**{**run["request"], "images": tuple(run["request"]["images"])})
    weights = {
        key: Stored(**{**one, "path": None if one["path"] is None else Path(one["path"])})
        for key, one in work["weights"].items()
    }
    inputs = InputSet(
        open_inputs(paths.inputs, run["resolved"]["inputs"]["digest"]),
        tuple(Path(root) for root in run["roots"]),
        tuple(SkippedFile(**one) for one in run["ignored"]),
    )
    return Handover(
        ModelEntry(request.model, stack.spec.models[request.model], stack),
        request,
        weights,
        Path(work["weights_folder"]),
        inputs,
        int(run["shard_size"]),
        BuildOptions(**work["build"]),
        Crew(**work["crew"]),
        float(work["lease"]),
        str(run["plan"]),
        run["resolved"]["build"],
        run["resolved"]["image_digest"],
    )


def record_choice(paths: RunPaths, plan: Plan, choice: Selection, gpus: list[dict[str, Any]]) -> None:
    """Complete run.json by the variant that was chosen on a node."""
    earlier = json.loads(paths.run_json.read_text(encoding="utf-8"))
    notes = {key: value for key, value in earlier.items() if key not in run_document(plan, {})}
    write_json(paths.run_json, run_document(plan, {**notes, "why_variant": choice.why, "gpus": gpus}))

"""`orch run --dry-run`: what a run would do, from images to disk space; nothing is fetched, built or written."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.catalog import ModelEntry
from orchestrator.dispatch import get_executor
from orchestrator.errors import OrchError
from orchestrator.hardware import detect_machine
from orchestrator.inputs import collect_inputs
from orchestrator.plan import (
    RunOptions,
    build_needs,
    default_shard_size,
    make_request,
    output_need,
    weights_needs,
)
from orchestrator.runtimes import choose_runtime
from orchestrator.system import Need, require_space
from orchestrator.workflows.history import list_runs
from orchestrator.workflows.preview import RunPreview, preview_run
from orchestrator.workflows.run import default_folders


@dataclass(frozen=True)
class DryRun:
    """What a run would do. `preview` has the device, the weights and the environment."""

    preview: RunPreview
    folder: str
    begun: bool
    """Whether the folder has a run already, which would be resumed, or compared with this one."""
    images: int
    unreadable: int
    skipped: Mapping[str, int]
    """Files that are skipped, by reason."""
    notes: tuple[str, ...]
    shards: int
    needs: tuple[Need, ...]
    estimate: float | None
    """Seconds that predicting takes at the rate of the newest run of this model and device; None without one."""
    error: OrchError | None

    @property
    def exit_code(self) -> int:
        """0 where the run would start."""
        return 0 if self.error is None else self.error.exit_code

    def as_json(self) -> dict[str, Any]:
        return {
            **self.preview.as_json(),
            "folder": self.folder,
            "begun": self.begun,
            "images": self.images,
            "unreadable": self.unreadable,
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "shards": self.shards,
            "disk": [{"folder": str(one.folder), "bytes": one.bytes, "what": one.what} for one in self.needs],
            "estimated_seconds": self.estimate,
            "error": None if self.error is None else self.error.as_json(),
            "exit_code": self.exit_code,
        }


def preview_images(entry: ModelEntry, options: RunOptions) -> DryRun:
    """Return what the run would do. Raises UsageError, MachineError for what it would refuse before it begins."""
    get_executor(options.executor)
    preview = preview_run(entry, detect_machine(), options.runtime, options.variant, options.device)
    chosen = preview.variants.selection
    variant, device = (chosen.variant, chosen.device) if chosen else ("", "")
    request = make_request(entry, options, options.runtime, variant, device)
    folder = next(default_folders(options, request))
    with tempfile.TemporaryDirectory(prefix="orch-dry-run-") as scratch:
        unpacked = Path(scratch) / "unpacked"
        inputs = collect_inputs(options.images, unpacked, options.image_root, options.follow_links, options.offline)
        count, unreadable, notes = len(inputs.images), inputs.images.unreadable, inputs.notes
    size = options.shard_size or default_shard_size(count, request.batch_size)
    needs = tuple(_needs(entry, options, preview, folder, count))
    error = preview.error
    try:
        require_space(needs, entry.name)
    except OrchError as full:
        error = error or full
    return DryRun(
        preview,
        str(folder),
        (folder / "run.json").is_file(),
        count,
        unreadable,
        Counter(skipped.reason for skipped in inputs.skipped),
        notes,
        -(-count // size),
        tuple(need for need in needs if need.bytes),
        _estimate(entry.name, variant, device, count),
        error,
    )


def _needs(entry: ModelEntry, options: RunOptions, preview: RunPreview, folder: Path, images: int) -> list[Need]:
    needs = [output_need(folder.absolute(), images)]
    if preview.runtime is not None and preview.variants.selection is not None:
        runtime, variant = choose_runtime(preview.runtime)[0], preview.variants.selection.variant
        needs += build_needs(entry.stack, variant, runtime, options.build)
    return needs + list(weights_needs(entry))


def _estimate(model: str, variant: str, device: str, images: int) -> float | None:
    """Return the seconds for so many images at the rate of the newest complete run that is alike."""
    for run in list_runs():
        if (run.model, run.variant, run.device) == (model, variant, device) and run.seconds and run.images:
            return run.seconds / run.images * images
    return None

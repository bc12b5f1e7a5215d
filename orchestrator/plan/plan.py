"""The run: what was asked, what it resolves to, and the run directory that remembers both."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.weights import Stored
from orchestrator.errors import UsageError
from orchestrator.inputs.collect import InputImage, InputSet, read_inputs
from orchestrator.paths import RunPaths
from orchestrator.runtimes.base import Prepared
from orchestrator.system.files import exclusive, write_json

RUN_FORMAT = "orch-run/1"
USUAL_SHARD = 64
MANY_SHARDS = 128
"""So many that the last ones keep eight workers busy to the end, whatever the images cost: see bench/many_gpus.py."""
FEW_IMAGES, FEW_SHARDS = 4, 16
"""Of so few images a shard's own cost is felt, so there are no smaller shards unless there would be too few of them."""
MOST_SHARDS = 4096
"""Folders with many more entries make a network file system crawl."""
MAX_PIXELS = 250_000_000
AUTO = "auto"
"""Variant and device of a request while a cluster's node has yet to choose them."""

_States = dict[str, tuple[int, int]]
"""Size and time of files."""


@dataclass(frozen=True)
class Request:
    """What identifies a run: the same request on the same folder resumes, another one is refused."""

    model: str
    images: tuple[str, ...]
    image_root: str | None
    runtime: str
    variant: str
    device: str
    """"cpu" or "cuda": which GPUs are used changes no result, and is noted beside the request."""
    exif: str
    score_threshold: float | None
    max_detections: int | None
    batch_size: int
    settings: Mapping[str, Any]
    shard_size: int | None

    def as_json(self) -> dict[str, Any]:
        """As written into run.json."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    def short_digest(self, runtime: str) -> str:
        """Eight digits for the default name of the run directory, by the runtime asked for: "auto" stays "auto"."""
        named = {**self.as_json(), "runtime": runtime}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Plan:
    """Everything resolved: what the workers are told, and how the images are cut into shards."""

    request: Request
    entry: ModelEntry
    prepared: Prepared
    weights: Mapping[str, Stored]
    inputs: InputSet
    shard_size: int

    @property
    def shards(self) -> range:
        """The shards' numbers."""
        return range(math.ceil(len(self.inputs.images) / self.shard_size))

    def images_of(self, shard: int) -> Sequence[InputImage]:
        """A shard's images."""
        return self.inputs.images[shard * self.shard_size : (shard + 1) * self.shard_size]

    def size_of(self, shard: int) -> int:
        """How many images a shard has."""
        return min(self.shard_size, len(self.inputs.images) - shard * self.shard_size)

    def bytes_of(self, shard: int) -> int:
        """The sizes of a shard's images, added up."""
        return self.inputs.images.bytes_in(shard * self.shard_size, (shard + 1) * self.shard_size)

    def digest(self) -> str:
        """Digest of all that the predictions depend on; shards of another plan are never collected."""
        parts = {
            "request": {**self.request.as_json(), "images": None, "image_root": None},
            "build": self.prepared.identity,
            "weights": {key: stored.sha256 for key, stored in self.weights.items()},
            "inputs": self.inputs.digest(),
            "shard_size": self.shard_size,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run_id(self) -> str:
        """Short name of the run, for containers and messages."""
        return self.digest()[:12]

    def predictions_meta(self) -> dict[str, Any]:
        """The meta of predictions.npz: what was run, and the settings that matter for fairness. No times, no hosts."""
        request, spec = self.request, self.entry.spec
        native = spec.native
        return {
            "model": self.entry.name,
            "stack": self.entry.stack.name,
            "variant": request.variant,
            "task": spec.task,
            "taxonomy": spec.taxonomy,
            "categories": [{"id": one.id, "name": one.name} for one in self.entry.categories],
            "attribute_names": list(self.entry.taxonomy.attributes) if spec.defaults.attributes else [],
            "settings": dict(request.settings),
            "score_threshold": request.score_threshold,
            "max_detections": request.max_detections,
            "exif": request.exif,
            "batch_size": request.batch_size,
            "device": request.device,
            "runtime": self.prepared.runtime,
            "build": self.prepared.identity,
            "image_digest": self.prepared.digest,
            "weights": {key: {"file": one.file, "sha256": one.sha256} for key, one in self.weights.items()},
            "sources": {name: source.commit for name, source in self.entry.stack.spec.sources.items()},
            "native": {
                **self.native(),
                "box_order": native.published_box_order or native.box_order,
                "box_edges": native.published_box_edges,
                "class_type": native.published_class_type,
            },
            "inputs": {"count": len(self.inputs.images), "digest": self.inputs.digest()},
            "orch_version": __version__,
        }

    def native(self) -> dict[str, Any]:
        """The mapping from the predictor's output to ours."""
        native = self.entry.spec.native
        return {
            "box_order": native.box_order,
            "class_base": native.class_base,
            "class_map": list(self.entry.class_map),
        }


def begun_with(paths: RunPaths, field: str = "runtime") -> str | None:
    """The runtime, or what else of its request, of a run that was begun here; None where none was."""
    try:
        return str(json.loads(paths.run_json.read_text(encoding="utf-8"))["request"][field])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def default_shard_size(images: int, batch_size: int = 1) -> int:
    """Images per shard, in whole batches: never by the workers, so that results do not depend on them."""
    least = min(FEW_IMAGES, math.ceil(images / FEW_SHARDS))
    most = USUAL_SHARD * math.ceil(images / (MOST_SHARDS * USUAL_SHARD))
    wanted = max(1, least, min(most, math.ceil(images / MANY_SHARDS)))
    return math.ceil(wanted / batch_size) * batch_size


@contextmanager
def open_run(paths: RunPaths, request: Request) -> Iterator[dict[str, Any] | None]:
    """Hold a run directory: yields its run.json if it was begun before. Raises UsageError if it is not ours to use."""
    if paths.root.exists() and not paths.root.is_dir():
        raise UsageError(f"{paths.root} is a file, not a folder to write a run into")
    if paths.root.is_dir() and not paths.run_json.exists() and _foreign(paths):
        raise UsageError(f"{paths.root} is not empty and no run directory", hint="choose another folder with --out")
    missing = [folder for folder in (paths.root, *paths.root.parents) if not folder.exists()]
    with ExitStack() as stack:
        try:
            held = stack.enter_context(exclusive(paths.lock, wait=False))
        except OSError as error:
            raise UsageError(f"cannot write to {paths.root}", why=error.strerror or str(error)) from error
        if not held:
            raise UsageError(
                f"another orch is writing to {paths.root}", hint="wait for it, or choose another folder with --out"
            )
        try:
            yield _earlier(paths, request)
        finally:
            if not paths.run_json.exists():  # it failed before it began: leave no trace
                _remove_traces(paths, missing)


def _foreign(paths: RunPaths) -> bool:
    known = {paths.lock.name, paths.unpacked.name}
    return any(path.name not in known for path in paths.root.iterdir())


def _remove_traces(paths: RunPaths, folders: Sequence[Path]) -> None:
    """Remove what `open_run` and the listing of archives made, and those `folders` that are empty then."""
    shutil.rmtree(paths.unpacked, ignore_errors=True)
    paths.lock.unlink(missing_ok=True)
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _earlier(paths: RunPaths, request: Request) -> dict[str, Any] | None:
    if not paths.run_json.exists():
        return None
    try:
        earlier: dict[str, Any] = json.loads(paths.run_json.read_text(encoding="utf-8"))
        before, written_as = earlier["request"], earlier["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{paths.run_json} cannot be read", why=f"{type(error).__name__}: {error}") from None
    if written_as != RUN_FORMAT:
        why = f"its format is {written_as}, this orch writes {RUN_FORMAT}"
        raise UsageError(f"{paths.root} was begun by another version of orch", why=why, hint="choose another --out")
    now = request.as_json()
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        first = differing[0]
        raise UsageError(
            f"{paths.root} is the run of another request",
            why="; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differing),
            hint=f"choose another folder with --out, or give the same {first} to resume",
        )
    return earlier


def record_plan(paths: RunPaths, plan: Plan, earlier: dict[str, Any] | None, notes: Mapping[str, Any]) -> None:
    """Write run.json and inputs.jsonl, or check that a resumed run still is the same. Raises UsageError."""
    if earlier is not None:
        _refuse_changes(paths, plan, earlier)
        return
    for folder in (paths.shards, paths.logs, paths.jobs):
        folder.mkdir(parents=True, exist_ok=True)
    plan.inputs.images.save(paths.inputs)
    write_json(paths.run_json, run_document(plan, notes))


def run_document(plan: Plan, notes: Mapping[str, Any]) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "format": RUN_FORMAT,
        "request": plan.request.as_json(),
        "plan": plan.digest(),
        "resolved": plan.predictions_meta(),
        "shard_size": plan.shard_size,
        "shards": len(plan.shards),
        "roots": [str(root) for root in plan.inputs.roots],
        "ignored": [asdict(one) for one in plan.inputs.ignored],
        **notes,
    }


def _refuse_changes(paths: RunPaths, plan: Plan, earlier: Mapping[str, Any]) -> None:
    same = plan.inputs.images.is_saved_as(paths.inputs)
    count, first = (0, []) if same else _counted(_changes(read_inputs(paths.inputs), plan.inputs.images))
    if count:
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise UsageError(
            f"the images changed since the run in {paths.root} began",
            why=", ".join(first) + more,
            hint="begin a new run with --out FOLDER",
        )
    if plan.digest() != earlier.get("plan"):
        resolved = earlier.get("resolved", {})
        meta = plan.predictions_meta()
        differing = [
            f"{name} was {resolved.get(name)}, now {meta[name]}"
            for name in ("build", "weights", "image_digest")
            if resolved.get(name) != meta[name]
        ]
        raise UsageError(
            f"the stack or its weights changed since the run in {paths.root} began",
            why="; ".join(differing) or "another version of orch",
            hint="begin a new run with --out FOLDER",
        )


def _counted(changes: Iterable[str]) -> tuple[int, list[str]]:
    """How many there are, and the first five in order."""
    count, first = 0, list[str]()
    for count, change in enumerate(changes, 1):  # noqa: B007  # the last one counts
        insort(first, change)
        del first[5:]
    return count, first


def _changes(before: Iterable[InputImage], now: Iterable[InputImage]) -> Iterator[str]:
    """What became of the images. Both lists are gone through side by side: only what is out of step is remembered."""
    gone: _States = {}
    new: _States = {}
    for image, waiting, others in _in_turn(before, now, gone, new):
        state = (image.size, image.mtime_ns)
        other = others.pop(image.file, None)
        if other is None:
            waiting[image.file] = state
        elif other != state:
            yield f"changed: {image.file}"
    yield from (f"gone: {file}" for file in gone)
    yield from (f"new: {file}" for file in new)


def _in_turn(
    before: Iterable[InputImage], now: Iterable[InputImage], gone: _States, new: _States
) -> Iterator[tuple[InputImage, _States, _States]]:
    """Each image with where it waits for its like, and where that may wait already."""
    for earlier, later in zip_longest(before, now):
        if earlier is not None:
            yield earlier, gone, new
        if later is not None:
            yield later, new, gone

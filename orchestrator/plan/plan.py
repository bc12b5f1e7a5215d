"""Plan: everything of a run, resolved. A pure value."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.catalog import ModelEntry, Stored, Task, get_task
from orchestrator.inputs import InputImage, InputSet
from orchestrator.plan.request import Request
from orchestrator.predictions import CANVASES, KEEP_CANVAS, PICTURES, MaskFiles
from orchestrator.runtimes import Prepared
from orchestrator.system import __version__


@dataclass(frozen=True)
class Plan:
    """A request with its build, weights and images, which are divided into shards."""

    request: Request
    entry: ModelEntry
    prepared: Prepared
    weights: Mapping[str, Stored]
    inputs: InputSet
    shard_size: int
    build_parts: Mapping[str, str] = field(default_factory=dict)
    """Digests of what in the build the predictions depend on, by names for messages; see runtimes.result_parts."""

    @property
    def shards(self) -> range:
        return range(math.ceil(len(self.inputs.images) / self.shard_size))

    def images_of(self, shard: int) -> Sequence[InputImage]:
        return self.inputs.images[shard * self.shard_size : (shard + 1) * self.shard_size]

    def size_of(self, shard: int) -> int:
        return min(self.shard_size, len(self.inputs.images) - shard * self.shard_size)

    def bytes_of(self, shard: int) -> int:
        return self.inputs.images.bytes_in(shard * self.shard_size, (shard + 1) * self.shard_size)

    @property
    def task(self) -> Task:
        """Return what the model's task has."""
        return get_task(self.entry.spec.task)

    @property
    def has_pictures(self) -> bool:
        """Return whether each predicted image has a mask picture."""
        return self.task.has_pictures

    @property
    def mask_files(self) -> tuple[MaskFiles, ...]:
        """Return the kinds of mask files that each predicted image has."""
        side = self.entry.spec.native.canvas
        if not self.has_pictures:
            return ()
        if side is None or self.request.settings.get(KEEP_CANVAS) is not True:
            return (PICTURES,)
        return PICTURES, replace(CANVASES, side=side)

    def digest(self) -> str:
        """Return a digest of all that the predictions depend on; only shards that carry it are collected."""
        parts = {
            "request": {**self.request.as_json(), "images": None, "image_root": None},
            "parts": self.result_parts(),
            "weights": {key: stored.sha256 for key, stored in self.weights.items()},
            "inputs": self.inputs.digest(),
            "shard_size": self.shard_size,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def result_parts(self) -> dict[str, str]:
        """Return the digests of what the model's predictions depend on beside request and weights."""
        return all_parts(self.entry, self.build_parts)

    def run_id(self) -> str:
        """Return a short name of the run, for containers and messages."""
        return self.digest()[:12]

    def predictions_meta(self) -> dict[str, Any]:
        """Return the meta of predictions.npz: what was run, and all settings that matter for a fair comparison.

        No times and no host names: equal runs give equal bytes.
        """
        request, spec = self.request, self.entry.spec
        native = spec.native
        return {
            "model": self.entry.name,
            "stack": self.entry.stack.name,
            "variant": request.variant,
            "task": spec.task,
            "taxonomy": spec.taxonomy,
            "categories": [{"id": category.id, "name": category.name} for category in self.entry.categories],
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
            "weights": {key: {"file": stored.file, "sha256": stored.sha256} for key, stored in self.weights.items()},
            "sources": {name: source.commit for name, source in self.entry.stack.spec.sources.items()},
            "native": {
                **self.native(),
                "box_order": native.published_box_order or native.box_order,
                "box_edges": native.published_box_edges,
                "class_type": native.published_class_type,
                **({} if native.canvas is None else {"canvas": native.canvas}),
            },
            "inputs": {"count": len(self.inputs.images), "digest": self.inputs.digest()},
            "orch_version": __version__,
        }

    def native(self) -> dict[str, Any]:
        native = self.entry.spec.native
        return {"box_order": native.box_order, "class_base": native.class_base, "class_map": list(self.entry.class_map)}


def all_parts(entry: ModelEntry, build_parts: Mapping[str, str]) -> dict[str, str]:
    """Return digests of a model's build and of what stack.yaml says of its output, by names for messages."""
    native, task = entry.spec.native, entry.spec.task
    network = [name for name in (entry.spec.architecture, entry.spec.config) if name is not None]
    output = [*network, task, native.box_order, native.class_base, list(entry.class_map)]
    categories = [[category.id, category.name] for category in entry.categories]
    described = json.dumps([*output, categories, list(entry.taxonomy.attributes)])
    return {**build_parts, "description of the model": hashlib.sha256(described.encode()).hexdigest()[:12]}

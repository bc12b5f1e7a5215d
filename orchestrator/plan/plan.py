"""Plan: everything of a run resolved. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import __version__
from orchestrator.catalog.loader import ModelEntry
from orchestrator.catalog.weights import Stored
from orchestrator.inputs.collect import InputImage, InputSet
from orchestrator.plan.request import Request
from orchestrator.runtimes.base import Prepared


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

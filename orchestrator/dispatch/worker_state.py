"""One worker's state, folded from its events: for the dispatcher, `orch attach` and the summary alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class WorkerState:
    """A worker as its events describe it. Events without the fields they should have change nothing."""

    status: str = "starting"
    """For displays: "loading", "ready" or "shard 7"."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Shards begun and not finished, in that order, with the images done in each."""
    announced: tuple[int, list[int]] | None = None
    """Shard and images of the last announced batch: careful shards only."""
    finished: set[int] = field(default_factory=set)
    """Shards that this worker finished."""
    failed: dict[int, set[int]] = field(default_factory=dict)
    """Indices of the failed images of each shard that is not finished."""
    failed_in_finished: int = 0
    """Number of images that failed in finished shards."""
    versions: dict[str, str] | None = None
    """Versions of its libraries, once it is ready."""
    failure: dict[str, Any] | None = None
    """The failure event, which says why the worker is about to exit."""
    has_exited: bool = False

    @property
    def images_under_way(self) -> int:
        """Images done in shards that are not finished."""
        return sum(self.under_way.values())

    @property
    def failed_images(self) -> int:
        """Number of images that failed."""
        return self.failed_in_finished + sum(map(len, self.failed.values()))

    def apply(self, event: Mapping[str, Any]) -> None:
        """Update the state by one event of the worker."""
        match event:
            case {"event": "loading"}:
                self.status = "loading"
            case {"event": "ready"}:
                self.status = "ready"
                self.versions = _versions(event.get("versions"))
            case {"event": "shard_started", "shard": int(shard), "reused": int(reused)}:
                self.status = f"shard {shard}"
                self.under_way[shard] = reused
            case {"event": "progress", "shard": int(shard), "done": int(done)}:
                self.under_way[shard] = done
            case {"event": "batch", "shard": int(shard), "indices": [*indices]}:
                self.announced = shard, indices
            case {"event": "image_failed", "shard": int(shard), "index": int(index)}:
                if shard not in self.finished:
                    self.failed.setdefault(shard, set()).add(index)
            case {"event": "shard_done", "shard": int(shard)}:
                self._finish(shard)
            case {"event": "failure", "category": str(), "message": str()}:
                self.failure = dict(event)
            case {"event": "exit"}:
                self.has_exited = True
                self.under_way.clear()

    def drop(self, shard: int) -> None:
        """Forget a shard that was begun: its result was refused."""
        self.under_way.pop(shard, None)
        if self.announced is not None and self.announced[0] == shard:
            self.announced = None

    def _finish(self, shard: int) -> None:
        self.finished.add(shard)
        self.failed_in_finished += len(self.failed.pop(shard, ()))
        self.drop(shard)


def _versions(value: Any) -> dict[str, str]:
    return {str(name): str(version) for name, version in value.items()} if isinstance(value, Mapping) else {}

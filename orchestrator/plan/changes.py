"""Compare a run with what its folder was begun with: images, weights, build."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OrchError, RunError, UsageError
from orchestrator.inputs import InputImage, InputSet, read_inputs
from orchestrator.paths import RunPaths
from orchestrator.system import is_regular_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SHOWN = 5


class RunChanged(UsageError):
    """The folder's run is of other images, weights or another build than those of now."""


@dataclass
class Group:
    """Images that changed in one way: how many, and the first of them in order."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, file: str) -> None:
        self.count += 1
        insort(self.first, file)
        del self.first[_SHOWN:]

    def describe(self, how: str) -> str:
        """Return it in words: "3 new (a.png, b.png, c.png)"."""
        more = ", …" if self.count > len(self.first) else ""
        return f"{self.count} {how} ({', '.join(self.first)}{more})"


@dataclass
class Changes:
    """Differences between a folder's run and the one to do now."""

    new: Group = field(default_factory=Group)
    gone: Group = field(default_factory=Group)
    changed: Group = field(default_factory=Group)
    renamed: Group = field(default_factory=Group)
    """Images with another id, or another true mask."""
    model: list[str] = field(default_factory=list)
    """What else differs that predictions depend on, in words."""
    is_list_changed: bool = False
    """Whether inputs.jsonl has to be written again, for example because files only got another time."""

    @property
    def has_images(self) -> bool:
        return any(group.count for group in (self.new, self.gone, self.changed, self.renamed))

    def __bool__(self) -> bool:
        return self.has_images or bool(self.model)

    def describe(self) -> str:
        """Return all changes in words."""
        named = [(self.new, "new"), (self.gone, "gone"), (self.changed, "changed")]
        if not any(group.count for group, _ in named):  # ids that are positions shift with each new image
            named = [(self.renamed, "with another id or true mask")]
        images = ", ".join(group.describe(how) for group, how in named if group.count)
        return "; ".join([f"images: {images}"] * bool(images) + self.model)


def compare_run(
    paths: RunPaths,
    earlier: Mapping[str, Any],
    inputs: InputSet,
    parts: Mapping[str, str],
    weights: Mapping[str, str | None],
    *,
    update: bool = False,
) -> Changes:
    """Compare with run.json and inputs.jsonl of a run's folder; return what differs, which `update` allows.

    `parts` are the digests of Plan.result_parts; `weights` those of the weights that are known, by key. Where only
    times of files differ, or inputs.jsonl is damaged, it is written again. Raises RunChanged; RunError for a damaged
    inputs.jsonl of other images.
    """
    changes = _compare_inputs(paths, earlier, inputs)
    changes.model += _compare_model(earlier, parts, weights)
    if changes and not update:
        raise RunChanged(
            f"{paths.root} holds predictions of something else",
            why=changes.describe(),
            hint="--update predicts what changed in the same folder; --out FOLDER begins a new run",
        )
    if changes.is_list_changed and not changes:
        inputs.images.save(paths.inputs)
    return changes


def _compare_model(
    earlier: Mapping[str, Any], parts: Mapping[str, str], weights: Mapping[str, str | None]
) -> Iterator[str]:
    before = earlier.get("parts")
    if not isinstance(before, dict):
        yield "it was begun by another version of orch, whose build cannot be compared"
    else:
        yield from (f"other {name}" for name in {**before, **parts} if before.get(name) != parts.get(name))
    recorded = earlier["resolved"].get("weights", {})
    for key, digest in weights.items():
        known = recorded.get(key, {}).get("sha256")
        if known != digest:
            yield f"other weights {key} (sha256 {_short(known)}, now {_short(digest)})"


def match_images(paths: RunPaths, earlier: Mapping[str, Any], inputs: InputSet) -> array[int]:
    """Return for each image of `inputs` its index in the folder's list of images; -1 if it is new or changed."""
    matched = array("q", [-1]) * len(inputs.images)
    is_same = _Comparison(paths, int(earlier["shard_size"]), inputs).is_same
    for before, now in _pairs(read_inputs(paths.inputs), inputs.images):
        if before is not None and now is not None and is_same(before, now):
            matched[now.index] = before.index
    return matched


def _short(digest: object) -> str:
    return str(digest)[:12] if digest else "unknown"


def _compare_inputs(paths: RunPaths, earlier: Mapping[str, Any], inputs: InputSet) -> Changes:
    changes = Changes()
    try:
        if not is_regular_file(paths.inputs):
            raise ValueError("it is missing, or no file")
        if inputs.images.is_saved_as(paths.inputs):
            return changes
        _collect_changes(changes, read_inputs(paths.inputs), inputs, _Comparison(paths, earlier["shard_size"], inputs))
    except (ValueError, TypeError, RecursionError, AttributeError) as error:
        recorded = earlier["resolved"]["inputs"]
        if recorded != {"count": len(inputs.images), "digest": inputs.digest()}:
            raise RunError(
                f"{paths.inputs} is damaged, and the images are not those that the run began with",
                why=str(error),
                hint="restore it, or begin a new run with --out FOLDER",
            ) from None
        changes = Changes()
    changes.is_list_changed = True
    return changes


def _collect_changes(changes: Changes, before: Iterable[InputImage], now: InputSet, comparison: _Comparison) -> None:
    for earlier, image in _pairs(before, now.images):
        if earlier is None or image is None:
            (changes.new if earlier is None else changes.gone).add((image or earlier).file)  # type: ignore[union-attr]
        elif not comparison.is_same(earlier, image):
            changes.changed.add(image.file)
        elif (earlier.image_id, earlier.truth, earlier.data_set) != (image.image_id, image.truth, image.data_set):
            changes.renamed.add(image.file)


def _pairs(
    before: Iterable[InputImage], now: Iterable[InputImage]
) -> Iterator[tuple[InputImage | None, InputImage | None]]:
    """Yield the images of two lists in pairs of one name, those of one list alone at the end.

    The lists are read side by side: memory holds only what is out of step.
    """
    gone: dict[str, InputImage] = {}
    new: dict[str, InputImage] = {}
    for earlier, later in zip_longest(before, now):
        if earlier is not None and later is not None and earlier.file == later.file:
            yield earlier, later
            continue
        if earlier is not None:
            other = new.pop(earlier.file, None)
            if other is not None:
                yield earlier, other
            else:
                gone[earlier.file] = earlier
        if later is not None:
            other = gone.pop(later.file, None)
            if other is not None:
                yield other, later
            else:
                new[later.file] = later
    for image in gone.values():
        yield image, None
    for image in new.values():
        yield None, image


class _Comparison:
    """Compares images by size and time; where only the time differs, by the digest of what was decoded."""

    def __init__(self, paths: RunPaths, shard_size: int, inputs: InputSet) -> None:
        self._paths, self._shard_size, self._inputs = paths, shard_size, inputs
        self._is_complete = os.path.lexists(paths.predictions)
        self._digests = lru_cache(maxsize=2)(self._read_digests)

    def is_same(self, before: InputImage, now: InputImage) -> bool:
        """Return whether an image's file has the same content."""
        if before.size != now.size or (before.error is None) != (now.error is None):
            return False
        if before.mtime_ns == now.mtime_ns:
            return True
        shard, position = divmod(before.index, self._shard_size)
        digests = self._digests(shard)
        if now.error is not None:
            return False
        if digests is None or position >= len(digests):
            return not self._is_complete  # nothing of it was predicted yet, or it is not known what
        try:
            with self._inputs.locate(now).open("rb") as stream:
                return bool(hashlib.file_digest(stream, "sha256").digest() == digests[position].tobytes())
        except OSError:
            return False

    def _read_digests(self, shard: int) -> NDArray[np.uint8] | None:
        from orchestrator.predictions import open_arrays

        for path in (self._paths.shard(shard), self._paths.part(shard)):
            try:
                if is_regular_file(path):
                    return open_arrays(path)["image_sha256"]
            except (OrchError, OSError, ValueError, KeyError):
                continue
        return None

"""Join shards into one predictions file, array after array as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError, RunError
from orchestrator.predictions.npz import Arrays, NpzWriter, open_arrays
from orchestrator.predictions.schema import FORMAT, PAIRED, SCHEMA, SHARD_FORMAT, SPECS, STATUS_FAILED, ArraySpec

MAX_ERROR_LENGTH = 300  # characters; one long reason would widen the column of all images

_WRITTEN_HERE = ("image_id", "meta")  # the arrays that do not come from the shards
_IDS_IN_MEMORY = 8 << 20
_IDS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Collected:
    """Counts of a predictions file."""

    images: int
    failed: int
    instances: int


@dataclass
class _Totals:
    """What must be known before arrays are written; collected while the image list is checked."""

    image_file_width: int = 1
    image_id_width: int = 1
    error_width: int = 1
    failed: int = 0


def collect_shards(
    shards: Sequence[Path],
    inputs: Iterable[tuple[str, Any]],
    meta: Mapping[str, Any],
    target: Path,
) -> Collected:
    """Join `shards` into the predictions file `target`, in the order of `inputs` (image file, image id as JSON).

    The bytes depend only on the content, not on how the images were divided into shards. Memory does not grow
    with the number of images, only a little with that of shards. RunError, naming the shard, when one is
    damaged or its images are not the next of `inputs`; `target` is then unchanged.
    """
    opened = [_open(shard) for shard in shards]
    _check_same_plan(opened)
    images, instances = _count_rows(opened, "image_file"), _count_rows(opened, "scores")
    masked = _with_masks(opened)
    with NpzWriter(target, compress=True) as writer, SpooledTemporaryFile(_IDS_IN_MEMORY, "w+") as ids:
        totals = _check_images(opened, inputs, ids)
        _write_ids(writer, ids, images, totals.image_id_width)
        for spec in SCHEMA:
            if spec.name in PAIRED:
                if masked:
                    _join(writer, spec, masked, totals)
                continue
            is_present = not spec.optional or (opened and spec.name in opened[0])
            if is_present and spec.name not in _WRITTEN_HERE:
                _join(writer, spec, opened, totals)
        text = json.dumps({**meta, "format": FORMAT}, sort_keys=True, separators=(",", ":"))
        writer.write_array("meta", np.array(text))
    return Collected(images, totals.failed, instances)


def _with_masks(shards: Sequence[Arrays]) -> list[Arrays]:
    """Return the shards that have masks. RunError when another one has instances: a model has masks or has none.

    A shard without instances may have none either way, for example because all its images failed.
    """
    masked = [shard for shard in shards if "masks" in shard]
    for shard in shards:
        if masked and "masks" not in shard and shard.header("scores").shape[0]:
            raise _broken(shard.path, f"its instances have no masks, those of {masked[0].path.name} have")
    return masked


def _write_ids(writer: NpzWriter, ids: IO[str], images: int, width: int) -> None:
    ids.seek(0)
    lines = (line.rstrip("\n") for line in ids)
    with writer.array("image_id", (images,), np.dtype(("U", width))) as array:
        while chunk := list(islice(lines, _IDS_AT_ONCE)):
            array.write(np.array(chunk, np.str_))


def _open(path: Path) -> Arrays:
    """Open a shard; check its arrays' headers against the schema and each other."""
    with _name_shard(path):
        shard = open_arrays(path)
        headers = {name: shard.header(name) for name in shard}
    for spec in SCHEMA:
        if spec.name in headers:
            fault = spec.find_fault(headers[spec.name])
            if fault:
                raise _broken(path, f"array {spec.name!r}: {fault}")
        elif not spec.optional or (spec.name in PAIRED and not headers.keys().isdisjoint(PAIRED)):
            raise _broken(path, f"it has no array {spec.name!r}")
    images, instances = headers["image_file"].shape[0], headers["scores"].shape[0]
    sizes: dict[int | str, int] = {"I": images, "I+1": images + 1, "N": instances, "N+1": instances + 1}
    for name, header in headers.items():
        wanted = SPECS[name].shape[0] if name in SPECS and SPECS[name].shape else None
        if wanted in sizes and header.shape[0] != sizes[wanted]:
            raise _broken(path, f"array {name!r} has {header.shape[0]} rows, not {sizes[wanted]}")
    return shard


def _count_rows(shards: Sequence[Arrays], name: str) -> int:
    return sum(shard.header(name).shape[0] for shard in shards)


def _check_same_plan(shards: Sequence[Arrays]) -> None:
    """Check that all shards are of one plan and have the same optional arrays, attributes of one width."""
    plans = [_read_plan(shard) for shard in shards]
    for shard, plan in zip(shards, plans, strict=True):
        if plan != plans[0]:
            raise _broken(shard.path, f"it belongs to plan {plan}, {shards[0].path.name} to {plans[0]}")
        for name in ("attributes", "image_scores"):
            shape, first = (s.header(name).shape[1:] if name in s else None for s in (shard, shards[0]))
            if shape != first:
                raise _broken(shard.path, f"its {name} differ in shape from those of {shards[0].path.name}")


def _read_plan(shard: Arrays) -> str:
    with _name_shard(shard.path):
        text = str(shard["meta"][()])
    try:
        meta = json.loads(text)
        kind, plan = meta["format"], str(meta["plan"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken(shard.path, "its meta has no format and plan") from error
    if kind != SHARD_FORMAT:
        raise _broken(shard.path, f"its format is {kind!r}, not {SHARD_FORMAT!r}")
    return plan


def _check_images(shards: Sequence[Arrays], inputs: Iterable[tuple[str, Any]], ids: IO[str]) -> _Totals:
    """Compare the shards' images with `inputs`, write the ids as lines of JSON, and return the totals."""
    totals, rest = _Totals(), iter(inputs)
    for shard in shards:
        for files in _chunks(shard, "image_file"):
            expected = list(islice(rest, len(files)))
            _check_order(shard.path, files.tolist(), [file for file, _ in expected])
            texts = [str(number) if type(number) is int else json.dumps(number) for _, number in expected]
            ids.write("".join([f"{text}\n" for text in texts]))
            totals.image_id_width = max([totals.image_id_width, *map(len, texts)])
            totals.image_file_width = max(totals.image_file_width, _longest(files))
        for errors in _chunks(shard, "error"):
            totals.error_width = max(totals.error_width, min(_longest(errors), MAX_ERROR_LENGTH))
        for status in _chunks(shard, "status"):
            totals.failed += int((status == STATUS_FAILED).sum())
    missing = sum(1 for _ in rest)
    if missing:
        raise RunError(
            f"{missing} input images are in no shard",
            why=f"{len(shards)} shards were given",
            hint="run the same command again: it resumes with the missing shards",
        )
    return totals


def _check_order(shard: Path, files: list[str], expected: list[str]) -> None:
    for file, wanted in zip_longest(files, expected):
        if wanted is None:
            raise _broken(shard, f"it holds {file!r}, after the last input image")
        if file != wanted:
            raise _broken(shard, f"it holds {file!r} where the input is {wanted!r}")


def _longest(texts: NDArray[np.str_]) -> int:
    return int(np.char.str_len(texts).max(initial=0))


def _join(writer: NpzWriter, spec: ArraySpec, shards: Sequence[Arrays], totals: _Totals) -> None:
    """Write one array: those of the shards, one after another."""
    is_offsets = str(spec.shape[0]).endswith("+1")
    if shards:
        rest = shards[0].header(spec.name).shape[1:]
    else:
        rest = tuple(side for side in spec.shape[1:] if isinstance(side, int))
    dtype = np.dtype(spec.dtype)
    if spec.dtype == "str":
        dtype = np.dtype(("U", getattr(totals, f"{spec.name}_width")))
    rows = _count_rows(shards, spec.name) - is_offsets * len(shards) + is_offsets
    with writer.array(spec.name, (rows, *rest), dtype) as array:
        if is_offsets:
            array.write(np.zeros(1, np.int64))
        for chunk in _shift(spec.name, shards) if is_offsets else _read(spec.name, shards):
            array.write(chunk.astype(dtype, copy=False))


def _read(name: str, shards: Sequence[Arrays]) -> Iterator[NDArray[Any]]:
    for shard in shards:
        yield from _chunks(shard, name)


def _shift(name: str, shards: Sequence[Arrays]) -> Iterator[NDArray[np.int64]]:
    """Yield all shards' offsets as one sequence without the leading zero.

    RunError when a shard's offsets do not ascend from 0 to its total.
    """
    base = 0
    pointed_to = {"offsets": "scores", "mask_offsets": "masks"}[name]
    for shard in shards:
        total, last, first = shard.header(pointed_to).shape[0], 0, True
        for chunk in _chunks(shard, name):
            lengths = np.diff(chunk, prepend=last)
            if (lengths < 0).any() or (first and chunk[0] != 0):
                raise _broken(shard.path, f"{name} does not ascend from 0")
            last = int(chunk[-1])
            yield chunk[int(first) :] + base
            first = False
        if last != total:
            raise _broken(shard.path, f"{name} ends at {last}, not at {total}")
        base += total


def _chunks(shard: Arrays, name: str) -> Iterator[NDArray[Any]]:
    with _name_shard(shard.path):
        yield from shard.chunks(name)


@contextmanager
def _name_shard(shard: Path) -> Iterator[None]:
    """Turn a reading error into a RunError that names the shard."""
    try:
        yield
    except OrchError as error:
        raise _broken(shard, error.why or error.message) from error


def _broken(shard: Path, why: str) -> RunError:
    return RunError(
        f"cannot use shard {shard}",
        why=why,
        hint=f"remove {shard.name} and run the same command again: it predicts that shard anew",
    )

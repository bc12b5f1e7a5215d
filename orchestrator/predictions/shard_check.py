"""Check a worker's shard file in full before it counts: its plan, its images, every value in it, its pictures."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import OrchError
from orchestrator.predictions.collect import MAX_ERROR_LENGTH
from orchestrator.predictions.mask_files import MaskFiles
from orchestrator.predictions.npz import NpzWriter, open_arrays
from orchestrator.predictions.schema import FORMAT, PAIRED, SCHEMA, SHARD_FORMAT, STATUS_FAILED
from orchestrator.predictions.validation import check_arrays

_LAST_CODE_POINT = 0x10FFFF
_NOT_IN_SHARDS = ("image_id", "meta")
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_CANVAS_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d{1,5}), (\d{1,5})\), \} *\n",
    re.DOTALL,
)


class ShardFault(Exception):
    """A shard that breaks the rules: why, and which images are at fault, by their position in the shard.

    Where `images` is empty, the fault belongs to the whole shard.
    """

    def __init__(self, reason: str, images: Mapping[int, str] | None = None) -> None:
        self.reason = _one_line(reason)
        super().__init__(self.reason)
        self.images = {image: _one_line(why) for image, why in (images or {}).items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_ERROR_LENGTH]


@dataclass(frozen=True)
class ShardRules:
    """What all shards of one plan must have."""

    plan: str
    """Digest of the plan."""
    meta: Mapping[str, Any]
    """Meta of the run's predictions: categories, names of attributes."""
    attributes: int
    """Columns of `attributes`; 0: the array must be absent."""
    image_scores: bool
    """Whether `image_scores` must be there; otherwise it must be absent."""
    max_pixels: int
    masks: bool = True
    """Whether instances may have masks."""

    @cached_property
    def meta_array(self) -> NDArray[np.str_]:
        """Return the meta as the array of a predictions file."""
        return np.array(json.dumps({**self.meta, "format": FORMAT}))

    def has(self, name: str) -> bool:
        """Return whether shards have an array of the schema."""
        optional = {"attributes": self.attributes > 0, "image_scores": self.image_scores}
        optional |= dict.fromkeys(PAIRED, self.masks)
        return name not in _NOT_IN_SHARDS and optional.get(name, True)


@dataclass(frozen=True)
class ShardContent:
    """What a shard that keeps the rules holds."""

    images: int
    failed: int
    instances: int
    predicted_sizes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Height and width of each predicted image, by its position in the shard."""


def check_shard(
    path: Path, number: int, files: Sequence[str], rules: ShardRules, *, is_part: bool = False
) -> ShardContent:
    """Check a shard file that no guest can write any more. `files`: its images' names in order.

    `is_part`: it may hold only the first of them. Raises ShardFault.
    """
    try:
        arrays = _read(path)
        _check_identity(arrays, number, files, rules, is_part=is_part)
        return _check_content(arrays, rules)
    except ShardFault:
        raise
    except OrchError as error:
        raise ShardFault(error.why or error.message) from error
    except Exception as error:  # whatever zipfile, numpy or json raise on bytes made to hurt them
        raise ShardFault(f"it cannot be read: {type(error).__name__}: {error}") from error


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays. Only uncompressed members are accepted, so that memory stays within the file's size."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ShardFault("its arrays claim more bytes than the file has")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy"):
            raise ShardFault(f"its member {member.filename[:100]!r} is no uncompressed array")
    opened = open_arrays(path)
    return {name: opened[name] for name in opened}


def _check_identity(
    arrays: Mapping[str, NDArray[Any]], number: int, files: Sequence[str], rules: ShardRules, *, is_part: bool
) -> None:
    """Check that the shard is the expected one: plan, number, images, and which arrays it has."""
    wanted = {spec.name for spec in SCHEMA if rules.has(spec.name) and not (spec.optional and _is_free(spec.name))}
    for name in sorted(wanted - set(arrays)):
        raise ShardFault(f"it has no array {name!r}")
    for name in ("attributes", "image_scores", "image_id", *PAIRED):
        if name in arrays and not rules.has(name):
            raise ShardFault(f"it has the array {name!r}, which this model does not give")
    for name, array in arrays.items():
        if array.dtype.kind == "U" and _has_bad_text(array):
            raise ShardFault(f"array {name!r} has characters that are no text")
    found = arrays["image_file"]
    if found.dtype.kind != "U" or found.ndim != 1 or arrays["meta"].dtype.kind != "U" or arrays["meta"].ndim:
        raise ShardFault("its image_file or meta is of another kind")
    images = len(found) if is_part else len(files)
    meta = json.loads(str(arrays["meta"][()]))
    expected = {"format": SHARD_FORMAT, "shard": number, "plan": rules.plan, "images": images}
    if not isinstance(meta, dict) or {key: meta.get(key) for key in expected} != expected:
        raise ShardFault("its meta is not that of this shard")
    if len(found) > len(files) or len(found) != images or found.tolist() != list(files[:images]):
        raise ShardFault("its images are not those that it was to have, in their order")
    if rules.attributes and arrays["attributes"].shape[1:] != (rules.attributes,):
        raise ShardFault(f"its attributes do not have {rules.attributes} columns")


def _is_free(name: str) -> bool:
    """Return whether a shard may lack an optional array that its plan does not settle."""
    return name not in ("attributes", "image_scores")


def _has_bad_text(array: NDArray[np.str_]) -> bool:
    if not array.dtype.itemsize:
        return False
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(-1)
    return bool((native.view(np.uint32) > _LAST_CODE_POINT).any())


def _check_content(arrays: Mapping[str, NDArray[Any]], rules: ShardRules) -> ShardContent:
    """Check all values by the rules of a predictions file."""
    by_image, others = check_arrays({**arrays, "meta": rules.meta_array})
    if others:
        raise ShardFault(others[0])
    sizes, status = arrays["image_size"], arrays["status"]
    pixels = sizes.astype(np.int64).prod(axis=1)
    for position in np.flatnonzero((pixels > rules.max_pixels) & (status != STATUS_FAILED)).tolist():
        by_image.setdefault(position, f"image_size: more than {rules.max_pixels} pixels")
    for position, why in _break_limits(arrays, rules):
        by_image.setdefault(position, why)
    if by_image:
        raise ShardFault(next(iter(by_image.values())), by_image)
    predicted = np.flatnonzero(status != STATUS_FAILED).tolist()
    return ShardContent(
        len(status),
        len(status) - len(predicted),
        len(arrays["scores"]),
        {position: (int(sizes[position, 0]), int(sizes[position, 1])) for position in predicted},
    )


def _break_limits(arrays: Mapping[str, NDArray[Any]], rules: ShardRules) -> Iterator[tuple[int, str]]:
    """Yield the images with more instances, or lower scores, than the run asked for; each by its position."""
    most, floor = rules.meta.get("max_detections"), rules.meta.get("score_threshold")
    counts = np.diff(arrays["offsets"])
    if most is not None:
        for position in np.flatnonzero(counts > most).tolist():
            yield position, f"scores: more than {most} instances"
    if floor is not None:
        low = np.repeat(np.arange(len(counts)), counts)[arrays["scores"] < np.float32(floor)]
        for position in np.unique(low).tolist():
            yield position, f"scores: one is below {floor:g}"


def check_picture(path: Path, size: tuple[int, int]) -> None:
    """Check that a file is an 8-bit grey PNG of `size` (height, width) that decodes. Raises ValueError."""
    from PIL.PngImagePlugin import PngImageFile

    height, width = size
    head = _PNG_START + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0])
    with path.open("rb") as stream:
        if stream.read(len(head)) != head:
            raise ValueError(f"it is no 8-bit grey PNG of {width}x{height} pixels")
        try:
            # Not Image.open: it warns of pictures as large as images may be, and tries other formats.
            stream.seek(0)
            PngImageFile(stream).verify()  # all chunks are there and whole
            stream.seek(0)
            picture = PngImageFile(stream)
            picture.load()
        except Exception as error:  # whatever Pillow raises on bytes made to hurt it
            raise ValueError(f"it does not decode: {error}") from error
        if picture.mode != "L" or picture.size != (width, height):
            raise ValueError(f"it decodes to {picture.mode} of {picture.size}")


def check_canvas(path: Path, side: int) -> None:
    """Check that a file is a finite float32 array of at most `side` rows and columns. Raises ValueError."""
    content = path.read_bytes()
    header = _CANVAS_HEADER.match(content)  # numpy's own reader evaluates the header as Python
    if header is None or int.from_bytes(header[1], "little") + 10 != header.end():
        raise ValueError("it is no two-dimensional float32 array in numpy's format 1.0")
    rows, columns = int(header[2]), int(header[3])
    if not (0 < rows <= side and 0 < columns <= side):
        raise ValueError(f"it has {rows} rows and {columns} columns; the network's canvas has {side}")
    if len(content) - header.end() != 4 * rows * columns:
        raise ValueError("it is cut off or too long")
    if not np.isfinite(np.frombuffer(content, "<f4", offset=header.end())).all():
        raise ValueError("it has values that are not finite")


def check_mask_file(kind: MaskFiles, path: Path, size: tuple[int, int]) -> None:
    """Check a mask file of an image of `size` (height, width). Raises ValueError."""
    if kind.side:
        check_canvas(path, kind.side)
    else:
        check_picture(path, size)


def write_failed_shard(
    target: Path, number: int, files: Sequence[str], reasons: Sequence[str], rules: ShardRules
) -> ShardContent:
    """Write a shard whose images all failed, each with its reason. Replaces `target` in one step."""
    count = len(files)
    sizes: dict[int | str, int] = {"I": count, "I+1": count + 1, "N": 0, "N+1": 1, "M": 0, "A": rules.attributes}
    with NpzWriter(target, compress=False) as writer:
        for spec in SCHEMA:
            if not rules.has(spec.name) or (spec.optional and _is_free(spec.name)):
                continue
            shape = tuple(sizes[side] if isinstance(side, str) else side for side in spec.shape)
            writer.write_array(spec.name, np.zeros(shape, np.str_ if spec.dtype == "str" else spec.dtype)
                               if spec.name not in ("image_file", "status", "error", "image_scores")
                               else _failed_column(spec.name, files, reasons))  # fmt: skip
        meta = {"format": SHARD_FORMAT, "shard": number, "plan": rules.plan, "images": count}
        writer.write_array("meta", np.array(json.dumps(meta)))
    return ShardContent(count, count, 0)


def _failed_column(name: str, files: Sequence[str], reasons: Sequence[str]) -> NDArray[Any]:
    columns: dict[str, NDArray[Any]] = {
        "image_file": np.array(files, np.str_),
        "error": np.array(reasons, np.str_),
        "status": np.full(len(files), STATUS_FAILED, np.uint8),
        "image_scores": np.full(len(files), np.nan, np.float32),
    }
    return columns[name]

"""Make images readable for a warm worker: under its own mount, or as hard links or copies in the spool."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.errors import RuntimeUnsuitable, UsageError
from orchestrator.inputs.collect import InputImage, InputSet

COPY_LIMIT = 1 << 30
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


@dataclass(frozen=True)
class RootLocations:
    """For each input root, the folder as the worker sees it; and the roots that must be staged first."""

    seen_as: Mapping[int, PurePosixPath]
    to_stage: tuple[int, ...]


def locate_roots(
    roots: Sequence[Path], data: Path | None, guest_data: PurePosixPath, guest_staged: PurePosixPath
) -> RootLocations:
    """Return where the worker finds each root. Pure.

    `data` is the host's folder that the worker sees as `guest_data`.
    """
    seen_as: dict[int, PurePosixPath] = {}
    for number, root in enumerate(roots):
        if data is not None and root.is_relative_to(data):
            seen_as[number] = guest_data / root.relative_to(data).as_posix()
    to_stage = tuple(number for number in range(len(roots)) if number not in seen_as)
    return RootLocations({**seen_as, **{number: guest_staged / str(number) for number in to_stage}}, to_stage)


def read_copy_limit() -> int:
    """Return $ORCH_SPOOL_COPY_LIMIT in bytes (with K, M, G or T), by default 1 GiB. Raises UsageError."""
    text = os.environ.get("ORCH_SPOOL_COPY_LIMIT", "").strip().upper().removesuffix("IB").removesuffix("B")
    if not text:
        return COPY_LIMIT
    digits, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "")
    if not digits.isdigit():
        raise UsageError("ORCH_SPOOL_COPY_LIMIT must be a number of bytes", hint="ORCH_SPOOL_COPY_LIMIT=4G")
    return int(digits) << _UNITS.get(unit, 0)


def stage_images(inputs: InputSet, numbers: Sequence[int], folder: Path, limit: int, stack: str) -> str | None:
    """Link or copy these roots' images into `folder`/ROOT/ and return a line about it.

    Raises RuntimeUnsuitable, OSError.
    """
    count = size = 0
    for image in _of_roots(inputs, numbers):
        count, size = count + 1, size + image.size
    if not count:
        return None
    if _link_all(inputs, numbers, folder):
        return f"{count} images linked into the spool: the worker cannot read them where they are"
    if size > limit:
        shutil.rmtree(folder, ignore_errors=True)
        outside = inputs.roots[numbers[0]]
        raise RuntimeUnsuitable(
            f"the warm worker cannot read {outside}",
            why=f"{count} images of {size >> 20} MB are too large to copy (ORCH_SPOOL_COPY_LIMIT={limit >> 20}M)",
            hint=f"ORCH_DATA={outside} docker compose up -d; or: orch up {stack} --data {outside}",
        )
    for image in _of_roots(inputs, numbers):
        target = folder / image.path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(inputs.locate(image), target)  # with its time, by which workers know it is unchanged
    return f"{count} images ({size >> 20} MB) copied into the spool: the worker cannot read them where they are"


def _of_roots(inputs: InputSet, numbers: Sequence[int]) -> Iterator[InputImage]:
    """Yield the images of these roots one after another: there may be millions."""
    return (image for image in inputs.images if image.path and int(image.path.partition("/")[0]) in numbers)


def _link_all(inputs: InputSet, numbers: Sequence[int], folder: Path) -> bool:
    """Hard-link all images; False where that is impossible, which the first one shows."""
    for image in _of_roots(inputs, numbers):
        target = folder / image.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(inputs.locate(image), target)
        except OSError:  # another file system, or another user's file
            return False
    return True

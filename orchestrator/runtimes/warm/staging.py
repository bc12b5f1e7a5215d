"""Putting images where a warm worker sees them: by name under its own mount, else hard links or copies in the spool."""

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
class Placement:
    """For each input root, the folder as the worker sees it; and those roots whose images must be put there first."""

    seen_as: Mapping[int, PurePosixPath]
    to_stage: tuple[int, ...]


def place(
    roots: Sequence[Path], data: Path | None, guest_data: PurePosixPath, guest_staged: PurePosixPath
) -> Placement:
    """Where the worker finds each root. `data` is the host's folder behind `guest_data`. A pure value."""
    seen_as: dict[int, PurePosixPath] = {}
    for number, root in enumerate(roots):
        if data is not None and root.is_relative_to(data):
            seen_as[number] = guest_data / root.relative_to(data).as_posix()
    to_stage = tuple(number for number in range(len(roots)) if number not in seen_as)
    return Placement({**seen_as, **{number: guest_staged / str(number) for number in to_stage}}, to_stage)


def copy_limit() -> int:
    """$ORCH_SPOOL_COPY_LIMIT in bytes, with K, M, G or T; 1 GiB by default. Raises UsageError."""
    text = os.environ.get("ORCH_SPOOL_COPY_LIMIT", "").strip().upper().removesuffix("IB").removesuffix("B")
    if not text:
        return COPY_LIMIT
    digits, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "")
    if not digits.isdigit():
        raise UsageError("ORCH_SPOOL_COPY_LIMIT must be a number of bytes", hint="ORCH_SPOOL_COPY_LIMIT=4G")
    return int(digits) << _UNITS.get(unit, 0)


def stage(inputs: InputSet, numbers: Sequence[int], folder: Path, limit: int, stack: str) -> str | None:
    """Hard links or copies of these roots' images in `folder`/ROOT/; a line. Raises RuntimeUnsuitable, OSError."""
    count = size = 0
    for image in _of_roots(inputs, numbers):
        count, size = count + 1, size + image.size
    if not count:
        return None
    if _link_all(inputs, numbers, folder):
        return f"{count} images linked into the spool: no worker sees them where they are"
    if size > limit:
        shutil.rmtree(folder, ignore_errors=True)
        outside = inputs.roots[numbers[0]]
        raise RuntimeUnsuitable(
            f"the warm worker does not see {outside}",
            why=f"{count} images of {size >> 20} MB are too much to copy (ORCH_SPOOL_COPY_LIMIT={limit >> 20}M)",
            hint=f"ORCH_DATA={outside} docker compose up -d; or: orch up {stack} --data {outside}",
        )
    for image in _of_roots(inputs, numbers):
        target = folder / image.path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inputs.locate(image), target)
    return f"{count} images ({size >> 20} MB) copied into the spool: no worker sees them where they are"


def _of_roots(inputs: InputSet, numbers: Sequence[int]) -> Iterator[InputImage]:
    """One after the other: there may be millions."""
    return (image for image in inputs.images if image.path and int(image.path.partition("/")[0]) in numbers)


def _link_all(inputs: InputSet, numbers: Sequence[int], folder: Path) -> bool:
    """Hard links to all images; False where the file system has none, which the first one shows."""
    for image in _of_roots(inputs, numbers):
        target = folder / image.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            os.link(inputs.locate(image), target)
        except OSError:  # another file system, or somebody else's file
            return False
    return True

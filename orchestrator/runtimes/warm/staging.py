"""Make images readable for a warm worker: under its own mount, or as hard links or copies in the spool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator.errors import RuntimeUnsuitable, UsageError
from orchestrator.inputs import InputImage, InputSet
from orchestrator.system import GuestFileRefused, GuestTree, count_of

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


def stage_images(
    inputs: InputSet, numbers: Sequence[int], tree: GuestTree, folder: str, limit: int, stack: str
) -> str | None:
    """Link or copy these roots' images into `folder`/ROOT/ of a spool and return a line about it.

    What an earlier run left there is removed first, and is replaced where it cannot be. An image is linked only where
    the worker can never write to it. Raises RuntimeUnsuitable, OSError; nothing stays staged then.
    """
    try:
        return _stage(inputs, numbers, tree, folder, limit, stack)
    except BaseException:
        tree.remove_folder(folder)
        raise


def _stage(
    inputs: InputSet, numbers: Sequence[int], tree: GuestTree, folder: str, limit: int, stack: str
) -> str | None:
    count = size = 0
    for image in _of_roots(inputs, numbers):
        count, size = count + 1, size + image.size
    if not count:
        return None
    images = count_of(count, "image")
    tree.remove_folder(folder)
    if _link_all(inputs, numbers, tree, folder):
        return f"{images} linked into the spool: the worker cannot read them where they are"
    tree.remove_folder(folder)
    if size > limit:
        outside = inputs.roots[numbers[0]]
        raise RuntimeUnsuitable(
            f"the warm worker cannot read {outside}",
            why=f"{images} of {size >> 20} MB: more than is copied (ORCH_SPOOL_COPY_LIMIT={limit >> 20}M)",
            hint=f"ORCH_DATA={outside} docker compose up -d; or: orch up {stack} --data {outside}",
        )
    for image, name in _named(inputs, numbers, tree, folder):
        tree.put(name, inputs.locate(image))
    return f"{images} ({size >> 20} MB) copied into the spool: the worker cannot read them where they are"


def _of_roots(inputs: InputSet, numbers: Sequence[int]) -> Iterator[InputImage]:
    """Yield the images of these roots one after another: there may be millions."""
    return (image for image in inputs.images if image.path and int(image.path.partition("/")[0]) in numbers)


def _named(inputs: InputSet, numbers: Sequence[int], tree: GuestTree, folder: str) -> Iterator[tuple[InputImage, str]]:
    """Yield the images with the names that they get, whose folders are there."""
    made = ""
    for image in _of_roots(inputs, numbers):
        name = f"{folder}/{image.path}"
        parent = name.rpartition("/")[0]
        if parent != made:
            tree.make_folders(parent)
            made = parent
        yield image, name


def _link_all(inputs: InputSet, numbers: Sequence[int], tree: GuestTree, folder: str) -> bool:
    """Hard-link all images; False where that is impossible or unsafe, which mostly the first one shows."""
    reader = tree.status().st_uid
    if tree.is_shared or reader == os.geteuid():
        return False  # a group, or the worker as the owner of the images, could write to them
    try:
        return all(
            tree.put_link(name, inputs.locate(image), reader) for image, name in _named(inputs, numbers, tree, folder)
        )
    except GuestFileRefused:
        raise
    except OSError:  # another file system, or another user's file
        return False

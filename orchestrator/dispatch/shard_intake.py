"""Take what workers leave in their out folders into the run: copied, checked in full, then put into place.

A worker's out folder is its own and is read through GuestTree only. The run's shards/ is the host's own: no worker sees
it. A part, the finished beginning of a shard, is kept there when its worker ends, and the next worker gets a copy.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import RunError
from orchestrator.inputs import InputImage
from orchestrator.paths import GuestFolder, RunPaths
from orchestrator.plan import Plan, shard_rules
from orchestrator.predictions import CANVASES, PICTURES
from orchestrator.system import GuestFile, GuestTree, is_regular_file, remove, sync_path

if TYPE_CHECKING:
    from orchestrator.predictions import MaskFiles, ShardContent, ShardRules

SHARD_BYTES = 1 << 30
"""Most bytes of a shard file: it is checked in memory."""
_HOST_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
"""What only the host's own disk raises; anything else that fails is the worker's doing."""


Images = Sequence[InputImage]


class Intake(Protocol):
    """Takes results of workers. `take` and `take_parts` may be called from several threads."""

    def take(self, out: GuestFolder, number: int, images: Images) -> ShardContent | None:
        """Take a finished shard of these images; None if it was taken before. Raises ShardFault, RunError."""

    def take_parts(self, out: GuestFolder, shards: Mapping[int, Images]) -> None:
        """Keep the valid parts of unfinished shards. Raises nothing."""

    def give_part(self, out: GuestFolder, number: int) -> None:
        """Copy the part of a shard, if there is one, into the folder of the worker that will continue it."""

    def fail(self, number: int, reason: str) -> ShardContent:
        """Have all images of a shard fail with this reason. Raises RunError."""


class ShardIntake:
    """The intake of one run."""

    def __init__(self, plan: Plan, paths: RunPaths) -> None:
        self._paths, self._images_of = paths, plan.images_of
        self._make_rules: Callable[[], ShardRules] = lambda: shard_rules(plan)
        self._rules: ShardRules | None = None
        self._mask_files = plan.mask_files
        self._taken: set[int] = set()
        self._parts: dict[GuestFolder, dict[int, GuestFile]] = {}
        """The state of each part when it was last looked at: one that did not change is not copied again."""
        self._lock = threading.Lock()

    def take(self, out: GuestFolder, number: int, images: Images) -> ShardContent | None:
        """Copy a finished shard with its pictures, check it, and put it into shards/. Raises ShardFault, RunError."""
        if number in self._taken:
            return None
        with _host_errors_named(self._paths.shard(number)), self._opened(out) as tree:
            try:
                name, target = f"{out.name}/{number:05d}.npz", self._paths.shard(number)
                content = self._copy_checked(tree, out.name, name, number, images, target, is_part=False)
                self._complete(number)
                return content
            finally:  # what was taken or refused is not needed there any more
                folders = [f"{kind.folder}/{number:05d}" for kind in (PICTURES, CANVASES)]
                for left in (f"{number:05d}.npz", *folders):  # a worker may make a folder of each
                    tree.remove_folder(f"{out.name}/{left}")

    def take_parts(self, out: GuestFolder, shards: Mapping[int, Images]) -> None:
        """Keep the valid parts of shards that are not finished, for the next worker. Raises nothing."""
        for number, images in shards.items():
            if number in self._taken or self._paths.shard(number).exists():
                continue
            with suppress(Exception), self._opened(out) as tree:  # without a part its images are predicted again
                name = f"{out.name}/{number:05d}.part.npz"
                state = tree.state(name)
                if state is not None and self._parts.get(out, {}).get(number) != state:
                    with self._lock:
                        self._parts.setdefault(out, {})[number] = state
                    self._copy_checked(tree, out.name, name, number, images, self._paths.part(number), is_part=True)

    def take_leftovers(self, outs: Iterable[GuestFolder], numbers: Sequence[int]) -> list[int]:
        """Take what workers of an interrupted run left of missing shards; return those that still are. Raises RunError.

        Whether a shard was taken decides, not whether it has a file: that one may be damaged.
        """
        from orchestrator.predictions import ShardFault

        for out in outs:
            with suppress(OSError, ShardFault), self._opened(out) as tree:
                names = set(tree.names(out.name))
                left = {number: self._images_of(number) for number in numbers if _names(number) & names}
                for number, images in left.items():
                    with suppress(ShardFault):
                        self.take(out, number, images)
                self.take_parts(out, left)
        return [number for number in numbers if number not in self._taken]

    def give_part(self, out: GuestFolder, number: int) -> None:
        """Copy the part of a shard, if there is one, into the out folder of the worker that will continue it."""
        part = self._paths.part(number)
        if not is_regular_file(part):
            return
        with suppress(OSError), GuestTree(out.root) as tree:  # without it the worker only predicts more
            tree.put(f"{out.name}/{part.name}", part)

    def fail(self, number: int, reason: str) -> ShardContent:
        """Write a shard whose images all failed: those with a reason of their own by that, the others by `reason`."""
        from orchestrator.predictions import write_failed_shard

        images = self._images_of(number)
        reasons = [reason if image.error is None else image.error for image in images]
        with _host_errors_named(self._paths.shard(number)):
            content = write_failed_shard(
                self._paths.shard(number), number, [image.file for image in images], reasons, self._known_rules()
            )
            self._complete(number)
        return content

    # --- steps

    def _complete(self, number: int) -> None:
        sync_path(self._paths.shards)
        with self._lock:
            self._taken.add(number)
            for out, parts in list(self._parts.items()):
                parts.pop(number, None)
                if not parts:
                    del self._parts[out]
        remove(self._paths.part(number))

    def _copy_checked(
        self, tree: GuestTree, out: str, name: str, number: int, images: Images, target: Path, *, is_part: bool
    ) -> ShardContent:
        """Copy a shard or part aside, check the copy and its pictures, rename it to `target`."""
        from orchestrator.predictions import ShardFault, check_shard

        aside = self._paths.shards / f".{target.name}.{secrets.token_hex(4)}.tmp"
        try:
            try:
                tree.copy(name, aside, SHARD_BYTES)
            except OSError as error:
                _raise_if_host(error)
                raise ShardFault(f"its file cannot be taken: {error.strerror}") from error
            files = [image.file for image in images]
            content = check_shard(aside, number, files, self._known_rules(), is_part=is_part)
            for kind in self._mask_files:
                self._take_mask_files(tree, out, kind, number, images, content.predicted_sizes)
            os.replace(aside, target)
        except BaseException:
            remove(aside)
            raise
        return content

    def _take_mask_files(
        self,
        tree: GuestTree,
        out: str,
        kind: MaskFiles,
        number: int,
        images: Images,
        sizes: Mapping[int, tuple[int, int]],
    ) -> None:
        """Copy and check the mask file of each predicted image. Raises ShardFault that names the images at fault."""
        from orchestrator.predictions import ShardFault, check_mask_file

        faults: dict[int, str] = {}
        for position, size in sizes.items():
            target = kind.in_shard(self._paths.shards, number, images[position].index)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
            try:
                tree.copy(f"{out}/{kind.folder}/{number:05d}/{target.name}", aside, kind.most_bytes(size))
                check_mask_file(kind, aside, size)
                os.replace(aside, target)
            except FileNotFoundError:
                # Of images taken over from a part, the file may have been taken with the part.
                if not is_regular_file(target):
                    faults[position] = f"its {kind.words} is missing"
            except ValueError as error:
                faults[position] = f"its {kind.words} is refused: {error}"
            except OSError as error:
                _raise_if_host(error)
                faults[position] = f"its {kind.words} is refused: {error.strerror}"
            finally:
                remove(aside)
        if faults:
            raise ShardFault(next(iter(faults.values())), faults)

    @contextmanager
    def _opened(self, out: GuestFolder) -> Iterator[GuestTree]:
        from orchestrator.predictions import ShardFault

        try:
            tree = GuestTree(out.root)
        except OSError as error:
            raise ShardFault(f"its out folder cannot be opened: {error.strerror}") from error
        with tree:
            yield tree

    def _known_rules(self) -> ShardRules:
        # Made when first needed: that imports numpy, which would delay the start of workers.
        if self._rules is None:
            self._rules = self._make_rules()
        return self._rules


def _names(number: int) -> set[str]:
    return {f"{number:05d}.npz", f"{number:05d}.part.npz"}


def _raise_if_host(error: OSError) -> None:
    if error.errno in _HOST_ERRORS:
        raise error


@contextmanager
def _host_errors_named(target: Path) -> Iterator[None]:
    """Turn an error of the host's own disk into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {target}",
            why=error.strerror or str(error),
            hint="free disk space, then run the same command again: it resumes where it stopped",
        ) from error


def find_left_outs(paths: RunPaths) -> list[GuestFolder]:
    """Return the out folders of all workers whose job folders are there."""
    jobs = paths.job_folder("")
    folder, _, first = jobs.name.rpartition("/")
    try:
        with GuestTree(jobs.root) as tree:
            names = tree.names(folder)
    except OSError:
        return []
    return [paths.out(name.removeprefix(first)) for name in names if name.startswith(first) and name != "data"]


def remove_job_folders(folder: Path) -> None:
    """Remove the folder of all job folders, whose out folders guests wrote."""
    with suppress(OSError), GuestTree(folder.parent) as tree:
        tree.remove_folder(folder.name)

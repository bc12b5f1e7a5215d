"""The spool: a user's own folder, in it one folder per stack and variant, which that variant's workers have mounted.

What is below a variant's folder may be changed by its workers at any moment, and is reached through GuestTree only. The
reference of its files is orch_runner.serve.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RuntimeUnsuitable
from orchestrator.system import GuestFileRefused, GuestTree

TICKET_FORMAT = "orch-ticket/1"
TICKETS, CLAIMED, JOBS, WORKERS, DATA = FOLDERS = ("tickets", "claimed", "jobs", "workers", "data")
_SHARED = stat.S_ISGID | stat.S_IRWXG


class UnusableSpool(RuntimeUnsuitable):
    """A folder that is not a spool of the caller's, or that others can change."""


@dataclass(frozen=True)
class VariantSpool:
    """The folder of one stack's variant in a spool."""

    spool: Path
    """The user's folder, which no worker sees."""
    stack: str
    variant: str

    @property
    def name(self) -> str:
        """Return the folder's name."""
        return f"{self.stack}-{self.variant}"

    @property
    def root(self) -> Path:
        """Return the folder that workers have mounted."""
        return self.spool / self.name

    def open(self) -> GuestTree:
        """Check the spool and open the folder. Raises UnusableSpool, FileNotFoundError."""
        with _opened(self.spool) as spool:
            is_shared = check_spool(self.spool, spool.status())
            try:
                tree = spool.below(self.name)
            except GuestFileRefused as error:
                raise UnusableSpool(f"cannot use {self.root}", why=error.reason, hint=f"rm {self.root}") from error
            try:
                return _checked(tree, self, spool.status().st_gid if is_shared else None)
            except BaseException:
                tree.close()
                raise


def _opened(spool: Path) -> GuestTree:
    try:
        return GuestTree(spool)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "it is a link or no folder" if error.errno in (errno.ENOTDIR, errno.ELOOP) else error.strerror
        raise UnusableSpool(f"cannot use the spool {spool}", why=why, hint="name another: --spool DIR") from error


def check_spool(spool: Path, state: os.stat_result) -> bool:
    """Check the owner and the mode of a spool; return whether a group shares it. Raises UnusableSpool."""
    mode, me = stat.S_IMODE(state.st_mode), os.geteuid()
    what, more = f"cannot use the spool {spool}", "see docs/warm-workers.md, Several users"
    if mode & _SHARED == _SHARED and not mode & stat.S_IRWXO:
        if me != 0 and state.st_gid not in {os.getegid(), *os.getgroups()}:
            raise UnusableSpool(what, why=f"it belongs to the group {state.st_gid}, you are not in it", hint=more)
        return True
    if state.st_uid != me:
        raise UnusableSpool(
            what, why=f"it belongs to uid {state.st_uid}, you are uid {me}", hint=f"name another: --spool DIR; {more}"
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UnusableSpool(what, why=f"others can enter it: its mode is {mode:04o}", hint=f"chmod 700 {spool}")
    return False


def _checked(tree: GuestTree, spool: VariantSpool, group: int | None) -> GuestTree:
    state, me = tree.status(), os.geteuid()
    if group is None and me not in (0, state.st_uid):
        raise UnusableSpool(
            f"cannot use {spool.root}",
            why=f"it belongs to uid {state.st_uid}, you are uid {me}",
            hint="name another: --spool DIR",
        )
    if group is not None and (not tree.is_shared or state.st_gid != group):
        raise UnusableSpool(
            f"cannot use {spool.root}",
            why="it is not shared with the group of the spool",
            hint=f"chgrp -R {group} {spool.root}; chmod -R g+rwXs,o= {spool.root}",
        )
    return tree


def is_own_spool(spool: Path) -> bool:
    """Return whether a folder, no link to one, belongs to the caller."""
    try:
        state = spool.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid()


def close_to_others(spool: Path) -> None:
    """Take the rights of others from the caller's own spool, unless it is a group's."""
    with suppress(OSError), GuestTree(spool) as tree:
        state = tree.status()
        mode = stat.S_IMODE(state.st_mode)
        is_groups = tree.is_shared and not mode & stat.S_IRWXO
        if state.st_uid == os.geteuid() and mode & (stat.S_IRWXG | stat.S_IRWXO) and not is_groups:
            tree.set_mode(0o700)


def make_variant_folder(spool: VariantSpool, user: tuple[int, int], *, is_default: bool) -> None:
    """Make a variant's folder for workers that run as `user`, in a spool that only the caller or a group can enter.

    `is_default`: the spool is the one that orch itself chose, and is closed to others where it is not yet.
    Raises UnusableSpool, OSError.
    """
    try:
        spool.spool.parent.mkdir(parents=True, exist_ok=True)
        spool.spool.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UnusableSpool(f"cannot make the spool {spool.spool}", why=error.strerror, hint="--spool DIR") from error
    if is_default:
        close_to_others(spool.spool)
    with _opened(spool.spool) as tree:
        is_shared = check_spool(spool.spool, tree.status())
        owner = user if os.geteuid() == 0 and user[0] != 0 and not is_shared else None
        if owner is not None and _owner(tree, spool.name) not in (None, owner[0]):
            tree.remove_folder(spool.name)  # of workers of another user, who could not use it any more
        for name in (spool.name, *(f"{spool.name}/{folder}" for folder in FOLDERS)):
            with suppress(FileExistsError):
                tree.make_folder(name, owner)
        if owner is None and not is_shared:
            with tree.below(spool.name) as made:
                made.set_mode(0o700)


def variants_in(spool: Path) -> list[VariantSpool]:
    """Return the variants with a folder in a spool; none where it is no spool of the caller's."""
    try:
        with GuestTree(spool) as tree:
            check_spool(spool, tree.status())
            names = tree.names()
    except (OSError, UnusableSpool):
        return []
    split = (name.rpartition("-") for name in names if not name.startswith("."))
    return [VariantSpool(spool, stack, variant) for stack, _, variant in split if stack and variant]


def worker_group(spool: Path, group: int) -> int:
    """Return the group of a spool's workers: that of a shared spool, else `group`."""
    with suppress(FileNotFoundError), GuestTree(spool) as tree:
        if tree.is_shared:
            return tree.status().st_gid
    return group


def _owner(tree: GuestTree, name: str) -> int | None:
    try:
        with tree.below(name) as folder:
            return folder.status().st_uid
    except FileNotFoundError:
        return None


def given_to(tree: GuestTree) -> tuple[int, int] | None:
    """Return who must own what a worker writes to: the owner of its tree, where that is not the caller."""
    state = tree.status()
    return (state.st_uid, state.st_gid) if os.geteuid() == 0 != state.st_uid and not tree.is_shared else None

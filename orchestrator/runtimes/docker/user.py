"""The user that workers in containers run as: the caller, never root. Pure functions but for `calling_user`."""

from __future__ import annotations

import os

NOBODY = 65534
"""The user and group of root's workers: none runs as root."""


def calling_user() -> tuple[int, int]:
    """Return the user and group that called orch."""
    return os.getuid(), os.getgid()


def worker_user(caller: tuple[int, int], asked: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the user and group of a worker, as the host sees them: `asked`, else the caller's, nobody's for root."""
    if asked is not None:
        return asked
    return (NOBODY, NOBODY) if caller[0] == 0 else caller


def container_user(user: tuple[int, int], security: tuple[str, ...]) -> str:
    """Return the user as a container's setting.

    In a rootless engine, Docker's or Podman's, root inside is the caller outside and has no right that the caller
    lacks; other users inside are subordinate ids outside, which could write to none of the caller's folders. Podman's
    --userns=keep-id would give the caller's own number inside; its service takes that setting from no Docker client.
    """
    return "0:0" if "rootless" in security else f"{user[0]}:{user[1]}"


def folder_owner(user: tuple[int, int], caller: tuple[int, int], security: tuple[str, ...]) -> tuple[int, int] | None:
    """Return who must own the folders that a worker writes; None where the caller does."""
    return None if "rootless" in security or user == caller else user

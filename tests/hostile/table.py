"""The table of attacks: name, model, where it applies, what may come of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

STACKS = Path(__file__).parent / "stacks"
BRIGHT, FORGED = "hostile-bright", "hostile-forged"
IMAGES_ONLY = frozenset({0, 1})
"""The attack costs at most images or shards; the run ends, and its predictions are valid."""
ANY = frozenset({0, 1, 4, 5})
"""The attack may cost the run, as documented; what was predicted stays."""


@dataclass(frozen=True)
class Attack:
    """One attack. `batched`: it harms its own shard alone, so that a run may carry many of its kind."""

    name: str
    moment: str
    model: str = BRIGHT
    exits: frozenset[int] = IMAGES_ONLY
    batched: bool = True
    docker: bool = False
    """Whether it is tried in a container too, where host and guest are different users."""
    warm: bool = False
    """Whether it is tried in a warm worker too."""
    venv: bool = True
    hard_link: bool = False
    """Whether the guest itself makes a further name of a file of the host's, where it shares a file system with it."""
    follows: bool = False
    """Whether the guest itself writes through links that it made, wherever it may write: with the venv runtime."""


ALONE: Mapping[str, frozenset[int]] = {
    # Attacks of a whole worker, with the exit codes that may come of each.
    "flood-of-notices": IMAGES_ONLY,
    "flood-of-progress": IMAGES_ONLY,
    "flood-of-nonsense": IMAGES_ONLY,
    "flood-without-newline": IMAGES_ONLY,
    "failures-counted-wrong": IMAGES_ONLY,
    "seq-huge": IMAGES_ONLY,
    "done-of-all-shards": IMAGES_ONLY,
    "exit-from-inside": ANY,
    "bye-early": ANY,
    "bare-failure": ANY,
    "exit-zero-with-nothing-done": ANY,
    "exit-zero-while-loading": ANY,
    "exit-143": ANY,
    "kills-itself": ANY,
    "dies-after-part": ANY,
    "load-fails-with-escapes": frozenset({4, 5}),
    "image-fails-with-escapes": frozenset({1}),
    "prints-escapes": IMAGES_ONLY,
    "child-outlives-the-run": IMAGES_ONLY,
    "child-holds-the-events": IMAGES_ONLY,
    "ignores-sigterm": IMAGES_ONLY,
    "does-not-end": IMAGES_ONLY,
    "thread-talks-on": IMAGES_ONLY,
    "shard-changes-after-done": IMAGES_ONLY,
    "shard-grows-without-end": IMAGES_ONLY,
    "shard-shrinks": IMAGES_ONLY,
    "shard-swapped-for-link": IMAGES_ONLY,
    "masks-folder-swapped-for-link": ANY,
    "out-folder-swapped-for-link": ANY,
    "out-folder-is-link": ANY,
    "masks-folder-link": ANY,
    "masks-folder-fifo": ANY,
    "masks-of-others": IMAGES_ONLY,
    "shard-set-uid": IMAGES_ONLY,
    "folder-set-gid": IMAGES_ONLY,
    "folder-without-permissions": IMAGES_ONLY,
    "deep-tree": IMAGES_ONLY,
    "many-files": IMAGES_ONLY,
    "many-shards": IMAGES_ONLY,
    "plants-other-shards": IMAGES_ONLY,
    "plants-parts": IMAGES_ONLY,
    "plants-parts-and-dies": ANY,
    "part-link-and-dies": ANY,
    "part-fifo-and-dies": ANY,
    "part-hard-link-and-dies": ANY,
    "part-sparse-and-dies": ANY,
    "part-forged-and-dies": ANY,
    "writes-a-gigabyte": ANY,
    "cache-of-links": ANY,
    "cache-of-fifos": ANY,
    "npz-bomb": IMAGES_ONLY,
    "npz-names-bomb": IMAGES_ONLY,
}
DOCKER = """
    shard-link-to-secret shard-link-dangling shard-link-to-own-memory shard-hard-link-to-secret shard-two-names
    shard-fifo shard-socket shard-device shard-folder shard-set-uid folder-set-gid shard-without-permissions
    shard-swapped-for-link plants-other-shards plants-parts part-link-and-dies
    masks-folder-link masks-shard-folder-link picture-link picture-hard-link picture-fifo picture-set-uid
    masks-folder-swapped-for-link child-outlives-the-run child-holds-the-events ignores-sigterm cache-of-links
    odd-names deep-tree boxes-nan classes-negative seq-missing seq-text line-nested prints-escapes
    exit-zero-with-nothing-done flood-without-newline
"""
WARM = """
    shard-link-to-secret shard-fifo shard-set-uid shard-without-permissions shard-swapped-for-link plants-other-shards
    plants-parts part-link-and-dies part-fifo-and-dies part-sparse-and-dies part-hard-link-and-dies masks-folder-link
    masks-shard-folder-link picture-link masks-folder-swapped-for-link out-folder-is-link out-folder-swapped-for-link
    odd-names deep-tree boxes-nan seq-missing line-nested kills-itself exit-zero-with-nothing-done
"""
IN_CI = frozenset(
    {
        "part-link-and-dies", "shard-link-to-secret", "shard-fifo", "shard-set-uid", "picture-link", "boxes-nan",
        "seq-text", "masks-folder-link", "runs-as-root", "spool-new-jobs-swapped-for-links", "spool-reaper-led-outside",
        "spool-data-folder-is-link", "spool-staging-led-outside", "spool-heartbeat-claims-another-user",
        "spool-neighbours-reached",
    }
)  # fmt: skip
"""What was once shown to work in containers and warm workers: CI tries it again, and the rest is for each night."""
PICTURES = ("picture-", "masks-folder", "masks-shard-folder", "masks-of-others")
NOT_IN_A_CONTAINER = frozenset({"picture-hard-link", "shard-hard-link-to-secret"})
"""Another file system: the attack cannot be carried out there, and is tried all the same."""


def parameters(chosen: Iterable[Attack]) -> list[Any]:
    """Return attacks as parameters of a test that takes too long for CI but for IN_CI."""
    return [pytest.param(one, id=one.name, marks=() if one.name in IN_CI else pytest.mark.nightly) for one in chosen]


@cache
def attacks() -> tuple[Attack, ...]:
    """Return all attacks that the hostile stack can carry out."""
    return tuple(_attacks())


def _attacks() -> Iterator[Attack]:
    registered = _registry()
    unknown = {*ALONE, *DOCKER.split(), *WARM.split()} - registered.keys()
    assert not unknown, f"the table has attacks that the stack lacks: {sorted(unknown)}"
    for name, moment in registered.items():
        if name in IN_CONTAINERS:
            yield Attack(name, moment, batched=False, docker=True, warm=name != "looks-at-inputs", venv=False)
            continue
        if name.startswith("spool-"):
            yield Attack(name, moment, exits=ANY, batched=False, warm=True, venv=False)
            continue
        yield Attack(
            name,
            moment,
            FORGED if name.startswith(PICTURES) else BRIGHT,
            ALONE.get(name, IMAGES_ONLY),
            name not in ALONE,
            name in DOCKER.split(),
            name in WARM.split(),
            follows=name.startswith(("out-folder", "masks-folder")),
            hard_link=name.startswith(("picture-hard", "shard-hard", "part-hard")),
        )


def _registry() -> dict[str, str]:
    """Return the moments of the stack's attacks by their names."""
    folder = str(STACKS / "hostile")
    sys.path.insert(0, folder)
    try:
        for module in ("attack_arrays", "attack_events", "attack_files", "attack_spool"):
            importlib.import_module(module)
        return {name: one.moment for name, one in importlib.import_module("guest").ATTACKS.items()}
    finally:
        sys.path.remove(folder)


def groups(chosen: list[Attack], size: int) -> dict[str, tuple[Attack, ...]]:
    """Return for each attack those that share its run: of one model, `size` at most; alone where it must be."""
    found: dict[str, tuple[Attack, ...]] = {one.name: (one,) for one in chosen}
    for model in (BRIGHT, FORGED):
        batched = [one for one in chosen if one.batched and one.model == model]
        for start in range(0, len(batched), size):
            group = tuple(batched[start : start + size])
            found |= {one.name: group for one in group}
    return found


IN_CONTAINERS = frozenset({"runs-as-root", "looks-at-inputs", "reaches-the-host"})
"""What a guest can see and do only where nothing isolates it."""
INTERRUPTED = frozenset(
    {"spool-marks-are-links", "spool-marks-are-fifos", "spool-reaper-led-outside", "spool-staging-led-outside"}
)
"""Attacks on what the host does when its user stops a run and resumes it."""

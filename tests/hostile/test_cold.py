"""Attacks on cold runs: a predictor that is a process of this machine, and one in a container."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.hostile.arena import Arena, Fight
from tests.hostile.table import BRIGHT, FORGED, NOT_IN_A_CONTAINER, Attack, attacks, groups, parameters

SIZE = int(os.environ.get("ORCH_HOSTILE_BATCH", "10"))
"""Attacks that share a run as long as all goes well; where anything is wrong, each gets a run of its own."""
VENV = [one for one in attacks() if one.venv]
DOCKER = [one for one in attacks() if one.docker]
UNWIELDY = ("deep-tree", "many-", "spool-job-deep-tree", "spool-many-")
_FIGHTS: dict[tuple[str, str], Fight] = {}


def fight(arena: Arena, attack: Attack, chosen: list[Attack]) -> Fight:
    """Return the run that shows what came of an attack: one that it shares with others, or its own."""
    group = groups(chosen, SIZE)[attack.name]
    if len(group) > 1:
        key = (str(arena.folder), group[0].name + "+")
        if key not in _FIGHTS:
            _FIGHTS[key] = arena.fight(group)
        if not _FIGHTS[key].faults:
            return _FIGHTS[key]
    return arena.fight([attack])


def tidy(attack: Attack, fought: Fight, *, failed: bool) -> None:
    """Remove what an attack left, except what shows why it failed; trees that Python cannot remove in any case."""
    if not failed or attack.name.startswith(UNWIELDY):
        subprocess.run(["rm", "-rf", str(fought.out.parent)], check=False, capture_output=True, timeout=300)


def check(attack: Attack, fought: Fight) -> None:
    """The attack took place, and nothing came of it but the loss of images that it owned."""
    faults = [*fought.faults, *fought.victims.get(attack.name, ())]
    if attack.name not in fought.carried_out:
        faults.append("the attack did not take place")
    if not attack.batched:
        tidy(attack, fought, failed=bool(faults))
    if faults:
        pytest.fail("\n".join([f"{attack.name}:", *faults, "", str(fought.done)]), pytrace=False)


@pytest.mark.parametrize("attack", VENV, ids=lambda one: one.name)
def test_a_hostile_process(venv_arena: Arena, attack: Attack) -> None:
    check(attack, fight(venv_arena, attack, VENV))


@pytest.mark.docker
@pytest.mark.parametrize("attack", parameters(DOCKER))
def test_a_hostile_container(docker_arena: Arena, attack: Attack) -> None:
    chosen = [one for one in DOCKER if one.name not in NOT_IN_A_CONTAINER]
    check(attack, fight(docker_arena, attack, chosen if attack in chosen else [attack]))


def door(arena: Arena) -> None:
    """In all commands so far, and an honest run at least, no code but the door's reached what a guest can write."""
    for model in (BRIGHT, FORGED):
        arena.honest_run(model)
    if arena.calls:
        lines = sorted(f"{call}: {path}" for call, path in arena.calls.items())
        pytest.fail("\n".join(["outside the door:", *lines]), pytrace=False)


def test_only_the_door_reaches_what_a_process_can_write(venv_arena: Arena) -> None:
    door(venv_arena)


@pytest.mark.docker
def test_only_the_door_reaches_what_a_container_can_write(docker_arena: Arena) -> None:
    door(docker_arena)


def test_there_are_enough_attacks() -> None:
    assert len(attacks()) >= 60

"""Attacks by a warm worker in a container, through the spool that it shares with its host."""

from __future__ import annotations

import pytest

from tests.hostile.table import Attack, attacks, parameters
from tests.hostile.test_cold import check, door, fight
from tests.hostile.warm_arena import WarmArena

pytestmark = pytest.mark.docker
WARM = [one for one in attacks() if one.warm]


@pytest.mark.parametrize("attack", parameters(WARM))
def test_a_hostile_warm_worker(warm_arena: WarmArena, attack: Attack) -> None:
    check(attack, fight(warm_arena, attack, WARM))


def test_only_the_door_reaches_what_a_warm_worker_can_write(warm_arena: WarmArena) -> None:
    warm_arena.start_worker()
    door(warm_arena)

"""Pruning a real engine, kept to a stack whose name nobody else has: older images, ended containers, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.runtimes.base import BuildOptions, Prepared
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.container_engine import connect
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.prune.engine import engine_leftovers
from orchestrator.workflows.prune.leftovers import Leftover, Scope
from orchestrator.workflows.prune.prune import remove_leftovers
from tests.unit.stack_samples import stack_document, write_stack

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("orch_home")]


class Own:
    """A stack of this test's own: built, edited and looked at."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = f"prune-{uuid4().hex[:12]}", folder
        write_stack(folder, stack_document(stack=self.name))

    def build(self) -> Prepared:
        stack = load_catalog([self.folder]).stacks[self.name]
        return get_runtime("docker").prepare(stack, "cpu", BuildOptions(), SilentDisplay().detail)

    def edit(self) -> None:
        with (self.folder / "predictor.py").open("a") as predictor:
            predictor.write(f"# {uuid4()}\n")

    def leftovers(self, everything: bool = False) -> list[Leftover]:
        found, notes = engine_leftovers(load_catalog([self.folder]), Scope(everything, [self.name]))
        assert notes == []
        return found

    def names(self, everything: bool = False) -> set[str]:
        return {one.name for one in self.leftovers(everything)}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """The stack; whatever it left in the engine is gone afterwards."""
    stack = Own(tmp_path / "stack")
    yield stack
    client, label = connect().client, {"label": f"{LABEL}.stack={stack.name}"}
    for container in client.containers.list(all=True, filters=label):
        container.remove(force=True)
    for image in client.images.list(filters=label):
        client.images.remove(image.id, force=True)


def container(image: str, **options: Any) -> Any:
    """A container that sleeps."""
    return connect().client.containers.run(image, ["sleep", "600"], detach=True, network_mode="none", **options)


def test_an_older_image_goes_once_nothing_uses_it_and_the_current_one_stays(own: Own) -> None:
    old = own.build()
    own.edit()
    new = own.build()
    sleeper = container(old.location)
    try:
        assert own.names(everything=True) == {new.location}, "an image in use was offered"
        sleeper.kill()
        assert own.names() == set(), "a container that ended and is not orch's uses it too"
    finally:
        sleeper.remove(force=True)
    assert own.names() == {old.location}
    assert [one.name for one in remove_leftovers(own.leftovers()).removed] == [old.location]
    assert own.names() == set()
    assert own.names(everything=True) == {new.location}
    assert [one.name for one in remove_leftovers(own.leftovers(everything=True)).removed] == [new.location]
    assert not connect().client.images.list(f"orch/{own.name}"), "a name of it is left"


def test_an_image_that_came_into_use_meanwhile_stays(own: Own) -> None:
    old = own.build()
    own.edit()
    (leftover,) = own.leftovers()
    sleeper = container(old.location)
    try:
        ((_, reason),) = remove_leftovers([leftover]).kept
        assert "container" in reason
    finally:
        sleeper.remove(force=True)


def test_images_built_on_another_base_are_current(own: Own) -> None:
    client, base = connect().client, own.build()
    client.images.get(base.location).tag("prune-test-base", own.name)
    try:
        stack = load_catalog([own.folder]).stacks[own.name]
        options = BuildOptions(base_image=f"prune-test-base:{own.name}")
        other = get_runtime("docker").prepare(stack, "cpu", options, SilentDisplay().detail)
        assert other.location != base.location
        assert own.names() == set()
    finally:
        client.images.remove(f"prune-test-base:{own.name}")


def test_what_somebody_derived_from_an_image_is_never_offered(own: Own, tmp_path: Path) -> None:
    old = own.build()
    derived = f"derived-{own.name}:latest"
    (tmp_path / "Dockerfile").write_text(f"FROM {old.location}\nLABEL mine=1\n")
    connect().client.images.build(path=str(tmp_path), tag=derived, rm=True)
    own.edit()
    try:
        assert own.names(everything=True) == {old.location}
    finally:
        connect().client.images.remove(derived)


def test_containers_of_runs_go_when_they_have_ended_for_a_while(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    image = own.build().location
    labels = {f"{LABEL}.run": uuid4().hex[:12], f"{LABEL}.stack": own.name}
    ended, running, foreign = container(image, labels=labels), container(image, labels=labels), container(image)
    try:
        ended.kill()
        ended.wait()
        foreign.kill()
        foreign.wait()
        assert own.names() == set(), "it ended just now: its run may still read it"
        monkeypatch.setattr("orchestrator.workflows.prune.engine.SETTLED_SECONDS", -60)
        assert own.names() == {ended.name}
        assert len(remove_leftovers(own.leftovers()).removed) == 1
        assert own.names() == set()
        assert {one.id for one in connect().client.containers.list(all=True)} >= {running.id, foreign.id}
    finally:
        running.remove(force=True)
        foreign.remove(force=True)

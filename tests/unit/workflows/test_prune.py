"""`orch prune`: what counts as left behind, in the engine's lists and in the cache, and what is never touched."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import Catalog, load_catalog
from orchestrator.catalog.upstream_code import tree_folder
from orchestrator.cli import main
from orchestrator.errors import MachineError
from orchestrator.hardware.gpu_code import LABEL
from orchestrator.paths import build_logs_folder, environments_folder, home, weights_folder, worker_cache_folder
from orchestrator.runtimes.environments import environment_folder
from orchestrator.system.locks import hold_lock
from orchestrator.workflows.prune.engine import EngineImage, current_variants, engine_leftovers, why_unneeded
from orchestrator.workflows.prune.files import file_leftovers, size_of
from orchestrator.workflows.prune.leftovers import Scope
from orchestrator.workflows.prune.prune import find_leftovers, remove_leftovers
from tests.unit.stack_samples import stack_document, write_stack

Captured = pytest.CaptureFixture[str]
NEEDLESS = Scope()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of this machine is other people's too."""

    def connect() -> None:
        raise MachineError("no container engine answers")

    monkeypatch.setattr("orchestrator.workflows.prune.engine.connect", connect)
    monkeypatch.setattr("orchestrator.runtimes.docker.runtime.connect", connect)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """The built-in stacks and one named tiny, with a source."""
    source = {"url": "https://example.org/up.git", "commit": COMMIT}
    write_stack(tmp_path / "stacks" / "tiny", stack_document(sources={"up": source}))
    return load_catalog([tmp_path / "stacks"])


# ---- images ----------------------------------------------------------------------------------------------------------


def image(
    identity: str = "old", *tags: str, content: str = "old", stack: str = "tiny", variant: str = "cpu"
) -> EngineImage:
    labels = {"stack": stack, "variant": variant, "identity": identity, "content": content}
    return EngineImage("sha256:1", tags, {f"org.orch.{name}": value for name, value in labels.items()}, 5)


def why(one: EngineImage, catalog: Catalog, scope: Scope = NEEDLESS) -> str | None:
    return why_unneeded(one, catalog, current_variants(catalog), scope)


def test_images_of_an_older_identity_can_go_and_current_ones_stay(catalog: Catalog) -> None:
    now = current_variants(catalog)["tiny", "cpu"]
    assert why(image("old", "orch/tiny:cpu-old"), catalog) == "an older cpu of tiny"
    assert why(image("old", "localhost/orch/tiny:cpu-old"), catalog) == "an older cpu of tiny"
    assert why(image("old", "orch/tiny:cpu-old", "orch/tiny:cpu"), catalog) == "an older cpu of tiny"
    assert why(image("old"), catalog) == "replaced by a build of the same name"
    assert why(image(now.identity, f"orch/tiny:cpu-{now.identity}"), catalog) is None
    assert why(image("of-a-base", "orch/tiny:cpu-of-a-base", content=now.content), catalog) is None


def test_another_base_or_argument_is_the_same_content(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = current_variants(catalog)["tiny", "cpu"]
    monkeypatch.setenv("ORCH_BASE_IMAGE", "another")
    after = current_variants(catalog)["tiny", "cpu"]
    assert (after.content, after.identity != before.identity) == (before.content, True)


def test_a_variant_that_needs_an_argument_has_a_content_too(catalog: Catalog) -> None:
    assert ("fformer", "cu111") in current_variants(catalog)


def test_images_that_are_not_orchs_alone_are_never_touched(catalog: Catalog) -> None:
    for scope in (Scope(), Scope(everything=True)):
        assert why(image("old", "mine:latest"), catalog, scope) is None, "derived: it inherits the labels"
        assert why(image("old", "orch/tiny:cpu-old", "mine:latest"), catalog, scope) is None
        assert why(EngineImage("sha256:1", ("orch/tiny:cpu-old",), {}, 5), catalog, scope) is None
        assert why(EngineImage("sha256:1", (), {"org.orch.stack": "tiny"}, 5), catalog, scope) is None


def test_stacks_that_are_not_known_here_stay_unless_all_is_asked_for(catalog: Catalog) -> None:
    strange = image("old", "orch/strange:cpu-old", stack="strange")
    assert why(strange, catalog) is None
    assert why(strange, catalog, Scope(everything=True)) == "--all"
    gone = image("old", "orch/tiny:cu99-old", variant="cu99")
    assert why(gone, catalog) == "tiny has no variant cu99 any more"


def test_what_was_made_lately_stays_where_that_is_asked_for(catalog: Catalog) -> None:
    new = dataclasses.replace(image("old", "orch/tiny:cpu-old"), made=time.time() - 86400)
    assert why(new, catalog, Scope(days=2)) is None
    assert why(new, catalog, Scope(everything=True, days=2)) is None
    assert why(new, catalog, Scope(days=0.5)) == "an older cpu of tiny"
    folder = filled(environments_folder() / "tiny-cpu-0123456789ab")
    source = filled(home() / "sources" / f"up-{'f' * 12}-00000000")
    assert found(catalog, Scope(days=2)) == {}
    for old in (folder, source):
        os.utime(old, (time.time() - 3 * 86400,) * 2)
    assert set(found(catalog, Scope(days=2))) == {folder.name, source.name}


def test_a_scope_keeps_to_its_stacks(catalog: Catalog) -> None:
    one = image("old", "orch/tiny:cpu-old")
    assert why(one, catalog, Scope(stacks=["tiny"])) is not None
    assert why(one, catalog, Scope(everything=True, stacks=["garments"])) is None


# ---- the engine's lists ----------------------------------------------------------------------------------------------

OLD = {f"{LABEL}.{name}": value for name, value in
       {"stack": "tiny", "variant": "cpu", "identity": "old", "content": "old"}.items()}  # fmt: skip
RUN = {f"{LABEL}.run": "run1", f"{LABEL}.stack": "tiny"}
OFFERED_IMAGE = ("image", "orch/tiny:cpu-old")


class FakeEngine:
    """An engine with one old image of tiny and the containers given, as the SDK's low-level client lists them."""

    def __init__(self, containers: list[dict[str, Any]], ended_before: float, ahead: float = 0) -> None:
        """`ahead`: seconds that its clock is ahead of this machine's."""
        self._containers, self._ended, self._ahead = containers, ended_before, ahead
        self.client = self.api = self

    def containers(self, all: bool) -> list[dict[str, Any]]:
        assert all, "ended containers too"
        return self._containers

    def inspect_container(self, identifier: str) -> dict[str, Any]:
        moment = self._time(-self._ended)
        state = next(one["State"] for one in self._containers if one["Id"] == identifier)
        never = "0001-01-01T00:00:00Z"
        return {"Created": moment, "State": {"FinishedAt": moment if state == "exited" else never}}

    def info(self) -> dict[str, Any]:
        return {"SystemTime": self._time(0)}

    def _time(self, after: float) -> str:
        moment = datetime.fromtimestamp(time.time() + self._ahead + after, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")

    def images(self, filters: dict[str, str]) -> list[dict[str, Any]]:
        assert filters == {"label": f"{LABEL}.identity"}
        return [{"Id": "sha256:1", "RepoTags": ["orch/tiny:cpu-old"], "Labels": OLD, "Size": 5, "Created": 1}]

    def remove_container(self, identifier: str) -> None:
        raise AssertionError("listing removes nothing")

    remove_image = remove_container


def listed_container(
    state: str, labels: dict[str, str] | None, image: str = "sha256:1", number: str = "1"
) -> dict[str, Any]:
    return {"Id": f"c{number}", "ImageID": image, "State": state, "Labels": labels, "Names": [f"/box{number}"]}


def offered(
    monkeypatch: pytest.MonkeyPatch,
    catalog: Catalog,
    *containers: dict[str, Any],
    ended_before: float = 3600,
    ahead: float = 0,
) -> list[tuple[str, str]]:
    """What of the engine is offered for removal, in order."""
    engine = FakeEngine(list(containers), ended_before, ahead)
    monkeypatch.setattr("orchestrator.workflows.prune.engine.connect", lambda: engine)
    leftovers, notes = engine_leftovers(catalog, Scope(stacks=["tiny"]))
    assert notes == []
    return [(one.kind, one.name) for one in leftovers]


@pytest.mark.parametrize("labels", [None, RUN])
@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
def test_an_image_in_use_is_never_offered(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, state: str, labels: dict[str, str] | None
) -> None:
    assert offered(monkeypatch, catalog, listed_container(state, labels)) == []
    other = listed_container(state, labels, image="sha256:2")
    assert offered(monkeypatch, catalog, other) == [OFFERED_IMAGE]


def test_a_container_that_ended_and_is_not_orchs_uses_its_image(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered(monkeypatch, catalog, listed_container("exited", {})) == []
    both = listed_container("exited", RUN), listed_container("running", RUN, number="2")
    assert offered(monkeypatch, catalog, *both) == [("container", "box1")], "another one still uses the image"


@pytest.mark.parametrize("state", ["exited", "created", "dead"])
def test_a_container_is_offered_with_its_image_ten_minutes_after_its_end(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    ended = listed_container(state, RUN)
    for seconds in (0, 30, 590):
        for ahead in (0, -3600):  # an engine on another machine, whose clock is behind
            offers = offered(monkeypatch, catalog, ended, ended_before=seconds, ahead=ahead)
            assert offers == [], "its run may still read it"
    assert offered(monkeypatch, catalog, ended, ended_before=620) == [("container", "box1"), OFFERED_IMAGE]


def test_ten_minutes_must_have_passed_wholly(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    ended = listed_container("exited", RUN)
    assert offered(monkeypatch, catalog, ended, ended_before=600) == []
    assert offered(monkeypatch, catalog, ended, ended_before=601) == [("container", "box1"), OFFERED_IMAGE]


def test_a_container_of_another_stack_or_that_is_gone_is_not_offered(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = listed_container("exited", {**RUN, f"{LABEL}.stack": "other"})
    assert offered(monkeypatch, catalog, foreign) == []

    def gone(engine: FakeEngine, identifier: str) -> None:
        raise RuntimeError("no such container")

    monkeypatch.setattr(FakeEngine, "inspect_container", gone)
    assert offered(monkeypatch, catalog, listed_container("exited", RUN)) == []


# ---- files -----------------------------------------------------------------------------------------------------------


def filled(folder: Path, count: int = 1) -> Path:
    """A folder with files of 4096 bytes."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / str(number)).write_bytes(b"x" * 4096)
    return folder


@contextmanager
def process(argument: str) -> Iterator[None]:
    """Somebody's process with that on its command line, once it is really there."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield
        running.communicate()


def found(catalog: Catalog, scope: Scope = NEEDLESS) -> dict[str, str]:
    return {Path(one.name).name: one.why for one in file_leftovers(catalog, scope)}


def tiny_environment(catalog: Catalog) -> Path:
    stack = catalog.stacks["tiny"]
    return environment_folder("tiny-cpu", stack.folder / "cpu.lock", ("3.11",))


def test_environments_of_older_locks_can_go(catalog: Catalog) -> None:
    current = filled(tiny_environment(catalog))
    filled(environments_folder() / "tiny-cpu-0123456789ab")
    filled(environments_folder() / "facere-convert-0123456789ab")
    filled(environments_folder() / "strange-cpu-0123456789ab")
    (environments_folder() / ".tiny-cpu-0123456789ab.lock").touch()
    assert found(catalog) == {
        "facere-convert-0123456789ab": "made from an older lock of facere-convert",
        "tiny-cpu-0123456789ab": "made from an older lock of tiny-cpu",
    }
    assert set(found(catalog, Scope(everything=True, stacks=["tiny"]))) == {current.name, "tiny-cpu-0123456789ab"}
    assert "strange-cpu-0123456789ab" in found(catalog, Scope(everything=True))


def test_an_environment_goes_whole_and_weights_stay(catalog: Catalog) -> None:
    old, current = filled(environments_folder() / "tiny-cpu-0123456789ab", 3), filled(tiny_environment(catalog))
    kept = filled(weights_folder("tiny", "tiny-model"))
    done = remove_leftovers(list(file_leftovers(catalog, Scope())))
    assert [(one.name, one.bytes) for one in done.removed] == [(str(old), 3 * 4096)]
    assert not old.exists()
    assert not list(environments_folder().glob(".pruned-*"))
    remove_leftovers(list(file_leftovers(catalog, Scope(everything=True))))
    assert not current.exists()
    assert kept.is_dir()


def test_what_a_process_uses_or_makes_stays(catalog: Catalog) -> None:
    old = filled(environments_folder() / "tiny-cpu-0123456789ab")
    (leftover,) = file_leftovers(catalog, Scope())
    with hold_lock(old.with_name(f".{old.name}.lock"), wait=False):
        assert remove_leftovers([leftover]).kept == ((leftover, "another orch process is using it"),)
    with process(f"{old}/bin/python"):
        assert remove_leftovers([leftover]).kept == ((leftover, "a process uses it"),)
    (old / ".uses").mkdir()
    (old / ".uses" / "another-node-17").touch()
    why = "another-node uses it, or did in the last 14 days"
    assert remove_leftovers([leftover]).kept == ((leftover, why),)
    os.utime(old / ".uses" / "another-node-17", (1, 1))
    assert old.is_dir()
    assert remove_leftovers([leftover]).removed == (leftover,)


def test_what_an_interrupted_removal_left_goes_the_next_time(catalog: Catalog) -> None:
    filled(environments_folder() / ".pruned-tiny-cpu-0123456789ab")
    assert found(catalog) == {".pruned-tiny-cpu-0123456789ab": "partly removed"}
    remove_leftovers(list(file_leftovers(catalog, Scope())))
    assert found(catalog) == {}


def test_sources_of_other_commits_can_go(catalog: Catalog) -> None:
    source = catalog.stacks["tiny"].spec.sources["up"]
    current = filled(tree_folder("up", source)).parent
    old = filled(current.with_name(f"up-{'f' * 12}-00000000"))
    filled(current.with_name(f"strange-{'f' * 12}-00000000"))
    assert found(catalog) == {old.name: "another commit of up than the one of tiny"}
    remove_leftovers(list(file_leftovers(catalog, Scope())))
    assert (current.is_dir(), old.exists()) == (True, False)


def test_old_logs_and_self_tests_can_go(catalog: Catalog) -> None:
    logs, month_ago = filled(build_logs_folder(), 2), time.time() - 30 * 86400
    os.utime(logs / "0", (month_ago, month_ago))
    old, new = (filled(home() / "selftest" / f"tiny-model-venv-{name}") for name in ("any", "cpu"))
    os.utime(old, (month_ago, month_ago))
    assert found(catalog) == {"0": "30 days old", old.name: "the next self-test makes it again"}
    assert {"0", "1", old.name, new.name} == set(found(catalog, Scope(everything=True)))


def test_worker_caches_go_with_all_and_not_while_workers_run(catalog: Catalog) -> None:
    cache = filled(worker_cache_folder("tiny", "cpu"))
    assert found(catalog) == {}
    (leftover,) = file_leftovers(catalog, Scope(everything=True, stacks=["tiny"]))
    with process("orch_runner"):
        assert remove_leftovers([leftover]).kept == ((leftover, "workers are running on this machine"),)
    assert cache.is_dir()


def test_hard_links_are_counted_once(tmp_path: Path) -> None:
    folder = filled(tmp_path / "x", 2)
    os.link(folder / "0", folder / "link")
    assert size_of(folder) == 2 * 4096


# ---- the command line ------------------------------------------------------------------------------------------------


def run(capsys: Captured, *arguments: str) -> dict[str, Any]:
    assert main(["prune", "--json", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_a_dry_run_removes_nothing_and_yes_removes_it(catalog: Catalog, capsys: Captured) -> None:
    old = filled(environments_folder() / "garments-cpu-0123456789ab")
    shown = run(capsys, "--dry-run")
    expected = {
        "kind": "environment",
        "name": str(old),
        "bytes": 4096,
        "why": "made from an older lock of garments-cpu",
    }
    assert (shown["found"], shown["bytes"], "removed" in shown) == ([expected], 4096, False)
    assert shown["notes"] == ["no container engine answers: images and containers were not searched"]
    assert old.is_dir()
    assert run(capsys, "--yes")["removed"] == [str(old)]
    assert not old.exists()
    assert main(["prune", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_without_anybody_to_ask_nothing_is_removed(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    filled(environments_folder() / "garments-cpu-0123456789ab")
    assert main(["prune", *arguments]) == 2
    out, err = capsys.readouterr()
    assert "cannot ask for confirmation" in out + err
    assert (environments_folder() / "garments-cpu-0123456789ab").is_dir()


def test_what_could_not_be_removed_is_told(catalog: Catalog, capsys: Captured) -> None:
    old = filled(environments_folder() / "garments-cpu-0123456789ab")
    with hold_lock(old.with_name(f".{old.name}.lock"), wait=False):
        kept = run(capsys, "--yes")["kept"]
    assert kept == [{"name": str(old), "why": "another orch process is using it"}]


def test_everything_is_found_by_the_one_function(catalog: Catalog) -> None:
    filled(environments_folder() / "tiny-cpu-0123456789ab")
    leftovers, notes = find_leftovers(catalog, Scope(stacks=["tiny"]))
    assert [one.kind for one in leftovers] == ["environment"]
    assert len(notes) == 1

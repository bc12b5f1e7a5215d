"""Upstream code: real git repositories on this machine, reached as if they were on the internet."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from orchestrator.catalog.loader import StackEntry
from orchestrator.catalog.upstream_code import ensure_sources, source_state, tree_folder
from orchestrator.cli import main
from orchestrator.errors import MachineError, SpecError
from orchestrator.paths import build_logs_folder
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.docker.runtime import DockerRuntime
from orchestrator.runtimes.venv import VenvRuntime
from tests.unit.runtimes.test_venv import prepared, worker_spec
from tests.unit.stack_samples import stack_document, stack_entry, write_stack
from tests.upstream import FILES, Upstream

URL = Upstream.url


def stack_of(upstream: Upstream, folder: Path, **changes: object) -> StackEntry:
    source = {"url": URL, "commit": upstream.commit, "folders": ["net"], **changes}
    return stack_entry(folder, sources={"net": source})


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    repository = Upstream(tmp_path / "upstream")
    repository.stand_in(monkeypatch, tmp_path / "home")
    return repository


def files_of(tree: Path) -> set[str]:
    return {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}


def fetch(stack: StackEntry, *, offline: bool = False) -> Path:
    return ensure_sources(stack.name, stack.spec.sources, lambda line: None, offline=offline)["net"]


@pytest.mark.parametrize("partial", [False, True])
def test_only_the_folders_of_the_commit_are_fetched(upstream: Upstream, tmp_path: Path, partial: bool) -> None:
    upstream.git("config", "uploadpack.allowFilter", str(partial).lower())
    stack = stack_of(upstream, tmp_path / "s")
    tree = fetch(stack)
    assert tree == tree_folder("net", stack.spec.sources["net"])
    assert files_of(tree) == {"net/model.py", "net/deep/layer.py", "net/link"}
    assert (tree / "net" / "model.py").read_text() == "one"
    assert not (tree / "net" / "link").is_symlink(), "a link may lead out of the folder"


def test_a_source_without_folders_is_fetched_whole(upstream: Upstream, tmp_path: Path) -> None:
    assert files_of(fetch(stack_of(upstream, tmp_path / "s", folders=[]))) == {*FILES, "net/link"}


def test_a_missing_object_elsewhere_in_the_repository_does_not_matter(upstream: Upstream, tmp_path: Path) -> None:
    """Some servers have lost files of old repositories; a partial fetch never asks for them."""
    upstream.git("config", "uploadpack.allowFilter", "true")
    upstream.git("config", "uploadpack.allowAnySHA1InWant", "true")
    blob = upstream.git("rev-parse", f"{upstream.commit}:data/huge.bin")
    (upstream.folder / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    assert (fetch(stack_of(upstream, tmp_path / "s")) / "net" / "model.py").read_text() == "one"


def test_what_is_there_needs_no_network(upstream: Upstream, tmp_path: Path) -> None:
    stack = stack_of(upstream, tmp_path / "s")
    assert source_state("net", stack.spec.sources["net"]) == "missing"
    tree = fetch(stack)
    shutil.rmtree(upstream.folder)
    assert fetch(stack) == fetch(stack, offline=True) == tree
    assert source_state("net", stack.spec.sources["net"]) == "here"


def test_bytecode_beside_the_files_changes_nothing(upstream: Upstream, tmp_path: Path) -> None:
    stack = stack_of(upstream, tmp_path / "s")
    cached = fetch(stack) / "net" / "__pycache__"
    cached.mkdir()
    (cached / "model.pyc").write_bytes(b"0")
    assert fetch(stack, offline=True) == cached.parent.parent


@pytest.mark.parametrize("damage", ["changed", "deleted", "added", "manifest"])
def test_a_damaged_cache_is_noticed_and_fetched_again(upstream: Upstream, tmp_path: Path, damage: str) -> None:
    stack = stack_of(upstream, tmp_path / "s")
    tree = fetch(stack)
    if damage == "changed":
        (tree / "net" / "model.py").write_text("evil")
    elif damage == "deleted":
        (tree / "net" / "model.py").unlink()
    elif damage == "added":
        (tree / "net" / "more.py").write_text("evil")
    else:
        (tree.parent / "source.json").write_text("[]")
    assert source_state("net", stack.spec.sources["net"]) == "damaged"
    with pytest.raises(MachineError, match="not in the cache") as caught:
        fetch(stack, offline=True)
    assert caught.value.hint == "on a machine with a network: orch sources fetch tiny"
    assert (fetch(stack) / "net" / "model.py").read_text() == "one"
    assert "net/more.py" not in files_of(tree)


def test_a_repository_that_cannot_be_reached(upstream: Upstream, tmp_path: Path) -> None:
    stack = stack_of(upstream, tmp_path / "s")
    shutil.rmtree(upstream.folder)
    with pytest.raises(MachineError, match=f"cannot fetch {re.escape(URL)}") as caught:
        fetch(stack)
    assert caught.value.why is not None
    assert "fatal:" in caught.value.why
    assert caught.value.log is not None
    assert Path(caught.value.log).is_relative_to(build_logs_folder())
    assert list((tmp_path / "home" / "sources").iterdir()) == []


def test_a_commit_that_is_not_there(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no commit 0000"):
        fetch(stack_of(upstream, tmp_path / "s", commit="0" * 40))


def test_a_folder_that_is_not_there(upstream: Upstream, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot check out") as caught:
        fetch(stack_of(upstream, tmp_path / "s", folders=["nets"]))
    assert caught.value.why is not None
    assert "'nets'" in caught.value.why


def test_orch_called_from_a_git_hook_leaves_that_repository_alone(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(upstream.folder / ".git"))
    fetch(stack_of(upstream, tmp_path / "s"))
    monkeypatch.delenv("GIT_DIR")
    assert upstream.git("remote") == ""


def test_a_machine_without_git(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of(upstream, tmp_path / "s")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        fetch(stack)
    assert caught.value.hint == "apt-get install git"


def test_the_commit_and_the_folders_are_part_of_the_builds_identity(upstream: Upstream, tmp_path: Path) -> None:
    def identity(**changes: object) -> str:
        return build_inputs(stack_of(upstream, tmp_path / "s", **changes), "cpu", BuildOptions()).identity

    assert identity() == identity(url="https://elsewhere.invalid/net")
    assert len({identity(), identity(commit="1" * 40), identity(folders=["net", "data"])}) == 3


def test_where_a_guest_sees_them(upstream: Upstream, tmp_path: Path) -> None:
    spec, ready = worker_spec(tmp_path), prepared(tmp_path / "s")
    stack = stack_of(upstream, tmp_path / "s")
    ready = type(ready)(stack, "cpu", "venv", "id", ready.location)
    here = VenvRuntime().guest_paths(ready, spec).sources
    assert here == {"net": tree_folder("net", stack.spec.sources["net"])}
    assert {name: str(path) for name, path in DockerRuntime().guest_paths(ready, spec).sources.items()} == {
        "net": "/opt/orch/sources/net"
    }


def test_the_commands(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"url": URL, "commit": upstream.commit, "folders": ["net"]}
    write_stack(tmp_path / "stacks" / "tiny", stack_document(sources={"net": source}))
    stacks = ["--stacks", str(tmp_path / "stacks")]
    assert main(["sources", "list", *stacks]) == 0
    assert f"tiny\tnet\t{upstream.commit[:12]}\tmissing\t{URL}" in capsys.readouterr().out
    assert main(["sources", "fetch", "tiny", *stacks]) == 0
    assert "tiny: net: " in capsys.readouterr().err
    assert main(["sources", "list", *stacks, "--json"]) == 0
    assert '"state": "here"' in capsys.readouterr().out
    assert main(["sources", "fetch", "tinny", *stacks]) == 2
    assert "tiny" in capsys.readouterr().err

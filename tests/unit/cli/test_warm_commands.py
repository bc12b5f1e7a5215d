"""`orch ps`, `down`, `logs`: what they print, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.runtimes.warm.listing import WarmWorkerStatus

Captured = pytest.CaptureFixture[str]
BUSY = WarmWorkerStatus(
    name="orch-tiny-1", stack="tiny", variant="cpu", state="busy", models=("a", "b"), device="cuda", memory_mb=812.4,
    gpu_mb=2048.0, queue=3, images=70, images_per_s=4.25, spool="/spool", problem=None,
)  # fmt: skip
DEAD = WarmWorkerStatus(
    name="orch-tiny-2", stack="tiny", variant="cpu", state="dead", models=(), device=None, memory_mb=None, gpu_mb=None,
    queue=None, images=None, images_per_s=None, spool=None, problem="it does not answer",
)  # fmt: skip


def test_ps_shows_what_is_known_of_each_worker(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked: list[Sequence[Path]] = []

    def list_workers(spools: Sequence[Path]) -> list[WarmWorkerStatus]:
        asked.append(spools)
        return [BUSY, DEAD]

    monkeypatch.setattr("orchestrator.runtimes.warm.listing.list_workers", list_workers)
    assert main(["ps", "--spool", "/x/spool"]) == 0
    out, err = capsys.readouterr()
    head, busy, dead = (line.split("\t") for line in out.splitlines())
    assert dict(zip(head, busy, strict=True)) == {
        "stack": "tiny", "variant": "cpu", "state": "busy", "models": "a, b", "device": "cuda",
        "memory": "812 MB + 2048 MB GPU", "queue": "3", "images": "70", "images/s": "4.2", "spool": "/spool",
        "worker": "orch-tiny-1",
    }  # fmt: skip
    assert dead == ["tiny", "cpu", "dead", "", "", "", "", "", "", "", "orch-tiny-2"]
    assert err == "orch-tiny-2: it does not answer\n"
    assert asked == [[Path("/x/spool")]]
    assert main(["ps", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [one["state"] for one in json.loads(out)["workers"]] == ["busy", "dead"]
    assert err == ""


def test_down_needs_a_name_or_all(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    stopped: list[Any] = []

    def stop_workers(names: list[str], spool: Path, say: Any) -> list[str]:
        stopped.append((names, spool))
        return [f"orch-{name}" for name in names]

    monkeypatch.setattr("orchestrator.runtimes.warm.containers.stop_workers", stop_workers)
    monkeypatch.setattr("orchestrator.runtimes.warm.containers.find_warm_stacks", lambda spool: {"tiny"})
    assert main(["down"]) == 2
    assert "name the stacks to stop, or give --all" in capsys.readouterr().err
    assert stopped == []
    assert main(["down", "tiny", "--spool", "/x"]) == 0
    assert capsys.readouterr().err == "orch-tiny stopped\n"
    assert main(["down", "--all", "--spool", "/x"]) == 0
    assert capsys.readouterr().err == "no such worker uses this spool; see orch ps\n"
    assert stopped == [(["tiny"], Path("/x")), ([], Path("/x"))]
    assert main(["down", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ended": ["orch-tiny"]}


@pytest.mark.parametrize("command", [["down"], ["logs"], ["prune", "--dry-run", "--stack"]])
@pytest.mark.parametrize(("name", "suggested"), [("garmets", "garments"), ("tiney", "tiny")])
def test_an_unknown_name_is_an_error_with_the_nearest_names(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: list[str], name: str, suggested: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("nothing may be done")

    monkeypatch.setattr("orchestrator.runtimes.warm.containers.stop_workers", fail)
    monkeypatch.setattr("orchestrator.runtimes.warm.containers.find_warm_stacks", lambda spool: {"tiny"})
    monkeypatch.setattr("orchestrator.workflows.prune.prune.engine_leftovers", lambda catalog, scope: ([], []))
    assert main([*command, name]) == 2
    err = capsys.readouterr().err
    assert f"error: unknown stack or model '{name}'" in err
    assert suggested in err or command[0] == "prune"
    assert "  next: " in err


def test_a_model_stands_for_its_stack(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    asked: list[Any] = []

    def stop_workers(names: list[str], *_: object) -> list[str]:
        asked.append(names)
        return []

    monkeypatch.setattr("orchestrator.runtimes.warm.containers.stop_workers", stop_workers)
    monkeypatch.setattr("orchestrator.runtimes.warm.containers.find_warm_stacks", lambda spool: set())
    assert main(["down", "garments-tiny"]) == 0
    assert asked == [["garments"]]
    assert "no such worker" in capsys.readouterr().err


def test_logs_name_the_worker_where_there_are_several(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    class Container:
        def __init__(self, name: str) -> None:
            self.name = name

    there: list[Container] = []
    asked: list[Any] = []

    def log_lines(container: Container, *, follow: bool, tail: int | None) -> list[str]:
        asked.append((follow, tail))
        return [f"a line of {container.name}"]

    monkeypatch.setattr("orchestrator.runtimes.warm.containers.list_containers", lambda names: there)
    monkeypatch.setattr("orchestrator.runtimes.warm.containers.log_lines", log_lines)
    monkeypatch.setattr("orchestrator.runtimes.warm.containers.find_warm_stacks", lambda spool: {"tiny"})
    assert main(["logs"]) == 2
    assert "no such warm worker" in capsys.readouterr().err
    there.append(Container("one"))
    assert main(["logs", "tiny", "-n", "5"]) == 0
    assert capsys.readouterr().out == "a line of one\n"
    there.append(Container("two"))
    assert main(["logs"]) == 0
    assert capsys.readouterr().out == "one  a line of one\ntwo  a line of two\n"
    assert asked == [(False, 5), (False, None), (False, None)]

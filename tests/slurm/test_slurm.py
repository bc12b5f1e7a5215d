"""The same run on a real Slurm: nodes lost, tasks run twice, time limits, cancelled and resumed; the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.conftest import STACKS, Cluster, Orch, command_of, processes, wait_for

pytestmark = pytest.mark.slurm

GARMENTS = ("run", "-m", "garments-tiny", "--runtime", "venv", "--shard-size", 20)
FAULTY = ("run", "-m", "faulty", "--runtime", "venv", "--shard-size", 5, "--set", "sleep=1.0")
SLURM = ("--executor", "slurm", "--slurm", "gres=gpu:1")
REST = ("--slurm", "sbatch=--exclude=n[3-5]")
LIMITED = ("--slurm", "sbatch=--nodelist=n3")
DOUBTED = ("--slurm", "sbatch=--exclude=n[1-3]")
"""Runs that take their time have nodes of their own, where they go on while other tests run."""


def digest(run: Path) -> str:
    return hashlib.sha256((run / "predictions.npz").read_bytes()).hexdigest()


def shards(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "shards").glob("[0-9]*.npz") if ".part" not in path.name)


def job_of(run: Path) -> str:
    return str(json.loads((run / "slurm.json").read_text())["job"])


def restarts(run: Path) -> set[int]:
    """How often the starts of a run's tasks were preceded by others of the same task."""
    return {json.loads(path.read_text())["restarts"] for path in (run / "tasks").glob("*.json")}


def processes_of(run: Path) -> list[str]:
    """Command lines of the tasks of a run and of its workers, whose job folders bear the tasks' names."""
    tasks = [path.stem for path in (run / "tasks").glob("*.json")]
    return [line for line in map(command_of, processes()) if any(f"orch-{task}-" in line for task in tasks)
            or f"orchestrator.dispatch.shared.task {run}" in line]  # fmt: skip


@pytest.fixture(scope="module")
def limited(orch: Orch, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that takes longer than its time limit: it begins here."""
    config = Path(orch.environment["XDG_CONFIG_HOME"]) / "orch" / "slurm.yaml"
    settings = config.read_text()
    config.write_text(f"{settings}warning: 15\n")
    run = tmp_path_factory.mktemp("limited") / "run"
    short = ("--slurm", "tasks=1", "--slurm", "time=1", "--slurm", "wait=false")
    orch(*FAULTY, "-i", photographs, "-o", run, *SLURM, *short, *LIMITED)
    config.write_text(settings)
    return run


@pytest.fixture(scope="module")
def doubted(orch: Orch, cluster: Cluster, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose node's daemon is killed: Slurm takes the task for lost, which goes on."""
    run = tmp_path_factory.mktemp("doubted") / "run"
    orch(*FAULTY, "-i", photographs, "-o", run, *SLURM, "--slurm", "tasks=1", *DOUBTED, "--slurm", "wait=false")
    wait_for(lambda: list((run / "events").glob("*.jsonl")))
    record = next(iter((run / "tasks").glob("*.json")))
    cluster.kill_daemon(int(json.loads(record.read_text())["node"].removeprefix("n")))
    return run


@pytest.fixture(scope="module")
def local(
    orch: Orch, scenes: Path, photographs: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What the same requests give on this machine."""
    folder = tmp_path_factory.mktemp("local")
    begun = [
        orch.start(*GARMENTS, "-i", scenes, "-o", folder / "garments"),
        orch.start(*FAULTY, "-i", photographs, "-o", folder / "faulty", "-w", 4),
        orch.start(*FAULTY, "-i", few, "-o", folder / "few", "-w", 2),
    ]
    ended = [(process.communicate(timeout=200)[1], process.returncode) for process in begun]
    assert [code for _, code in ended] == [0, 0, 0], ended
    return {path.name: digest(path) for path in folder.iterdir()}


@pytest.mark.usefixtures("limited", "doubted")
def test_the_run_survives_a_lost_node_and_gives_the_same_bytes(
    orch: Orch, cluster: Cluster, scenes: Path, local: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # A task a node: one of them is lost with its node and all that runs on it.
    alone = ("--slurm", "sbatch=--exclusive", "--slurm", "tasks=2", "--threads", 1, *REST)
    process = orch.start(*GARMENTS, "-i", scenes, "-o", run, *SLURM, *alone)
    wait_for(lambda: len(shards(run)) >= 3 and process.poll() is None)
    cluster.kill_node(2)
    left = len(shards(run))
    assert left < 15, "everything was done before the node was lost"
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    assert digest(run) == local["garments"]
    wait_for(lambda: not processes_of(run), 30)
    cluster.bring_back(2)


def test_cancelled_leaves_nothing_behind_and_resumed_completes(
    orch: Orch, cluster: Cluster, photographs: Path, local: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    common = (*FAULTY, "-i", photographs, "-o", run, *SLURM, *REST)
    # Two tasks take half a minute: on a busy machine four may be done before they are cancelled.
    attached = orch.start(*common, "--slurm", "tasks=2")
    wait_for(lambda: len(shards(run)) >= 1)
    os.kill(attached.pid, signal.SIGINT)
    _, errors = attached.communicate(timeout=30)
    assert attached.returncode == 130, errors
    assert f"the run continues as job {job_of(run)}" in errors
    state = orch.status(run)
    assert (state["state"], state["job"]) == ("running", job_of(run))
    orch("cancel", run)
    assert cluster.ask("squeue", "-h", "-j", job_of(run)) == ""
    assert processes_of(run) == []
    assert list((run / "claims").iterdir()) == []
    assert not (run / "predictions.npz").exists()
    assert "was cancelled" in orch("attach", run, expect=130)
    assert orch.status(run)["state"] == "cancelled"
    assert "resuming" in orch(*common, "--slurm", "tasks=4")
    assert digest(run) == local["faulty"]


def test_a_task_run_twice_at_the_same_time_changes_nothing(
    orch: Orch, few: Path, local: dict[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    common = (*FAULTY, "-i", few, "-o", run, *SLURM, "--slurm", "tasks=1", *REST)
    orch(*common, "--slurm", "wait=false")
    command = [sys.executable, "-m", "orchestrator.dispatch.shared.task", str(run)]
    twins = []
    for number in range(2):
        with (tmp_path / f"twin-{number}.log").open("w") as log:
            twins.append(subprocess.Popen(command, env=orch.environment, stderr=log))
    orch("attach", run)
    assert [twin.wait(60) for twin in twins] == [0, 0]
    assert digest(run) == local["few"]
    logs = [*tmp_path.glob("twin-*.log"), *(run / "logs").glob("task-*.log")]
    assert sum(log.read_text().count("collecting") for log in logs) == 1
    done = [json.loads(line)["shard"] for file in (run / "events").iterdir() for line in file.read_text().splitlines()
            if '"shard_done"' in line]  # fmt: skip
    assert sorted(done) == list(range(5)), "claims keep work from being done twice"


PICKY = """
  gpu:
    device: cuda
    cuda: "12.1"
    native_capabilities: ["8.0"]
    base_image: python:3.11-slim
    lock: cpu.lock
    python: "3.11"
    also_python: ["3.12", "3.13"]
"""


def picky_stack(folder: Path) -> None:
    """The faulty stack with one more variant, for GPUs of one kind."""
    shutil.copytree(STACKS / "faulty", folder)
    text = (folder / "stack.yaml").read_text().replace("stack: faulty", "stack: picky").replace("faulty-", "picky-")
    text = text.replace("aliases: [faulty]", "aliases: []").replace("variants:\n", f"variants:{PICKY}")
    (folder / "stack.yaml").write_text(text)
    predictor = (folder / "predictor.py").read_text()
    probe = "    def probe(self) -> Any:\n        return 'a GPU that is none'\n\n"
    (folder / "predictor.py").write_text(predictor.replace("    def predict(", f"{probe}    def predict("))


def test_the_first_node_chooses_the_variant_and_one_that_does_not_fit_says_so(
    orch: Orch, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack with a GPU variant, and nodes whose nvidia-smi is made up: the login node has none."""
    picky_stack(tmp_path / "stacks" / "picky")
    monkeypatch.setitem(orch.environment, "ORCH_STACKS", str(tmp_path / "stacks"))
    two_tasks = ("--executor", "slurm", "--slurm", "tasks=2")
    common = ("run", "-m", "picky-bright", "-i", photographs, "--runtime", "venv", *two_tasks)

    def node_with(name: str, capability: str) -> Path:
        tools = tmp_path / name
        tools.mkdir()
        smi = tools / "nvidia-smi"
        lines = [f"{number}, GPU-{number}, {name}, 40960, 40000, {capability}, 550.54" for number in range(2)]
        smi.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        smi.chmod(0o755)
        monkeypatch.setitem(orch.environment, "PATH", f"{tools}:{os.environ['PATH']}")
        return tools

    node_with("Newer", "8.6")
    orch(*common, "-o", tmp_path / "run")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (document["request"]["variant"], document["request"]["device"]) == ("gpu", "cuda")
    assert "fits Newer" in document["why_variant"]
    assert "--gres=gpu:1" in (tmp_path / "run" / "job.sh").read_text()
    assert "complete already" in orch(*common, "-o", tmp_path / "run")
    node_with("Older", "6.1")
    errors = orch(*common, "-o", tmp_path / "unfit", "--variant", "gpu", expect=4)
    assert "its binaries have no code for Older" in errors
    assert "15 shards are missing" in errors


def test_the_time_limit_stops_a_task_which_is_requeued_and_goes_on(
    orch: Orch, local: dict[str, str], limited: Path
) -> None:
    orch("attach", limited)
    assert digest(limited) == local["faulty"]
    log = (limited / "logs" / "task-0.log").read_text()
    assert "stopped; requeued" in log
    assert restarts(limited) >= {0, 1}


def test_a_node_that_only_seems_lost_has_its_task_run_twice_and_nothing_changes(
    orch: Orch, local: dict[str, str], doubted: Path
) -> None:
    orch("attach", doubted)
    assert digest(doubted) == local["faulty"]
    assert restarts(doubted) == {0, 1}, "it was run once"
    assert len({json.loads(path.read_text())["node"] for path in (doubted / "tasks").glob("*.json")}) == 2
    wait_for(lambda: not processes_of(doubted), 60)

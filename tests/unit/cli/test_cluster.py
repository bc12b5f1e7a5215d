"""orch status, attach, cancel and the options for Slurm, as a person or a program types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.cli import main
from orchestrator.cli.run import SlurmOption
from orchestrator.dispatch.slurm.settings import SlurmSettings
from orchestrator.paths import RunPaths
from tests.unit.dispatch.slurm_samples import FakeSlurm, begun, complete, make_plan, task_record

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return begun(tmp_path, make_plan(tmp_path))


def test_status_for_people_and_for_programs(slurm: FakeSlurm, paths: RunPaths, capsys: Captured) -> None:
    slurm.answers("squeue", "0|RUNNING|n1|None\n1|PENDING||Priority\n")
    task_record(paths, 2, "unfit", {"message": "the variant gpu does not fit this machine", "why": "too old"})
    assert main(["status", str(paths.root)]) == 0
    out, said = capsys.readouterr()
    assert out == ""
    assert said.splitlines() == [
        f"{paths.root}: tiny-model, running, job 12",
        "  0 of 3 shards done, 5 images",
        "  task 0: running",
        "  task 1: pending (Priority)",
        "  task 2 on n2, unfit: the variant gpu does not fit this machine: too old",
    ]
    assert main(["status", str(paths.root), "--json"]) == 0
    out, said = capsys.readouterr()
    assert said == ""
    assert json.loads(out)["tasks"] == {"task 0": "running", "task 1": "pending (Priority)"}


def test_attach_ends_with_the_exit_code_of_the_run(paths: RunPaths, capsys: Captured) -> None:
    summary = complete(paths)
    assert main(["attach", str(paths.root)]) == 1
    assert "failed: a.jpg: cut off" in capsys.readouterr().err
    assert main(["attach", str(paths.root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == summary


def test_cancel_says_what_it_ended(slurm: FakeSlurm, paths: RunPaths, capsys: Captured) -> None:
    assert main(["cancel", str(paths.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": str(paths.root), "job": "12", "state": "cancelled"}


def test_a_folder_that_is_no_run_is_a_wrong_usage(tmp_path: Path, capsys: Captured) -> None:
    for command in ("status", "attach", "cancel"):
        assert main([command, str(tmp_path)]) == 2
        assert "is not a run directory" in capsys.readouterr().err


def test_options_for_slurm_are_refused_without_it(tmp_path: Path, capsys: Captured) -> None:
    common = ["run", "-m", "garments-tiny", "-i", str(tmp_path)]
    assert main([*common, "--slurm", "cpus_per_task=4"]) == 2
    assert "--slurm is for --executor slurm" in capsys.readouterr().err
    slurm = [*common, "--executor", "slurm", "--slurm"]
    for setting, problem in (("mem=", "mem: must be one line of text"), ("mem", "KEY=VALUE"), ("memory=1G", "memory")):
        assert main([*slurm, setting]) == 2
        assert problem in capsys.readouterr().err


def test_a_former_flag_names_the_setting_that_replaced_it(tmp_path: Path, capsys: Captured) -> None:
    assert main(["run", "-m", "garments-tiny", "-i", str(tmp_path), "--cpus-per-task", "4"]) == 2
    assert "next: --slurm cpus_per_task=…" in capsys.readouterr().err


def test_the_help_names_every_setting() -> None:
    (option,) = [one for one in get_args(SlurmOption) if hasattr(one, "help")]
    assert [name for name in SlurmSettings.model_fields if name not in option.help] == []

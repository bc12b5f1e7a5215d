"""What Slurm is asked: the whole job script from the options, and the options from the user's file and the command."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.catalog.loader import load_catalog
from orchestrator.dispatch.slurm.settings import Job, SlurmOptions, job_script, slurm_options
from orchestrator.errors import UsageError
from orchestrator.paths import user_slurm_options
from orchestrator.workflows.comparison_file import read_comparison
from tests.unit.stack_samples import write_stack

RUN = Path("/shared/runs/one")


def job(**changes: Any) -> Job:
    python, environment = Path("/shared/venv/bin/python"), {"ORCH_HOME": "/shared/orch"}
    return replace(Job("orch-tiny-0123", RUN, 4, True, python, environment), **changes)


def test_the_script_where_nothing_was_asked_for() -> None:
    assert job_script(job(), SlurmOptions()) == (
        "#!/bin/bash\n"
        "#SBATCH --job-name=orch-tiny-0123\n"
        "#SBATCH --array=0-3\n"
        "#SBATCH --output=/shared/runs/one/logs/task-%a.log\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --requeue\n"
        "#SBATCH --signal=B:TERM@60\n"
        "#SBATCH --gres=gpu:1\n"
        "export ORCH_HOME=/shared/orch\n"
        "exec /shared/venv/bin/python -m orchestrator.dispatch.shared.task /shared/runs/one\n"
    )


def test_the_script_where_everything_was_asked_for() -> None:
    options = SlurmOptions(
        partition="gpu", account="vision", qos="normal", time="4:00:00", mem="32G", constraint="a100&ib",
        gres="gpu:a100:1", cpus_per_task=8, sbatch=("--exclusive", "--mail-type=END"), setup=("module load apptainer",),
        throttle=2, warning=120,
    )  # fmt: skip
    assert job_script(job(tasks=64), options).splitlines()[1:] == [
        "#SBATCH --job-name=orch-tiny-0123",
        "#SBATCH --array=0-63%2",
        "#SBATCH --output=/shared/runs/one/logs/task-%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=vision",
        "#SBATCH --qos=normal",
        "#SBATCH --time=4:00:00",
        "#SBATCH --mem=32G",
        "#SBATCH --constraint='a100&ib'",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --exclusive",
        "#SBATCH --mail-type=END",
        "export ORCH_HOME=/shared/orch",
        "module load apptainer",
        "exec /shared/venv/bin/python -m orchestrator.dispatch.shared.task /shared/runs/one",
    ]


@pytest.mark.parametrize(
    ("options", "uses_gpu", "asked"),
    [
        (SlurmOptions(), True, ["--gres=gpu:1"]),
        (SlurmOptions(), False, []),
        (SlurmOptions(gres="gpu:2"), False, ["--gres=gpu:2"]),
        (SlurmOptions(gres="none"), True, []),
        (SlurmOptions(gpus_per_task=4), True, ["--ntasks=1", "--gpus-per-task=4"]),
    ],
)
def test_a_gpu_is_asked_for_where_the_variant_uses_one(options: SlurmOptions, uses_gpu: bool, asked: list[str]) -> None:
    script = job_script(job(uses_gpu=uses_gpu), options)
    found = [line.removeprefix("#SBATCH ") for line in script.splitlines() if "gpu" in line or "ntasks" in line]
    assert found == asked


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda name: "\0" not in name))
def test_odd_names_of_folders_reach_the_task_as_they_are(name: str) -> None:
    script = job_script(job(root=Path("/shared") / name, uses_gpu=False), SlurmOptions())
    command = script.split("\n")[-2].replace("exec /shared/venv/bin/python", "printf '%s\\n'")
    said = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert said.decode() == f"-m\norchestrator.dispatch.shared.task\n{Path('/shared') / name}\n"


def test_a_percent_sign_in_the_path_is_no_pattern_of_slurms() -> None:
    script = job_script(job(root=Path("/shared/50%a")), SlurmOptions())
    assert "#SBATCH --output=/shared/50%%a/logs/task-%a.log" in script


def test_the_users_file_holds_what_the_command_does_not_say(tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text("account: vision\npartition: gpu\nsbatch: [--exclusive]\nwait: false\n")
    options = slurm_options(file, {"partition": "debug", "sbatch": ["--nice"], "tasks": 9, "mem": None})
    assert options == SlurmOptions(
        account="vision", partition="debug", sbatch=("--exclusive", "--nice"), tasks=9, wait=False
    )


def test_without_a_file_the_command_alone_counts(tmp_path: Path) -> None:
    assert slurm_options(tmp_path / "none.yaml", {"qos": "high"}) == SlurmOptions(qos="high")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acount: vision\n", ":1: acount: unknown field (did you mean account?)"),
        ("tasks: 0\n", "tasks: Input should be greater than or equal to 1"),
        ("- account\n", "a mapping of options is expected"),
        ('account: "a\\nb"\n', "account: must be one line of text"),
    ],
)
def test_a_wrong_file_is_named_with_the_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        slurm_options(file, {})
    assert str(file) in caught.value.message
    assert said in caught.value.message


def test_an_orch_yaml_says_the_same_of_its_runs(tmp_path: Path) -> None:
    write_stack(tmp_path / "stacks" / "tiny")
    user_slurm_options().parent.mkdir(parents=True)
    user_slurm_options().write_text("account: vision\nmem: 8G\n")
    file = tmp_path / "orch.yaml"
    file.write_text(
        "images: in\nrun: {executor: slurm, slurm: {partition: gpu, tasks: 9}}\n"
        "models:\n- tiny-model\n- {model: tiny-model, name: big, slurm: {mem: 64G}}\n"
    )
    options = [one.options for one in read_comparison(file, load_catalog([tmp_path / "stacks"])).asked]
    assert [one.slurm for one in options] == [
        SlurmOptions(account="vision", mem="8G", partition="gpu", tasks=9),
        SlurmOptions(account="vision", mem="64G"),
    ]

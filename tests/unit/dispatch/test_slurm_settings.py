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
from orchestrator.dispatch.slurm.settings import ArrayJob, SlurmSettings, make_job_script
from orchestrator.errors import UsageError
from orchestrator.paths import user_executor_settings
from orchestrator.workflows.comparison_file import read_comparison
from tests.unit.stack_samples import write_stack

RUN = Path("/shared/runs/one")


def job(**changes: Any) -> ArrayJob:
    python, environment = Path("/shared/venv/bin/python"), {"ORCH_HOME": "/shared/orch"}
    return replace(ArrayJob("orch-tiny-0123", RUN, 4, True, python, environment), **changes)


def test_the_script_where_nothing_was_asked_for() -> None:
    assert make_job_script(job(), SlurmSettings()) == (
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
    options = SlurmSettings(
        partition="gpu", account="vision", qos="normal", time="4:00:00", mem="32G", constraint="a100&ib",
        gres="gpu:a100:1", cpus_per_task=8, sbatch=("--exclusive", "--mail-type=END"), setup=("module load apptainer",),
        throttle=2, warning=120,
    )  # fmt: skip
    assert make_job_script(job(tasks=64), options).splitlines()[1:] == [
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
        (SlurmSettings(), True, ["--gres=gpu:1"]),
        (SlurmSettings(), False, []),
        (SlurmSettings(gres="gpu:2"), False, ["--gres=gpu:2"]),
        (SlurmSettings(gres="none"), True, []),
        (SlurmSettings(gpus_per_task=4), True, ["--ntasks=1", "--gpus-per-task=4"]),
    ],
)
def test_a_gpu_is_asked_for_where_the_variant_uses_one(
    options: SlurmSettings, uses_gpu: bool, asked: list[str]
) -> None:
    script = make_job_script(job(uses_gpu=uses_gpu), options)
    found = [line.removeprefix("#SBATCH ") for line in script.splitlines() if "gpu" in line or "ntasks" in line]
    assert found == asked


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda name: "\0" not in name))
def test_odd_names_of_folders_reach_the_task_as_they_are(name: str) -> None:
    script = make_job_script(job(root=Path("/shared") / name, uses_gpu=False), SlurmSettings())
    command = script.split("\n")[-2].replace("exec /shared/venv/bin/python", "printf '%s\\n'")
    said = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert said.decode() == f"-m\norchestrator.dispatch.shared.task\n{Path('/shared') / name}\n"


def test_a_percent_sign_in_the_path_is_no_pattern_of_slurms() -> None:
    script = make_job_script(job(root=Path("/shared/50%a")), SlurmSettings())
    assert "#SBATCH --output=/shared/50%%a/logs/task-%a.log" in script


def test_the_users_file_holds_what_the_command_does_not_say(tmp_path: Path) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text("account: vision\npartition: gpu\nsbatch: [--exclusive]\nwait: false\n")
    expected = SlurmSettings(account="vision", partition="debug", sbatch=("--exclusive", "--nice"), tasks=9, wait=False)
    assert SlurmSettings.merge(["partition=debug", "sbatch=--nice", "tasks=9"], file) == expected
    mapping = {"partition": "debug", "sbatch": ["--nice"], "tasks": 9, "mem": None}
    assert SlurmSettings.merge(mapping, file) == expected


def test_texts_of_the_command_line_alone() -> None:
    texts = ("sbatch=--exclude=n[3-5]", "sbatch=--nice", "setup=module load cuda", "time=4:00:00", "lease=30",
             "wait=false", "gpus_per_task=2", "partition=gpu", "partition=debug")  # fmt: skip
    assert SlurmSettings.parse(texts) == SlurmSettings(
        sbatch=("--exclude=n[3-5]", "--nice"), setup=("module load cuda",), time="4:00:00", lease=30.0, wait=False,
        gpus_per_task=2, partition="debug",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin=gpu", "--slurm: partitoin: unknown field (did you mean partition"),
        ("partition", "--slurm partition: write it as KEY=VALUE"),
        ("=gpu", "--slurm =gpu: write it as KEY=VALUE"),
        ("mem=", "--slurm: mem: must be one line of text"),
        ("tasks=many", "--slurm: tasks: Input should be a valid integer"),
    ],
)
def test_a_wrong_text_is_a_wrong_usage(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SlurmSettings.parse([text])
    assert caught.value.message.startswith(message)
    assert caught.value.exit_code == 2


def test_at_most_five_settings_are_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        SlurmSettings.parse(["xyzzy=1"])
    named = [name for name in SlurmSettings.model_fields if name in caught.value.message]
    assert len(named) <= 5
    assert "docs/clusters.md" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: vision\n", "1: acount: unknown field (did you mean account"),
        ("tasks: 0\n", "tasks: Input should be greater than or equal to 1"),
        ("- account\n", "must be a mapping of settings"),
        ('account: "a\\nb"\n', "account: must be one line of text"),
    ],
)
def test_a_wrong_file_is_named_with_the_field(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        SlurmSettings.merge((), file)
    assert str(file) in caught.value.message
    assert message in caught.value.message


def test_an_orch_yaml_has_the_same_settings(tmp_path: Path) -> None:
    write_stack(tmp_path / "stacks" / "tiny")
    user_executor_settings("slurm").parent.mkdir(parents=True)
    user_executor_settings("slurm").write_text("account: vision\nmem: 8G\n")
    file = tmp_path / "orch.yaml"
    file.write_text(
        "images: in\nrun: {executor: slurm, slurm: {partition: gpu, tasks: 9}}\n"
        "models:\n- tiny-model\n- {model: tiny-model, name: big, slurm: {mem: 64G}}\n"
    )
    runs = read_comparison(file, load_catalog([tmp_path / "stacks"])).runs
    assert [SlurmSettings.parse(run.options.executor_settings) for run in runs] == [
        SlurmSettings(account="vision", mem="8G", partition="gpu", tasks=9),
        SlurmSettings(account="vision", mem="64G"),
    ]

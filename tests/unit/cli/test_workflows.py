"""Workflow files and the examples in docs/ci.md: valid by the schemas of GitHub and GitLab, and true of this orch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from orchestrator.cli import app
from tests.unit.stack_samples import edited

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GUIDE = ROOT / "docs" / "ci.md"


def check(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def blocks(language: str) -> list[str]:
    """The fenced blocks of the guide."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_workflows_are_valid() -> None:
    assert {path.name for path in WORKFLOWS} >= {"ci.yml", "gpu.yml", "run-model.yml"}
    done = check("vendor.github-workflows", *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_the_schema_finds_mistakes(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(edited((ROOT / ".github/workflows/gpu.yml").read_text(), "timeout-minutes:", "timeout-minuets:"))
    assert check("vendor.github-workflows", broken).returncode == 1


def test_the_guides_examples_are_valid(tmp_path: Path) -> None:
    schemas = {"jobs": "vendor.github-workflows", "stages": "vendor.gitlab-ci"}
    checked = []
    for number, block in enumerate(blocks("yaml")):
        (schema,) = [schema for key, schema in schemas.items() if key in yaml.safe_load(block)]
        example = tmp_path / f"{number}.yml"
        example.write_text(block)
        done = check(schema, example)
        assert done.returncode == 0, done.stdout
        checked.append(schema)
    assert set(checked) == set(schemas.values())


def test_the_guides_call_fits_the_reusable_workflow() -> None:
    inputs = load(ROOT / ".github/workflows/run-model.yml")[True]["workflow_call"]["inputs"]  # YAML 1.1: on is true
    calls = [job for block in blocks("yaml") for job in (yaml.safe_load(block).get("jobs") or {}).values()]
    calls = [job for job in calls if "run-model.yml@" in job.get("uses", "")]
    assert calls
    for job in calls:
        assert set(job["with"]) <= set(inputs)
        assert set(job["with"]) >= {name for name, one in inputs.items() if one.get("required")}


def test_every_input_of_the_reusable_workflow_is_used_and_documented() -> None:
    text, guide = (ROOT / ".github/workflows/run-model.yml").read_text(), GUIDE.read_text()
    for name in load(ROOT / ".github/workflows/run-model.yml")[True]["workflow_call"]["inputs"]:
        assert f"inputs.{name}" in text
        assert f"`{name}`" in guide


def test_no_input_is_pasted_into_a_shell() -> None:
    for path in WORKFLOWS:
        steps = [step for job in load(path)["jobs"].values() for step in job.get("steps", [])]
        assert not any("${{" in step.get("run", "") for step in steps), path


@pytest.mark.parametrize(
    "path", [*(one for one in WORKFLOWS if one.stem not in ("ci", "nightly")), GUIDE], ids=lambda path: path.name
)
def test_every_orch_command_and_option_exists(path: Path) -> None:
    known: Any = typer.main.get_command(app)
    text = path.read_text().replace("\\\n", " ")
    commands = re.findall(r"(?:^|[\s(`/])orch ([a-z]+)((?:[ \t]+[^\n`|;#]*)?)", text, re.MULTILINE)
    assert commands
    seen = []
    for name, rest in commands:
        if name not in known.commands:
            continue
        options = {option for one in known.commands[name].params for option in one.opts}
        if not hasattr(known.commands[name], "commands"):
            used = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest))
            assert used <= options, (name, used - options)
        seen.append(name)
    assert seen

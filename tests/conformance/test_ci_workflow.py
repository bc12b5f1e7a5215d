"""What the reusable workflow runs, run: its shell steps, in order, as GitHub's runner starts them, on real images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from orchestrator.evaluation.gate.baseline import read_baseline
from orchestrator.workflows.demo.scenes import write_scenes
from tests.conformance.conftest import Orch

WORKFLOW = Path(__file__).parent.parent.parent / ".github" / "workflows" / "run-model.yml"
SCENES = 12


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes and their exact truth, as a caller's repository would have them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, range(SCENES), size=320)
    return folder


@dataclass(frozen=True)
class Job:
    """What the steps left: the exit code of each, by name, outputs, and the files in the workspace."""

    codes: dict[str, int]
    outputs: dict[str, str]
    workspace: Path
    text: str

    @property
    def suite(self) -> ElementTree.Element:
        (suite,) = ElementTree.fromstring((self.workspace / "orch-report.xml").read_bytes())
        return suite


def run_job(orch: Orch, workspace: Path, given: Mapping[str, str], keep: bool = True) -> Job:
    """Run the workflow's shell steps with inputs; `keep` leaves out the last step, which tidies up."""
    document: Any = yaml.safe_load(WORKFLOW.read_text())
    inputs = {name: str(one.get("default", "")) for name, one in document[True]["workflow_call"]["inputs"].items()}
    inputs.update({name.replace("_", "-"): value for name, value in given.items()})
    job = document["jobs"]["run"]
    workspace.mkdir()
    names = ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
    files = {name: workspace.parent / f"{workspace.name}-{name}" for name in names}
    for file in files.values():
        file.touch()
    own_python = str(Path(sys.executable).parent)
    environment = {
        **orch.environment,
        **{name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda found: inputs[found[1]], text)
           for name, text in job["env"].items()},
        **{name: str(file) for name, file in files.items()},
        "RUNNER_TEMP": str(workspace.parent),
        "PATH": f"{own_python}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    codes, text, failed = {}, "", False
    for step in [step for step in job["steps"] if "run" in step]:
        always = "always()" in step.get("if", "")
        if (failed and not always) or (keep and step["name"] == "Tidy up"):
            continue
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        codes[step["name"]] = done.returncode
        added = files["GITHUB_PATH"].read_text().split()
        environment["PATH"] = os.pathsep.join([*reversed(added), own_python, os.environ["PATH"]])
        failed = failed or done.returncode != 0
        text += done.stdout + done.stderr
    pairs = (line.partition("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return Job(codes, {name: value for name, _, value in pairs}, workspace, text)


def inputs(scenes: Path, **more: str) -> dict[str, str]:
    return {"model": "garments-tiny", "images": str(scenes), "device": "cpu", "runtime": "venv", **more}


@pytest.fixture(scope="module")
def baseline(orch: Orch, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored baseline of garments-tiny on the scenes, made as the guide says."""
    folder = tmp_path_factory.mktemp("baseline")
    orch("run", "-m", "garments-tiny", "-i", scenes, "-o", folder / "run", "--runtime", "venv", "--device", "cpu")
    stored = folder / "garments-tiny.json"
    orch("eval", folder / "run", "-a", scenes / "annotations.json", "--save-baseline", stored)
    return stored


def test_a_model_that_is_as_good_as_its_baseline_passes(
    orch: Orch, scenes: Path, baseline: Path, tmp_path: Path
) -> None:
    rules = "failed-images\nap-drop:0.01\n\n"
    given = inputs(scenes, annotations=str(scenes / "annotations.json"), baseline=str(baseline), fail_on=rules)
    job = run_job(orch, tmp_path / "job", given)
    assert job.codes == {"Install orch": 0, "What the machine has": 0, "Run": 0}, job.text
    assert job.outputs == {"exit-code": "0"}
    names = [case.get("name") for case in job.suite.findall("testcase")]
    assert names == ["run", "all other images are predicted", "failed-images", "ap-drop:0.01"]
    assert job.suite.get("failures") == "0"
    summary = (tmp_path / "job-GITHUB_STEP_SUMMARY").read_text()
    assert f"| garments-tiny | cpu | cpu | {SCENES} | 0 |" in summary
    assert summary.count("- kept: ") == 2
    left = list(job.workspace.rglob("*"))
    assert {path.stat().st_uid for path in left} == {os.getuid()}


def test_a_model_that_got_worse_fails_the_job(orch: Orch, scenes: Path, baseline: Path, tmp_path: Path) -> None:
    better = tmp_path / "better.json"
    document = json.loads(baseline.read_text())
    document["figures"]["AP"] += 0.05
    better.write_text(json.dumps(document))
    assert read_baseline(better).figures["AP"] == document["figures"]["AP"]
    given = inputs(scenes, annotations=str(scenes / "annotations.json"), baseline=str(better), fail_on="ap-drop:0.01")
    job = run_job(orch, tmp_path / "job", given)
    assert (job.codes["Run"], job.outputs) == (1, {"exit-code": "1"})
    failed = [case.get("name") for case in job.suite.findall("testcase") if case.find("failure") is not None]
    assert failed == ["ap-drop:0.01"]
    assert "**broken**: `ap-drop:0.01`" in (tmp_path / "job-GITHUB_STEP_SUMMARY").read_text()


def test_a_gpu_that_is_asked_for_and_not_there_fails_the_job(orch: Orch, scenes: Path, tmp_path: Path) -> None:
    job = run_job(orch, tmp_path / "job", inputs(scenes, device="cuda"))
    assert job.outputs == {"exit-code": "4"}
    (case,) = job.suite.findall("testcase")
    assert (case[0].tag, case[0].get("type")) == ("error", "MachineError")


def test_tidying_up_leaves_no_run_and_ends_well(orch: Orch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache of its own, and where no engine answers: the real one is other people's too."""
    alone = Orch(tmp_path / "home", [])
    alone.environment["DOCKER_HOST"] = f"unix://{tmp_path}/none.sock"
    job = run_job(alone, tmp_path / "job", inputs(tmp_path / "nothing"), keep=False)
    assert job.outputs == {"exit-code": "2"}
    assert job.codes["Tidy up"] == 0
    assert "nothing to remove" in job.text
    assert [path.name for path in job.workspace.iterdir()] == ["orch-report.xml"]

"""What `run_model` says and refuses about users, limits and foreign code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.loader import load_catalog
from orchestrator.cli import main
from orchestrator.errors import UsageError
from orchestrator.paths import RunPaths
from orchestrator.plan.options import RunOptions
from orchestrator.runtimes.registry import get_runtime
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.candidates import why_not_warm
from orchestrator.workflows.run import _warn_of_foreign_code, run_model

STACKS = Path(__file__).parents[2] / "stacks"


class Lines(SilentDisplay):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize(
    ("model", "runtime", "said"),
    [
        ("faulty", "venv", "the stack faulty is not orch's own"),
        ("fformer-swin", "venv", "nobody has published a digest of its weights"),
        ("garments-tiny", "venv", None),
        ("faulty", "docker", None),
        ("faulty", "apptainer", None),
    ],
)
def test_foreign_code_that_runs_as_the_caller_is_named(model: str, runtime: str, said: str | None) -> None:
    display = Lines()
    options = RunOptions(images=["x"])
    _warn_of_foreign_code(load_catalog([STACKS]).model(model), options, get_runtime(runtime), display)
    expected = f"the venv runtime runs the model as you: {said}; --runtime docker contains it"
    assert display.lines == ([] if said is None else [expected])


@pytest.mark.parametrize("given", [{"user": "7:7"}, {"memory": "1G"}, {"processes": 9}, {"file_size": "1G"}])
def test_limits_are_for_workers_that_the_run_starts(given: dict[str, Any], tmp_path: Path) -> None:
    options = RunOptions(images=["x"], **given)
    assert "warm workers got when they were started" in str(why_not_warm(options, RunPaths(tmp_path)))


def test_a_user_is_refused_where_no_container_has_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = tmp_path / "a.png", str(tmp_path / "run")
    image.write_bytes(b"x")
    given = ["run", "-m", "garments-tiny", "-i", str(image), "--out", out, "--device", "cpu"]
    assert main([*given, "--runtime", "venv", "--user", "7:7"]) == 2
    assert "--user cannot be used with the runtime venv" in capsys.readouterr().err
    assert main([*given, "--user", "0"]) == 2
    assert "--user 0: no worker runs as root" in capsys.readouterr().err
    options = RunOptions(images=[str(image)], out=Path(out), executor="slurm", user="7:7")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--user cannot be used with the executor slurm"):
        run_model(load_catalog().model("garments-tiny"), options, SilentDisplay())

"""Commands that only list or help start quickly: they import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "docker", "pycocotools", "PIL", "requests", "urllib3", "rich", "hotcoco", "jinja2", "pandas")
CODE = """
import json, sys
from orchestrator.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["run", "--help"], ["plan", "--help"], ["weights", "list"],
     ["models"], ["models", "--json"],
     ["compose"], ["up", "--help"], ["eval", "--help"], ["compare", "--help"], ["report", "--help"],
     ["models", "show", "garments-tiny"], ["models", "show", "no-such-model"]],
)  # fmt: skip
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == (2 if "no-such-model" in arguments else 0)
    assert {name.partition(".")[0] for name in modules} & set(HEAVY) == set()


def test_the_package_offers_predictions_without_importing_them() -> None:
    code = "import sys, orchestrator; assert 'numpy' not in sys.modules; print(orchestrator.Predictions.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "Predictions\n"


def test_the_gate_of_a_run_without_annotations_needs_no_evaluation() -> None:
    code = """
import sys
from orchestrator.cli.gate import open_gate
options = dict.fromkeys(["fail_on", "baseline", "annotations", "junit", "summary"])
with open_gate(["m"], **options) as gate:
    gate.judge("m", {"images": 2, "failed": 1, "predictions": "p.npz"})
assert gate.exit_code == 1
print(*sorted(name for name in sys.modules if name.startswith(("orchestrator.evaluation", "orchestrator.reports"))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    evaluation = "orchestrator.evaluation"
    assert done.stdout.split() == [
        evaluation,
        f"{evaluation}.gate",
        f"{evaluation}.gate.gate",
        f"{evaluation}.gate.rules",
    ]

"""FashionFormer as this project runs it and as its authors' code and the published script do, on the CPU.

Usage: python -m bench.fformer [--repeat 3] [--threads 1] [--variant cpu] [--image photo.jpg] [--megapixels 3]

Random weights; each case is a process of its own in the stack's environment, which is built where it is missing (a
download of 0.8 GB). Upstream's code comes out of the cache of sources. Boxes, classes, scores and run lengths of the
two are compared byte by byte. Seconds are of CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.upstream_code import ensure_sources
from orchestrator.runtimes.base import BuildOptions
from orchestrator.runtimes.venv import VenvRuntime
from orchestrator.system.display import SilentDisplay
from orchestrator.workflows.demo.photographs import fetch_photographs

ROOT = Path(__file__).parent.parent
RUNNER, STACK = ROOT / "images" / "runner", ROOT / "images" / "fformer"
MODELS = ("fformer-r50-fpn", "fformer-swin")
FLOORS = ("0.05", "0")
MAKE_WEIGHTS = """
import sys
from orch_runner.predictor import Model
from predictor import SOURCE, Predictor
model = Model(sys.argv[1], {}, sources={SOURCE: sys.argv[2]}, config=sys.argv[3])
Predictor.make_random_weights(model, sys.argv[4])
"""


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="cpu")
    parser.add_argument("--image", type=Path, help="a photograph; else scikit-image's coffee.png")
    parser.add_argument("--megapixels", type=float, default=3, help="enlarge it to so many; 0: as it is")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--floors", nargs="+", default=FLOORS)
    arguments = parser.parse_args()
    stack = load_catalog([]).stack("fformer")
    python = Path(VenvRuntime().prepare(stack, arguments.variant, BuildOptions(), print_detail).location) / "bin/python"
    sources = ensure_sources("fformer", stack.spec.sources, SilentDisplay().detail)["fashionformer"]
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        image = arguments.image or fetch_photographs(Path(scratch)) / "coffee.png"
        print(f"{'model':>16} {'floor':>5} {'case':>9} {'kept':>4} {'all s':>7} {'network s':>9} {'enlarging s':>11} "
              f"{'host s':>7} {'peak MB':>8} {'same bytes':>10}")  # fmt: skip
        for model in arguments.models:
            config = str(stack.spec.models[model].config)
            run(python, "-c", MAKE_WEIGHTS, model, sources, config, scratch)
            weights = Path(scratch) / stack.spec.models[model].weights["pth"].file
            for floor in arguments.floors:
                what = [sources, config, weights, image, arguments.megapixels]
                compare(python, model, floor, what, (arguments.repeat, arguments.threads))


def compare(python: Path, model: str, floor: str, what: list[Any], how: tuple[int, int]) -> None:
    """Both cases of a model at a floor, and how many times less the second takes."""
    script = Path(__file__).with_name("fformer_case.py")
    upstream, ours = (json.loads(run(python, script, *what, case, floor, *how)) for case in ("upstream", "ours"))
    for case, found in (("upstream", upstream), ("ours", ours)):
        seconds, count = found["seconds"], found["instances"]
        same = "yes" if found["digest"] == upstream["digest"] else "NO"
        print(f"{model:>16} {floor:>5} {case:>9} {count:>4} {seconds['all']:>7.2f} {seconds['network']:>9.2f} "
              f"{seconds['enlarging']:>11.2f} {seconds['host']:>7.3f} {found['peak_mb']:>8.0f} {same:>10}")  # fmt: skip
    whole, enlarging, host = (
        upstream["seconds"][name] / ours["seconds"][name] for name in ("all", "enlarging", "host")
    )
    print(f"{model:>16} {floor:>5} {'ratio':>9} {'':>4} {whole:>6.2f}x {'':>9} {enlarging:>10.1f}x {host:>6.1f}x "
          f"{ours['peak_mb'] / upstream['peak_mb']:>7.2f}x", flush=True)  # fmt: skip


def print_detail(line: str) -> None:
    """What making the environment says."""
    print(line, file=sys.stderr)


def run(python: Path, *arguments: Any) -> str:
    """The last line of a program's output in the stack's environment; its errors are shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": f"{RUNNER}{os.pathsep}{STACK}", "OMP_WAIT_POLICY": "passive"}
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return done.stdout.splitlines()[-1] if done.stdout else ""  # PyTorch, too, has things to say


if __name__ == "__main__":
    main()

"""Facere's masks pasted outside the graph (cut), by the graph, and as the published script does, on the CPU.

Usage: python -m bench.facere [--repeat 3] [--threads 1] [--image photo.jpg]

Random weights; each case is a process of its own in the stack's environment, which is built where it is missing. The
masks of all three are compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from orchestrator.paths import environments_folder
from orchestrator.workflows.demo.photographs import fetch_photographs

ROOT = Path(__file__).parent.parent
RUNNER, STACK = ROOT / "images" / "runner", ROOT / "images" / "facere"
SIZES = ("1080x810", "2400x2400")
CASES = ("upstream", "graph", "cut")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--image", type=Path, help="a photograph; else scikit-image's coffee.png, twice")
    arguments = parser.parse_args()
    python = environment_python()
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        image = arguments.image or photograph(Path(scratch))
        weights = make_weights(python, Path(scratch))
        print(f"{'size':>10} {'case':>9} {'masks':>5} {'load s':>7} {'forward s':>10} {'cpu s':>6} {'masks s':>8} "
              f"{'but resize':>10} {'peak MB':>8} {'same bytes':>10}")  # fmt: skip
        for size in SIZES:
            compare(python, [weights, f"{scratch}/cache", image, size], arguments.repeat, arguments.threads)


MAKE_WEIGHTS = """
import sys
sys.path[:0] = sys.argv[1:3]
from random_weights import write_random_weights
print(write_random_weights("facere", sys.argv[3]))
"""


def make_weights(python: Path, folder: Path) -> str:
    """Random weights of facere in `folder`; their path."""
    return run(python, "-c", MAKE_WEIGHTS, STACK, RUNNER, folder).strip()


def compare(python: Path, what: list[Any], repeat: int, threads: int) -> None:
    """The rows of one image size."""
    # The first use cuts the graph; what the cases measure is every later one.
    first = run_case(python, [*what, "cut", 1, threads])
    reference: list[str] = []
    for case in CASES:
        found = run_case(python, [*what, case, repeat, threads])
        reference = reference or found["masks"]
        same = sum(one == other for one, other in zip(reference, found["masks"], strict=True))
        seconds = found["seconds"]
        forward, masks = seconds["forward"], seconds["masks"][0]
        print(f"{what[3]:>10} {case:>9} {found['instances']:>5} {seconds['load'][0]:>7.2f} {forward[0]:>10.2f} "
              f"{forward[1]:>6.2f} {masks:>8.4f} {seconds['masks without resize'][0]:>10.4f} "
              f"{found['peak_mb']:>8.0f} {same:>4}/{len(reference)}", flush=True)  # fmt: skip
    print(f"{'':>10} first load, with the cut where none is kept: {first['seconds']['load'][0]:.2f} s", flush=True)


def environment_python() -> Path:
    """The interpreter of the stack's CPU environment."""
    build = [sys.executable, "-m", "orchestrator", "build", "facere", "--runtime", "venv", "--variant", "cpu"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    found = environments_folder().glob("facere-cpu-*/bin/python")
    return max(found, key=lambda path: path.lstat().st_mtime)


def photograph(folder: Path) -> Path:
    """scikit-image's cup of coffee above its mirror image, so that there is plenty to find."""
    with Image.open(fetch_photographs(folder) / "coffee.png") as picture:
        coffee = picture.convert("RGB")
    both = Image.new("RGB", (coffee.width, 2 * coffee.height))
    both.paste(coffee, (0, 0))
    both.paste(ImageOps.mirror(coffee), (0, coffee.height))
    both.save(folder / "photograph.png")
    return folder / "photograph.png"


def run_case(python: Path, what: list[Any]) -> dict[str, Any]:
    """What one case measured."""
    report: dict[str, Any] = json.loads(run(python, ROOT / "bench" / "facere_case.py", RUNNER, STACK, *what))
    return report


def run(python: Path, *arguments: object) -> str:
    """The output of the environment's Python."""
    command = [str(python), *(str(one) for one in arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

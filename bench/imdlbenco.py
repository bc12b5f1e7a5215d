"""The work around a forward pass: upstream's script for saving masks and this project's runner, on the CPU.

Usage: python -m bench.imdlbenco [--images 20] [--size 1080x810 --size 384x256]

The network is a stand-in that gives one mask at once, in both; each case is a process of its own in the stack's
environment, which is built where it is missing. Milliseconds are CPU time per image, of all threads: they hold on a
busy machine too. Upstream reads a ground truth beside each image, as its data sets want it; ours has none to read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from orchestrator.paths import environments_folder
from orchestrator.workflows.demo.photographs import fetch_photographs

ROOT = Path(__file__).parent.parent
RUNNER, STACK = ROOT / "images" / "runner", ROOT / "images" / "imdlbenco"
CASE = ROOT / "bench" / "imdlbenco_case.py"
SIZES = ("384x256", "1080x810")
CASES = ("upstream", "ours")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", action="append", help="width and height of the photographs")
    arguments = parser.parse_args()
    python = environment_python()
    print(f"{'size':>10} {'upstream ms':>12} {'ours ms':>9} {'ratio':>6}")
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        for size in arguments.size or SIZES:
            listing = write_dataset(Path(scratch) / size, arguments.images, size)
            spent = [run_case(python, listing, Path(scratch) / case, case)["milliseconds"] for case in CASES]
            print(f"{size:>10} {spent[0]:>12.1f} {spent[1]:>9.1f} {spent[0] / spent[1]:>6.1f}", flush=True)


def environment_python() -> Path:
    """The interpreter of the stack's CPU environment."""
    build = [sys.executable, "-m", "orchestrator", "build", "imdlbenco", "--runtime", "venv", "--variant", "cpu"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    found = environments_folder().glob("imdlbenco-cpu-*/bin/python")
    return max(found, key=lambda path: path.lstat().st_mtime)


def write_dataset(folder: Path, count: int, size: str) -> Path:
    """Photographs, a ground truth beside each, and upstream's listing of both; the listing's path."""
    folder.mkdir(parents=True)
    width, height = (int(side) for side in size.split("x"))
    sources = [
        path for path in sorted(fetch_photographs(folder.with_name("fetched")).iterdir()) if path.suffix != ".txt"
    ]
    records = []
    for number in range(count):
        image, mask = folder / f"{number}.jpg", folder / f"{number}.png"
        with Image.open(sources[number % len(sources)]) as source:
            source.convert("RGB").resize((width, height)).save(image, quality=90)
        truth = Image.new("L", (width, height))
        ImageDraw.Draw(truth).ellipse((width // 3, height // 3, width // 2, height // 2), fill=255)
        truth.save(mask)
        records.append([str(image), str(mask)])
    listing = folder / "listing.json"
    listing.write_text(json.dumps(records))
    return listing


def run_case(python: Path, listing: Path, out: Path, case: str, *model: object) -> dict[str, Any]:
    """What one case measured."""
    command = [str(one) for one in (python, "-W", "ignore", CASE, RUNNER, STACK, listing, out, case, *model)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


if __name__ == "__main__":
    main()

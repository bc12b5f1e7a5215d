"""Attribute Mask R-CNN by this project's predictor and by upstream's own inference script, on the CPU.

Usage: python -m bench.amrcnn [--model amrcnn-r50-fpn] [--model amrcnn-spine] [--images 10] [--size 1080x810]

Random weights; each case is a process of its own in the stack's environment, which is built where it is missing, as
upstream's code is fetched. Seconds are CPU seconds of all threads: they hold on a busy machine too. "host" is all work
per image but the network's own. What is found is compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from orchestrator.catalog.loader import load_catalog
from orchestrator.catalog.spec import UpstreamSource
from orchestrator.catalog.upstream_code import ensure_sources
from orchestrator.paths import environments_folder
from orchestrator.workflows.demo.photographs import fetch_photographs

ROOT = Path(__file__).parent.parent
RUNNER, STACK = ROOT / "images" / "runner", ROOT / "images" / "amrcnn"
MODELS = ("amrcnn-r50-fpn", "amrcnn-spine")
CASES = ("upstream", "upstream-files", "ours")
SCRIPT = "models/official/detection/inference_fashion.py"


def main() -> None:
    """Print one table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", default="1080x810", help="width and height of the photographs")
    arguments = parser.parse_args()
    python = environment_python()
    source, script = sources()
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as scratch:
        images = photographs(Path(scratch), arguments.images, arguments.size)
        for model in arguments.model or MODELS:
            weights = Path(scratch) / "weights" / model
            run(python, "-c", MAKE_WEIGHTS, STACK, RUNNER, model, source, weights, f"{scratch}/cache")
            compare(python, model, [RUNNER, STACK, source, script, weights, f"{scratch}/cache", images])


MAKE_WEIGHTS = """
import sys
stack, runner, model, source, folder, cache = sys.argv[1:]
sys.path[:0] = [stack, runner]
from orch_runner.predictor import Model
from predictor import Predictor
Predictor.make_random_weights(Model(model, {}, {}, 2, cache, {"tpu": source}), folder)
"""


def compare(python: Path, model: str, where: list[Any]) -> None:
    """The rows of one model, and how many times less ours needs."""
    print(
        f"{model:>14} {'start s':>8} {'wall s':>7} {'forward s':>10} {'host ms':>8} {'peak MB':>8} {'as upstream':>12}"
    )
    reports: dict[str, Any] = {}
    for case in CASES:
        found = json.loads(run(python, ROOT / "bench" / "amrcnn_case.py", case, model, *where))
        reports[case] = found
        first = reports[CASES[0]]["found"]
        same = sum(found["found"][name] == seen for name, seen in first.items())
        print(f"{case:>14} {found['start_up']:>8.1f} {found['start_up_wall']:>7.1f} {found['forward']:>10.2f} "
              f"{1000 * found['host']:>8.1f} {found['peak_mb']:>8.0f} {same:>9}/{len(first)}", flush=True)  # fmt: skip
    ours = reports["ours"]
    for case in CASES[:-1]:
        ratios = (reports[case][name] / ours[name] for name in ("start_up", "host", "peak_mb"))
        print(f"{case} / ours: start-up {{:.1f}}, host work {{:.1f}}, peak memory {{:.1f}}".format(*ratios), flush=True)


def environment_python() -> Path:
    """The interpreter of the stack's CPU environment."""
    build = [sys.executable, "-m", "orchestrator", "build", "amrcnn", "--runtime", "venv", "--variant", "cpu"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    found = environments_folder().glob("amrcnn-cpu-*/bin/python")
    return max(found, key=lambda path: path.lstat().st_mtime)


def sources() -> tuple[Path, Path]:
    """Upstream's modules, as the stack has them, and its inference script, which the stack does not need."""
    spec = load_catalog([]).stack("amrcnn").spec.sources["tpu"]
    alone = UpstreamSource(url=spec.url, commit=spec.commit, folders=(SCRIPT,))
    found = ensure_sources("amrcnn", {"tpu": spec, "tpu-script": alone}, lambda line: None)
    return found["tpu"], found["tpu-script"] / SCRIPT


def photographs(folder: Path, count: int, size: str) -> Path:
    """A folder of `count` photographs, parts of two of scikit-image's, and an archive of it beside it."""
    width, height = (int(side) for side in size.split("x"))
    images = folder / "images"
    images.mkdir()
    pictures = [Image.open(fetch_photographs(folder / "fetched") / name).convert("RGB")
                for name in ("coffee.png", "rocket.jpg")]  # fmt: skip
    for number in range(count):
        picture = pictures[number % 2]
        left = 15 * (number // 2) % (picture.width // 3)
        part = picture.crop((left, 0, picture.width, picture.height))
        part.resize((width, height), Image.Resampling.BICUBIC).save(images / f"{number:02}.jpg", quality=92)
    with tarfile.open(f"{images}.tar", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.add(path, path.name)
    return images


def run(python: Path, *arguments: object) -> str:
    """The output of the environment's Python."""
    command = [str(python), *(str(one) for one in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr[-4000:])
    return done.stdout


if __name__ == "__main__":
    main()

"""All benchmarks with their default sizes: `make bench`. Results are recorded in docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "startup",
    "planning",
    "efficiency",
    "collect",
    "dispatch",
    "warm",
    "facere",
    "facere_loop",
    "amrcnn",
    "fformer",
    "export",
    "evaluate",
    "imdlbenco",
    "many_gpus",
)

for module in (f"bench.{name}" for name in MODULES):
    print(f"\n== python -m {module}", flush=True)
    subprocess.run([sys.executable, "-m", module], check=True)

"""All benchmarks with their default sizes: `make bench`. Results are recorded in docs/benchmarks.md."""

from __future__ import annotations

import subprocess
import sys

for module in ("bench.startup", "bench.collect", "bench.dispatch", "bench.facere", "bench.facere_loop", "bench.amrcnn"):
    print(f"\n== python -m {module}", flush=True)
    subprocess.run([sys.executable, "-m", module], check=True)

"""A warm worker as a process of this machine, in the stack's virtual environment, while its caller needs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.catalog import ensure_sources
from orchestrator.errors import MachineError
from orchestrator.paths import home, worker_cache_folder
from orchestrator.runtimes.base import BuildOptions, Prepared, worker_environment
from orchestrator.runtimes.build_inputs import build_inputs
from orchestrator.runtimes.process import inherited_variables, visible_gpus
from orchestrator.runtimes.warm.heartbeat import list_worker_ids
from orchestrator.runtimes.warm.settings import START_SECONDS, STOP_SECONDS, own_environment
from orchestrator.runtimes.warm.spool import VariantSpool, make_variant_folder
from orchestrator.runtimes.worker_cache import ensure_worker_cache

_POLL_SECONDS = 0.05
_LOG_BYTES = 4096
_WATCH = f"""
exec 3<&0
"$@" 3<&- </dev/null &
worker=$!
(
    read -r word
    kill -TERM $worker
    [ "$word" = stop ] && exit
    for _ in $(seq {STOP_SECONDS:.0f}); do kill -0 $worker || break; sleep 1; done
    rm -rf "$0"
    kill -KILL -$$
) <&3 3<&- 2>/dev/null &
wait $worker
"""
"""A shell that runs the worker and stops it where "stop" or the end of the input arrives. The input ends with the
process that started the worker, however that dies; then the folder of the session is removed too."""


@contextmanager
def process_worker(prepared: Prepared, folder: Path, device: str) -> Iterator[Path]:
    """Start a worker of an environment of the venv runtime; yield its spool, and stop the worker at the end.

    `folder`: an empty one of the caller's, for the spool, the worker's files and its log. The model runs as the caller.
    Raises MachineError where the worker does not start to serve.
    """
    stack, variant = prepared.stack, prepared.variant
    spool = VariantSpool(folder / "spool", stack.name, variant)
    make_variant_folder(spool, (os.getuid(), os.getgid()), is_default=False)
    opt, data, log = folder / "opt", folder / "data", folder / "worker.log"
    cache = worker_cache_folder(stack.name, variant)
    weights = home() / "weights" / stack.name
    for made in (opt, data, weights, cache.parent):
        made.mkdir(parents=True, exist_ok=True)
    ensure_worker_cache(cache, None)
    inputs = build_inputs(stack, variant, BuildOptions())
    inputs.write_context(opt, ensure_sources(stack.name, inputs.sources, lambda line: None, offline=True))
    paths = {"data": data, "cache": cache, "opt": opt, "weights": weights}
    own = {name: value for name, value in _own_variables(cache).items() if not name.endswith("_NUM_THREADS")}
    environment = {
        **inherited_variables(),
        **visible_gpus(device),
        **own,
        **own_environment(stack, variant),
        "ORCH_PATHS": json.dumps({name: str(path) for name, path in paths.items()}),
        "PYTHONPATH": str(opt / "runner"),
    }
    command = [str(Path(prepared.location) / "bin" / "python"), "-m", "orch_runner.serve", str(spool.root)]
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, str(folder), *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait_until_serving(worker, spool, log)
        yield spool.spool
    finally:
        _stop(worker)


def _own_variables(cache: Path) -> dict[str, str]:
    return worker_environment(1, str(cache), str(cache / "home"))


def _wait_until_serving(worker: subprocess.Popen[bytes], spool: VariantSpool, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with spool.open() as tree:
        while not list_worker_ids(tree):
            if worker.poll() is not None or time.monotonic() > deadline:
                end = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
                raise MachineError("the warm worker does not start to serve", why=end or None, log=log)
            time.sleep(_POLL_SECONDS)


def _stop(worker: subprocess.Popen[bytes]) -> None:
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        worker.communicate(b"stop\n", STOP_SECONDS)
    with suppress(ProcessLookupError):  # all that is left: the models are processes of their own
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()

"""Run one worker: read the job, load the model, predict the queue's shards, return the exit status."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from orch_runner import __version__, memory
from orch_runner.contract import CONTRACT, Fatal, JobRefused, RunnerJob, WeightFile, read_job
from orch_runner.events import Emitter, log
from orch_runner.files import hash_file
from orch_runner.limits import STACK_MODULE, describe_error, is_out_of_memory

STOPPED = 143
HEARTBEAT_SECONDS = 2.0


class StopSignal:
    """Turn SIGTERM into a flag that the main loop checks; during loading it ends the process at once.

    A thread waits for the signal's byte: a handler in Python runs only after a library's C code has returned, and an
    exception raised by it inside a library has unknown effects.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.is_requested = False
        self.ends_process = True
        self._emitter = emitter
        self._wakeups, wakeup_end = os.pipe()
        os.set_blocking(wakeup_end, False)
        signal.signal(signal.SIGTERM, self._handle)
        # A terminal's Ctrl-C reaches the whole process group; the host alone handles it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def _handle(self, signum: int, frame: Any) -> None:
        del signum, frame
        self.is_requested = True

    def _watch(self) -> None:
        while signal.SIGTERM not in os.read(self._wakeups, 1):
            pass
        self.is_requested = True
        if self.ends_process:
            self._emitter.emit("bye", reason="stopped while loading")
            os._exit(STOPPED)


def main(arguments: List[str]) -> int:
    """Run the job named on the command line; return the exit status of the contract."""
    emitter = Emitter()
    try:
        outcome = _run(arguments, emitter, StopSignal(emitter))
        status = 0 if outcome == "all done" else STOPPED
    except Exception as error:
        outcome, status = "failed", report_failure(emitter, error)
    emitter.emit("bye", reason=outcome)
    return status


def report_failure(emitter: Emitter, error: Exception) -> int:
    """Emit the failure event of an error; return the error's exit status."""
    category, message, hint, status = "bug", describe_error(error), None, 70
    if isinstance(error, JobRefused):
        category, message, status = "contract", str(error), 2
    elif isinstance(error, Fatal):
        category, message, hint, status = error.category, str(error), error.hint, error.exit_code
    log("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    emitter.emit("failure", category=category, message=message, hint=hint)
    return status


def _run(arguments: List[str], emitter: Emitter, stop: StopSignal) -> str:
    """Do the job; return why it ended: "all done" or the reason of an early end."""
    if len(arguments) != 1:
        raise JobRefused("usage: python -m orch_runner JOB.json")
    job = read_job(Path(arguments[0]))
    emit_hello(emitter)
    threading.Thread(target=_emit_heartbeats, args=(emitter,), daemon=True).start()
    limit_threads(job.threads)
    # Imported here, so that a bad job is refused at once and numpy's libraries read the number of threads.
    from orch_runner.batches import ShardQueue
    from orch_runner.shard_file import check_writable

    check_writable(job)
    emitter.emit("loading", model=job.model_name)
    started = time.monotonic()
    predictor = load_predictor(job)
    stop.ends_process = False
    batch_size = min(job.batch_size, predictor.max_batch)
    emit_ready(emitter, job, batch_size, time.monotonic() - started)
    return predict_queue(job, ShardQueue(job, batch_size), predictor, emitter, batch_size, lambda: stop.is_requested)


def emit_hello(emitter: Emitter) -> None:
    """Emit the first event."""
    emitter.emit("hello", contract=CONTRACT, runner=__version__, python=sys.version.split()[0], pid=os.getpid())


def emit_ready(emitter: Emitter, job: RunnerJob, batch_size: int, seconds: float) -> None:
    """Emit that the model is loaded, which took `seconds`."""
    emitter.emit("ready", device=job.device, batch_size=batch_size, seconds=round(seconds, 3), versions=_versions())


def predict_queue(
    job: RunnerJob, queue: Any, predictor: Any, emitter: Emitter, batch_size: int, is_stopping: Callable[[], bool]
) -> str:
    """Predict the shards of a batches.ShardQueue; return why that ended (BatchStream.outcome)."""
    from orch_runner.batches import BatchStream
    from orch_runner.pipeline import Pipeline

    batches = BatchStream(job, queue, predictor.decoder, predictor.color, batch_size)
    pipeline = Pipeline(job, predictor, emitter, batch_size)
    try:
        pipeline.run(batches, is_stopping)
    finally:
        batches.close()
        pipeline.close()
    return batches.outcome


def limit_threads(threads: int) -> None:
    """Set the environment's thread limits, before libraries read them; existing values win."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def load_predictor(job: RunnerJob) -> Any:
    """Import the stack's predictor and load the model. Raises Fatal."""
    weights = {key: str(_weights_path(job, key, weight)) for key, weight in job.weights.items()}
    model = make_model(job, weights)
    try:
        predictor = predictor_class(job)()
        _check_predictor(predictor)
        if job.device == "cuda":
            log(f"a kernel ran on {predictor.probe()}")
        predictor.load(model, job.device)
    except Fatal:
        raise
    except (Exception, SystemExit) as error:
        category = "memory" if is_out_of_memory(error) else "load"
        raise Fatal(category, 3, f"cannot load {job.model_name}: {describe_error(error)}") from error
    return predictor


def make_model(job: RunnerJob, weights: Mapping[str, str]) -> Any:
    """Return the predictor.Model of a job, with these weights."""
    from orch_runner.predictor import Model

    sources = {name: str(folder) for name, folder in job.sources.items()}
    digests = {key: weight.sha256 for key, weight in job.weights.items() if weight.sha256 is not None}
    return Model(
        job.model_name,
        dict(weights),
        dict(job.settings),
        job.threads,
        str(job.cache),
        sources,
        digests,
        job.config or "",
        job.score_threshold,
        job.architecture,
    )


def _check_predictor(predictor: Any) -> None:
    """Check the decoder, colour order and batch size that the predictor declares. Raises Fatal."""
    from orch_runner.decode import DECODERS, MODULES

    if predictor.decoder not in DECODERS:
        raise Fatal("load", 3, f"unknown decoder {predictor.decoder!r}, known: {', '.join(DECODERS)}")
    if importlib.util.find_spec(MODULES[predictor.decoder]) is None:
        module = MODULES[predictor.decoder]
        raise Fatal("load", 3, f"the decoder {predictor.decoder} needs {module}, which is not installed")
    if predictor.color not in ("RGB", "BGR"):
        raise Fatal("load", 3, f"unknown color {predictor.color!r}, known: RGB, BGR")
    if predictor.max_batch < 1:
        raise Fatal("load", 3, f"max_batch is {predictor.max_batch}, must be at least 1")


def predictor_class(job: RunnerJob) -> Any:
    """Import the stack's predictor module; return the class. Raises Fatal."""
    file, _, name = job.predictor.partition(":")
    path = job.stack / file
    # So that a predictor can import modules of its own folder.
    sys.path.insert(0, str(job.stack))
    spec = importlib.util.spec_from_file_location(STACK_MODULE, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Fatal("load", 3, f"no predictor at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    try:
        return getattr(module, name)
    except AttributeError:
        raise Fatal("load", 3, f"{path} has no class {name}") from None


def _weights_path(job: RunnerJob, key: str, weight: WeightFile) -> Path:
    """Return the path of a weights file; check one inside a package, which the host cannot. Raises Fatal."""
    if weight.package is None:
        path = job.weights_dir / weight.file
        if not path.exists():
            raise Fatal("weights", 3, f"weights {key!r}: missing file {weight.file}")
        return path
    try:
        spec = importlib.util.find_spec(weight.package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise Fatal("weights", 3, f"weights {key!r}: the package {weight.package} is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / weight.file
    if not path.is_file():
        raise Fatal("weights", 3, f"weights {key!r}: {weight.package} has no file {weight.file}")
    if weight.sha256 is not None and hash_file(path) != weight.sha256:
        raise Fatal("weights", 3, f"weights {key!r}: {weight.file} of {weight.package} is not the expected file")
    return path


def _versions() -> Dict[str, str]:
    versions: Dict[str, str] = {"python": sys.version.split()[0]}
    for name in ("numpy", "PIL", "cv2", "onnxruntime", "torch", "tensorflow", "mmcv", "mmdet"):
        version: Optional[str] = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            versions[name] = str(version)
    return versions


def _emit_heartbeats(emitter: Emitter) -> None:
    while True:
        emitter.emit("heartbeat", rss_mb=memory.resident_mb(os.getpid()))
        time.sleep(HEARTBEAT_SECONDS)

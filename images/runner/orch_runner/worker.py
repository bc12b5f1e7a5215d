"""One worker's life: read the job, load the model, predict what the queue brings, leave with a meaning status."""

from __future__ import annotations

import hashlib
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
from orch_runner.contract import CONTRACT, Fatal, Job, JobRefused, WeightFile, read_job
from orch_runner.events import Emitter, log

STOPPED = 143
HEARTBEAT_SECONDS = 2.0


class Stop:
    """SIGTERM as a flag the main loop looks at; while a model is being loaded it ends the process at once.

    A thread waits for the signal's byte, because a handler in Python only runs between two steps of the main thread:
    not before a library's C code returns, and nobody knows what becomes of an exception raised inside a library.
    """

    def __init__(self, emitter: Emitter) -> None:
        self.requested = False
        self.at_once = True
        self._emitter = emitter
        self._wakes, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGTERM, self._handle)
        # A terminal's Ctrl-C reaches the whole process group; only the host decides what it means.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def _handle(self, signum: int, frame: Any) -> None:
        del signum, frame
        self.requested = True

    def _watch(self) -> None:
        while signal.SIGTERM not in os.read(self._wakes, 1):
            pass
        self.requested = True
        if self.at_once:
            self._emitter.emit("bye", reason="stopped while loading")
            os._exit(STOPPED)


def main(arguments: List[str]) -> int:
    """Run the job named on the command line; the result is the exit status of the contract."""
    emitter = Emitter()
    try:
        outcome = _run(arguments, emitter, Stop(emitter))
        status = 0 if outcome == "all done" else STOPPED
    except Exception as error:
        outcome, status = "failed", report_failure(emitter, error)
    emitter.emit("bye", reason=outcome)
    return status


def report_failure(emitter: Emitter, error: Exception) -> int:
    """Emit the failure; the result is the exit status that goes with it."""
    category, message, hint, status = "bug", f"{type(error).__name__}: {error}", None, 70
    if isinstance(error, JobRefused):
        category, message, status = "contract", str(error), 2
    elif isinstance(error, Fatal):
        category, message, hint, status = error.category, str(error), error.hint, error.exit_code
    log("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    emitter.emit("failure", category=category, message=message, hint=hint)
    return status


def _run(arguments: List[str], emitter: Emitter, stop: Stop) -> str:
    """Do the job; the result says why that ended: "all done" or something else."""
    if len(arguments) != 1:
        raise JobRefused("usage: python -m orch_runner JOB.json")
    job = read_job(Path(arguments[0]))
    say_hello(emitter)
    threading.Thread(target=_heartbeat, args=(emitter,), daemon=True).start()
    limit_threads(job.threads)
    # Imported here so that a refused job answers at once, and numpy's libraries see the number of threads.
    from orch_runner.batches import Queue
    from orch_runner.shard_file import check_writable

    check_writable(job)
    emitter.emit("loading", model=job.model_name)
    started = time.monotonic()
    predictor = load_predictor(job)
    stop.at_once = False
    batch_size = min(job.batch_size, predictor.max_batch)
    say_ready(emitter, job, batch_size, time.monotonic() - started)
    return predict_queue(job, Queue(job, batch_size), predictor, emitter, batch_size, lambda: stop.requested)


def say_hello(emitter: Emitter) -> None:
    """The first event."""
    emitter.emit("hello", contract=CONTRACT, runner=__version__, python=sys.version.split()[0], pid=os.getpid())


def say_ready(emitter: Emitter, job: Job, batch_size: int, seconds: float) -> None:
    """The model is loaded, and `seconds` is how long that took."""
    emitter.emit("ready", device=job.device, batch_size=batch_size, seconds=round(seconds, 3), versions=_versions())


def predict_queue(
    job: Job, queue: Any, predictor: Any, emitter: Emitter, batch_size: int, stopping: Callable[[], bool]
) -> str:
    """Predict what an intake.Queue brings; the result says why that ended: "all done" or something else."""
    from orch_runner.batches import Intake
    from orch_runner.pipeline import Pipeline

    intake = Intake(job, queue, predictor.decoder, predictor.color, batch_size)
    pipeline = Pipeline(job, predictor, emitter, batch_size)
    try:
        pipeline.run(intake, stopping)
    finally:
        intake.close()
        pipeline.close()
    return intake.outcome


def limit_threads(threads: int) -> None:
    """Set before the libraries are imported that read it; the host's own settings win."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def load_predictor(job: Job) -> Any:
    """Import the stack's predictor and load the model. Raises Fatal."""
    weights = {key: str(_weights_path(job, key, weight)) for key, weight in job.weights.items()}
    model = model_to_load(job, weights)
    try:
        predictor = predictor_class(job)()
        _check_wishes(predictor)
        if job.device == "cuda":
            log(f"a kernel ran on {predictor.probe()}")
        predictor.load(model, job.device)
    except Fatal:
        raise
    except (Exception, SystemExit) as error:
        raise Fatal("load", 3, f"{job.model_name} could not be loaded: {type(error).__name__}: {error}") from error
    return predictor


def model_to_load(job: Job, weights: Mapping[str, str]) -> Any:
    """The predictor.Model of a job, with these weights."""
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
    )


def _check_wishes(predictor: Any) -> None:
    """Whether the predictor asks for what there is. Raises Fatal."""
    from orch_runner.decode import DECODERS, MODULES

    if predictor.decoder not in DECODERS:
        raise Fatal("load", 3, f"unknown decoder {predictor.decoder!r}, known: {', '.join(DECODERS)}")
    if importlib.util.find_spec(MODULES[predictor.decoder]) is None:
        raise Fatal(
            "load", 3, f"the decoder {predictor.decoder} needs {MODULES[predictor.decoder]}, which is not installed"
        )
    if predictor.color not in ("RGB", "BGR"):
        raise Fatal("load", 3, f"unknown color {predictor.color!r}, known: RGB, BGR")
    if predictor.max_batch < 1:
        raise Fatal("load", 3, f"max_batch is {predictor.max_batch}, must be at least 1")


def predictor_class(job: Job) -> Any:
    file, _, name = job.predictor.partition(":")
    path = job.stack / file
    # The stack's folder is importable, so that a predictor may have modules beside it.
    sys.path.insert(0, str(job.stack))
    spec = importlib.util.spec_from_file_location("orch_stack_predictor", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Fatal("load", 3, f"there is no predictor at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    try:
        return getattr(module, name)
    except AttributeError:
        raise Fatal("load", 3, f"{path} has no class {name}") from None


def _weights_path(job: Job, key: str, weight: WeightFile) -> Path:
    """Where a weights file is. One inside a package is checked here: no host ever saw it."""
    if weight.package is None:
        path = job.weights_dir / weight.file
        if not path.exists():
            raise Fatal("weights", 3, f"weights {key!r}: {weight.file} is not there")
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
    if weight.sha256 is not None and _sha256(path) != weight.sha256:
        raise Fatal("weights", 3, f"weights {key!r}: {weight.file} of {weight.package} is not the expected file")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> Dict[str, str]:
    found: Dict[str, str] = {"python": sys.version.split()[0]}
    for name in ("numpy", "PIL", "cv2", "onnxruntime", "torch", "tensorflow", "mmcv", "mmdet"):
        version: Optional[str] = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def _heartbeat(emitter: Emitter) -> None:
    while True:
        emitter.emit("heartbeat", rss_mb=memory.resident_mb(os.getpid()))
        time.sleep(HEARTBEAT_SECONDS)

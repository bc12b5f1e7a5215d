"""A process of a warm worker that loads one model and serves jobs with it; the supervisor starts it.

    python -m orch_runner.serving.model_process JOB.json shared|private can-evict|alone

JOB.json is the first job, which defines what to load. A private process takes only careful shards, a shared one only
the others. With `can-evict`, a process that finds the device's memory full reports out_of_memory and exits: the
supervisor can unload other models. stdin brings one command a line, stdout takes one report a line (as events:
"event", "seq", "time"):

    {"command": "serve", "job", "folder", "seen": [queue files], "sequence": n}
    {"command": "stop" | "drop", "job"}
    {"command": "shut_down"}

    loaded (seconds, rss_mb, gpu_mb) · out_of_memory · stats (images, rss_mb, gpu_mb)
    unusable (message)                      this process must get no further jobs
    handed_over (job, seen, sequence, images)   the next shard needs a process of the other kind
    ended (job, code, images)
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from orch_runner.contract import Fatal, read_job
from orch_runner.events import Emitter
from orch_runner.memory import resident_mb
from orch_runner.serving.job_session import JobSession
from orch_runner.worker import HEARTBEAT_SECONDS, STOPPED, limit_threads, load_predictor

STATS_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_Call = Tuple["Future[Any]", List[Any]]


class SharedPredictor:
    """The predictor as sessions use it: `predict` runs in the loading thread, in order of the calls.

    So the sessions alternate batch by batch, and what a library keeps per thread (PyTorch: much) stays the same.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._calls: "queue.SimpleQueue[Optional[_Call]]" = queue.SimpleQueue()
        self.decoder, self.color, self.max_batch = predictor.decoder, predictor.color, predictor.max_batch
        self.images = 0

    def predict(self, images: List[Any]) -> List[Any]:
        """Predict as the predictor does, after all earlier calls."""
        result: "Future[Any]" = Future()
        self._calls.put((result, images))
        return result.result()  # type: ignore[no-any-return]

    def finish(self, raw: Any, image: Any) -> Any:
        """Finish as the predictor does, in the calling thread."""
        return self._predictor.finish(raw, image)

    def work(self) -> None:
        """Run the calls of `predict` until `close`."""
        while True:
            call = self._calls.get()
            if call is None:
                return
            result, images = call
            try:
                result.set_result(self._predictor.predict(images))
            except BaseException as error:  # the calling session handles it
                result.set_exception(error)
            self.images += len(images)
            del call, result, images  # or they would keep tensors alive while this process is idle

    def close(self) -> None:
        """End `work` after the calls that it has."""
        self._calls.put(None)


class ModelProcess:
    """The model, its sessions, and the reports about them to the supervisor."""

    def __init__(self, first_job: Path, careful: bool, can_evict: bool) -> None:
        self._first_job, self._careful, self._can_evict = first_job, careful, can_evict
        self._reports = Emitter()
        self._model: "Future[Tuple[SharedPredictor, float]]" = Future()
        self._sessions: Dict[str, JobSession] = {}
        self._lock = threading.Lock()
        self._is_shutting_down = False

    def run(self) -> int:
        """Load the model, serve jobs until the shutdown; return the exit status."""
        for action in (self._read_commands, self._report_stats):
            threading.Thread(target=action, daemon=True).start()
        started = time.monotonic()
        try:
            job = read_job(self._first_job)
            limit_threads(job.threads)
            predictor = SharedPredictor(load_predictor(job))
        except Exception as error:
            return self._fail(error)
        seconds = time.monotonic() - started
        self._reports.emit("loaded", seconds=round(seconds, 3), rss_mb=resident_mb(os.getpid()), gpu_mb=read_gpu_mb())
        self._model.set_result((predictor, seconds))
        predictor.work()
        return STOPPED

    def _fail(self, error: Exception) -> int:
        """Report that the model cannot be loaded; return the exit status once all sessions have ended."""
        from orch_runner.limits import is_out_of_memory

        if self._can_evict and is_out_of_memory(error.__cause__ or error):
            self._reports.emit("out_of_memory")
            return 3
        self._reports.emit("unusable", message=str(error))
        self._model.set_exception(error)
        while self._sessions:
            time.sleep(0.01)
        return 3

    def _read_commands(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command["command"] == "serve":
                self._serve(command)
            elif command["command"] == "shut_down":
                self._shut_down()
            elif command["job"] in self._sessions:
                self._sessions[command["job"]].stop(drop=command["command"] == "drop")
        os._exit(137)  # the supervisor has ended

    def _serve(self, command: Dict[str, Any]) -> None:
        folder, job = Path(command["folder"]), str(command["job"])
        session = JobSession(folder, self._model, self._careful, command["seen"], command["sequence"])
        with self._lock:
            self._sessions[job] = session
        threading.Thread(target=self._run_session, args=(job, session), name=job).start()

    def _run_session(self, job: str, session: JobSession) -> None:
        code = session.run()
        with self._lock:
            del self._sessions[job]
            is_last = not self._sessions and self._is_shutting_down
        if isinstance(session.failure, Fatal) and session.failure.category == "device":
            self._reports.emit("unusable", message=str(session.failure))
        if code is None:
            seen = sorted(session.seen)
            self._reports.emit("handed_over", job=job, seen=seen, sequence=session.sequence, images=session.images)
        else:
            self._reports.emit("ended", job=job, code=code, images=session.images)
        if is_last and self._model.done():
            self._model.result()[0].close()

    def _shut_down(self) -> None:
        with self._lock:
            self._is_shutting_down = True
            sessions = list(self._sessions.values())
        if not self._model.done():
            os._exit(STOPPED)  # an exception raised inside a library that loads has unknown effects
        for session in sessions:
            session.stop()
        if not sessions and self._model.exception() is None:
            self._model.result()[0].close()

    def _report_stats(self) -> None:
        last_heartbeat = 0.0
        while True:
            time.sleep(STATS_SECONDS)
            with self._lock:
                sessions = list(self._sessions.values())
            images = self._model.result()[0].images if self._model.done() and not self._model.exception() else 0
            self._reports.emit("stats", images=images, rss_mb=resident_mb(os.getpid()), gpu_mb=read_gpu_mb())
            if time.monotonic() - last_heartbeat >= HEARTBEAT_SECONDS:
                last_heartbeat = time.monotonic()
                for session in sessions:
                    session.emit_heartbeat()


def read_gpu_mb() -> Optional[int]:
    """Return the MiB of GPU memory that this process holds, if PyTorch reports it; else None."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        return int(torch.cuda.memory_reserved()) >> 20
    except Exception:  # torch is being imported, or was built without CUDA
        return None


def main(arguments: List[str]) -> int:
    """Serve with the model of the job named on the command line."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return ModelProcess(Path(arguments[0]), arguments[1] == "private", arguments[2] == "can-evict").run()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # as in orch_runner.__main__

"""A keeper: the process of a warm worker that loads one model and serves jobs with it (orch_runner.serve starts it).

    python -m orch_runner.serving.model_process JOB.json shared|private crowded|alone

JOB.json is the first job, which says what to load. A private keeper takes careful shards only, a shared one all
others. A crowded one that finds the device's memory full ends with no_room: others can be unloaded. stdin brings a
command a line, stdout takes a report a line (as events: "event", "seq", "time"):

    {"do": "serve", "job", "folder", "seen": [queue files], "sequence": n}    {"do": "stop" | "drop", "job"}
    {"do": "leave"}

    loaded (seconds) · no_room · unsound (message: load no more jobs onto this process) · stats (images, rss_mb, gpu_mb)
    moved (job, seen, sequence, images: the next shard is for a keeper of the other kind)
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
from orch_runner.serving.job_session import Session
from orch_runner.worker import HEARTBEAT_SECONDS, STOPPED, limit_threads, load_predictor

STATS_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_Call = Tuple["Future[Any]", List[Any]]


class SharedPredictor:
    """The predictor as sessions see it. `predict` runs in the thread that loaded the model, first come first served:
    the sessions take turns batch by batch, and what a library keeps per thread (PyTorch: much) is always the same.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        self._calls: "queue.SimpleQueue[Optional[_Call]]" = queue.SimpleQueue()
        self.decoder, self.color, self.max_batch = predictor.decoder, predictor.color, predictor.max_batch
        self.images = 0

    def predict(self, images: List[Any]) -> List[Any]:
        """As the predictor's own, after those who came before."""
        answer: "Future[Any]" = Future()
        self._calls.put((answer, images))
        return answer.result()  # type: ignore[no-any-return]

    def finish(self, raw: Any, image: Any) -> Any:
        """As the predictor's own, in the calling thread."""
        return self._predictor.finish(raw, image)

    def work(self) -> None:
        """Predict what is asked for until `close`."""
        while True:
            call = self._calls.get()
            if call is None:
                return
            answer, images = call
            try:
                answer.set_result(self._predictor.predict(images))
            except BaseException as error:  # the session that asked decides what it means
                answer.set_exception(error)
            self.images += len(images)
            del call, answer, images  # they would keep tensors alive while nothing is to be done

    def close(self) -> None:
        """End `work` when it has done what it has."""
        self._calls.put(None)


class Keeper:
    """The model, its sessions, and what the supervisor is told of them."""

    def __init__(self, first: Path, careful: bool, crowded: bool) -> None:
        self._first, self._careful, self._crowded = first, careful, crowded
        self._reports = Emitter()
        self._model: "Future[Tuple[SharedPredictor, float]]" = Future()
        self._sessions: Dict[str, Session] = {}
        self._lock = threading.Lock()
        self._leaving = False

    def run(self) -> int:
        """Load, serve until told to leave; the result is the exit status."""
        for action in (self._listen, self._tell):
            threading.Thread(target=action, daemon=True).start()
        started = time.monotonic()
        try:
            job = read_job(self._first)
            limit_threads(job.threads)
            predictor = SharedPredictor(load_predictor(job))
        except Exception as error:
            if self._crowded and out_of_memory(error.__cause__ or error):
                self._reports.emit("no_room")
                return 3
            self._reports.emit("unsound", message=str(error))
            self._model.set_exception(error)
            while self._sessions:
                time.sleep(0.01)
            return 3
        seconds = time.monotonic() - started
        self._reports.emit("loaded", seconds=round(seconds, 3), rss_mb=resident_mb(os.getpid()), gpu_mb=gpu_mb())
        self._model.set_result((predictor, seconds))
        predictor.work()
        return STOPPED

    def _listen(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "serve":
                self._serve(command)
            elif command["do"] == "leave":
                self._leave()
            elif command["job"] in self._sessions:
                self._sessions[command["job"]].stop(dropped=command["do"] == "drop")
        os._exit(137)  # the supervisor is no more

    def _serve(self, command: Dict[str, Any]) -> None:
        folder, job = Path(command["folder"]), str(command["job"])
        session = Session(folder, self._model, self._careful, command["seen"], command["sequence"])
        with self._lock:
            self._sessions[job] = session
        threading.Thread(target=self._run, args=(job, session), name=job).start()

    def _run(self, job: str, session: Session) -> None:
        code = session.run()
        with self._lock:
            del self._sessions[job]
            left = not self._sessions and self._leaving
        if isinstance(session.failure, Fatal) and session.failure.category == "device":
            self._reports.emit("unsound", message=str(session.failure))
        if code is None:
            seen = sorted(session.seen)
            self._reports.emit("moved", job=job, seen=seen, sequence=session.sequence, images=session.images)
        else:
            self._reports.emit("ended", job=job, code=code, images=session.images)
        if left and self._model.done():
            self._model.result()[0].close()

    def _leave(self) -> None:
        with self._lock:
            self._leaving = True
            sessions = list(self._sessions.values())
        if not self._model.done():
            os._exit(STOPPED)  # nobody knows what becomes of an exception raised inside a library that loads
        for session in sessions:
            session.stop()
        if not sessions and self._model.exception() is None:
            self._model.result()[0].close()

    def _tell(self) -> None:
        heard = 0.0
        while True:
            time.sleep(STATS_SECONDS)
            with self._lock:
                sessions = list(self._sessions.values())
            images = self._model.result()[0].images if self._model.done() and not self._model.exception() else 0
            self._reports.emit("stats", images=images, rss_mb=resident_mb(os.getpid()), gpu_mb=gpu_mb())
            if time.monotonic() - heard >= HEARTBEAT_SECONDS:
                heard = time.monotonic()
                for session in sessions:
                    session.beat()


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what the error says, by the signs the pipeline goes by."""
    from orch_runner.pipeline import out_of_memory as says_so

    return says_so(error)


def gpu_mb() -> Optional[int]:
    """GPU memory this process holds, where PyTorch can say; None where nobody can."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        return int(torch.cuda.memory_reserved()) >> 20
    except Exception:  # while it is being imported, or a build of it without a GPU
        return None


def main(arguments: List[str]) -> int:
    """Keep the model of the job named on the command line."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Keeper(Path(arguments[0]), arguments[1] == "private", arguments[2] == "crowded").run()


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # as in orch_runner.__main__

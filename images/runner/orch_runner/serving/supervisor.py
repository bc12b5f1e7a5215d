"""The supervisor of a warm worker: takes jobs from the spool, gives them to keepers, and outlives whatever they do."""

from __future__ import annotations

import os
import selectors
import signal
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from orch_runner import memory
from orch_runner.contract import JobRefused, read_job
from orch_runner.events import Emitter, log
from orch_runner.liveness import SignOfLife
from orch_runner.serving.active_job import UnderWay, begins_careful, events_in, is_gone, is_there, life_of
from orch_runner.serving.heartbeat import Heartbeat
from orch_runner.serving.model_pool import Room, load_key
from orch_runner.serving.model_process_handle import KeeperProcess
from orch_runner.serving.spool import Me, Spool, Ticket
from orch_runner.serving.ticket_watch import POLL_SECONDS, TicketWatch
from orch_runner.worker import STOPPED, report_failure

MOST_JOBS = 16
LOOK_SECONDS = 0.1
"""How often the files are looked at by which hosts stop their jobs."""
BEAT_SECONDS = 1.0
DROP_SECONDS = 5.0
"""A keeper that has not let go of a dropped job after so long is hung: it gets no more jobs."""


class Supervisor:
    """One thread, one loop; nothing in it blocks."""

    def __init__(self, me: Me, spool: Spool, environment: Mapping[str, str]) -> None:
        self._me, self._spool = me, spool
        self._idle_seconds = float(environment.get("ORCH_IDLE_SECONDS") or 900)
        self._room = Room(memory.limit_mb(environment))
        self._heartbeat = Heartbeat(me, environment)
        self._watch = TicketWatch(spool.tickets_folder, environment.get("ORCH_POLL") == "1")
        self._jobs: Dict[str, UnderWay] = {}
        self._silent: Dict[str, SignOfLife] = {}
        """Of tickets that wait: whether their hosts are still there."""
        self._waiting, self._waits_said = 0, ""
        self._stopping = False
        self._look_again = True
        self._listed = self._looked = self._beaten = 0.0
        self._kills = memory.kills()
        self._selector = selectors.DefaultSelector()
        self._listen_to_signals()
        if self._watch.descriptor is not None:
            self._selector.register(self._watch.descriptor, selectors.EVENT_READ)
        self._watch.compare(spool.names(), first=True)

    def run(self) -> int:
        """Serve until SIGTERM; the result is the exit status."""
        told = "inotify" if self._watch.descriptor is not None else "polling"
        log(f"worker {self._me.id}: {self._me.stack}, {self._me.variant}, {self._me.device}; {self._room}; {told}")
        if self._heartbeat.problem:
            log(f"unfit: {self._heartbeat.problem}")
        self._beat()
        while not (self._stopping and not self._jobs):
            self._wait()
            for keeper in list(self._room.keepers):
                self._hear(keeper)
            if not self._stopping:
                self._take_tickets()
            self._heed_hosts()
            self._place_waiting()
            self._unload_idle()
            self._beat()
        for keeper in self._room.keepers:
            keeper.kill()
        log("stopped")
        return STOPPED

    # --- what happens

    def _listen_to_signals(self) -> None:
        woken, wakes = os.pipe()
        for end in (woken, wakes):
            os.set_blocking(end, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        self._woken = woken
        self._selector.register(woken, selectors.EVENT_READ)

    def _on_signal(self, signum: int, frame: Any) -> None:
        del signum, frame
        self._stopping = True

    def _wait(self) -> None:
        polls = self._watch.descriptor is None and not self._stopping
        for ready, _ in self._selector.select(POLL_SECONDS if polls else LOOK_SECONDS if self._jobs else 0.5):
            if ready.fd == self._woken:
                os.read(self._woken, 512)
                self._stop_all()

    def _stop_all(self) -> None:
        if not self._stopping:
            return
        log("stopping after the batches at hand")
        for keeper in self._room.keepers:
            keeper.leave()
        for job in [job for job in self._under_way if job.keeper is None]:
            self._end(job, STOPPED)

    def _hear(self, keeper: KeeperProcess) -> None:
        for report in keeper.reports():
            kind = report["event"]
            if kind == "loaded":
                self._room.loaded(keeper, report)
                log(f"{keeper.model}: loaded in {report['seconds']:.1f} s, {keeper.rss_mb} MB")
            elif kind == "unsound":
                keeper.sound = False
                log(f"{keeper.model}: {report['message']}")
            elif kind == "no_room":
                self._make_room(keeper)
            elif kind == "stats":
                self._heartbeat.predicted(report["images"] - keeper.images)
                keeper.images = report["images"]
                self._room.measured(keeper, report)
            elif kind in ("moved", "ended") and report["job"] in keeper.jobs:
                self._let_go(keeper, report)
            elif kind == "gone":
                self._on_death(keeper)
            self._look_again = True
            if keeper not in self._room.keepers:
                return
        if keeper.has_ended():  # though a child of its own may hold its end of the pipe
            self._on_death(keeper)

    def _make_room(self, keeper: KeeperProcess) -> None:
        """The device's memory was full: unload what is idle, and load again."""
        log(f"{keeper.model}: no memory on the device; unloading what is idle")
        for job in [self._jobs[job] for job in keeper.jobs if job in self._jobs]:
            job.keeper, job.sequence = None, events_in(job.folder)
        keeper.jobs.clear()
        for other in [keeper, *self._room.idle]:
            self._dismiss(other)

    def _let_go(self, keeper: KeeperProcess, report: Mapping[str, Any]) -> None:
        keeper.release(report["job"])
        job = self._jobs.get(report["job"])
        if job is None:
            return
        job.keeper = None
        job.images += report["images"]
        if report["event"] == "ended":
            self._end(job, report["code"])
        else:
            job.seen, job.sequence, job.careful = report["seen"], report["sequence"], not job.careful
        if keeper.private:
            self._dismiss(keeper)

    def _on_death(self, keeper: KeeperProcess) -> None:
        self._selector.unregister(keeper.descriptor)
        self._room.remove(keeper)
        code, kills = keeper.wait(), memory.kills()
        detail = "out of memory" if code == 137 and kills > self._kills else None
        self._kills = kills
        lost = [self._jobs[job] for job in keeper.jobs if job in self._jobs]
        for job in lost:
            self._end(job, STOPPED if self._stopping else code or 137, detail)
        if keeper.sound and not self._stopping:
            log(f"{keeper.model}: its process died ({detail or f'exit {code}'}) and left {len(lost)} jobs")

    def _end(self, job: UnderWay, code: int, detail: Optional[str] = None) -> None:
        del self._jobs[job.id]
        self._spool.end(job.id, code, detail)
        seconds = time.monotonic() - job.started
        ended = "" if code == 0 else f", ended with {code}"
        log(f"{job}: {job.images} images in {seconds:.1f} s{ended}")
        self._look_again = True

    @property
    def _under_way(self) -> List[UnderWay]:
        return list(self._jobs.values())

    # --- taking jobs

    def _take_tickets(self) -> None:
        now = time.monotonic()
        due = now - self._listed > BEAT_SECONDS
        if not (self._watch.told() or due or self._look_again):
            return
        self._look_again = False
        names = self._spool.names()
        if due:
            self._listed = now
            self._notice_silence(names)
        tickets = [one for one in self._spool.tickets(names) if not self._abandoned(one) and one.mine]
        self._waiting = len(tickets)
        for ticket in tickets:
            if len(self._jobs) >= MOST_JOBS or any(job.keeper is None and not job.careful for job in self._under_way):
                return  # whoever waits for a model to be unloaded comes before those who keep it busy
            if not self._take(ticket):
                return

    def _take(self, ticket: Ticket) -> bool:
        """Take a job if it can be served now. False if it is to be waited for, and all later ones with it."""
        folder = self._spool.job_folder(ticket.job)
        try:
            job = read_job(folder / "job.json")
            under_way = UnderWay(
                ticket.job, folder, job.model_name, job.run, load_key(job), begins_careful(job), life_of(job)
            )
        except JobRefused as error:
            self._refuse(ticket.job, folder, error)
            return True
        answer = self._room.answer(under_way.key, under_way.careful)
        if answer.waits:
            self._say_waiting(f"{under_way}: waits for {answer.waits}")
            return under_way.careful
        if self._spool.claim(ticket.job):
            self._silent.pop(ticket.job, None)
            self._waiting -= 1
            self._jobs[ticket.job] = under_way
            log(f"{under_way}: begun")
            self._give(under_way)
        return True

    def _refuse(self, job: str, folder: Path, error: JobRefused) -> None:
        if not folder.is_dir():
            self._spool.discard(job)
            return
        if self._spool.claim(job):
            with (folder / "events.jsonl").open("ab") as events:
                emitter = Emitter(events.fileno())
                code = report_failure(emitter, error)
                emitter.emit("bye", reason="failed")
            self._spool.end(job, code)

    def _give(self, job: UnderWay) -> None:
        """Give a job to a keeper, if there can be one for it now."""
        answer = self._room.answer(job.key, job.careful)
        if answer.waits:
            self._say_waiting(f"{job}: waits for {answer.waits}")
            self._spool.mark_waiting(job.id, True)
            return
        for idle in answer.evict:
            log(f"{idle.model}: unloaded to make room for {job.model}")
            self._dismiss(idle)
        keeper = answer.keeper
        if keeper is None:
            try:
                keeper = KeeperProcess(job.folder / "job.json", job.key, job.model, job.careful, bool(self._room.idle))
            except OSError as error:  # no more processes, or no memory for one
                log(f"{job.model}: cannot be loaded: {error}")
                self._end(job, 137, f"no process for it: {error.strerror}")
                return
            self._room.add(keeper)
            self._selector.register(keeper.descriptor, selectors.EVENT_READ)
            log(f"{job.model}: loading{' for careful shards' if job.careful else ''}")
        job.keeper = keeper
        self._spool.mark_waiting(job.id, False)
        keeper.serve(job.id, job.folder, job.seen, job.sequence)

    def _place_waiting(self) -> None:
        if not self._stopping:
            for job in self._under_way:
                if job.keeper is None:
                    self._give(job)

    def _notice_silence(self, names: List[str]) -> None:
        descriptor = self._watch.descriptor
        if self._watch.compare(names) and descriptor is not None:
            self._selector.unregister(descriptor)
            log("tickets come without a word from the kernel: polling from now on")

    def _say_waiting(self, message: str) -> None:
        if message != self._waits_said:
            self._waits_said = message
            log(message)

    # --- hosts

    def _abandoned(self, ticket: Ticket) -> bool:
        """Drop a ticket whose host is gone."""
        life = self._silent.get(ticket.job)
        if life is None:
            try:
                life = life_of(read_job(self._spool.job_folder(ticket.job) / "job.json"))
            except JobRefused:
                return False
            self._silent[ticket.job] = life
        if not life.gone():
            return False
        if self._spool.claim(ticket.job):
            self._spool.end(ticket.job, STOPPED, "its host is gone")
            log(f"job {ticket.job[-4:]}: dropped, its host is gone")
        del self._silent[ticket.job]
        return True

    def _heed_hosts(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for job in self._under_way:
            if job.dropped is None and (is_there(job.folder / "kill") or is_gone(job.folder)):
                self._drop(job)
            elif job.dropped is not None and now - job.dropped > DROP_SECONDS and job.keeper is not None:
                self._give_up_on(job.keeper, job)
            elif not job.stopped and is_there(job.folder / "stop"):
                job.stopped = True
                self._stop(job)
            elif job.keeper is None and job.host.gone():
                self._end(job, STOPPED, "its host is gone")

    def _drop(self, job: UnderWay) -> None:
        job.dropped = time.monotonic()
        log(f"{job}: dropped by its host")
        if job.keeper is None:
            self._end(job, 137)
        elif job.keeper.private:
            job.keeper.kill()
        else:
            job.keeper.drop(job.id)

    def _stop(self, job: UnderWay) -> None:
        log(f"{job}: stopped by its host")
        if job.keeper is None:
            self._end(job, STOPPED)
        else:
            job.keeper.stop(job.id)

    def _give_up_on(self, keeper: KeeperProcess, job: UnderWay) -> None:
        log(f"{keeper.model}: its process does not let go of a job: it gets no more")
        keeper.release(job.id)
        keeper.sound = False
        self._end(job, 137)

    # --- models

    def _unload_idle(self) -> None:
        for keeper in list(self._room.keepers):
            if not keeper.jobs and not keeper.sound:
                self._dismiss(keeper)
            elif keeper.idle and time.monotonic() - keeper.idle_since > self._idle_seconds:
                log(f"{keeper.model}: unloaded after {self._idle_seconds:.0f} s without work")
                self._dismiss(keeper)

    def _dismiss(self, keeper: KeeperProcess) -> None:
        """End a keeper without jobs: only a process's end really gives a GPU's memory back."""
        keeper.kill()
        self._on_death(keeper)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= BEAT_SECONDS:
            self._beaten = now
            self._spool.bury_strangers()
            self._spool.beat(self._heartbeat.document(self._room, self._waiting, len(self._jobs)))

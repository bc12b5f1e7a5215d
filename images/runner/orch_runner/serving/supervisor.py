"""The supervisor of a warm worker: give jobs of the spool to model processes, survive their failures."""

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
from orch_runner.liveness import Liveness
from orch_runner.serving.active_job import ActiveJob, count_events, is_deleted, is_visible, starts_careful, watch_host
from orch_runner.serving.heartbeat import HeartbeatWriter
from orch_runner.serving.model_pool import ModelPool, make_load_key
from orch_runner.serving.model_process_handle import ModelProcessHandle
from orch_runner.serving.spool import Ticket, WorkerIdentity, WorkerSpool
from orch_runner.serving.ticket_watch import POLL_SECONDS, TicketWatch
from orch_runner.worker import STOPPED, report_failure

MAX_JOBS = 16
CHECK_SECONDS = 0.1
"""Interval of checking the files by which hosts stop their jobs."""
BEAT_SECONDS = 1.0
DROP_SECONDS = 5.0
"""A model process that has not ended a dropped job after this time hangs, and gets no more jobs."""


class Supervisor:
    """One thread, one loop; nothing in it blocks."""

    def __init__(self, identity: WorkerIdentity, spool: WorkerSpool, environment: Mapping[str, str]) -> None:
        self._identity, self._spool = identity, spool
        self._idle_seconds = float(environment.get("ORCH_IDLE_SECONDS") or 900)
        self._pool = ModelPool(memory.read_limit_mb(environment))
        self._heartbeat = HeartbeatWriter(identity, environment)
        self._watch = TicketWatch(spool.tickets_folder, environment.get("ORCH_POLL") == "1")
        self._jobs: Dict[str, ActiveJob] = {}
        self._ticket_hosts: Dict[str, Liveness] = {}
        """Whether the hosts of waiting tickets are alive."""
        self._waiting, self._logged_wait = 0, ""
        self._is_stopping = False
        self._must_list = True
        self._listed = self._checked = self._beaten = 0.0
        self._oom_kills = memory.count_oom_kills()
        self._selector = selectors.DefaultSelector()
        self._listen_to_signals()
        if self._watch.descriptor is not None:
            self._selector.register(self._watch.descriptor, selectors.EVENT_READ)
        self._watch.turn_to_polling(spool.list_tickets(), first=True)

    def run(self) -> int:
        """Serve until SIGTERM; return the exit status."""
        method = "inotify" if self._watch.descriptor is not None else "polling"
        worker = self._identity
        log(f"worker {worker.id}: {worker.stack}, {worker.variant}, {worker.device}; {self._pool}; {method}")
        if self._heartbeat.problem:
            log(f"unfit: {self._heartbeat.problem}")
        self._beat()
        while not (self._is_stopping and not self._jobs):
            self._wait()
            for process in list(self._pool.processes):
                self._handle_reports(process)
            if not self._is_stopping:
                self._take_tickets()
            self._check_hosts()
            self._start_waiting_jobs()
            self._unload_idle()
            self._beat()
        for process in self._pool.processes:
            process.kill()
        log("stopped")
        return STOPPED

    # --- signals and reports

    def _listen_to_signals(self) -> None:
        self._wakeups, wakeup_end = os.pipe()
        for end in (self._wakeups, wakeup_end):
            os.set_blocking(end, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        self._selector.register(self._wakeups, selectors.EVENT_READ)

    def _on_signal(self, signum: int, frame: Any) -> None:
        del signum, frame
        self._is_stopping = True

    def _wait(self) -> None:
        polls = self._watch.descriptor is None and not self._is_stopping
        for ready, _ in self._selector.select(POLL_SECONDS if polls else CHECK_SECONDS if self._jobs else 0.5):
            if ready.fd == self._wakeups:
                os.read(self._wakeups, 512)
                self._stop_all()

    def _stop_all(self) -> None:
        if not self._is_stopping:
            return
        log("stopping")
        for process in self._pool.processes:
            process.shut_down()

    def _handle_reports(self, process: ModelProcessHandle) -> None:
        for report in process.read_reports():
            kind = report["event"]
            if kind == "loaded":
                process.is_loaded = True
                self._pool.record_memory(process, report)
                log(f"{process.model}: loaded in {report['seconds']:.1f} s, {process.rss_mb} MB")
            elif kind == "unusable":
                process.is_usable = False
                log(f"{process.model}: {report['message']}")
            elif kind == "out_of_memory":
                self._free_device(process)
            elif kind == "stats":
                self._heartbeat.add_images(report["images"] - process.images)
                process.images = report["images"]
                self._pool.record_memory(process, report)
            elif kind in ("handed_over", "ended") and report["job"] in process.jobs:
                self._release(process, report)
            elif kind == "exited":
                self._handle_exit(process)
            self._must_list = True
            if process not in self._pool.processes:
                return
        if process.has_exited():  # though a child of its own may keep its end of the pipe open
            self._handle_exit(process)

    def _free_device(self, process: ModelProcessHandle) -> None:
        """Unload the idle models and load again: the device's memory was full."""
        log(f"{process.model}: no memory on the device; unloading what is idle")
        jobs = self._jobs_of(process)
        process.jobs.clear()
        for other in [process, *self._pool.idle]:
            self._end_process(other)
        for job in jobs:  # only now: until its end the process may write events
            job.process, job.sequence = None, count_events(job.folder)

    def _jobs_of(self, process: ModelProcessHandle) -> List[ActiveJob]:
        return [self._jobs[job] for job in process.jobs if job in self._jobs]

    def _release(self, process: ModelProcessHandle, report: Mapping[str, Any]) -> None:
        process.release(report["job"])
        job = self._jobs.get(report["job"])
        if job is None:
            return
        job.process = None
        job.images += report["images"]
        if report["event"] == "ended":
            self._end(job, report["code"])
        else:
            job.seen, job.sequence, job.careful = report["seen"], report["sequence"], not job.careful
        if process.private:
            self._end_process(process)

    def _handle_exit(self, process: ModelProcessHandle) -> None:
        self._selector.unregister(process.descriptor)
        self._pool.processes.remove(process)
        code, oom_kills = process.wait(), memory.count_oom_kills()
        detail = "out of memory" if code == 137 and oom_kills > self._oom_kills else None
        self._oom_kills = oom_kills
        lost = self._jobs_of(process)
        for job in lost:
            self._end(job, STOPPED if self._is_stopping else code or 137, detail)
        if process.is_usable and not self._is_stopping:
            log(f"{process.model}: its process died ({detail or f'exit {code}'}) with {len(lost)} jobs")

    def _end(self, job: ActiveJob, code: int, detail: Optional[str] = None) -> None:
        del self._jobs[job.id]
        self._spool.finish_job(job.id, code, detail)
        seconds = time.monotonic() - job.started
        status = "" if code == 0 else f", exit status {code}"
        log(f"{job}: {job.images} images in {seconds:.1f} s{status}")
        self._must_list = True

    # --- taking jobs

    def _take_tickets(self) -> None:
        now = time.monotonic()
        is_due = now - self._listed > BEAT_SECONDS
        if not (self._watch.has_news() or is_due or self._must_list):
            return
        self._must_list = False
        names = self._spool.list_tickets()
        for gone in self._ticket_hosts.keys() - {name[: -len(".json")] for name in names}:
            del self._ticket_hosts[gone]  # withdrawn, or taken by another worker
        if is_due:
            self._listed = now
            self._poll_if_unreported(names)
        tickets = [
            ticket for ticket in self._spool.read_tickets(names) if not self._drop_abandoned(ticket) and ticket.may_take
        ]
        self._waiting = len(tickets)
        for ticket in tickets:
            # A claimed job that waits for models to be unloaded comes before new jobs, which would keep them busy.
            is_blocked = any(job.process is None and not job.careful for job in self._jobs.values())
            if is_blocked or len(self._jobs) >= MAX_JOBS or not self._take(ticket):
                return

    def _take(self, ticket: Ticket) -> bool:
        """Take a job if it can be served now. Return False if it and all later ones have to wait."""
        folder = self._spool.job_folder(ticket.job)
        try:
            job = read_job(folder / "job.json")
            active = ActiveJob(
                ticket.job, folder, job.model_name, job.run, make_load_key(job), starts_careful(job), watch_host(job)
            )
        except JobRefused as error:
            self._refuse(ticket.job, folder, error)
            return True
        assignment = self._pool.assign(active.load_key, active.careful)
        if assignment.wait_reason:
            self._log_wait(f"{active}: waits for {assignment.wait_reason}")
            return active.careful
        if self._spool.claim(ticket.job):
            self._ticket_hosts.pop(ticket.job, None)
            self._waiting -= 1
            self._jobs[ticket.job] = active
            log(f"{active}: started")
            self._start(active)
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
            self._spool.finish_job(job, code)

    def _start(self, job: ActiveJob) -> None:
        """Give a job to a model process, if one can serve it now."""
        assignment = self._pool.assign(job.load_key, job.careful)
        if assignment.wait_reason:
            self._log_wait(f"{job}: waits for {assignment.wait_reason}")
            self._spool.mark_waiting(job.id, True)
            return
        for idle in assignment.evict:
            log(f"{idle.model}: unloaded to free memory for {job.model}")
            self._end_process(idle)
        process = assignment.process or self._start_process(job)
        if process is not None:
            job.process = process
            self._spool.mark_waiting(job.id, False)
            process.serve(job.id, job.folder, job.seen, job.sequence)

    def _start_process(self, job: ActiveJob) -> Optional[ModelProcessHandle]:
        """Start a model process for a job; end the job and return None if that is impossible."""
        can_evict = bool(self._pool.idle)
        try:
            process = ModelProcessHandle(job.folder / "job.json", job.load_key, job.model, job.careful, can_evict)
        except OSError as error:  # no more processes, or no memory for one
            log(f"{job.model}: cannot be loaded: {error}")
            self._end(job, 137, f"cannot start a process: {error.strerror}")
            return None
        self._pool.processes.append(process)
        self._selector.register(process.descriptor, selectors.EVENT_READ)
        log(f"{job.model}: loading{' for careful shards' if job.careful else ''}")
        return process

    def _start_waiting_jobs(self) -> None:
        """Start the jobs without a process, and end those that were stopped while they changed processes."""
        for job in [job for job in self._jobs.values() if job.process is None]:
            if job.dropped_at is not None:
                self._end(job, 137)
            elif self._is_stopping or job.is_stopped:
                self._end(job, STOPPED)
            else:
                self._start(job)

    def _poll_if_unreported(self, names: List[str]) -> None:
        descriptor = self._watch.descriptor
        if self._watch.turn_to_polling(names) and descriptor is not None:
            self._selector.unregister(descriptor)
            log("the kernel does not report all tickets: polling from now on")

    def _log_wait(self, message: str) -> None:
        if message != self._logged_wait:
            self._logged_wait = message
            log(message)

    # --- hosts

    def _drop_abandoned(self, ticket: Ticket) -> bool:
        """Drop a ticket whose host is gone; return whether that is so."""
        host = self._ticket_hosts.get(ticket.job)
        if host is None:
            try:
                host = watch_host(read_job(self._spool.job_folder(ticket.job) / "job.json"))
            except JobRefused:
                return False
            self._ticket_hosts[ticket.job] = host
        if not host.has_timed_out():
            return False
        if self._spool.claim(ticket.job):
            self._spool.finish_job(ticket.job, STOPPED, "its host is gone")
            log(f"job {ticket.job[-4:]}: dropped, its host is gone")
        del self._ticket_hosts[ticket.job]
        return True

    def _check_hosts(self) -> None:
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        for job in list(self._jobs.values()):
            if job.dropped_at is None and (is_visible(job.folder / "kill") or is_deleted(job.folder)):
                self._drop(job)
            elif job.dropped_at is not None and now - job.dropped_at > DROP_SECONDS and job.process is not None:
                self._abandon_process(job.process, job)
            elif not job.is_stopped and is_visible(job.folder / "stop"):
                job.is_stopped = True
                self._stop(job)
            elif job.process is None and job.host.has_timed_out():
                self._end(job, STOPPED, "its host is gone")

    def _drop(self, job: ActiveJob) -> None:
        job.dropped_at = time.monotonic()
        log(f"{job}: dropped by its host")
        if job.process is not None and job.process.private:
            job.process.kill()
        elif job.process is not None:
            job.process.drop(job.id)

    def _stop(self, job: ActiveJob) -> None:
        if job.process is not None:
            job.process.stop(job.id)
        log(f"{job}: stopped by its host")

    def _abandon_process(self, process: ModelProcessHandle, job: ActiveJob) -> None:
        log(f"{process.model}: its process does not end a dropped job; it gets no more jobs")
        process.release(job.id)
        process.is_usable = False
        self._end(job, 137)

    # --- models

    def _unload_idle(self) -> None:
        for process in list(self._pool.processes):
            if not process.jobs and not process.is_usable:
                self._end_process(process)
            elif process.is_idle and time.monotonic() - process.idle_since > self._idle_seconds:
                log(f"{process.model}: unloaded after {self._idle_seconds:.0f} s without work")
                self._end_process(process)

    def _end_process(self, process: ModelProcessHandle) -> None:
        """End a process without jobs: a GPU's memory is freed completely only by its process's end."""
        process.kill()
        self._handle_exit(process)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= BEAT_SECONDS:
            self._beaten = now
            self._spool.clean_up_after_others()
            self._spool.write_heartbeat(self._heartbeat.make_document(self._pool, self._waiting, len(self._jobs)))

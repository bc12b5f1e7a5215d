"""Serve as a warm worker of one stack's variant: keep models loaded, take jobs from a spool folder.

    python -m orch_runner.serve SPOOL            serve until SIGTERM
    python -m orch_runner.serve --check SPOOL    exit 0 if this machine's worker is healthy, else 1 with its problem

SPOOL is the folder of the worker's stack and variant; other stacks have folders of their own, which it does not see.
Host and worker meet only there. The host trusts nothing in it: it follows no link, reads only regular files up to a
size, and keeps elsewhere what it must rely on. Each file that another process reads is written under a name that begins
with a dot, then renamed. A job is a job of the contract that orch_runner.contract names (see orch_runner.__main__).

    tickets/JOB.json   a waiting job: {"format": "orch-ticket/1", "job", "model", "created": seconds since the epoch,
                       "workers": [ids of the workers that may take it], absent: any worker}
    claimed/ID/JOB.json  the same file, renamed by the worker that took the job
    jobs/JOB/          made by the host before the ticket:
        job.json, queue/   as in the contract, with paths as the worker sees them. The host writes the first shard
                           before the ticket: the worker reads it to see whether the job starts careful
        data/          an entry for each input root: a link to the folder as the worker sees it, or a real folder
        out/           empty, or with the .part.npz files of an earlier job; the worker writes here
        stop, kill     empty files by which the host stops or kills the job, as SIGTERM and SIGKILL do a runner
                   and by the worker:
        events.jsonl   the contract's events, numbered continuously even if two processes served the job
        waiting        empty: claimed, but waiting for a model process
        worker.log     the job's part of what the contract writes to stderr
        exit.json      {"code": exit status of the contract, 137 if a process died, "detail": reason or null}; the
                       last file written
    data/KEY/          images that the host staged for a run
    workers/ID.json    the heartbeat, rewritten every second: {"format": "orch-worker/2", "contract": the version of
                       jobs that it reads, "id", "stack", "variant", "device", "host": hostname, "pid", "uid", "gid",
                       "threads", "started", "beat": counter, "time",
                       "state": "idle" | "loading" | "busy" | "unfit", "problem": text or null, "models": [{"name",
                       "state": "loading" | "idle" | "busy", "private", "sessions", "idle_seconds", "rss_mb",
                       "gpu_mb" or null}], "rss_mb", "memory_limit_mb", "waiting": tickets, "jobs": claimed,
                       "images": predicted since the start, "images_per_s": over the last 30 s, "data_host":
                       $ORCH_DATA_HOST or null, "data_inode": of the folder of images or null, "weights":
                       {"MODEL/FILE": [bytes, mtime in whole seconds]}, "digests": {"MODEL/FILE": sha256} of those up
                       to 16 MiB, "paths": {"spool", "data", "weights", "cache", "opt"} as the worker sees them,
                       "runner": version}. Removed at an orderly end
    workers/ID.files.json  {"files": {path under paths.opt: sha256}, "sources": {name: commit}}, written once; a
                       host compares it with its own files to see whether the worker fits
    workers/ID.lock    locked (flock) by the worker for as long as it lives

ID is the hostname and a random token, new at each start. A worker that starts and finds claims of a dead worker of its
hostname writes exit.json {"code": 137, "detail": "the warm worker was restarted"} for them. In a folder that a group
shares (set-group-id, writable by the group), the group may change all that the worker writes.

Environment: ORCH_STACK, ORCH_VARIANT, ORCH_DEVICE (cpu or cuda); ORCH_DATA_HOST, the host's name of the
folder of images; ORCH_SOURCES, JSON {name: commit} of upstream code; ORCH_THREADS; ORCH_IDLE_SECONDS (900), after
which an unused model is unloaded; ORCH_MEMORY_MB, for all models together (the control group's limit, else 80% of
the machine); ORCH_POLL=1, poll for tickets instead of using inotify, to which the worker also changes when
inotify misses a ticket; ORCH_PATHS, JSON that replaces some of {"data": "/data", "weights": "/weights", "cache":
"/cache", "opt": "/opt/orch"}, for workers outside containers.

The supervisor (this program, standard library only) starts one model process for each loaded model and gives it jobs as
sessions. Sessions of one model process run in parallel and share the device batch by batch. Careful shards are
predicted in a private model process, so that an image that kills workers affects only its own run.

Exit status: 143 stopped by SIGTERM (batches finished, parts and exit.json written); 2 wrong usage; 5 the spool
cannot be written. The log is on stderr.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import List, Optional

from orch_runner.events import log

STALE_SECONDS = 10.0


def main(arguments: List[str]) -> int:
    """Serve, or check a worker; return the exit status."""
    is_check = arguments[:1] == ["--check"]
    if len(arguments) != 1 + is_check:
        log("usage: python -m orch_runner.serve [--check] SPOOL")
        return 2
    if is_check:
        problem = find_problem(Path(arguments[1]))
        print(problem or "well", flush=True)
        return 1 if problem else 0
    return serve(arguments[0])


def serve(folder: str) -> int:
    """Serve the spool in that folder until SIGTERM; return the exit status."""
    # Imported here: an engine runs the check every few seconds, and these imports would be most of its cost.
    from orch_runner.serving.spool import SpoolRefused, WorkerIdentity, WorkerSpool
    from orch_runner.serving.supervisor import Supervisor

    try:
        identity = WorkerIdentity.from_environment(os.environ, folder)
        sources = json.loads(os.environ.get("ORCH_SOURCES") or "{}")
    except (KeyError, ValueError) as error:
        log(f"missing or wrong environment variable: {error!r} (see orch_runner.serve)")
        return 2
    spool = WorkerSpool(identity)
    try:
        spool.open()
        supervisor = Supervisor(identity, spool, os.environ)
        spool.write_file_list(sources)
    except SpoolRefused as error:
        log(str(error))
        return 5
    try:
        return supervisor.run()
    finally:
        spool.close()


def find_problem(spool: Path) -> Optional[str]:
    """Return the problem of the worker of this machine or container; None if it is healthy."""
    host = socket.gethostname()
    beats = [path for path in (spool / "workers").glob(f"{host}-*.json") if not path.name.endswith(".files.json")]
    if not beats:
        return f"{spool} has no heartbeat of a worker of {host}"
    try:
        newest = max(beats, key=lambda path: path.stat().st_mtime)
        document = json.loads(newest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"cannot read its heartbeat: {error}"
    age = time.time() - document["time"]  # written by this machine, whose clock is compared with itself
    if age > STALE_SECONDS:
        return f"its last heartbeat is {age:.0f} s old"
    return document["problem"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

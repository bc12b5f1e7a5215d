"""The serving mode: a warm worker of one stack's variant, which keeps models loaded and takes jobs from a spool.

    python -m orch_runner.serve SPOOL            serve until SIGTERM
    python -m orch_runner.serve --check SPOOL    exit 0 where this machine's worker is well, else 1 and its problem

Host and worker meet in the spool folder alone. Whatever another process reads there is written under a name that
begins with a dot, then renamed. A job is a job of the contract orch-job/1 (see orch_runner.__main__).

    tickets/STACK-VARIANT/JOB.json   a job that waits: {"format": "orch-ticket/1", "job", "model", "created": seconds
                       since the epoch, "workers": [ids of the workers that may take it], absent for any}
    claimed/ID/JOB.json              the same file, renamed here by the worker that took the job
    jobs/JOB/          made by the host before the ticket:
        job.json, queue/   as in the contract, with paths as the worker sees them. The first shard is there before
                           the ticket is, as the worker looks at it to know how careful it must be
        data/          an entry for each input root: a link to the folder as the worker sees it, or a real folder
        out/           empty, or with the .part.npz files of an earlier job; the worker writes here
        stop, kill     empty files the host makes: what SIGTERM and SIGKILL are to a runner of its own
                       and by the worker:
        events.jsonl   the contract's events, numbered through even where two processes served the job
        waiting        empty: claimed, but no keeper is free for it at the moment
        worker.log     the job's part of what the contract writes to stderr
        exit.json      {"code": exit status of the contract, 137 for a death, "detail": reason or null}: always last
    workers/ID.json    the heartbeat, rewritten every second: {"format": "orch-worker/1", "id", "stack", "variant",
                       "device", "host": hostname, "pid", "uid", "gid", "threads", "started", "beat": counter, "time",
                       "state": "idle" | "loading" | "busy" | "unfit", "problem": text or null, "models": [{"name",
                       "state": "loading" | "idle" | "busy", "private", "sessions", "idle_seconds", "rss_mb",
                       "gpu_mb" or null}], "rss_mb", "memory_limit_mb", "waiting": tickets, "jobs": under way,
                       "images": predicted so far, "images_per_s": over the last 30 s, "data_host": $ORCH_DATA_HOST
                       or null, "data_inode": of the folder of images or null, "weights": {"MODEL/FILE": [bytes,
                       mtime in whole seconds]}, "digests": {"MODEL/FILE": sha256} of those up to 16 MiB, "paths":
                       {"spool", "data", "weights", "cache", "opt"} as the worker sees them, "runner": version}.
                       Removed by a worker that leaves in order
    workers/ID.files.json  {"files": {path under paths.opt: sha256}, "sources": {name: commit}}, written once: what a
                       host compares with its own files before it takes a worker for fitting
    workers/ID.lock    locked (flock) by the worker for as long as it lives

ID is the hostname and a random token, new at each start. A worker that finds claims of a dead one of its own
hostname writes exit.json {"code": 137, "detail": "the warm worker was restarted"} for them.

What the environment says: ORCH_STACK, ORCH_VARIANT, ORCH_DEVICE (cpu or cuda); ORCH_DATA_HOST, the host's name of the
folder of images; ORCH_SOURCES, JSON {name: commit} of upstream code; ORCH_THREADS; ORCH_IDLE_SECONDS (900), after
which an unused model is unloaded; ORCH_MEMORY_MB, for all models together (the control group's limit, else 80% of
the machine); ORCH_POLL=1, list the tickets instead of being told by inotify, which the worker also does by itself
where it is not told; ORCH_PATHS, JSON that replaces some of {"data": "/data", "weights": "/weights", "cache":
"/cache", "opt": "/opt/orch"}, for workers outside containers.

The supervisor (this program, standard library only) starts one keeper process for each loaded model and hands jobs to
it as sessions. Sessions of one keeper run side by side and share the device batch by batch. Careful shards are
predicted by a private keeper of their own, so that an image that kills workers costs its own run alone.

Exit status: 143 stopped by SIGTERM (batches finished, parts and exit.json written); 2 wrong usage; 5 the spool
cannot be written. stderr says in a line each what the worker does.
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
    """Serve, or check; the result is the exit status."""
    checks = arguments[:1] == ["--check"]
    if len(arguments) != 1 + checks:
        log("usage: python -m orch_runner.serve [--check] SPOOL")
        return 2
    if checks:
        problem = problem_of_own_worker(Path(arguments[1]))
        print(problem or "well", flush=True)
        return 1 if problem else 0
    return serve(arguments[0])


def serve(folder: str) -> int:
    """Serve the spool in that folder until SIGTERM."""
    # Not at the top: an engine runs the check every few seconds, and what it does not need would be most of its cost.
    from orch_runner.serving.spool import Me, Spool, SpoolRefused
    from orch_runner.serving.supervisor import Supervisor

    try:
        me = Me.of(os.environ, folder)
        sources = json.loads(os.environ.get("ORCH_SOURCES") or "{}")
    except (KeyError, ValueError) as error:
        log(f"the environment of this worker lacks something: {error!r} (see orch_runner.serve)")
        return 2
    spool = Spool(me)
    try:
        spool.enter()
        supervisor = Supervisor(me, spool, os.environ)
        spool.show_files(sources)
    except SpoolRefused as error:
        log(str(error))
        return 5
    try:
        return supervisor.run()
    finally:
        spool.leave()


def problem_of_own_worker(spool: Path) -> Optional[str]:
    """What is wrong with the worker of this machine or container; None if it is well."""
    host = socket.gethostname()
    beats = [path for path in (spool / "workers").glob(f"{host}-*.json") if not path.name.endswith(".files.json")]
    if not beats:
        return f"no worker of {host} has shown itself in {spool}"
    try:
        newest = max(beats, key=lambda path: path.stat().st_mtime)
        document = json.loads(newest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its heartbeat cannot be read: {error}"
    silent = time.time() - document["time"]
    if silent > STALE_SECONDS:
        return f"its last heartbeat is {silent:.0f} s old"
    return document["problem"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

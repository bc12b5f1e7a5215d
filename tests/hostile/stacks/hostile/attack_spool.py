"""Attacks on the spool: a warm worker's job folder, other jobs, tickets, heartbeats and locks.

A warm worker and its model processes are one user, who may rename and replace all that lies in the mounted folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Callable, List

from attack_events import ESCAPES
from attack_files import SECONDS_OF_A_RACE, largest
from guest import Act, attack

NESTED = b"[" * 100_000


def spool_of(act: Act) -> Path:
    """The folder of tickets, jobs and workers."""
    return act.folder.parent.parent


def lasting(name: str, repeat: Callable[[Act], Any], moment: str = "ready") -> None:
    """Register an attack that goes on for a while after its own job has ended, as fast as it can."""

    def act(act: Act) -> None:
        def run() -> None:
            until = time.monotonic() + 2 * SECONDS_OF_A_RACE
            while time.monotonic() < until:
                try:
                    repeat(act)
                except (OSError, ValueError):
                    time.sleep(0.0001)

        threading.Thread(target=run, daemon=True).start()

    attack(name, moment)(act)


def once(name: str, make: Callable[[Act], Any], moment: str = "shard_done") -> None:
    """Register an attack that is carried out once for each job."""
    attack(name, moment)(make)


def swap_in(act: Act, path: Path, target: Path) -> None:
    """Put a link where something else is."""
    if path.is_symlink():
        return
    if path.exists():
        os.rename(path, path.with_name(f".away-{os.urandom(3).hex()}"))
    path.symlink_to(target)


def put(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    aside = path.with_name(f".{path.name}.{os.urandom(3).hex()}")
    aside.write_bytes(content)
    os.replace(aside, path)


def put_fifo(path: Path) -> None:
    """Replace a file by a pipe, in one step."""
    aside = path.with_name(f".{path.name}.{os.urandom(3).hex()}")
    os.mkfifo(aside)
    os.replace(aside, path)


def put_link(path: Path, target: Path) -> None:
    """Replace a file by a link, in one step."""
    aside = path.with_name(f".{path.name}.{os.urandom(3).hex()}")
    aside.symlink_to(target)
    os.replace(aside, path)


def put_folder(path: Path) -> None:
    """Replace a file by a folder."""
    if not path.is_dir():
        path.unlink()
        path.mkdir()
        (path / "x").touch()


def put_sparse(path: Path) -> None:
    """Replace a file by one of the largest size."""
    aside = path.with_name(f".{path.name}.{os.urandom(3).hex()}")
    largest(aside)
    os.replace(aside, path)


# --- the job's own files
def for_a_second(name: str, make: Callable[[Act, Path], Any]) -> None:
    """Register an attack that replaces a job's events for a second: for ever, the worker would be silent, and ended."""

    def act(act: Act) -> None:
        path = act.folder / "events.jsonl"
        away = act.folder / ".events"
        os.rename(path, away)
        make(act, path)
        time.sleep(1)
        if path.is_dir() and not path.is_symlink():
            os.rename(path, act.folder / ".folder")
        os.rename(away, path)

    attack(name)(act)


def replaced(name: str, file: str) -> None:
    """Register attacks that replace a file of the job by what it is not."""
    once(f"{name}-link", lambda act: put_link(act.folder / file, act.target / "secret.txt"))
    once(f"{name}-fifo", lambda act: put_fifo(act.folder / file))
    once(f"{name}-sparse", lambda act: put_sparse(act.folder / file))


replaced("spool-log", "worker.log")
replaced("spool-exit", "exit.json")
replaced("spool-job", "job.json")
for_a_second("spool-events-link", lambda act, path: path.symlink_to(act.target / "secret.txt"))
for_a_second("spool-events-fifo", lambda act, path: os.mkfifo(path))
for_a_second("spool-events-sparse", lambda act, path: largest(path))
for_a_second("spool-events-folder", lambda act, path: path.mkdir())
for_a_second("spool-events-gone", lambda act, path: None)
once("spool-log-hard-link", lambda act: os.link(act.folder / "worker.log", act.folder / "x"))
once("spool-log-escapes", lambda act: put(act.folder / "worker.log", ESCAPES.encode("utf-8", "surrogatepass") * 100))


@attack("spool-exits-of-odd-kinds", "shard_started")
def exits(act: Act) -> None:
    """Ends of the job that are no ends."""
    documents: List[Any] = [{"code": "x"}, {"code": None}, {"code": [1]}, {}, [], 7, {"code": 0, "detail": {"a": 1}}]
    documents += [{"code": 10**100, "detail": ESCAPES}, {"code": float("inf")}, {"code": True, "detail": "x" * 10**6}]
    for document in documents:
        put(act.folder / "exit.json", json.dumps(document).encode())
        time.sleep(0.02)
    for content in (NESTED, b"", b"{", b"\xff\xfe", b"null"):
        put(act.folder / "exit.json", content)
        time.sleep(0.02)
    (act.folder / "exit.json").unlink()


@attack("spool-exit-escapes", "shard_started")
def exit_escapes(act: Act) -> None:
    """An end whose reason is for the terminal."""
    put(act.folder / "exit.json", json.dumps({"code": 3, "detail": ESCAPES}).encode())
    time.sleep(1)


@attack("spool-exit-too-early", "shard_started")
def exit_early(act: Act) -> None:
    """A job that ends well with nothing done."""
    put(act.folder / "exit.json", b'{"code": 0, "detail": null}')
    time.sleep(1)


@attack("spool-marks-are-links", "shard_started")
def marks(act: Act) -> None:
    """The marks by which the host stops a job are links, which touching them would follow."""
    for name in ("kill", "stop", "waiting"):
        path = act.folder / name
        if not path.is_symlink():
            path.symlink_to(act.target / f"made-by-the-host-{name}" if name == "stop" else act.target / "secret.txt")


@attack("spool-marks-are-fifos", "shard_started")
def marks_fifos(act: Act) -> None:
    """The same marks as pipes."""
    for name in ("kill", "stop", "waiting"):
        if not (act.folder / name).exists():
            os.mkfifo(act.folder / name)


once("spool-queue-is-link", lambda act: swap_in(act, act.folder / "queue", act.target / "originals"), "shard_started")
once(
    "spool-alive-is-link",
    lambda act: put_link(act.folder / "queue" / "alive", act.target / "originals" / "alive"),
    "shard_started",
)
once("spool-alive-is-fifo", lambda act: put_fifo(act.folder / "queue" / "alive"), "shard_started")
once("spool-alive-is-gone", lambda act: (act.folder / "queue" / "alive").unlink(), "shard_started")
once("spool-job-data-is-link", lambda act: swap_in(act, act.folder / "data", act.target / "originals"), "bye")
once("spool-job-is-link", lambda act: swap_in(act, act.folder, act.target / "originals"))
once("spool-job-is-link-at-the-end", lambda act: swap_in(act, act.folder, act.target / "originals"), "bye")
once("spool-job-is-gone", lambda act: os.rename(act.folder, act.folder.with_name(".gone")))
once("spool-out-is-link-at-the-end", lambda act: swap_in(act, act.out, act.target / "originals" / "out"), "bye")


@attack("spool-queue-of-forged-shards", "shard_started")
def forged_queue(act: Act) -> None:
    """Shards that the host never gave."""
    for number in range(12, 40):
        put(act.folder / "queue" / f"{number:05d}.json", b'{"shard": 0}')


@attack("spool-set-uid", "shard_done")
def set_uid(act: Act) -> None:
    """Set-uid programs beside the job's files."""
    for folder in (act.folder, act.out, spool_of(act)):
        shutil.copyfile("/bin/sh", folder / "program")
        (folder / "program").chmod(0o6777)


@attack("spool-job-deep-tree", "bye")
def job_deep(act: Act) -> None:
    """Thousands of folders in the job's folder, one in another."""
    here = os.getcwd()
    try:
        os.chdir(act.folder)
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)


# --- other jobs
def swap_new_jobs(act: Act) -> None:
    """Replace each new job's folder by a link to a folder of the host's, and back."""
    jobs = act.folder.parent
    for name in os.listdir(jobs):
        path = jobs / name
        if name.startswith(".") or name == act.folder.name or path.is_symlink():
            continue
        away = jobs / f".away-{name}"
        os.rename(path, away)
        path.symlink_to(act.target / "originals")
        time.sleep(0.002)
        path.unlink()
        os.rename(away, path)


def swap_new_outs(act: Act) -> None:
    """Replace the out folder of each new job by a link, and back."""
    jobs = act.folder.parent
    for name in os.listdir(jobs):
        if name.startswith(".") or name == act.folder.name:
            continue
        out = jobs / name / "out"
        away = jobs / name / ".out"
        os.rename(out, away)
        out.symlink_to(act.target / "originals" / "out")
        time.sleep(0.002)
        out.unlink()
        os.rename(away, out)


def fill_new_jobs(act: Act) -> None:
    """Put links into each new job, under all names that the host reads or writes there."""
    jobs = act.folder.parent
    for name in os.listdir(jobs):
        if name == act.folder.name:
            continue
        for file in ("kill", "stop", "waiting", "exit.json", "worker.log", "events.jsonl", "job.json", "queue/end"):
            try:
                put_link(jobs / name / file, act.target / "made-by-the-host")
            except OSError:
                continue


lasting("spool-new-jobs-swapped-for-links", swap_new_jobs)
lasting("spool-new-outs-swapped-for-links", swap_new_outs)
lasting("spool-new-jobs-full-of-links", fill_new_jobs)


@attack("spool-reaper-led-outside", "shard_started")
def reaper(act: Act) -> None:
    """What looks like a job that an earlier orch left is a link to a folder of the host's."""
    key = act.folder.name.partition("-")[0]
    for name in (f"{key}-evil", f"{key}-w0-000000"):
        path = act.folder.parent / name
        if not path.is_symlink():
            path.symlink_to(act.target / "originals")


@attack("spool-staging-led-outside", "shard_started")
def staging(act: Act) -> None:
    """The folder of staged images is a link to a folder of the host's."""
    key = act.folder.name.partition("-")[0]
    data = spool_of(act) / "data"
    for folder in data.iterdir():
        if folder.name == key or folder.name.startswith(key):
            for root in folder.iterdir():
                swap_in(act, root, act.target / "originals")
            swap_in(act, folder, act.target / "originals")


def swap_folder(name: str, *parts: str) -> None:
    """Register an attack by which a folder of the spool becomes a link."""
    lasting(name, lambda act: swap_in(act, spool_of(act).joinpath(*parts), act.target / "originals"), "bye")


swap_folder("spool-jobs-folder-is-link", "jobs")
swap_folder("spool-tickets-folder-is-link", "tickets")
swap_folder("spool-claimed-folder-is-link", "claimed")
swap_folder("spool-data-folder-is-link", "data")
swap_folder("spool-workers-folder-is-link", "workers")
lasting(
    "spool-tickets-of-the-stack-are-link",
    lambda act: swap_in(act, spool_of(act) / "tickets" / "hostile-cpu", act.target / "originals"),
    "bye",
)


@attack("spool-many-jobs", "bye")
def many_jobs(act: Act) -> None:
    """Twenty thousand folders that look like abandoned jobs, and files among them."""
    key = act.folder.name.partition("-")[0]
    for number in range(20_000):
        (act.folder.parent / f"{key}-{number}").mkdir()
    for name in (b"a\nb", b"\x1b[2J", b"\xff\xfe", key.encode() + b"-\xff"):
        os.mkdir(os.path.join(os.fsencode(act.folder.parent), name))


@attack("spool-neighbours-reached", "ready")
def neighbours(act: Act) -> None:
    """Whatever of other stacks can be read from here."""
    for folder, _, files in os.walk("/spool"):
        for file in files:
            path = os.path.join(folder, file)
            if "faulty" in path or "other" in path:
                (act.cache / f"reached-{os.urandom(3).hex()}").write_text(path)


# --- tickets
def break_tickets(act: Act) -> None:
    """Take away, link and block the tickets of others."""
    tickets = spool_of(act) / "tickets"
    for folder in [tickets, *(one for one in tickets.iterdir() if one.is_dir())]:
        for name in os.listdir(folder):
            path = folder / name
            if name.endswith(".json") and not path.is_symlink():
                put_link(path, act.target / "secret.txt")


lasting("spool-tickets-become-links", break_tickets)


@attack("spool-tickets-of-all-kinds", "ready")
def tickets(act: Act) -> None:
    """Tickets that nobody wrote."""
    folder = spool_of(act) / "tickets"
    folders = [one for one in folder.iterdir() if one.is_dir()] or [folder]
    for number, content in enumerate((NESTED, b"{}", b"\xff", b'{"format": "orch-ticket/1", "created": "x"}')):
        (folders[0] / f"evil{number}.json").write_bytes(content)
    os.mkfifo(folders[0] / "evil-fifo.json")
    (folders[0] / "evil-link.json").symlink_to(act.target / "secret.txt")
    (folders[0] / "evil\n\x1b[2J.json").write_bytes(b"{}")


# --- heartbeats
def own(act: Act, suffix: str = ".json") -> Path:
    """The file of this worker among the heartbeats."""
    workers = spool_of(act) / "workers"
    names = [one for one in os.listdir(workers) if one.endswith(".json") and not one.endswith(".files.json")]
    return workers / f"{sorted(one for one in names if one[0] != '.')[0][: -len('.json')]}{suffix}"


def beat_with(act: Act, **changes: Any) -> None:
    """Replace the heartbeat by one that differs."""
    path = own(act)
    document = json.loads(path.read_text())
    if any(document.get(key) != value for key, value in changes.items()):
        put(path, json.dumps({**document, **changes}).encode())
    time.sleep(0.002)


def odd_beats(act: Act) -> None:
    """Heartbeats of odd kinds by turns."""
    path = own(act)
    document = json.loads(path.read_text())
    changes: List[Any] = [
        {"uid": "x"},
        {"uid": -1},
        {"uid": 2**70},
        {"gid": None},
        {"beat": "x"},
        {"beat": 10**400},
        {"beat": None},
        {"weights": {"a": 1}},
        {"weights": []},
        {"weights": {"a": ["x", "y"]}},
        {"digests": 7},
        {"paths": []},
        {"paths": {"spool": 5}},
        {"paths": {}},
        {"data_host": 7},
        {"data_host": "\x00"},
        {"data_host": "x" * 100_000},
        {"data_inode": "x"},
        {"stack": []},
        {"variant": None},
        {"models": [{"name": {}}]},
        {"models": "x"},
        {"models": [{"name": ESCAPES, "gpu_mb": "x"}]},
        {"state": ESCAPES, "problem": ESCAPES},
        {"id": ESCAPES},
        {"id": "../../x"},
        {"host": []},
        {"rss_mb": "x", "images_per_s": "y"},
        {"format": []},
        {"threads": "x"},
    ]
    for change in changes:
        put(path, json.dumps({**document, **change}).encode())
        time.sleep(0.01)
    for content in (NESTED, b"", b"[]", b"null", b"\xff\xfe", b'{"format": "orch-worker/1"}'):
        put(path, content)
        time.sleep(0.01)
    put(path, json.dumps(document).encode())
    time.sleep(0.1)


lasting("spool-heartbeats-of-odd-kinds", odd_beats)
lasting("spool-heartbeat-claims-another-user", lambda act: beat_with(act, uid=4242, gid=4242))
lasting("spool-heartbeat-claims-the-host", lambda act: beat_with(act, data_host="/", data_inode=2, host="localhost"))
lasting(
    "spool-heartbeat-claims-folders",
    lambda act: beat_with(
        act,
        data_host=str(act.target),
        paths={"spool": "/etc", "data": "/", "weights": "../..", "cache": "x", "opt": "/"},
    ),
)
lasting("spool-heartbeat-escapes", lambda act: beat_with(act, problem=ESCAPES, state=ESCAPES))
lasting("spool-heartbeat-link", lambda act: put_link(own(act), act.target / "secret.txt"))
lasting("spool-heartbeat-fifo", lambda act: put_fifo(own(act)))
lasting("spool-heartbeat-folder", lambda act: put_folder(own(act)))
lasting("spool-heartbeat-sparse", lambda act: put_sparse(own(act)))
once("spool-files-list-fifo", lambda act: put_fifo(own(act, ".files.json")), "bye")
once("spool-files-list-link", lambda act: put_link(own(act, ".files.json"), act.target / "secret.txt"), "bye")
once("spool-files-list-nested", lambda act: put(own(act, ".files.json"), NESTED), "bye")
once("spool-files-list-odd", lambda act: put(own(act, ".files.json"), b'{"files": [], "sources": 7}'), "bye")
once("spool-lock-fifo", lambda act: put_fifo(own(act, ".lock")), "bye")
once("spool-lock-link", lambda act: put_link(own(act, ".lock"), act.target / "made-by-the-host"), "bye")
once("spool-lock-folder", lambda act: put_folder(own(act, ".lock")), "bye")


@attack("spool-forged-workers", "bye")
def forged_workers(act: Act) -> None:
    """Heartbeats of workers that do not exist, with locks that are held."""
    document = json.loads(own(act).read_text())
    workers = spool_of(act) / "workers"
    held: List[Any] = []
    for name in ("evil-000001", "evil\n::error::x", "\x1b[2J", "..", "x" * 200):
        try:
            (workers / f"{name}.json").write_text(json.dumps({**document, "id": name, "uid": 4242, "data_host": "/"}))
            shutil.copyfile(own(act, ".files.json"), workers / f"{name}.files.json")
            held.append((workers / f"{name}.lock").open("w"))
            fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
    threading.Thread(target=lambda: (time.sleep(2 * SECONDS_OF_A_RACE), held.clear()), daemon=True).start()


@attack("spool-many-workers", "bye")
def many_workers(act: Act) -> None:
    """Five thousand heartbeats."""
    document = own(act).read_bytes()
    for number in range(5_000):
        (spool_of(act) / "workers" / f"evil-{number}.json").write_bytes(document)

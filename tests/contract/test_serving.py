"""Warm workers: jobs from a spool, model processes that outlive them, and jobs whose process or host dies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest

from tests.contract.harness import Guest, Outcome, every_python, levels
from tests.contract.spool_harness import SpooledJob, WarmProcess, until

FILES = [f"{at}.png" for at in range(6)]


@pytest.fixture
def worker(python: str, tmp_path: Path) -> Iterator[WarmProcess]:
    """A warm worker that is not started yet."""
    made = WarmProcess(python, tmp_path / "warm")
    yield made
    made.close()


def filled(worker: WarmProcess, name: str, files: list[str] | None = None, **options: object) -> SpooledJob:
    """A job whose images lie there and whose queue is complete."""
    job = worker.new_job(name, files or FILES, **options)
    for at, file in enumerate(files or FILES):
        job.save(file, levels(10 + at, 200 - at))
    job.end()
    return job


def run(worker: WarmProcess, name: str, settings: dict[str, object] | None = None, **changes: object) -> Outcome:
    """One job from its ticket to its end."""
    job = filled(worker, name)
    job.place(worker, settings, **changes)
    return job.wait()


def hold(
    worker: WarmProcess, name: str, wait_at: str, settings: dict[str, object] | None = None, **changes: object
) -> SpooledJob:
    """A job under way, stuck in a prediction until `release`."""
    job = filled(worker, name)
    job.place(worker, {"wait_at": wait_at, **(settings or {})}, **changes)
    until((worker.cache / "waiting").exists, "the prediction that waits")
    return job


def release(worker: WarmProcess) -> None:
    (worker.cache / "go").touch()


@every_python
def test_a_warm_worker_writes_the_bytes_of_a_runner_of_its_own(
    worker: WarmProcess, make_guest: Callable[[str], Guest]
) -> None:
    cold = make_guest("cold")
    for at, file in enumerate(FILES):
        cold.save(file, levels(10 + at, 200 - at))
    cold.put(0, FILES)
    assert cold.run({"extras": True}, attributes=2, image_scores=True, batch_size=4).status == 0
    worker.start()
    outcome = run(worker, "one", {"extras": True}, attributes=2, image_scores=True, batch_size=4)
    story = [name for name in outcome.story if name != "loading"]  # a light model may be there before the job is
    assert (outcome.status, story) == (0, ["hello", "ready", "shard_started", "shard_done", "bye"])
    made = worker.spool / "jobs" / "one" / "out" / "00000.npz"
    assert made.read_bytes() == (cold.root / "out" / "00000.npz").read_bytes()
    assert not list((worker.spool / "claimed").glob("*/*"))
    assert not list(worker.tickets.iterdir())


def test_the_model_stays_loaded_and_what_is_per_job_is_honoured(worker: WarmProcess) -> None:
    worker.start()
    run(worker, "first")
    outcome = run(worker, "second", max_detections=1, batch_size=2)
    assert outcome.story == ["hello", "ready", "shard_started", "shard_done", "bye"]
    assert outcome.one("ready")["batch_size"] == 2
    assert outcome.one("shard_done")["instances"] == len(FILES)
    run(worker, "third", {"extras": True}, attributes=2)
    assert worker.log.count("loaded in") == 2
    wanted = [("levels", "idle", 0, False)] * 2
    names = ("name", "state", "sessions", "private")
    until(lambda: [tuple(one[name] for name in names) for one in worker.heartbeat["models"]] == wanted, "two models")


def test_jobs_take_turns_batch_by_batch(worker: WarmProcess) -> None:
    worker.start()
    one = hold(worker, "one", "2.png", {"seconds": 0.2}, batch_size=1)
    two = filled(worker, "two", [f"two-{at}.png" for at in range(4)])
    two.place(worker, {"wait_at": "2.png", "seconds": 0.2}, batch_size=1)
    two.until("shard_started")
    release(worker)
    assert (one.wait().status, two.wait().status) == (0, 0)
    after = [batch[0].startswith("two") for batch in worker.batches[3:]]
    assert len(after) == 7
    # One job after the other would give two groups; a busy machine lets one of them get a batch ahead at times.
    assert len(list(groupby(after))) > 2


def test_eight_jobs_at_once_all_end(worker: WarmProcess) -> None:
    worker.start()
    jobs = [filled(worker, f"job{at}") for at in range(8)]
    for job in jobs:
        job.place(worker)
    assert [job.wait().status for job in jobs] == [0] * 8
    assert worker.log.count("loaded in") == 1


def test_an_image_that_kills_costs_the_model_process_once_and_then_its_own_job_alone(worker: WarmProcess) -> None:
    settings = {"predict": {"poison.png": "die"}, "wait_at": "2.png"}
    worker.start()
    innocent = filled(worker, "innocent")
    innocent.place(worker, settings, batch_size=1)
    until((worker.cache / "waiting").exists, "the innocent job under way")
    guilty = filled(worker, "guilty", ["poison.png"])
    guilty.place(worker, settings)
    guilty.until("shard_started")
    release(worker)
    assert (guilty.wait().status, innocent.wait().status) == (7, 7)
    again = filled(worker, "again", ["poison.png"], careful=True)
    (worker.cache / "go").unlink()
    (worker.cache / "waiting").unlink()
    innocent = filled(worker, "innocent-again")
    innocent.place(worker, settings, batch_size=1)
    until((worker.cache / "waiting").exists, "the innocent job under way")
    again.place(worker, settings)
    outcome = again.wait()
    assert (outcome.status, outcome.one("batch")["indices"]) == (7, [0])
    release(worker)
    assert innocent.wait().status == 0


def test_careful_shards_are_handed_over_and_back_without_a_trace(worker: WarmProcess) -> None:
    worker.start()
    job = worker.new_job("mixed", ["0.png", "1.png"])
    for number, careful in ((1, True), (2, False)):
        job.put(number, [f"{2 * number}.png", f"{2 * number + 1}.png"], careful=careful)
    for at, file in enumerate(FILES):
        job.save(file, levels(10 + at))
    job.end()
    job.place(worker, batch_size=1)
    outcome = job.wait()
    assert outcome.status == 0
    assert [event["shard"] for event in outcome.named("shard_done")] == [0, 1, 2]
    assert [event["shard"] for event in outcome.named("batch")] == [1, 1]
    assert [outcome.story.count(name) for name in ("hello", "bye")] == [1, 1]
    assert sorted(worker.batches) == [[file] for file in FILES]
    assert "loading for careful shards" in worker.log
    until(lambda: [one["private"] for one in worker.heartbeat["models"]] == [False], "the private process's end")


@pytest.mark.parametrize("offset", [-3600.0, 3600.0])
def test_a_host_whose_clock_is_off_is_served_like_any_other(worker: WarmProcess, offset: float) -> None:
    """Its tickets and its signs of life bear times of its own."""
    worker.start()
    job = filled(worker, "elsewhere")
    alive = job.root / "queue" / "alive"
    is_over = threading.Event()

    def show_life() -> None:
        number = 0
        while not is_over.wait(0.1):
            number += 1
            aside = alive.with_name(".alive")
            aside.write_text(str(number))
            os.utime(aside, (time.time() + offset,) * 2)
            aside.replace(alive)

    thread = threading.Thread(target=show_life)
    thread.start()
    try:
        job.place(worker, {"wait_at": "3.png"}, created=time.time() + offset, batch_size=1, alive_timeout=1.0)
        until((worker.cache / "waiting").exists, "the prediction that waits")
        time.sleep(2.0)
        assert not (job.root / "exit.json").exists(), "it was taken for abandoned"
        release(worker)
        assert job.wait().status == 0
    finally:
        is_over.set()
        thread.join()


def test_sigterm_finishes_the_batch_and_writes_what_is_done(worker: WarmProcess) -> None:
    worker.start()
    held = hold(worker, "held", "3.png", batch_size=2)
    worker.processes[-1].terminate()
    until(lambda: "held: ends after the current batch" in worker.log, "the signal in the model's process")
    release(worker)
    assert worker.processes[-1].wait(30) == 143
    outcome = held.wait()
    assert (outcome.status, outcome.one("bye")["reason"]) == (143, "stopped")
    assert held.shard(0, part=True)["image_file"].tolist() == FILES[:4]
    assert worker.heartbeats == []


def test_a_part_is_gone_on_from(worker: WarmProcess) -> None:
    worker.start()
    held = hold(worker, "held", "3.png", batch_size=2)
    (held.root / "stop").touch()
    until(lambda: "held: ends after the current batch" in worker.log, "the stop in the model's process")
    release(worker)
    assert held.wait().status == 143
    job = filled(worker, "next")
    done = len(held.shard(0, part=True)["image_file"])
    (held.root / "out" / "00000.part.npz").rename(job.root / "out" / "00000.part.npz")
    job.place(worker, {"wait_at": "3.png"}, batch_size=2)
    outcome = job.wait()
    assert (outcome.status, outcome.one("shard_started")["reused"]) == (0, done)


def test_a_killed_worker_s_jobs_are_ended_by_its_successor(worker: WarmProcess) -> None:
    worker.start()
    held = hold(worker, "held", "3.png", batch_size=1)
    assert worker.send(signal.SIGKILL) == -signal.SIGKILL
    assert not (held.root / "exit.json").exists()
    worker.start()
    assert json.loads((held.root / "exit.json").read_text()) == {
        "code": 137,
        "detail": "the warm worker was restarted",
    }
    assert len(worker.heartbeats) == 1
    assert run(worker, "next").status == 0


def test_model_processes_die_with_their_supervisor(worker: WarmProcess) -> None:
    worker.start()
    hold(worker, "held", "3.png", batch_size=1)
    children = Path(f"/proc/{worker.processes[-1].pid}/task/{worker.processes[-1].pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) == 1
    worker.send(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids[0]}/cwd").exists() or not _runs(pids[0]), "the model process's end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_kill_ends_a_job_and_leaves_the_model_and_other_jobs(worker: WarmProcess) -> None:
    worker.start()
    other = hold(worker, "other", "1.png", batch_size=1)
    unwanted = filled(worker, "unwanted", ["a.png", "b.png"])
    unwanted.place(worker, {"wait_at": "1.png"}, batch_size=1)
    unwanted.until("shard_started")
    (unwanted.root / "kill").touch()
    until(lambda: "dropped by its host" in worker.log, "the worker to see that")
    release(worker)
    assert (unwanted.wait().status, other.wait().status) == (137, 0)
    assert worker.log.count("loaded in") == 1


def test_a_careful_job_is_killed_at_once(worker: WarmProcess) -> None:
    worker.start()
    job = filled(worker, "careful", careful=True)
    job.place(worker, {"wait_at": "1.png"}, batch_size=1)
    until((worker.cache / "waiting").exists, "the prediction that waits")
    (job.root / "kill").touch()
    assert job.wait().status == 137


def test_a_model_process_that_does_not_end_a_job_gets_no_more(worker: WarmProcess) -> None:
    worker.start()
    stuck = hold(worker, "stuck", "0.png")
    (stuck.root / "kill").touch()
    assert stuck.wait().status == 137
    (worker.cache / "waiting").unlink()
    release(worker)
    assert run(worker, "next", {"wait_at": "0.png"}).status == 0
    assert worker.log.count("loaded in") == 2


def test_a_job_whose_host_is_gone_is_left_and_its_ticket_dropped(worker: WarmProcess) -> None:
    worker.start(ORCH_MEMORY_MB="1")
    held = hold(worker, "held", "3.png", batch_size=1)
    for name, settings in (("waits", {"extras": True}), ("left", {"extras": False})):
        job = filled(worker, name)
        job.place(worker, settings, alive_timeout=60 if name == "waits" else 0.3)
    dropped = SpooledJob(worker.python, worker.spool / "jobs" / "left")
    assert dropped.wait().status == 143
    assert (worker.tickets / "waits.json").exists()
    assert worker.log.count("waits for memory: all loaded models are busy") == 1, "a reason is logged once"
    release(worker)
    assert held.wait().status == 0
    assert SpooledJob(worker.python, worker.spool / "jobs" / "waits").wait().status == 0
    idle = worker.new_job("idle", FILES)
    idle.place(worker, alive_timeout=0.3)
    assert idle.wait().status == 143


def test_a_ticket_for_other_workers_stays(worker: WarmProcess) -> None:
    worker.start()
    job = filled(worker, "others")
    job.place(worker)
    job.wait()
    other = filled(worker, "for-somebody-else")
    (other.root / "job.json").write_text((job.root / "job.json").read_text().replace("/others", f"/{other.root.name}"))
    other.ticket(worker, workers=["somebody-else"])
    assert run(worker, "mine").status == 0
    assert (worker.tickets / "for-somebody-else.json").exists()
    other.ticket(worker, workers=[worker.heartbeat["id"]])
    assert other.wait().status == 0


def test_polling_does_the_same(worker: WarmProcess) -> None:
    worker.start(ORCH_POLL="1")
    assert "; polling" in worker.log
    assert run(worker, "one").status == 0


def test_an_idle_model_is_unloaded(worker: WarmProcess) -> None:
    worker.start(ORCH_IDLE_SECONDS="0.2")
    assert run(worker, "one").status == 0
    until(lambda: "unloaded after" in worker.log and worker.heartbeat["models"] == [], "an empty heartbeat")
    assert run(worker, "two").status == 0


def test_the_longest_idle_model_makes_room_and_one_at_work_never(worker: WarmProcess) -> None:
    worker.start(ORCH_MEMORY_MB="1")
    assert run(worker, "one", {"number": 1}).status == 0
    assert run(worker, "two", {"number": 2}).status == 0
    assert "unloaded to free memory" in worker.log
    held = hold(worker, "held", "3.png", batch_size=1)
    waits = filled(worker, "waits")
    waits.place(worker, {"number": 4})
    until(lambda: worker.heartbeat["waiting"] == 1, "the waiting ticket in the heartbeat")
    assert not (waits.root / "events.jsonl").exists()
    release(worker)
    assert (held.wait().status, waits.wait().status) == (0, 0)


def test_a_model_that_cannot_be_loaded_fails_its_job_alone(worker: WarmProcess) -> None:
    worker.start()
    outcome = run(worker, "broken", {"load": "raise"})
    assert (outcome.status, outcome.one("failure")["category"]) == (3, "load")
    assert "no such layer" in outcome.one("failure")["message"]
    assert "Traceback" in outcome.log
    assert run(worker, "sound").status == 0


def test_a_device_whose_memory_is_full_is_cleared_of_what_is_idle(worker: WarmProcess) -> None:
    worker.start()
    outcome = run(worker, "alone", {"load": "crowded", "number": 1})
    assert (outcome.status, outcome.one("failure")["category"]) == (3, "memory")
    assert run(worker, "idle", {"number": 2}).status == 0
    (worker.cache / "crowded").unlink()
    assert run(worker, "crowded", {"load": "crowded", "number": 3}).status == 0
    assert "no memory on the device; unloading what is idle" in worker.log
    until(lambda: len(worker.heartbeat["models"]) == 1, "the other model's end")


def test_a_job_that_cannot_be_understood_is_refused(worker: WarmProcess) -> None:
    worker.start()
    outcome = run(worker, "odd", contract="orch-job/9")
    assert (outcome.status, outcome.story) == (2, ["failure", "bye"])
    assert run(worker, "sound").status == 0


def test_a_lost_device_costs_the_model_process(worker: WarmProcess) -> None:
    worker.start()
    settings = {"predict": {"3.png": "device"}}
    outcome = run(worker, "one", settings, batch_size=1)
    assert (outcome.status, outcome.one("failure")["category"]) == (4, "device")
    until(lambda: worker.heartbeat["models"] == [], "the model process's end")


def test_the_heartbeat_and_the_files_say_what_the_worker_is(worker: WarmProcess) -> None:
    (worker.root / "weights" / "levels").mkdir()
    (worker.root / "weights" / "levels" / "a.pth").write_bytes(b"12345")
    worker.start(ORCH_DATA_HOST="/photos", ORCH_THREADS="3", ORCH_SOURCES='{"upstream": "abc"}', ORCH_MEMORY_MB="500")
    beat = worker.heartbeat
    assert (beat["format"], beat["state"], beat["data_host"], beat["threads"]) == (
        "orch-worker/2",
        "idle",
        "/photos",
        3,
    )
    assert beat["weights"]["levels/a.pth"][0] == 5
    assert beat["digests"] == {"levels/a.pth": hashlib.sha256(b"12345").hexdigest()}
    assert (beat["memory_limit_mb"], beat["uid"], beat["problem"]) == (500, os.getuid(), None)
    made = json.loads((worker.spool / "workers" / f"{beat['id']}.files.json").read_text())
    assert made["sources"] == {"upstream": "abc"}
    assert {"stack/predictor.py", "runner/orch_runner/serve.py"} <= set(made["files"])
    until(lambda: worker.heartbeat["beat"] > beat["beat"], "another beat")


def test_a_worker_for_a_gpu_without_one_says_that_it_is_unfit(worker: WarmProcess) -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is a GPU here")
    worker.start(ORCH_DEVICE="cuda")
    assert (worker.heartbeat["state"], worker.heartbeat["problem"]) == (
        "unfit",
        "this worker needs a GPU, but sees none",
    )
    checked = subprocess.run(
        worker.command("--check"), env=worker.variables(), capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (1, "this worker needs a GPU, but sees none\n")


def test_the_check_tells_a_live_worker_from_a_dead_one(worker: WarmProcess) -> None:
    def check() -> tuple[int, str]:
        done = subprocess.run(
            worker.command("--check"), env=worker.variables(), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, said = check()
    assert code == 1
    assert "has no heartbeat of a worker of" in said
    worker.start()
    assert check() == (0, "well\n")
    path = worker.spool / "workers" / f"{worker.heartbeat['id']}.json"
    worker.send(signal.SIGKILL)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "time": document["time"] - 60}))
    code, said = check()
    assert code == 1
    assert "old" in said


def test_a_spool_that_cannot_be_written_is_one_clear_line(worker: WarmProcess) -> None:
    worker.spool.chmod(0o555)
    # Root may write anywhere, unless it is as bare as in a container.
    bare = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.getuid() == 0 else []
    command = [*bare, *worker.command()]
    done = subprocess.run(command, env=worker.variables(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5, done.stderr
    (line,) = done.stderr.splitlines()
    assert f"it belongs to uid {os.getuid()}" in line
    assert f"this worker runs as uid {os.getuid()}" in line


def used_by(worker: WarmProcess) -> dict[str, int]:
    """What the worker and its model processes hold: descriptors, threads, memory in MB; and the files of the spool."""
    supervisor = worker.processes[-1].pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    processes = [Path(f"/proc/{pid}") for pid in (str(supervisor), *children)]
    return {
        "descriptors": sum(len(list((process / "fd").iterdir())) for process in processes),
        "threads": sum(len(list((process / "task").iterdir())) for process in processes),
        "memory": sum(int((process / "statm").read_text().split()[1]) for process in processes) * 4 // 1024,
        "files": sum(1 for _ in worker.spool.rglob("*")),
    }


def test_many_requests_leave_nothing_behind(worker: WarmProcess) -> None:
    worker.start()
    seen: dict[int, dict[str, int]] = {}
    for number in range(1, 81):
        assert run(worker, f"job{number}").status == 0
        shutil.rmtree(worker.spool / "jobs" / f"job{number}")
        if number in (20, 80):
            until(lambda: worker.heartbeat["jobs"] == 0, "the end of the job in the heartbeat")
            time.sleep(0.5)  # a thread that has just ended its job
            seen[number] = used_by(worker)
    for name in ("descriptors", "threads", "files"):
        assert seen[80][name] <= seen[20][name], name
    assert seen[80]["memory"] <= 1.05 * seen[20]["memory"] + 1

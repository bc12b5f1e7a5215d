"""Attacks by events: lines that are no events, events that are not true, and far too many of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from guest import Act, attack

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n::error file=x,line=1::owned\n::stop-commands::x\x9b31m\u202e\x00"


def said(name: str, *lines: bytes) -> None:
    """Register an attack that writes raw lines just before a shard is done."""

    def act(act: Act) -> None:
        act.say(*lines)

    attack(name)(act)


def sent(name: str, **event: Any) -> None:
    """Register an attack that sends an event with the next number, just before a shard is done."""

    def act(act: Act) -> None:
        for key, value in event.items():
            if value == "SHARD":
                event[key] = act.shard
        act.send(**{"seq": act.next_seq(), "time": time.time(), **event})

    attack(name)(act)


# --- numbers of events
said("seq-missing", b'{"event": "notice", "message": "hello"}')
said("seq-text", b'{"event": "notice", "seq": "7", "message": "hello"}')
said("seq-null", b'{"event": "notice", "seq": null, "message": "hello"}')
said("seq-list", b'{"event": "notice", "seq": [1], "message": "hello"}')
said("seq-bool", b'{"event": "notice", "seq": true, "message": "hello"}')
said("seq-fraction", b'{"event": "notice", "seq": 1.5, "message": "hello"}')
said("seq-negative", b'{"event": "notice", "seq": -1, "message": "hello"}')
said("seq-huge", b'{"event": "notice", "seq": 9223372036854775807, "message": "hello"}')
said("seq-hundred-digits", b'{"event": "notice", "seq": ' + b"9" * 100 + b', "message": "hello"}')
said("seq-five-thousand-digits", b'{"event": "notice", "seq": ' + b"9" * 5000 + b', "message": "hello"}')
said("seq-infinite", b'{"event": "notice", "seq": 1e999, "message": "hello"}')
said("seq-nan", b'{"event": "notice", "seq": NaN, "message": "hello"}')
said("done-without-seq", b'{"event": "shard_done", "shard": 1}')
KINDS = "hello loading ready shard_started batch image_failed progress notice shard_done heartbeat failure bye exit"
said("events-of-all-kinds-without-fields", *(b'{"event": "%s"}' % kind.encode() for kind in KINDS.split(" ")))

# --- bare and odd events
sent("bare-failure", event="failure")
sent("failure-of-odd-kinds", event="failure", category=[], message={"a": 1}, hint=7)
sent("failure-unknown-category", event="failure", category="device", message="gpu gone", hint="rm -rf /")
sent("failure-escapes", event="failure", category="load", message=ESCAPES, hint=ESCAPES)
sent("bare-ready", event="ready")
sent("ready-versions-list", event="ready", versions=[1, 2], device={}, batch_size="x", seconds=None)
sent("ready-versions-odd", event="ready", versions={ESCAPES: ESCAPES, "x" * 5000: {"a": []}}, batch_size=-1)
sent("bare-hello", event="hello")
sent("hello-of-another-version", event="hello", contract="orch-job/999", runner=[], python={}, pid="x")
sent("bye-early", event="bye", reason=ESCAPES)
sent("exit-from-inside", event="exit", code=0)
sent("exit-of-odd-kinds", event="exit", code="boom", worker="w0")
sent("unknown-kind", event="self-destruct", shard=1)
sent("kind-is-list", event=[])
sent("kind-is-object", event={"a": 1})
sent("kind-is-null", event=None)
sent("kind-is-long", event="x" * 60_000)
sent("worker-of-another-name", event="notice", worker="../../x", message="hello")
sent("time-of-odd-kinds", event="notice", time={}, message="hello")
sent("notice-escapes", event="notice", message=ESCAPES)
sent("notice-of-a-megabyte", event="notice", message="x" * 900_000)
sent("notice-is-object", event="notice", message={"a": 1})
sent("notice-surrogate", event="notice", message="\ud800\udfff")
sent("image-failed-of-odd-kinds", event="image_failed", shard="x", index=[], file=None, error={})
sent("image-failed-escapes", event="image_failed", shard="SHARD", index=0, file=ESCAPES, error=ESCAPES)
sent("image-failed-never", event="image_failed", shard="SHARD", index=10**9, file="nowhere.png", error="x")
sent("progress-huge", event="progress", shard="SHARD", done=10**18, total=1)
sent("progress-negative", event="progress", shard="SHARD", done=-(10**18), total=-1)
sent("progress-hundred-digits", event="progress", shard="SHARD", done=10**100, total=10**100)
sent("progress-infinite", event="progress", shard="SHARD", done=float("inf"), total=float("nan"))
sent("progress-foreign-shard", event="progress", shard=10**9, done=5, total=5)
sent("started-reused-huge", event="shard_started", shard="SHARD", images=2, reused=10**18)
sent("started-foreign-shard", event="shard_started", shard=99_999, images=2, reused=0)
sent("started-negative-shard", event="shard_started", shard=-1, images=2, reused=0)
sent("batch-of-odd-kinds", event="batch", shard="SHARD", indices=["x", {}, None, -5, 10**30])
sent("batch-foreign", event="batch", shard=0, indices=[0, 1])
sent("batch-long", event="batch", shard="SHARD", indices=list(range(100_000)))
sent("done-foreign-shard", event="shard_done", shard=99_999, images=2, failed=0, instances=1, seconds=0)
sent("done-negative-shard", event="shard_done", shard=-1, images=2, failed=0, instances=1, seconds=0)
sent("done-text-shard", event="shard_done", shard="1", images=2, failed=0, instances=1, seconds=0)
sent("done-bool-shard", event="shard_done", shard=True, images=2, failed=0, instances=1, seconds=0)
sent("done-shard-that-climbs", event="shard_done", shard="../../x", images=2, failed=0, instances=1, seconds=0)
sent("done-without-images", event="shard_done", shard="SHARD")
sent(
    "done-images-huge", event="shard_done", shard="SHARD", images=10**18, failed=-(10**18), instances=10**30, seconds=-1
)
sent("done-images-negative", event="shard_done", shard="SHARD", images=-5, failed=0, instances=1, seconds=0)

# --- lines that are no events
said("line-no-json", b"Hello, terminal \x1b[2J", b"{", b"}", b'{"event": "notice"', b"")
said("line-list", b'["event"]', b"7", b"null", b'"event"', b"{}")
said("line-invalid-utf8", b'{"event": "notice", "seq": 1, "message": "\xff\xfe\x80"}', b"\xc0\xaf" * 50)
said("line-zero-bytes", b"\x00" * 1000)
said("line-utf16", '{"event": "notice", "message": "x"}'.encode("utf-16"))
said("line-control-characters", b"\r\r\r\x1b]2;owned\x07\x08\x08")
said("line-keys-twice", b'{"event": "notice", "event": "shard_done", "shard": 0, "shard": 1, "seq": 5, "seq": 6}')
said(
    "line-nested",
    b"[" * 100_000,
    b'{"event": ' + b'{"a":' * 100_000,
    b'{"event": "notice", "message": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
)
said("line-ten-megabytes", b'{"event": "notice", "message": "' + b"x" * 10_000_000 + b'"}')
said("line-many-keys", json.dumps({"event": "notice", **{f"k{n}": n for n in range(50_000)}}).encode())


@attack("done-twice")
def done_twice(act: Act) -> None:
    """The same event, with numbers of its own."""
    for _ in range(3):
        act.send(event="shard_done", seq=act.next_seq(), **act.fields)


@attack("repeated-numbers")
def repeated(act: Act) -> None:
    """An event of a number that was used."""
    for _ in range(50):
        act.send(event="image_failed", seq=act.emitter.sequence, shard=act.shard, index=0, file="x", error="x")


@attack("done-before-it-is", "shard_started")
def done_before(act: Act) -> None:
    """A shard that is said to be done before its file is there."""
    act.send(event="shard_done", seq=act.next_seq(), shard=act.shard, images=2, failed=0, instances=4, seconds=0)


@attack("done-of-all-shards", "shard_started")
def done_of_all(act: Act) -> None:
    """All shards are said to be done."""
    for number in range(12):
        act.send(event="shard_done", seq=act.next_seq(), shard=number, images=2, failed=0, instances=4, seconds=0)


@attack("done-without-file")
def done_without_file(act: Act) -> None:
    """A finished shard whose file is gone."""
    act.npz.unlink()


@attack("failures-counted-wrong")
def failures(act: Act) -> None:
    """More failed images than there are."""
    for number in range(1000):
        act.send(event="image_failed", seq=act.next_seq(), shard=act.shard, index=number, file="x", error="x")


@attack("flood-of-notices")
def flood_of_notices(act: Act) -> None:
    """A hundred thousand notices at once."""
    first = act.emitter.sequence
    for block in range(100):
        act.say(
            *(
                json.dumps(
                    {"event": "notice", "seq": first + 1 + block * 1000 + n, "message": f"{block} {n} {'x' * 40}"}
                ).encode()
                for n in range(1000)
            )
        )
    act.emitter._sequence = first + 100_000


@attack("flood-of-progress")
def flood_of_progress(act: Act) -> None:
    """Three hundred thousand progress events at once."""
    first = act.emitter.sequence
    for block in range(300):
        act.say(
            *(
                b'{"event":"progress","seq":%d,"shard":%d,"done":1,"total":2}'
                % (first + 1 + block * 1000 + n, act.shard)
                for n in range(1000)
            )
        )
    act.emitter._sequence = first + 300_000


@attack("flood-of-nonsense")
def flood_of_nonsense(act: Act) -> None:
    """Fifty megabytes of lines that are no events."""
    for _ in range(50):
        act.say(b"x" * 100 + b"\n" + (b"{" * 99 + b"\n") * 10_000)


@attack("flood-without-newline")
def flood_without_newline(act: Act) -> None:
    """A line of two hundred megabytes."""
    block = b"x" * (1 << 20)
    for _ in range(200):
        rest = block
        while rest:
            rest = rest[os.write(act.emitter._descriptor, rest) :]
    act.say(b"")


# --- how a worker ends
@attack("exit-zero-with-nothing-done", "predict")
def exit_zero(act: Act) -> None:
    """A worker that ends well without having worked."""
    os._exit(0)


@attack("exit-zero-while-loading", "load")
def exit_zero_loading(act: Act) -> None:
    """The same before it is ready."""
    os._exit(0)


@attack("exit-143", "predict")
def exit_stopped(act: Act) -> None:
    """A worker that says it was stopped."""
    os._exit(143)


@attack("kills-itself", "predict")
def kills_itself(act: Act) -> None:
    """A worker that dies on the images of a shard."""
    os.kill(os.getpid(), signal.SIGKILL)


@attack("dies-after-part")
def dies_after_part(act: Act) -> None:
    """A worker that dies each time it has left a part, which is sound."""
    act.npz.rename(act.part())
    os._exit(17)


@attack("load-fails-with-escapes", "load")
def load_fails(act: Act) -> None:
    """An error whose text is for the terminal."""
    print(ESCAPES, flush=True)
    print(ESCAPES, file=sys.stderr, flush=True)
    raise RuntimeError(ESCAPES)


@attack("image-fails-with-escapes", "predict")
def image_fails(act: Act) -> None:
    """The same on the images of a shard."""
    raise RuntimeError(ESCAPES)


@attack("prints-escapes", "predict")
def prints(act: Act) -> None:
    """Output for the terminal, on all streams."""
    for stream in (sys.stdout, sys.stderr):
        print(ESCAPES, file=stream, flush=True)
    try:
        with open("/dev/tty", "w") as terminal:
            terminal.write(ESCAPES)
    except OSError:
        pass


@attack("child-outlives-the-run", "ready")
def child_outlives(act: Act) -> None:
    """A child in a session of its own that keeps all streams open."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)


@attack("child-holds-the-events", "ready")
def child_holds_events(act: Act) -> None:
    """A forked child that keeps the stream of events open after the worker has ended."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
        os._exit(0)


@attack("ignores-sigterm", "ready")
def ignores_sigterm(act: Act) -> None:
    """A worker that cannot be asked to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@attack("does-not-end", "bye")
def does_not_end(act: Act) -> None:
    """A worker that says goodbye only after a quarter of a minute."""
    time.sleep(15)


@attack("thread-talks-on", "ready")
def thread_talks_on(act: Act) -> None:
    """A thread that sends events all the time."""
    import threading

    def talk() -> None:
        for number in range(20_000):
            act.say(b'{"event": "notice", "seq": %d, "message": "\\u001b[31m"}' % (10**6 + number), b"{")
            time.sleep(0.0005)

    threading.Thread(target=talk, daemon=True).start()

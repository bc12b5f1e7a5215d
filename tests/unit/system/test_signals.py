"""Signals: to the one run of the main thread, or passed on to all of several; commands under way end with them."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from orchestrator.system.signals import call_on_signal, raise_on_sigterm, share_signals
from orchestrator.system.subprocesses import run_subprocess, terminate_subprocesses


def in_a_thread(listened: list[str], ready: threading.Event, over: threading.Event) -> threading.Thread:
    def work() -> None:
        with call_on_signal(lambda: listened.append("thread")):
            ready.set()
            over.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    return thread


def test_in_the_main_thread_a_signal_calls_the_listener_and_nothing_stays_behind() -> None:
    listened: list[str] = []
    with call_on_signal(lambda: listened.append("main")):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert listened == ["main", "main"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_is_passed_on_to_threads_and_to_those_that_come_late() -> None:
    listened: list[str] = []
    ready, over = threading.Event(), threading.Event()
    with share_signals() as stop:
        thread = in_a_thread(listened, ready, over)
        signal.raise_signal(signal.SIGINT)
        assert (listened, stop.count) == (["thread"], 1)
        with call_on_signal(lambda: listened.append("late")):
            assert listened == ["thread", "late"]
            signal.raise_signal(signal.SIGINT)
        assert listened == ["thread", "late", "thread", "late"]
        over.set()
        thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_thread_of_a_host_program_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    ready, over = threading.Event(), threading.Event()
    thread = in_a_thread([], ready, over)
    assert signal.getsignal(signal.SIGINT) is before
    over.set()
    thread.join()


def test_sigterm_raises_what_was_asked_and_ctrl_c_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError, match="stopped"), raise_on_sigterm(KeyError("stopped")):
        signal.raise_signal(signal.SIGTERM)
    with raise_on_sigterm(KeyError("stopped")):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_build_under_way_in_a_thread_is_ended(tmp_path: Path) -> None:
    codes: list[int] = []
    thread = threading.Thread(
        target=lambda: codes.append(run_subprocess(["sleep", "60"], tmp_path / "log", lambda line: None)[0])
    )
    thread.start()
    deadline = time.monotonic() + 10
    while not codes and time.monotonic() < deadline:
        terminate_subprocesses()
        time.sleep(0.01)
    thread.join()
    assert codes == [-signal.SIGTERM]

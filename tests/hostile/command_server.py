"""Runs command lines of orch in forked processes of one process that has imported everything.

One JSON object a line on stdin: {"id", "arguments", "environment", "folder", "stdout", "stderr", "audit", "trees"}.
Answers on stdout: {"id", "pid"} at the start and {"id", "code"} at the end (negative: a signal). The process leads a
group of its own; whoever asked may kill it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
import threading
from typing import Any


def main() -> None:
    """Serve until stdin ends."""
    _import_everything()
    gc.freeze()
    lock = threading.Lock()
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(wanted)
        with lock:
            print(json.dumps({"id": wanted["id"], "pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        with lock:
            print(json.dumps({"id": wanted["id"], "code": os.waitstatus_to_exitcode(status)}), flush=True)


def _import_everything() -> None:
    """Import what `orch run` imports late."""
    import docker  # noqa: F401

    import orchestrator.cli
    import orchestrator.cli.progress
    import orchestrator.predictions.collect
    import orchestrator.predictions.predictions
    import orchestrator.predictions.validation
    import orchestrator.workflows.run  # noqa: F401


def _run(wanted: dict[str, Any]) -> None:
    """Be the command. Never returns."""
    code = 99
    try:
        os.setsid()
        with contextlib.ExitStack() as stack:
            null = stack.enter_context(open(os.devnull, "rb"))
            out = stack.enter_context(open(wanted["stdout"], "wb"))
            err = stack.enter_context(open(wanted["stderr"], "wb"))
            for source, target in ((null, 0), (out, 1), (err, 2)):
                os.dup2(source.fileno(), target)
        sys.stdin = os.fdopen(0, encoding="utf-8")
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8", errors="backslashreplace")
        sys.stderr = io.TextIOWrapper(
            os.fdopen(2, "wb", 0, closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
        )
        os.environ.clear()
        os.environ.update(wanted["environment"])
        os.chdir(wanted["folder"])
        sys.argv = ["orch", *wanted["arguments"]]
        if wanted["audit"]:
            from tests.hostile import audit

            audit.install(wanted["audit"], wanted["trees"])
        from orchestrator.cli import main as orch

        code = orch(wanted["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()

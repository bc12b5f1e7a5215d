"""`python -m orch_runner.random_weights JOB.json`: weights for `orch selftest`, written into the job's out folder."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import List

from orch_runner.contract import Fatal, JobRefused, read_job
from orch_runner.events import Emitter, log
from orch_runner.worker import model_to_load, predictor_class


def main(arguments: List[str]) -> int:
    """Make them; exit status and failure event as in the contract (see orch_runner.__main__)."""
    emitter = Emitter()
    try:
        job = read_job(Path(arguments[0]))
        predictor_class(job).make_random_weights(model_to_load(job, {}), str(job.out))
    except JobRefused as error:
        emitter.emit("failure", category="contract", message=str(error), hint=None)
        return 2
    except Fatal as error:
        emitter.emit("failure", category=error.category, message=str(error), hint=error.hint)
        return error.exit_code
    except Exception as error:
        log(traceback.format_exc())
        emitter.emit("failure", category="load", message=f"{type(error).__name__}: {error}", hint=None)
        return 3
    emitter.emit("bye", reason="all done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write random weights for `orch selftest`: python -m orch_runner.random_weights JOB.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List

from orch_runner.contract import Fatal, JobRefused, read_job
from orch_runner.events import Emitter
from orch_runner.worker import make_model, predictor_class, report_failure


def main(arguments: List[str]) -> int:
    """Write the weights; exit status and failure event are the contract's (see orch_runner.__main__)."""
    emitter = Emitter()
    try:
        job = read_job(Path(arguments[0]))
        predictor_class(job).make_random_weights(make_model(job, {}), str(job.out))
    except (JobRefused, Fatal) as error:
        return report_failure(emitter, error)
    except Exception as error:
        failure = Fatal("load", 3, f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        return report_failure(emitter, failure)
    emitter.emit("bye", reason="all done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

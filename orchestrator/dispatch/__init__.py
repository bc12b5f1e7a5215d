"""Carry out a recorded plan: shards, events, predictions.npz, summary.json."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.dispatch.executors import (
        ExecutorSettings,
        Work,
        find_submission,
        get_executor,
        refuse_active_submission,
    )
    from orchestrator.dispatch.launcher import Launcher
    from orchestrator.dispatch.outcome import Outcome, read_outcome, remove_changed_masks
    from orchestrator.dispatch.shard_intake import remove_job_folders
    from orchestrator.dispatch.shared.follow import cancel_run, follow_run
    from orchestrator.dispatch.shared.task import main
    from orchestrator.dispatch.shared.work_file import make_placeholder
    from orchestrator.dispatch.sharing import NoSharing, Sharing
    from orchestrator.dispatch.slurm.settings import SlurmSettings
    from orchestrator.dispatch.status import read_local_state, read_status
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "executors": "ExecutorSettings Work find_submission get_executor refuse_active_submission",
            "launcher": "Launcher",
            "outcome": "Outcome read_outcome remove_changed_masks",
            "shard_intake": "remove_job_folders",
            "shared.follow": "cancel_run follow_run",
            "shared.task": "main",
            "shared.work_file": "make_placeholder",
            "sharing": "NoSharing Sharing",
            "slurm.settings": "SlurmSettings",
            "status": "read_local_state read_status",
        },
    )

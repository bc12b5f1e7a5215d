"""What spans stages."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.workflows.batch import RunRequest, RunResult, find_runnable, make_requests, run_batch
    from orchestrator.workflows.comparison import Compared, compare_and_report
    from orchestrator.workflows.comparison_file import ComparisonSpec, read_comparison, write_example
    from orchestrator.workflows.conformance import Check, check_models
    from orchestrator.workflows.convert import Converted, ConvertOptions, convert_checkpoint, suggest_model
    from orchestrator.workflows.demo.demo import run_demo
    from orchestrator.workflows.doctor import examine_machine
    from orchestrator.workflows.dry_run import DryRun, preview_images
    from orchestrator.workflows.equivalence import Equivalence, check_equivalence
    from orchestrator.workflows.history import RunRecord, list_runs
    from orchestrator.workflows.preview import RunPreview, name_gpus, preview_run
    from orchestrator.workflows.prune.leftovers import Leftover, Scope
    from orchestrator.workflows.prune.prune import find_leftovers, remove_leftovers
    from orchestrator.workflows.python_api import Run, Session, connect, run_images
    from orchestrator.workflows.rerun import Repetition, RunDifference, find_differences, read_repetition
    from orchestrator.workflows.run import run_model
    from orchestrator.workflows.selftest import run_selftest
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "batch": "RunRequest RunResult find_runnable make_requests run_batch",
            "comparison": "Compared compare_and_report",
            "comparison_file": "ComparisonSpec read_comparison write_example",
            "conformance": "Check check_models",
            "convert": "ConvertOptions Converted convert_checkpoint suggest_model",
            "demo.demo": "run_demo",
            "doctor": "examine_machine",
            "dry_run": "DryRun preview_images",
            "equivalence": "Equivalence check_equivalence",
            "history": "RunRecord list_runs",
            "preview": "RunPreview name_gpus preview_run",
            "prune.leftovers": "Leftover Scope",
            "prune.prune": "find_leftovers remove_leftovers",
            "python_api": "Run Session connect run_images",
            "rerun": "RunDifference Repetition find_differences read_repetition",
            "run": "run_model",
            "selftest": "run_selftest",
        },
    )

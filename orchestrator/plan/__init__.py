"""What is to be run, and the directory that remembers it."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.plan.changes import Changes, RunChanged, compare_run
    from orchestrator.plan.disk_space import build_needs, output_need, weights_needs
    from orchestrator.plan.options import CommonOptions, RunOptions
    from orchestrator.plan.plan import Plan, all_parts
    from orchestrator.plan.request import AUTO, Request, make_request, most_detections, score_floor
    from orchestrator.plan.run_directory import (
        open_run,
        read_request_field,
        read_run_document,
        record_plan,
        run_document,
    )
    from orchestrator.plan.shards import MOST_SHARDS, attribute_columns, default_shard_size, missing_shards, shard_rules
    from orchestrator.plan.update import update_run
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "changes": "Changes RunChanged compare_run",
            "disk_space": "build_needs output_need weights_needs",
            "options": "CommonOptions RunOptions",
            "plan": "Plan all_parts",
            "request": "AUTO Request make_request most_detections score_floor",
            "run_directory": "open_run read_request_field read_run_document record_plan run_document",
            "shards": "MOST_SHARDS attribute_columns default_shard_size missing_shards shard_rules",
            "update": "update_run",
        },
    )

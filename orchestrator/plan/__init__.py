"""What is to be run, and the directory that remembers it."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.plan.disk_space import build_needs, output_need, weights_needs
    from orchestrator.plan.options import CommonOptions, RunOptions
    from orchestrator.plan.plan import Plan
    from orchestrator.plan.request import AUTO, Request, make_request, most_detections, score_floor
    from orchestrator.plan.run_directory import (
        open_run,
        read_request_field,
        read_run_document,
        record_plan,
        run_document,
    )
    from orchestrator.plan.shards import attribute_columns, default_shard_size, missing_shards, shard_rules
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "disk_space": "build_needs output_need weights_needs",
            "options": "CommonOptions RunOptions",
            "plan": "Plan",
            "request": "AUTO Request make_request most_detections score_floor",
            "run_directory": "open_run read_request_field read_run_document record_plan run_document",
            "shards": "attribute_columns default_shard_size missing_shards shard_rules",
        },
    )

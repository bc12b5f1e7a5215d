"""The standard predictions file: read, collected, checked, exported."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.predictions.annotations import find_images, read_annotations
    from orchestrator.predictions.collect import collect_shards
    from orchestrator.predictions.export import get_exporter
    from orchestrator.predictions.mask_files import picture_path
    from orchestrator.predictions.npz import open_arrays
    from orchestrator.predictions.predictions import Predictions, Record
    from orchestrator.predictions.schema import STATUS_FAILED, STATUS_PREDICTED, to_xywh
    from orchestrator.predictions.shard_check import (
        ShardContent,
        ShardFault,
        ShardRules,
        check_picture,
        check_shard,
        write_failed_shard,
    )
    from orchestrator.predictions.shard_rows import ShardRows, write_rows
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "annotations": "find_images read_annotations",
            "collect": "collect_shards",
            "export": "get_exporter",
            "mask_files": "picture_path",
            "npz": "open_arrays",
            "predictions": "Predictions Record",
            "schema": "STATUS_FAILED STATUS_PREDICTED to_xywh",
            "shard_check": "ShardContent ShardFault ShardRules check_picture check_shard write_failed_shard",
            "shard_rows": "ShardRows write_rows",
        },
    )

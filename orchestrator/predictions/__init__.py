"""The standard predictions file: read, collected, checked, exported."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.predictions.annotations import find_images, read_annotations
    from orchestrator.predictions.collect import collect_shards
    from orchestrator.predictions.formats import FORMATS_WRITTEN, export_predictions, get_format
    from orchestrator.predictions.import_coco import import_coco_results
    from orchestrator.predictions.mask_files import CANVASES, KEEP_CANVAS, PICTURES, MaskFiles
    from orchestrator.predictions.npz import open_arrays
    from orchestrator.predictions.output_names import assign_paths, is_plain_path, picture_path
    from orchestrator.predictions.predictions import Predictions, Record
    from orchestrator.predictions.schema import STATUS_FAILED, STATUS_PREDICTED, is_class, to_native_edges, to_xywh
    from orchestrator.predictions.shard_check import (
        ShardContent,
        ShardFault,
        ShardRules,
        check_mask_file,
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
            "formats": "FORMATS_WRITTEN export_predictions get_format",
            "import_coco": "import_coco_results",
            "mask_files": "CANVASES KEEP_CANVAS MaskFiles PICTURES",
            "npz": "open_arrays",
            "output_names": "assign_paths is_plain_path picture_path",
            "predictions": "Predictions Record",
            "schema": "STATUS_FAILED STATUS_PREDICTED is_class to_native_edges to_xywh",
            "shard_check": "ShardContent ShardFault ShardRules check_mask_file check_shard write_failed_shard",
            "shard_rows": "ShardRows write_rows",
        },
    )

"""List the images that a user names (files, folders, lists, archives, data sets) as an InputSet."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.inputs.benco_datasets import NEGATIVE, Sample, is_tp_gt, read_data_set
    from orchestrator.inputs.collect import InputSet, collect_inputs
    from orchestrator.inputs.folders import EXTENSIONS, SkippedFile
    from orchestrator.inputs.image_ids import ImageId, is_image_id, order_of_id
    from orchestrator.inputs.image_names import name_image
    from orchestrator.inputs.manifest import InputImage, open_inputs, read_inputs
    from orchestrator.inputs.remote import expand_user, is_url, recorded_source, save_names
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "benco_datasets": "NEGATIVE Sample is_tp_gt read_data_set",
            "collect": "InputSet collect_inputs",
            "folders": "EXTENSIONS SkippedFile",
            "image_ids": "ImageId is_image_id order_of_id",
            "image_names": "name_image",
            "manifest": "InputImage open_inputs read_inputs",
            "remote": "expand_user is_url recorded_source save_names",
        },
    )

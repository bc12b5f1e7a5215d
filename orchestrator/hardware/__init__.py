"""The machine and its GPUs, and which variant of a stack fits them."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.hardware.compatibility import How, check_compatibility
    from orchestrator.hardware.detection import cores, detect_machine, gpus_for, gpus_of
    from orchestrator.hardware.devices import device_kind
    from orchestrator.hardware.gpu_code import LABEL, MODULE, GpuCode, parse_gpu_code, read_labels
    from orchestrator.hardware.machine import BROKEN_HINT, Gpu, Machine, read_machine, write_machine
    from orchestrator.hardware.selection import Selection, choose_variant
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "compatibility": "How check_compatibility",
            "detection": "cores detect_machine gpus_for gpus_of",
            "devices": "device_kind",
            "gpu_code": "GpuCode LABEL MODULE parse_gpu_code read_labels",
            "machine": "BROKEN_HINT Gpu Machine read_machine write_machine",
            "selection": "Selection choose_variant",
        },
    )

"""The machine and its GPUs, and which variant of a stack fits them."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.hardware.compatibility import How, check_compatibility
    from orchestrator.hardware.detection import cores, detect_machine, gpus_for, gpus_of
    from orchestrator.hardware.devices import device_kind
    from orchestrator.hardware.driver_faults import find_next_step
    from orchestrator.hardware.gpu_code import LABEL, MODULE, GpuCode, parse_gpu_code, read_labels
    from orchestrator.hardware.machine import OR_CPU, Gpu, Machine, read_machine, write_machine
    from orchestrator.hardware.selection import Selection, choose_variant, explain_old_driver
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "compatibility": "How check_compatibility",
            "detection": "cores detect_machine gpus_for gpus_of",
            "devices": "device_kind",
            "driver_faults": "find_next_step",
            "gpu_code": "GpuCode LABEL MODULE parse_gpu_code read_labels",
            "machine": "Gpu Machine OR_CPU read_machine write_machine",
            "selection": "Selection choose_variant explain_old_driver",
        },
    )

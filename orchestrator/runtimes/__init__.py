"""How workers are started: runtimes, what they build, and warm workers."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.runtimes.base import (
        BuildOptions,
        Exit,
        Finding,
        Prepared,
        Runtime,
        Worker,
        WorkerSpec,
        worker_environment,
    )
    from orchestrator.runtimes.build_inputs import find_variant, image_alias, image_inputs, result_parts
    from orchestrator.runtimes.built import apply_gpu_code, select_variant
    from orchestrator.runtimes.docker.user import calling_user
    from orchestrator.runtimes.environments import (
        LOCKED,
        WHEELS,
        ensure_environment,
        environment_folder,
        find_user,
        find_uv,
        is_complete,
    )
    from orchestrator.runtimes.guest_contract import (
        ALIVE_EVERY,
        OUT_NAME,
        PART_EVERY,
        QUEUE_NAME,
        JobQueue,
        ShardOrder,
        job_document,
        parse_event,
        write_job,
        writing_job,
    )
    from orchestrator.runtimes.limits import FILE_SIZE, NO_LIMITS, OUT_SIZE, Limits, format_size, parse_size, parse_user
    from orchestrator.runtimes.process import inherited_variables
    from orchestrator.runtimes.readable import ReadableImages, readable_weights
    from orchestrator.runtimes.registry import AUTO_ORDER, RUNTIMES, choose_runtime, get_runtime, usable_runtimes
    from orchestrator.runtimes.shared_libraries import suggest_library
    from orchestrator.runtimes.warm.compose import compose_text, gpu_text
    from orchestrator.runtimes.warm.compose_env import environment, environment_text, write_environment
    from orchestrator.runtimes.warm.containers import (
        UpOptions,
        find_warm_stacks,
        list_containers,
        log_lines,
        start_workers,
        stop_workers,
    )
    from orchestrator.runtimes.warm.listing import WarmWorkerStatus, list_workers
    from orchestrator.runtimes.warm.process import process_worker
    from orchestrator.runtimes.warm.runtime import WarmRuntime
    from orchestrator.runtimes.warm.select import NoWarmWorker, select_warm
    from orchestrator.runtimes.worker_cache import ensure_worker_cache
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "base": "BuildOptions Exit Finding Prepared Runtime Worker WorkerSpec worker_environment",
            "build_inputs": "find_variant image_alias image_inputs result_parts",
            "built": "apply_gpu_code select_variant",
            "docker.user": "calling_user",
            "environments": "LOCKED WHEELS ensure_environment environment_folder find_uv is_complete find_user",
            "guest_contract": "ALIVE_EVERY JobQueue OUT_NAME PART_EVERY QUEUE_NAME ShardOrder job_document parse_event "
            "write_job writing_job",
            "limits": "FILE_SIZE Limits NO_LIMITS OUT_SIZE format_size parse_size parse_user",
            "process": "inherited_variables",
            "readable": "ReadableImages readable_weights",
            "registry": "AUTO_ORDER RUNTIMES choose_runtime get_runtime usable_runtimes",
            "shared_libraries": "suggest_library",
            "warm.compose": "compose_text gpu_text",
            "warm.compose_env": "environment environment_text write_environment",
            "warm.containers": "UpOptions find_warm_stacks list_containers log_lines start_workers stop_workers",
            "warm.listing": "WarmWorkerStatus list_workers",
            "warm.process": "process_worker",
            "warm.runtime": "WarmRuntime",
            "warm.select": "NoWarmWorker select_warm",
            "worker_cache": "ensure_worker_cache",
        },
    )

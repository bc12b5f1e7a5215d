"""Stacks and models from stack.yaml files, their weights and their upstream code."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.catalog.bundled import RUNNER, STACKS
    from orchestrator.catalog.loader import (
        PUBLISHED_RECIPE,
        Catalog,
        ModelEntry,
        StackEntry,
        load_catalog,
        read_model,
        read_stack,
    )
    from orchestrator.catalog.model_file import MODEL_FILE, ModelFile
    from orchestrator.catalog.scaffold import create_model, create_stack
    from orchestrator.catalog.spec import (
        MODEL_NAME_PATTERN,
        SettingValue,
        Spec,
        Stack,
        UpstreamSource,
        Variant,
        Weights,
    )
    from orchestrator.catalog.tasks import DETECTION, INSTANCES, Task, get_task, name_tasks_with_pictures, task_of
    from orchestrator.catalog.upstream_code import ensure_sources, source_state, tree_folder
    from orchestrator.catalog.weights import (
        Stored,
        add_weights,
        ensure_weights,
        known_digests,
        verify_weights,
        weights_folder_of,
        weights_in,
        weights_state,
    )
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "bundled": "RUNNER STACKS",
            "loader": "PUBLISHED_RECIPE Catalog ModelEntry StackEntry load_catalog read_model read_stack",
            "model_file": "MODEL_FILE ModelFile",
            "scaffold": "create_model create_stack",
            "spec": "MODEL_NAME_PATTERN SettingValue Spec Stack UpstreamSource Variant Weights",
            "tasks": "DETECTION INSTANCES Task get_task name_tasks_with_pictures task_of",
            "upstream_code": "ensure_sources source_state tree_folder",
            "weights": "Stored add_weights ensure_weights known_digests verify_weights weights_folder_of weights_in "
            "weights_state",
        },
    )

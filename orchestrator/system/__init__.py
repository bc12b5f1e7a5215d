"""Files, locks, JSON lines, free space, subprocesses, signals, downloads, archives, YAML, engine, Display."""

from typing import TYPE_CHECKING

from orchestrator._lazy import lazy_exports

if TYPE_CHECKING:
    from orchestrator.system.archives import is_archive, unpack
    from orchestrator.system.container_engine import Engine, build_command, connect
    from orchestrator.system.display import (
        BatchDisplay,
        Display,
        PlainBatchDisplay,
        PlainDisplay,
        Report,
        RunStatus,
        SilentBatchDisplay,
        SilentDisplay,
        count_of,
        end_live_lines,
        print_line,
        printable,
        rate_line,
        register_live_line,
        with_name,
    )
    from orchestrator.system.download import TransferProgress, explain_failure, fetch, open_url
    from orchestrator.system.files import (
        is_regular_file,
        json_bytes,
        open_to_append,
        read_json_object,
        read_regular,
        remove,
        replace_file,
        replace_path,
        require_format,
        sha256_of,
        sha256_of_tree,
        state_of_tree,
        sync_path,
        write_json,
        write_text,
    )
    from orchestrator.system.free_space import GB, RESERVE, Need, require_space
    from orchestrator.system.guest_tree import GuestFile, GuestFileRefused, GuestTree
    from orchestrator.system.json_lines import JsonLinesFile, LineSplitter, parse_object, split_lines
    from orchestrator.system.locks import acquire_lock, hold_lock
    from orchestrator.system.outputs import explain_refusal, require_file, require_folder
    from orchestrator.system.signals import StopRequests, call_on_signal, raise_on_sigterm, share_signals
    from orchestrator.system.subprocesses import read_output, run_subprocess, terminate_subprocesses
    from orchestrator.system.suggestions import did_you_mean, unknown_name
    from orchestrator.system.version import __version__
    from orchestrator.system.yaml_source import FieldError, YamlSource, describe_errors, spec_error
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "archives": "is_archive unpack",
            "container_engine": "Engine build_command connect",
            "display": "BatchDisplay Display PlainBatchDisplay PlainDisplay Report RunStatus SilentBatchDisplay "
            "SilentDisplay count_of end_live_lines print_line printable rate_line register_live_line with_name",
            "download": "TransferProgress explain_failure fetch open_url",
            "files": "is_regular_file json_bytes open_to_append read_json_object read_regular remove "
            "replace_file replace_path require_format sha256_of sha256_of_tree state_of_tree sync_path write_json "
            "write_text",
            "free_space": "GB Need RESERVE require_space",
            "guest_tree": "GuestFile GuestFileRefused GuestTree",
            "json_lines": "JsonLinesFile LineSplitter parse_object split_lines",
            "locks": "acquire_lock hold_lock",
            "outputs": "explain_refusal require_file require_folder",
            "signals": "StopRequests call_on_signal raise_on_sigterm share_signals",
            "subprocesses": "read_output run_subprocess terminate_subprocesses",
            "suggestions": "did_you_mean unknown_name",
            "version": "__version__",
            "yaml_source": "FieldError YamlSource describe_errors spec_error",
        },
    )

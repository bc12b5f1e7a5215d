"""The protocols by name: whose rules figures follow."""

from __future__ import annotations

from orchestrator.errors import UsageError
from orchestrator.evaluation.coco.fashionfail import FASHIONFAIL
from orchestrator.evaluation.coco.protocol import COCO, CocoProtocol
from orchestrator.evaluation.localization.protocol import IMDLBENCO, OWN_RULES, MaskProtocol
from orchestrator.system import unknown_name

DEFAULT = COCO.name
PROTOCOLS: dict[str, CocoProtocol | MaskProtocol] = {
    "coco": COCO,
    "fashionfail": FASHIONFAIL,
    "imdlbenco": IMDLBENCO,
}


def get_protocol(name: str) -> CocoProtocol | MaskProtocol:
    """Return the protocol of that name. Raises UsageError."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def get_coco_protocol(name: str) -> CocoProtocol:
    """Return a protocol for COCO annotations. UsageError for an unknown name and one of another task."""
    protocol = get_protocol(name)
    if not isinstance(protocol, CocoProtocol):
        raise UsageError(
            f"the protocol {name} is for masks of manipulated images, not for COCO annotations",
            hint=f"orch eval RUN --protocol {name}",
        )
    return protocol


def get_mask_protocol(name: str | None) -> MaskProtocol:
    """Return a protocol for masks of manipulated images; None: orch's own rules.

    UsageError for an unknown name and one of another task.
    """
    if name is None:
        return OWN_RULES
    protocol = get_protocol(name)
    if not isinstance(protocol, MaskProtocol):
        raise UsageError(
            f"the protocol {name} is for COCO annotations, not for masks of manipulated images",
            hint=f"orch eval RUN --annotations COCO.json --protocol {name}",
        )
    return protocol


def is_mask_protocol(name: str) -> bool:
    """Return whether a protocol is for masks of manipulated images. UsageError for an unknown name."""
    return isinstance(get_protocol(name), MaskProtocol)

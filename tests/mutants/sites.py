"""Find the places of a Python file where a small fault can be put, and the text of each fault."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
GUARDS = ("frozen", "strict")
"""Keyword arguments that only a mistake elsewhere in the code would show."""
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True)
class Site:
    """A fault of one kind: the text from `start` to `end` (characters of the file) becomes `new`."""

    kind: str
    start: int
    end: int
    new: str


@cache
def find_sites(source: str) -> list[Site]:
    """Return all places of a file, in order. Texts, annotations and what only type checkers run are skipped."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        """Return the index of a character; the parser counts columns in bytes."""
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    sites = []
    for kind, node, new in _find_faults(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)
        sites.append(Site(kind, start, end, new))
    return sorted(sites, key=lambda site: (site.start, site.end, site.kind, site.new))


def _find_faults(node: ast.AST) -> Iterator[tuple[str, ast.expr | ast.stmt, str]]:
    """Yield the kind, the node to replace and its new text."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[index] = COMPARISONS[type(operator)]()
                yield "comparison", node, ast.unparse(changed)
        case ast.Constant(value=bool()):
            yield "flag", node, str(not node.value)
        case ast.Constant(value=int(number)):
            yield "number", node, str(number + 1)
        case ast.Constant(value=float(number)):
            yield "number", node, repr(number * 1.5)
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "dropped statement", node, "pass"
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", node, f"({ast.unparse(ast.BoolOp(other, node.values))})"
        case ast.UnaryOp(op=ast.Not()):
            yield "removed not", node, f"({ast.unparse(node.operand)})"
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in EXTREMES:
            changed_name = ast.unparse(node.func).removesuffix(name) + EXTREMES[name]
            yield "min/max", node.func, changed_name
    for condition in _list_conditions(node):
        yield "negated condition", condition, f"(not ({ast.unparse(condition)}))"
    for child in _list_children(node):
        yield from _find_faults(child)


def _list_conditions(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.If() | ast.While() | ast.IfExp():
            return [] if isinstance(node.test, ast.Constant) else [node.test]
        case ast.comprehension():
            return node.ifs
    return []


def _list_children(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
        return []
    if isinstance(node, ast.keyword) and node.arg in GUARDS:
        return []
    skipped = [getattr(node, name, None) for name in ("annotation", "returns")]
    return [child for child in ast.iter_child_nodes(node) if child not in skipped]

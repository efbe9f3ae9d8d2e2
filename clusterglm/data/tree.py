"""The one order in which numbers are added, whatever the chunks, the workers and the order of arrival.

A node of the tree is ``(level, index, total)``: the sum of the micro-blocks ``index * 2**level`` up to
``(index + 1) * 2**level - 1``, counted from the first row of the data. A parent is formed when both of its children
exist, and a last child without a sibling is carried up unchanged. So every addition depends on the global row index
alone, and sums keep their bits when chunks are cut, moved or lost and made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Total = tuple[Any, ...]
Node = tuple[int, int, Total]


def add(left: Total, right: Total) -> Total:
    """Return the sum of two tuples, entry by entry."""
    return tuple(a + b for a, b in zip(left, right, strict=True))


def push(stack: list[Node], node: Node) -> None:
    """Add ``node``, the next in row order, to ``stack``, forming every parent that has become complete."""
    level, index, total = node
    while stack and index % 2 == 1 and stack[-1][:2] == (level, index - 1):
        level, index, total = level + 1, index // 2, add(stack.pop()[2], total)
    stack.append((level, index, total))


def first_block(node: Node) -> int:
    """Return the index of the first micro-block below ``node``: what orders nodes by rows."""
    level, index, _ = node
    return index << level


def fold(nodes: Iterable[Node]) -> Total:
    """Return the sum over all nodes, given in row order and covering the data without a gap.

    Raises
    ------
    ValueError
        There are no nodes.
    """
    stack: list[Node] = []
    for node in nodes:
        push(stack, node)
    if not stack:
        raise ValueError("no micro-blocks to add")
    total = stack[-1][2]
    for _, _, left in reversed(stack[:-1]):
        total = add(left, total)
    return total

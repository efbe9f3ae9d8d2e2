"""One order of additions, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterglm.data.tree import Node, add, fold, push


def leaves(values: list[float]) -> list[Node]:
    return [(0, i, (value, np.array([value, 1.0]))) for i, value in enumerate(values)]


def flat(values: list[float]) -> float:
    """The same tree, written down as a recursion over whole levels."""
    while len(values) > 1:
        pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=90), st.data())
def test_subtotals_of_any_chunks_fold_to_the_flat_tree_bit_for_bit(values: list[float], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values)), max_size=12)) | {len(values)})
    parts: list[Node] = []
    start = 0
    for stop in cuts:
        nodes: list[Node] = []
        for leaf in leaves(values)[start:stop]:
            push(nodes, leaf)
        parts += nodes
        start = stop
    total, vector = fold(parts)
    assert total == flat(values)
    assert vector.tolist() == [flat(values), len(values)]


def test_a_chunk_sends_few_nodes() -> None:
    nodes: list[Node] = []
    for leaf in leaves([1.0] * 100)[3:90]:
        push(nodes, leaf)
    assert [(level, index) for level, index, _ in nodes] == [
        (0, 3),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (4, 4),
        (3, 10),
        (1, 44),
    ]


def test_nothing_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="no micro-blocks"):
        fold([])


def test_tuples_of_different_lengths_are_not_added() -> None:
    with pytest.raises(ValueError):
        add((1.0,), (1.0, 2.0))

"""Same rows, same bits: whole fits under random chunkings, shares of workers and alignments of what arrived."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clusterglm
from clusterglm.data.chunk import Chunk
from clusterglm.data.rows import LocalRows
from clusterglm.data.tasks import each, sums
from clusterglm.data.tree import first_block, fold
from clusterglm.glm import start as start_module
from clusterglm.glm.families import FAMILIES
from clusterglm.glm.fit import fit
from clusterglm.glm.model import Limits, Model
from clusterglm.glm.solvers import SOLVERS
from clusterglm.glm.trace import Tolerance

ROWS, BLOCK, PROBLEM = 3100, 32, 128


class Shares:
    """Rows cut into chunks that lie with several workers; sums and steps are those of ``DaskRows``' tasks."""

    def __init__(self, whole: LocalRows, cuts: Sequence[int], workers: int, shift: int) -> None:
        ends = [0, *sorted({cut * PROBLEM for cut in cuts}), whole.rows]
        chunks = [moved(whole.chunk.part(a, b), shift) for a, b in itertools.pairwise(ends)]
        self.rows, self.columns, self.local_problems = whole.rows, whole.columns, whole.local_problems
        # Dealt out in turn, so that neighbours lie apart.
        self.shares = [chunks[i::workers] for i in range(workers) if chunks[i::workers]]

    def sum(self, kernel: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
        nodes = [sums(share, None, kernel, args) for share in reversed(self.shares)]
        return fold(sorted(itertools.chain(*nodes), key=first_block))

    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        found: dict[int, Any] = {}
        for share in reversed(self.shares):
            own = [list(states[chunk.start // PROBLEM : -(-(chunk.start + len(chunk)) // PROBLEM)]) for chunk in share]
            found |= dict(each(share, own, step, args, PROBLEM))
        parts = [found[first] for first in sorted(found)]
        return [result for results, _ in parts for result in results], max(reads for _, reads in parts)


def moved(chunk: Chunk, shift: int) -> Chunk:
    """Return the chunk as it arrives from another worker, its arrays at addresses that are off by ``shift`` bytes."""
    buffers: list[pickle.PickleBuffer] = []
    told = pickle.dumps(chunk, protocol=5, buffer_callback=buffers.append)
    arrived = []
    for buffer in buffers:
        raw = bytes(buffer.raw())
        room = bytearray(len(raw) + 16)
        room[shift : shift + len(raw)] = raw
        arrived.append(memoryview(room)[shift : shift + len(raw)])
    return pickle.loads(told, buffers=arrived)


def whole_rows(family: str) -> LocalRows:
    random = np.random.default_rng(len(family))
    X = random.standard_normal((ROWS, 4)) * [1, 100, 1e-3, 1] + [0, 30, 0, 2]
    eta = X @ [0.5, 0.002, 300, -0.4] + 0.3
    y = {
        "gaussian": lambda: eta + random.standard_normal(ROWS),
        "binomial": lambda: (random.random(ROWS) < 1 / (1 + np.exp(-eta))).astype(float),
        "poisson": lambda: random.poisson(np.exp(np.minimum(eta, 3))).astype(float),
    }[family]()
    w, o = random.integers(0, 3, ROWS).astype(float), random.standard_normal(ROWS) / 4
    held = clusterglm.from_arrays(X, y, w, o, intercept=True).chunk
    return LocalRows(Chunk(held.X, held.y, held.weights, held.offset, block_rows=BLOCK), PROBLEM)


def fitted(rows: Any, solver: str, family: str) -> Any:
    smooth = SOLVERS[solver].smooth_only
    model = Model(FAMILIES[family], "l2" if smooth else "elastic-net", alpha=0.01)
    return fit(rows, list("abcd"), model, SOLVERS[solver], Limits(Tolerance(1e-6)))


CHUNKINGS = {
    "cuts": st.sets(st.integers(1, (ROWS - 1) // PROBLEM)),
    "workers": st.sampled_from([1, 2, 3, 8]),
    "shift": st.integers(0, 15),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("solver", [name for name, solver in SOLVERS.items() if solver.approach is None])
def test_a_fit_has_the_same_bits_under_any_chunking(solver: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "hessian_every", lambda rows, columns: 3)
    whole = whole_rows(family)
    expected = fitted(whole, solver, family)
    assert expected.status == "optimal"
    assert expected.start != "null model"

    @settings(max_examples=8, derandomize=True, deadline=None)
    @given(**CHUNKINGS)
    def same(cuts: set[int], workers: int, shift: int) -> None:
        found = fitted(Shares(whole, sorted(cuts), workers, shift), solver, family)
        for name in ("coefficients", "intercept", "objective", "certificate", "passes", "status", "start"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name

    same()

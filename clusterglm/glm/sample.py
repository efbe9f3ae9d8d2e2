"""A start near the optimum: the same model fitted to a few of the rows, in this process.

Rows are drawn by a hash of their global index, so the same rows are drawn however the data are cut into chunks. A fit
on m of n rows ends at P(beta_m) - P* of about p / (2 m): close enough that a Newton step on all rows is in its
quadratic phase. The drawn rows steer and prove nothing: every certificate comes from all rows.

The Hessian of that step need not be of all rows either. Of a share s of them it is off by a relative error whose
square is about p (1 - s) / (s n), so a step shrinks the gap by that factor at best. Times s it bounds the whole Hessian
from below, so a bound on the gap that is proven with it is 1/s times as large, and as rigorous (certificate.py). Where
the rows of the share mislead, a column that hardly varies among them say, steps shrink the gap slowly, and from then on
Hessians are of all rows.

Erdogdu and Montanari (2015), "Convergence rates of sub-sampled Newton methods"; Roosta-Khorasani and Mahoney (2019),
"Sub-sampled Newton methods", Math. Prog. 174.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.kernels import Block, Piece, hashed, is_sparse

Array = NDArray[np.float64]
_ROWS_PER_COLUMN = 2000
_ONE_IN = 8000  # rows are drawn where that is more: of many, a better start costs nothing beside a pass
_LEAST_PER_COLUMN = 20  # below which a sample is no better a start than the null model
_MOST_BYTES = 32 * 2**20
_SMALLEST_SHARE = 20  # a sample is at most 1/20 of the rows: it must cost little beside a pass
_BLOCK_ROWS = 8192
_MOST_PIECES = 16  # of drawn rows before they are put into one
_COLUMNS_PER_PASS = 7  # for which a Hessian costs about as much as a gradient pass
_ROWS_FOR_NO_MORE = 100_000  # a column and squared share, from which a fit takes no gradient pass more than with all
_ROWS_FOR_TWO_MORE = 10_000
_WORTH_TWO_MORE = 6  # gradient passes that a Hessian of all rows must cost to be worth two more of them
_FEWEST_OF = 16  # micro-blocks, of which a Hessian takes one: more saves nothing beside the gradient


def sample_rows(rows: int, columns: int) -> int:
    """Return how many of ``rows`` to draw, from the size of the data alone; 0 where a sample does not pay."""
    wanted = max(_ROWS_PER_COLUMN * columns, rows // _ONE_IN)
    count = min(wanted, _MOST_BYTES // (8 * columns), rows // _SMALLEST_SHARE)
    return count if count >= _LEAST_PER_COLUMN * columns else 0


def hessian_every(rows: int, columns: int) -> int:
    """Return k: of one in k micro-blocks the Hessian is good enough, from the size of the data alone; 1 for all.

    A step with a share s shrinks the gap by p / (s rows), and the tolerance tightens as 1 / rows. So the share may
    shrink with the root of the rows, as far as the start is better too.
    """
    saved = columns // _COLUMNS_PER_PASS
    if saved > _WORTH_TWO_MORE:
        return max(min(saved, rows // (_ROWS_FOR_TWO_MORE * columns), _FEWEST_OF), 1)
    start = 2 * sample_rows(rows, columns) // (_ROWS_PER_COLUMN * columns)
    return max(min(2 * saved, math.isqrt(rows // (_ROWS_FOR_NO_MORE * columns)), start), 1)


@dataclass(frozen=True)
class Drawn:
    """Drawn rows; ``+`` puts those of two stretches together in row order."""

    pieces: tuple[Piece, ...]

    def __add__(self, other: Drawn) -> Drawn:
        both = Drawn(self.pieces + other.pieces)
        # A row of a micro-block as arrays of its own takes several times what its numbers do.
        return both if len(both.pieces) < _MOST_PIECES else Drawn((both.joined(),))

    def __reduce__(self) -> Any:
        return Drawn, ((self.joined(),) if self.pieces else (),)  # one message, not one a micro-block

    def joined(self) -> Piece:
        """Return all pieces as one."""

        if len(self.pieces) == 1:
            return self.pieces[0]

        def together(parts: tuple[Array | None, ...]) -> Any:
            return None if parts[0] is None else np.concatenate(parts)  # type: ignore[arg-type]

        X, y, weights, offset, starts = zip(*self.pieces, strict=True)
        return Piece(together(X), together(y), together(weights), together(offset), starts[0])


def draw(block: Block, stretch: int) -> tuple[Drawn]:
    """Return one row of every ``stretch`` rows, counted from the first of the data: the one that a hash points at."""
    stop = block.start + len(block.y)
    first = np.arange(block.start // stretch, -(-stop // stretch), dtype=np.uint64)
    row = (first * np.uint64(stretch) + hashed(first) % np.uint64(stretch)).astype(np.int64)
    kept = row[(row >= block.start) & (row < stop)] - block.start
    if not len(kept):
        return (Drawn(()),)
    weights, offset = (None if v is None else v[kept] for v in (block.weights, block.offset))
    X = block.X[kept].toarray() if is_sparse(block.X) else block.X[kept]
    return (Drawn((Piece(X, block.y[kept], weights, offset, block.start + int(kept[0])),)),)


class SampleRows:
    """Drawn rows as rows of their own, in this process: what a ``Problem`` asks of its rows."""

    local_problems = 1

    def __init__(self, drawn: Drawn) -> None:
        self._blocks = []
        self.rows = sum(len(piece.y) for piece in drawn.pieces)
        if drawn.pieces:
            X, y, weights, offset, _ = drawn.joined()
            for i in range(0, len(y), _BLOCK_ROWS):
                cut = slice(i, i + _BLOCK_ROWS)
                w, o = (None if v is None else v[cut] for v in (weights, offset))
                self._blocks.append(Piece(X[cut], y[cut], w, o, i))

    def sum(self, kernel: Callable[..., tuple[Any, ...]], *args: Any) -> tuple[Any, ...]:
        total = kernel(self._blocks[0], *args)
        for block in self._blocks[1:]:
            total = tuple(a + b for a, b in zip(total, kernel(block, *args), strict=True))
        return total

    def each(self, step: Callable[..., Any], states: Sequence[Any], *args: Any) -> tuple[list[Any], int]:
        return [step(self, states[0], *args)], 1

"""Rows with known coefficients, made where they live: the reference problem of the published experiment.

X is uniform on [0, 1), the generating coefficients are ``(RandomState(seed).random_sample(p) - 0.5) * 3``, and the
target is drawn from the family at eta = X beta. Rows are made in blocks of 8,192 *global* rows, each from a bit
generator seeded by (seed, block), so the same seed gives the same rows under any chunking and on any machine.

SFC64 is the fastest of NumPy's bit generators that pass the usual tests, and a pass over streamed rows is mostly
its time: 1.8 ns a number on the machines where it was measured, two thirds of a row with its target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterglm.data.chunk import GENERATOR_ROWS, Block, Chunk
from clusterglm.data.chunks import Plan
from clusterglm.data.dask_rows import Make
from clusterglm.data.sources import recipe

if TYPE_CHECKING:
    from distributed import Client

FAMILIES = ("binomial", "gaussian", "poisson")


@dataclass(frozen=True)
class Synthetic:
    """``rows`` x ``columns`` generated rows with a target of ``family``; ``seed`` in 0..2^63 - 1."""

    rows: int
    columns: int = 15
    seed: int = 20009
    family: str = "binomial"

    @property
    def names(self) -> list[str]:
        return [f"x{j}" for j in range(self.columns)]

    random_access = True
    stored = ()

    @property
    def coding(self) -> dict[str, Any]:
        return {"features": self.names, "levels": {}}

    @cached_property
    def truth(self) -> np.ndarray:
        """The generating coefficients, (columns,) float64."""
        # RandomState takes 32 bits; larger seeds go in as a pair of words.
        seed: Any = self.seed if self.seed < 2**32 else [self.seed & 0xFFFFFFFF, self.seed >> 32]
        return (np.random.RandomState(seed).random_sample(self.columns) - 0.5) * 3

    @property
    def extra_columns(self) -> int:
        return 1

    @property
    def notes(self) -> list[str]:
        return []

    @property
    def whole(self) -> list[str]:
        return []

    def open(self, client: Client | None) -> None:
        """Nothing to look at."""

    def fingerprint(self) -> dict[str, Any]:
        return {"source": "synthetic"} | asdict(self)

    def block(self, index: int, X: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return X (8192, columns) and y (8192,) of generator block ``index``, written into ``X`` where it is given."""
        random = np.random.Generator(np.random.SFC64(np.random.SeedSequence((self.seed, index))))
        X = random.random(out=np.empty((GENERATOR_ROWS, self.columns)) if X is None else X)
        eta = X @ self.truth
        if self.family == "gaussian":
            return X, eta + random.standard_normal(GENERATOR_ROWS)
        if self.family == "poisson":
            return X, random.poisson(np.exp(eta)).astype(np.float64)
        # u < 1 / (1 + exp(-eta)), without the division
        odds = np.exp(np.negative(eta, out=eta), out=eta)
        return X, (random.random(GENERATOR_ROWS) * (odds + 1.0) < 1.0).astype(np.float64)

    def first(self, rows: int, dtype: str, intercept: bool) -> Block:
        """Return the first ``rows`` rows, which are a sample: all of them are drawn independently."""
        chunk = self.chunk((0, rows), GENERATOR_ROWS, dtype, intercept)
        return Block(chunk.X.astype(np.float64, copy=False), chunk.y, None, None, 0)

    def make(self, plan: Plan, intercept: bool) -> Make:
        return recipe(self, plan, intercept)

    def part(self, bounds: tuple[int, int]) -> Synthetic:  # noqa: ARG002
        return self

    def locate(self, row: int) -> str:
        return f"row {row}"

    def windows(
        self, bounds: tuple[int, int], rows: int, block_rows: int, dtype: str = "float64", intercept: bool = False
    ) -> Iterator[Chunk]:
        """Yield the global rows ``bounds[0]`` to ``bounds[1] - 1`` in chunks of ``rows``."""
        first, last = bounds
        X = np.empty((min(rows, last - first), self.columns + intercept), dtype=dtype)
        y = np.empty(len(X))
        if intercept:
            X[:, 0] = 1.0
        made, buffer, target = -1, np.empty((0, 0)), y
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            for index in range(start // GENERATOR_ROWS, -(-stop // GENERATOR_ROWS)):
                here = index * GENERATOR_ROWS
                low, high = max(start, here), min(stop, here + GENERATOR_ROWS)
                ours, theirs = slice(low - start, high - start), slice(low - here, high - here)
                if high - low == GENERATOR_ROWS and X.dtype == np.float64 and not intercept:
                    y[ours] = self.block(index, X[ours])[1]
                    continue
                if index != made:
                    buffer, target = self.block(index, buffer if len(buffer) else None)
                    made = index
                X[ours, intercept:], y[ours] = buffer[theirs], target[theirs]
            yield Chunk(X[: stop - start], y[: stop - start], start=start, block_rows=block_rows)

    def chunk(self, bounds: tuple[int, int], block_rows: int, dtype: str = "float64", intercept: bool = False) -> Chunk:
        """Return the global rows ``bounds[0]`` to ``bounds[1] - 1``."""
        [chunk] = self.windows(bounds, bounds[1] - bounds[0], block_rows, dtype, intercept)
        return chunk

"""Rows with known coefficients, made where they live: the reference problem of the published experiment.

X is uniform on [0, 1), the generating coefficients are ``(RandomState(seed).random_sample(p) - 0.5) * 3``, and the
target is drawn from the family at eta = X beta. Rows are made in blocks of 8,192 *global* rows, each from a bit
generator seeded by (seed, block), so the same seed gives the same rows under any chunking and on any machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from clusterglm.data.chunk import _GENERATOR_ROWS, Chunk
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

    @property
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

    def open(self, client: Client | None) -> None:
        """Nothing to look at."""

    def fingerprint(self) -> dict[str, Any]:
        return {"source": "synthetic"} | asdict(self)

    def block(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return X (8192, columns) and y (8192,) of generator block ``index``."""
        random = np.random.Generator(np.random.SFC64(np.random.SeedSequence((self.seed, index))))
        X = random.random((_GENERATOR_ROWS, self.columns))
        eta = X @ self.truth
        if self.family == "gaussian":
            return X, eta + random.standard_normal(_GENERATOR_ROWS)
        if self.family == "poisson":
            return X, random.poisson(np.exp(eta)).astype(np.float64)
        return X, (random.random(_GENERATOR_ROWS) < expit(eta)).astype(np.float64)

    def make(self, plan: Plan, intercept: bool) -> Make:
        return recipe(self, plan, intercept)

    def part(self, bounds: tuple[int, int]) -> Synthetic:  # noqa: ARG002
        return self

    def locate(self, row: int) -> str:
        return f"row {row}"

    def chunk(self, bounds: tuple[int, int], block_rows: int, dtype: str = "float64", intercept: bool = False) -> Chunk:
        """Return the chunk of global rows ``bounds[0]`` to ``bounds[1] - 1``."""
        first, last = bounds
        X = np.empty((last - first, self.columns + intercept), dtype=dtype)
        y = np.empty(last - first)
        if intercept:
            X[:, 0] = 1.0
        for index in range(first // _GENERATOR_ROWS, -(-last // _GENERATOR_ROWS)):
            here = index * _GENERATOR_ROWS
            low, high = max(first, here), min(last, here + _GENERATOR_ROWS)
            block_X, block_y = self.block(index)
            X[low - first : high - first, intercept:] = block_X[low - here : high - here]
            y[low - first : high - first] = block_y[low - here : high - here]
        return Chunk(X, y, start=first, block_rows=block_rows)

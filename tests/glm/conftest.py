"""Rows in tiny micro-blocks, and an oracle that shares no code with the package.

The oracle evaluates objectives, gradients and Hessians row by row in long double (64 bits of mantissa on x86), and
finds the optimum by coordinate descent on its own Newton model, polished until the residual is at rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from clusterglm.data.chunk import Chunk
from clusterglm.data.rows import LocalRows

Wide = np.longdouble


@dataclass
class Table:
    """Rows in plain arrays: ``A`` (n, p) with the column of ones where the model has an intercept."""

    A: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None
    intercept: bool = True

    @property
    def w(self) -> np.ndarray:
        return np.ones(len(self.y)) if self.weights is None else self.weights

    @property
    def o(self) -> np.ndarray:
        return np.zeros(len(self.y)) if self.offset is None else self.offset

    def rows(self, block: int = 32, problem: int = 64) -> LocalRows:
        """Return the rows in micro-blocks and local problems far smaller than the package's own."""
        chunk = Chunk(np.ascontiguousarray(self.A), self.y, self.weights, self.offset, block_rows=block)
        return LocalRows(chunk, problem, intercept=self.intercept)

    @property
    def names(self) -> list[str]:
        return [f"x{j}" for j in range(self.A.shape[1] - self.intercept)]


def wide_terms(family: str, y: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return loss, score and curvature of every row in long double, from the textbook's formulas."""
    y, eta = y.astype(Wide), eta.astype(Wide)
    if family == "gaussian":
        return (y - eta) ** 2 / 2, eta - y, np.ones_like(eta)
    y_log_y = np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0)
    if family == "poisson":
        mu = np.exp(eta)
        return y_log_y - y * eta - y + mu, mu - y, mu
    rest = np.where(y < 1, (1 - y) * np.log(np.where(y < 1, 1 - y, 1)), 0)
    loss = np.logaddexp(0, eta) - y * eta + y_log_y + rest
    mu = 1 / (1 + np.exp(-eta))
    return loss, mu - y, 1 / ((1 + np.exp(-eta)) * (1 + np.exp(eta)))


@dataclass
class Oracle:
    """P, its smooth part's derivatives, and the optimum of one model on one table; l1 and l2 are (p,)."""

    table: Table
    family: str
    l1: np.ndarray
    l2: np.ndarray

    def eta(self, beta: np.ndarray) -> np.ndarray:
        products = self.table.A.astype(Wide) * beta.astype(Wide)
        return products.sum(axis=1) + self.table.o.astype(Wide)

    def objective(self, beta: np.ndarray) -> Any:
        beta = beta.astype(Wide)
        w = self.table.w.astype(Wide)
        loss = wide_terms(self.family, self.table.y, self.eta(beta))[0]
        loss = np.where(w > 0, loss, 0)
        return (w * loss).sum() / w.sum() + (self.l1 * abs(beta)).sum() + (self.l2 * beta * beta).sum() / 2

    def derivatives(self, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and Hessian of the mean loss and the L2 part, in long double."""
        A, w = self.table.A.astype(Wide), self.table.w.astype(Wide)
        _, s, h = (np.where(w > 0, t, 0) for t in wide_terms(self.family, self.table.y, self.eta(beta)))
        gradient = (A * (w * s)[:, None]).sum(axis=0) / w.sum() + self.l2 * beta
        hessian = (A[:, :, None] * A[:, None, :] * (w * h)[:, None, None]).sum(axis=0) / w.sum()
        return gradient, hessian + np.diag(self.l2)

    def residual(self, beta: np.ndarray) -> np.ndarray:
        """Return the distance of 0 to the subdifferential of P, coordinate by coordinate."""
        gradient, _ = self.derivatives(beta)
        kink = np.sign(gradient) * np.maximum(abs(gradient) - self.l1, 0)
        return np.where(beta == 0, kink, gradient + self.l1 * np.sign(beta))

    def optimum(self, start: np.ndarray | None = None) -> np.ndarray:
        """Return the minimiser in long double; asserts that the optimality conditions hold there."""
        beta = np.zeros(self.table.A.shape[1], dtype=Wide) if start is None else start.astype(Wide)
        best = beta
        for _ in range(100):
            gradient, H = self.derivatives(beta)
            z = self._model_minimum(beta, gradient, H)
            value, step = self.objective(beta), Wide(1)
            while not self.objective(beta + step * (z - beta)) <= value * (1 + Wide(1e-17)) and step > 1e-9:
                step /= 2
            beta = z if step == 1 else beta + step * (z - beta)
            if self._error(beta) < self._error(best):
                best = beta
            elif step == 1 and self._error(best) < 1e-12:
                break
        assert self._error(best) < 1e-14, self._error(best)
        return best

    def _error(self, beta: np.ndarray) -> float:
        """Return the residual in units of the rows' own scatter."""
        _, H = self.derivatives(beta)
        scale = 1 + float(np.max(np.abs(self.table.y)))
        return float(np.max(abs(self.residual(beta)) / np.sqrt(np.diag(H)))) / scale

    def _model_minimum(self, beta: np.ndarray, gradient: np.ndarray, H: np.ndarray) -> np.ndarray:
        """Coordinate descent for the signs, elimination for the digits."""
        z, slope = beta.copy(), gradient.copy()
        for _ in range(60 if self.l1.any() else 0):
            for j in range(len(z)):
                at = H[j, j] * z[j] - slope[j]
                new = np.sign(at) * max(abs(at) - Wide(self.l1[j]), Wide(0)) / H[j, j]
                if new != z[j]:
                    slope = slope + H[:, j] * (new - z[j])
                    z[j] = new
        on = np.flatnonzero((z != 0) | (self.l1 == 0))
        right = H[np.ix_(on, np.arange(len(z)))] @ beta - gradient[on] - self.l1[on] * np.sign(z[on])
        solved = np.zeros_like(z)
        solved[on] = eliminate(H[np.ix_(on, on)], right)
        return solved if np.all((self.l1 == 0) | (np.sign(solved) == np.sign(z))) else z


def eliminate(H: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return H^-1 b by Gaussian elimination of the scaled system in long double."""
    d = np.sqrt(np.diag(H))
    M = np.column_stack([H / d / d[:, None], b / d]).astype(Wide)
    p = len(b)
    for j in range(p):
        pivot = j + int(np.argmax(abs(M[j:, j])))
        M[[j, pivot]] = M[[pivot, j]]
        M[j] /= M[j, j]
        for i in range(p):
            if i != j:
                M[i] -= M[i, j] * M[j]
    return M[:, -1] / d


MakeTable = Callable[..., Table]


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    """``make_table(family, n, p, seed, weights=, offset=, intercept=, scale=)``: a table with a model behind it."""

    def make(
        family: str,
        n: int = 200,
        p: int = 4,
        seed: int = 0,
        *,
        weights: bool = False,
        offset: bool = False,
        intercept: bool = True,
        scale: np.ndarray | float = 1.0,
    ) -> Table:
        random = np.random.default_rng([seed, n, p])
        X = random.standard_normal((n, p)) + np.where(np.arange(p) % 3 == 1, 2.0, 0.0)
        o = 0.5 * random.standard_normal(n) if offset else None
        eta = X @ (random.standard_normal(p) * 0.4) + 0.2 + (0 if o is None else o)
        y = {
            "gaussian": lambda: eta + random.standard_normal(n),
            "binomial": lambda: (random.random(n) < 1 / (1 + np.exp(-eta))).astype(float),
            "poisson": lambda: random.poisson(np.exp(np.minimum(eta, 5))).astype(float),
        }[family]()
        w = random.integers(0, 4, n).astype(float) if weights else None
        X = X * scale
        A = np.column_stack([np.ones(n), X]) if intercept else X
        return Table(A, y, w, o, intercept)

    return make


@pytest.fixture(scope="session")
def table() -> type[Table]:
    return Table


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture(scope="session")
def terms() -> Callable[..., Any]:
    return wide_terms

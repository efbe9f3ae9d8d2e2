"""Wide sparse rows: lbfgs (L2) and proximal gradient (L1) beside scikit-learn, on the same rows in one process.

    python tests/bench/wide.py [--rows 1e6] [--columns 1e5] [--per-row 50] [--alpha 1e-5]

A binomial model with an intercept; one column in a hundred has an effect. Ours stop at a certified relative gap of
1e-8, scikit-learn's at the tolerance that is named. A bare pass is one product X b and one y'X of all rows. "off" is
(objective - best) / best, all objectives evaluated here. Dense, the rows would take the memory that is printed first.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

import clusterglm
from clusterglm.units import format_size, parse_count


def make(rows: int, columns: int, per_row: int) -> tuple[Any, np.ndarray]:
    """Return X, CSR with ``per_row`` standard normal entries a row, and y."""
    random = np.random.default_rng(20009)
    places = random.integers(0, columns, rows * per_row, dtype=np.int32)
    ends = np.arange(0, rows * per_row + 1, per_row, dtype=np.int32)
    X = sparse.csr_array((random.standard_normal(rows * per_row), places, ends), (rows, columns))
    X.sum_duplicates()
    truth = np.where(random.random(columns) < 0.01, random.standard_normal(columns), 0.0)
    return X, (random.random(rows) < 1 / (1 + np.exp(-(X @ truth) - 0.3))).astype(float)


def sklearn(X: Any, y: np.ndarray, words: dict[str, Any]) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000, **words).fit(X, y)
    return np.append(model.intercept_, model.coef_)


def objective(X: Any, y: np.ndarray, beta: np.ndarray, alpha: float, l1: float) -> float:
    eta = X @ beta[1:] + beta[0]
    loss = np.maximum(eta, 0) + np.log1p(np.exp(-np.abs(eta))) - y * eta
    penalty = l1 * np.abs(beta[1:]).sum() + (1 - l1) / 2 * (beta[1:] @ beta[1:])
    return float(loss.mean() + alpha * penalty)


def clock(run: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        found = run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("--rows", "1e6"), ("--columns", "1e5"), ("--per-row", "50")):
        parser.add_argument(name, type=parse_count, default=parse_count(default))
    parser.add_argument("--alpha", type=float, default=1e-5)
    asked = parser.parse_args()
    X, y = make(asked.rows, asked.columns, asked.per_row)
    n, alpha = len(y), asked.alpha
    ones = np.ones(asked.columns)
    bare, _ = clock(lambda: (X @ ones, y @ X), 5)
    rows = clusterglm.from_arrays(X, y, intercept=True)
    print(f"{n:,} rows x {asked.columns:,} columns, {X.nnz / n:.0f} entries a row: {format_size(rows.nbytes)} sparse,")
    print(f"{format_size(8 * n * asked.columns)} dense; a bare pass {bare:.3f} s; one thread")
    print(f"{'who':34}{'seconds':>9}{'bare passes':>13}{'passes':>8}{'off':>10}{'not 0':>9}")
    C = {"C": 1 / (alpha * n)}
    sharp = {"solver": "liblinear", "l1_ratio": 1, "C": 1 / (10 * alpha * n), "intercept_scaling": 1e3}
    for penalty, l1, ours, peer, strength in (
        ("l2", 0.0, "lbfgs", ("lbfgs, tol 1e-6", C | {"tol": 1e-6}), alpha),
        ("l1", 1.0, "proximal_gradient", ("liblinear, tol 1e-4", sharp | {"tol": 1e-4}), 10 * alpha),
    ):
        lines: list[tuple[str, float, str, np.ndarray]] = []
        seconds, found = clock(
            lambda solver=ours, penalty=penalty, alpha=strength: clusterglm.fit(  # type: ignore[misc]
                data=rows, solver=solver, family="binomial", penalty=penalty, alpha=alpha, rel_gap=1e-8
            )
        )
        beta = np.append(found.intercept, found.coefficients)
        lines.append((f"{penalty}: {ours}, {found.status}", seconds, str(found.passes), beta))
        seconds, beta = clock(lambda words=peer[1]: sklearn(X, y, words))  # type: ignore[misc]
        lines.append((f"{penalty}: scikit-learn {peer[0]}", seconds, "", beta))
        values = [objective(X, y, beta, strength, l1) for *_, beta in lines]
        for (who, seconds, passes, beta), value in zip(lines, values, strict=True):
            off = (value - min(values)) / min(values)
            print(f"{who:34}{seconds:9.2f}{seconds / bare:13.0f}{passes:>8}{off:10.1e}{np.count_nonzero(beta[1:]):9,}")
    print(f"largest memory of this process {format_size(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}")


if __name__ == "__main__":
    main()

"""Small dense algebra on the driver: p x p, one thread, free of the columns' units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_COLUMNS = 4000  # beyond which no p x p matrix is formed


def scales(H: Array) -> Array:
    """Return the square roots of the diagonal, 1 where it is zero: D in D^-1 H D^-1."""
    d: Array = np.sqrt(np.diag(H))
    return np.where(d > 0, d, 1.0)


def definite(H: Array) -> bool:
    """Whether the scaled H is numerically positive definite: no pivot below 10 p eps."""
    return _factor(H) is not None


def _factor(H: Array) -> Array | None:
    """Return the Cholesky factor of the scaled H; None where a pivot is below 10 p eps."""
    if not np.isfinite(H).all() or (np.diag(H) <= 0).any():
        return None
    d = scales(H)
    try:
        L = np.asarray(np.linalg.cholesky(H / d / d[:, None]), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    return L if np.min(np.diag(L), initial=1.0) ** 2 >= 10 * len(H) * np.finfo(float).eps else None


def inverse_root(H: Array) -> Array | None:
    """Return R with R R' = H^-1, so that ||v||_{H^-1} = ||R' v||; None where H is not numerically positive definite."""
    from scipy.linalg.lapack import dtrtri  # here, because a refusal of bad input has no time to import it

    if (L := _factor(H)) is None:
        return None
    # Of a factor without columns LAPACK takes no inverse.
    return (dtrtri(L, lower=1)[0] / scales(H)).T if len(L) else L


def solve(H: Array, b: Array) -> Array:
    """Return H^-1 b for positive semi-definite H; the least-norm solution in scaled columns where H is singular."""
    d = scales(H)
    scaled = H / d / d[:, None]
    if definite(H):
        return np.linalg.solve(scaled, b / d) / d
    return np.linalg.lstsq(scaled, b / d, rcond=10 * len(H) * np.finfo(float).eps)[0] / d


def aliased(H: Array) -> list[int]:
    """Return the columns that are linear combinations of earlier ones: a Cholesky factorisation of the scaled H that
    leaves out a column whose pivot is below 10 p eps, the later one as R does."""
    if definite(H) or not np.isfinite(H).all():
        return []
    p = len(H)
    d = scales(H)
    C = H / d / d[:, None]
    L = np.zeros((p, p))
    kept: list[int] = []
    dropped: list[int] = []
    for j in range(p):
        k = len(kept)
        row = np.linalg.solve(L[:k, :k], C[kept, j]) if k else np.empty(0)
        pivot = C[j, j] - row @ row
        if pivot < 10 * p * np.finfo(float).eps:
            dropped.append(j)
            continue
        L[k, :k], L[k, k] = row, np.sqrt(pivot)
        kept.append(j)
    return dropped


def largest_eigenvalue(H: Array) -> float:
    """Return the largest eigenvalue of a symmetric matrix."""
    return float(np.linalg.eigvalsh(H)[-1])

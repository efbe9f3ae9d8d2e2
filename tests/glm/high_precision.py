"""An oracle of 50 digits that shares no code with the package: objective, optimality conditions and optimum of a GLM.

The optimum is found by coordinate descent in float64 and refined: residuals in 50 digits, corrections from a float64
Hessian over the active columns, singular or not. An objective from here is never below the infimum, so whatever a bound
is checked against is at most the true distance: an imperfect optimum can hide a fault, never invent one.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

mp = mpmath.mp.clone()
mp.dps = 50


class Exact:
    """One problem: ``A`` (n, p), ``y``, ``w``, ``o`` (n,), strengths ``l1`` and ``l2`` (p,), all float64."""

    def __init__(self, table: Any, family: str, l1: np.ndarray, l2: np.ndarray) -> None:
        self.family, self.l1, self.l2 = family, l1, l2
        some = table.w > 0
        self.A, self.y, self.w, self.o = table.A[some], table.y[some], table.w[some], table.o[some]
        self.W = mp.fsum(map(mp.mpf, self.w.tolist()))
        self._rows = [[mp.mpf(v) for v in row] for row in self.A.tolist()]
        self._y, self._w, self._o = ([mp.mpf(v) for v in x.tolist()] for x in (self.y, self.w, self.o))
        self._l1, self._l2 = ([mp.mpf(v) for v in x.tolist()] for x in (l1, l2))

    def eta(self, beta: list[Any]) -> list[Any]:
        on = [(j, b) for j, b in enumerate(beta) if b != 0]
        return [o + mp.fsum(row[j] * b for j, b in on) for row, o in zip(self._rows, self._o, strict=True)]

    def objective(self, beta: Any) -> Any:
        """Return P at float64 or 50-digit coefficients, in 50 digits."""
        beta = [mp.mpf(b) for b in beta]
        loss = mp.fsum(w * self._loss(y, e) for y, w, e in zip(self._y, self._w, self.eta(beta), strict=True))
        penalty = mp.fsum(a * abs(b) + c * b * b / 2 for a, c, b in zip(self._l1, self._l2, beta, strict=True))
        return loss / self.W + penalty

    def _loss(self, y: Any, eta: Any) -> Any:
        if self.family == "gaussian":
            return (y - eta) ** 2 / 2
        if self.family == "poisson":
            return (y * mp.log(y) if y > 0 else 0) - y * eta - y + mp.exp(eta)
        own = sum(v * mp.log(v) for v in (y, 1 - y) if v > 0)
        tail = mp.log1p(mp.exp(-abs(eta))) if abs(eta) < 120 else mp.exp(-abs(eta))
        return tail + max(eta, mp.mpf(0)) - y * eta + own

    def gradient(self, beta: Any) -> list[Any]:
        """Return the gradient of the mean loss, in 50 digits."""
        mean = {"gaussian": lambda e: e, "poisson": mp.exp, "binomial": lambda e: 1 / (1 + mp.exp(-e))}[self.family]
        eta = self.eta([mp.mpf(b) for b in beta])
        s = [w * (mean(e) - y) / self.W for w, e, y in zip(self._w, eta, self._y, strict=True)]
        return [mp.fsum(s[i] * self._rows[i][j] for i in range(len(s))) for j in range(len(self.l1))]

    def residual(self, beta: Any) -> list[Any]:
        """Return the distance of 0 to the subdifferential of P, coordinate by coordinate."""
        out = []
        for g, b, a, c in zip(self.gradient(beta), beta, self._l1, self._l2, strict=True):
            out.append(mp.sign(g) * max(abs(g) - a, mp.mpf(0)) if b == 0 else g + a * mp.sign(b) + c * b)
        return out

    def _hessian(self, beta: np.ndarray) -> np.ndarray:
        eta = self.A @ beta + self.o
        h = {
            "gaussian": lambda: np.ones_like(eta),
            "poisson": lambda: np.exp(eta),
            "binomial": lambda: np.exp(-np.abs(eta)) / (1 + np.exp(-np.abs(eta))) ** 2,
        }[self.family]()
        return (self.A.T * (self.w * h)) @ self.A / self.w.sum()

    def minimise(self, start: np.ndarray, sharp: float = 1e-26, most: int = 80) -> tuple[list[Any], Any]:
        """Return (the optimum, its largest residual in the columns' units) in 50 digits."""
        beta = [mp.mpf(b) for b in start.tolist()]
        units = np.maximum(np.abs(self.A).max(axis=0), 1e-300)
        best, error, value = beta, mp.inf, self.objective(beta)
        for turn in range(most):
            g = self.gradient(beta)
            kkt = self.residual(beta)
            now = max(abs(r) / u for r, u in zip(kkt, units.tolist(), strict=True))
            if now < error:
                best, error = beta, now
            if error < sharp:
                break
            at = np.array([float(b) for b in beta])
            H = self._hessian(at) + np.diag(self.l2)
            near = now < 1e-6 or not self.l1.any() or (turn % 2 and now < 1e-3)
            if near:
                step = self._newton(H, kkt, at, now)
            else:
                slope = np.array([float(g_j + c * b) for g_j, b, c in zip(g, beta, self._l2, strict=True)])
                step = self._descend(H, slope, at, 400 * (1 + turn))
            t = mp.mpf(1)
            while True:
                trial = [b + t * d for b, d in zip(beta, step, strict=True)]
                if near:
                    trial = [x * (a == 0 or x * b >= 0) for x, b, a in zip(trial, beta, self.l1, strict=True)]
                new = self.objective(trial)
                if new <= value or t < 1e-6 or now < 1e-12:
                    break
                t /= 4
            beta, value = trial, new
        return best, error

    def _descend(self, H: np.ndarray, g: np.ndarray, at: np.ndarray, sweeps: int) -> list[Any]:
        """Return the step to the minimum of the quadratic model, by coordinate descent."""
        z, r = at.copy(), g.copy()
        for _ in range(sweeps):
            before = z.copy()
            for j in np.flatnonzero(np.diag(H) > 0):
                v = z[j] - r[j] / H[j, j]
                new = np.sign(v) * max(abs(v) - self.l1[j] / H[j, j], 0.0)
                r += H[:, j] * (new - z[j])
                z[j] = new
            if np.max(np.abs(z - before) * np.sqrt(np.diag(H))) < 1e-9:
                break
        return [mp.mpf(v) for v in (z - at).tolist()]

    def _newton(self, H: np.ndarray, kkt: list[Any], at: np.ndarray, now: Any) -> list[Any]:
        """Return Newton's step with the signs as they are; the least-norm one where columns are collinear."""
        on = np.flatnonzero((self.l1 == 0) | (at != 0) | np.array([r != 0 for r in kkt]))
        d = np.sqrt(np.maximum(np.diag(H), 1e-300))[on]
        right = np.array([float(kkt[j] / now) for j in on])
        found = np.linalg.lstsq(H[np.ix_(on, on)] / d / d[:, None], right / d, rcond=1e-12)[0] / d
        step = [mp.mpf(0)] * len(at)
        for j, v in zip(on.tolist(), found.tolist(), strict=True):
            step[j] = -mp.mpf(v) * now
        return step

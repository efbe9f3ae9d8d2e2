"""The steps of a path: all strengths in lockstep, by gradients of their own and Hessians of some (path.py)."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm import kernels as single
from clusterglm.glm.algebra import definite
from clusterglm.glm.families.family import Family
from clusterglm.glm.kernels import Block
from clusterglm.glm.paths import folds as kernels
from clusterglm.glm.penalties import Penalty
from clusterglm.glm.penalties.quadratic import minimise
from clusterglm.glm.problem import Point, Problem
from clusterglm.glm.proof.certificate import Certificate, Certifier
from clusterglm.glm.proof.free_gap import Frame
from clusterglm.glm.trace import Tolerance

Array = NDArray[np.float64]
_MOST_STEPS = 12
_SOON = 2  # steps after which what is not near enough for a proof gets a Hessian of its own
_HESSIANS, _HESSIAN_BYTES = 13, 2**24  # strengths with a Hessian of their own, at most, and what all of them may take
_NOT_SHRINKING = 0.5  # of the decrement, after a step: from there on a strength gets a Hessian of its own
_SAMPLE_STEPS = 25
_SMALL = 1e-6  # gap beside the null objective up to which rounding may end a fit


def sample_path(
    sample: object, family: Family, penalties: Sequence[Penalty], null: Array
) -> tuple[Array, dict[int, Array]]:
    """Return the coefficients of all strengths on the ``sample``, (p, L), each begun at the one before; and its mean
    Hessians (p, p) near them, at some of the strengths."""
    beta, found, hessians = null, [], {}
    near = 1e-3 * len(null) / _evaluated(sample, family, null)[3]
    wanted = spread(family, len(penalties), len(null))
    for k, penalty in enumerate(penalties):
        loss, g, H, _ = _evaluated(sample, family, beta)
        value = loss + penalty.value(beta)
        for _ in range(_SAMPLE_STEPS):
            d = minimise(H, g, beta, penalty) - beta
            decrement, t = float(d @ H @ d), 1.0
            if not decrement > near:
                beta = beta + d if np.isfinite(decrement) else beta
                break
            while t > 1e-6:
                loss, g_new, H_new, _ = _evaluated(sample, family, beta + t * d)
                if loss + penalty.value(beta + t * d) <= value:
                    break
                t /= 2
            else:
                break
            beta, g, H = beta + t * d, g_new, H_new
            value = loss + penalty.value(beta)
        found.append(beta)
        if k in wanted:
            hessians[k] = H
    return np.array(found).T, hessians


def spread(family: Family, strengths: int, columns: int, folds: int = 1) -> list[int]:
    """Return the strengths that get a Hessian, evenly spread."""
    most = max(min(_HESSIANS, _HESSIAN_BYTES // (8 * columns * columns * folds), strengths), 1)
    if family.quadratic:
        most = 1
    return sorted({int(k) for k in np.linspace(0, strengths - 1, most).round()})


def _evaluated(sample: object, family: Family, beta: Array) -> tuple[float, Array, Array, float]:
    """Return mean loss, gradient, Hessian, and the sum of the weights."""
    loss, g, H, weight = sample.sum(single.weighed, single.hessian, family, beta)  # type: ignore[attr-defined]
    return float(loss) / weight, g / weight, H / weight, float(weight)


class Lockstep:
    """All strengths of one path on all rows, and on those outside of each of ``folds`` folds."""

    def __init__(self, problem: Problem, folds: int, tolerance: Tolerance, frame: Frame, offset: float) -> None:
        self.problem, self.folds, self.tolerance = problem, folds, tolerance
        self.frame, self.offset = frame, offset
        self.weights, self.null_loss = np.zeros(folds), 1.0
        self.certificates: list[Certificate] = []
        self.betas: Array = np.empty((0, 0))
        self.losses: Array = np.empty(0)
        self._at: Array = np.empty((0, 0))
        self._own: dict[tuple[int, int], tuple[Array, Array]] = {}
        self._origin: tuple[Array, Array, Array, Array] | None = None  # of least squares, which a point says all of

    def begin(self, null: Array) -> Array:
        """Return the mean gradient at ``null``, (p,), whose loss gaps are compared to; of least squares it says all."""
        family, W = self.problem.family, self.problem.weight
        all_sums = (family, null[:, None], self.folds)
        self.weights, sums, losses, H = self.problem.sum(_at_null, *all_sums)
        self.null_loss = float(losses.sum()) / W
        if family.quadratic:
            self._origin = null, losses[:, 0], sums[:, :, 0], H[:, 0]
        return np.asarray(sums.sum(axis=0)[:, 0] / W)

    def gradients(self, points: Array) -> Array:
        """Return X'(w s) of every fold at the columns of ``points`` (p, K), (F, p, K): one pass, or none."""
        if self._origin is None:
            return self.problem.sum(kernels.gradients, self.problem.family, points, self.folds)[1]
        origin, _, slope, H = self._origin
        found: Array = slope[:, :, None] + np.einsum("fij,jk->fik", H, points - origin[:, None])
        return found

    def fold_losses(self, points: Array) -> Array:
        """Return the sum of w l of every fold at the columns of ``points`` (p, K), (F, K): one pass, or none."""
        if self._origin is None:
            return self.problem.sum(kernels.losses, self.problem.family, points, self.folds)[0]
        origin, loss, slope, H = self._origin
        d = points - origin[:, None]
        bent = np.einsum("ik,fij,jk->fk", d, H, d) / 2
        found: Array = loss[:, None] + np.einsum("fi,ik->fk", slope, d) + bent
        return found

    def solve(self, penalties: Sequence[Penalty], begun: Array, nearby: dict[int, Array] | None = None) -> list[int]:
        """Take steps from ``begun`` (p, L) until every strength is proven, and return those that are not.

        ``nearby`` are mean Hessians of a sample at some strengths: with these the first step comes near enough that the
        Hessians of all rows are taken once, and where they are of use to all that follows.
        """
        L, p = len(penalties), len(begun)
        self.betas, self.losses = begun.copy(), np.full(L, self.null_loss)
        self.certificates = [_UNPROVEN] * L
        self._parts = np.zeros((self.folds, p, L))
        sampled = nearby is not None and not self.problem.family.quadratic
        if nearby is None or not sampled:
            self._refer(begun, spread(self.problem.family, L, p, self.folds))
        else:
            self._references = sorted(nearby)
            self._H = self.problem.weight * np.array([[nearby[k] for k in self._references]])
        waiting, last = list(range(L)), np.full(L, np.inf)
        for step in range(_MOST_STEPS):
            self._parts[:, :, waiting] = self.gradients(self.betas[:, waiting])
            if not step and self.problem.family.has_dispersion:  # of which the losses tell
                self.losses[waiting] = self.fold_losses(self.betas[:, waiting]).sum(axis=0) / self.problem.weight
            still, slow = [], []
            for at in waiting:
                beta, H = self.betas[:, at], self._between(at)
                gradient = self._parts[:, :, at].sum(axis=0) / self.problem.weight
                objective = self.losses[at] + penalties[at].value(beta)
                point = Point(beta, self.losses[at], gradient, None, objective)
                if not sampled:
                    self.certificates[at] = self._certify(at, penalties[at], point, None)
                if self._met(self.certificates[at]):
                    continue
                d = minimise(H, gradient, beta, penalties[at]) - beta
                decrement = float(d @ H @ d)
                far = step >= _SOON and not np.isfinite(self.certificates[at].gap)
                if far or not decrement < _NOT_SHRINKING * last[at]:
                    slow.append(at)
                last[at] = decrement
                self.betas[:, at] = beta + d
                still.append(at)
            waiting = still
            if not waiting:
                break
            if sampled:
                sampled = False
                self._refer(self.betas, spread(self.problem.family, L, p, self.folds))
            elif slow and not self.problem.family.quadratic:
                self._renew(slow)
        self.losses = self.fold_losses(self.betas).sum(axis=0) / self.problem.weight
        return [k for k in range(L) if not self._met(self.certificates[k])]

    def replace(self, k: int, beta: Array, certificate: Certificate) -> None:
        """Take an answer from elsewhere for strength ``k``."""
        self._parts[:, :, k] = self.gradients(beta[:, None])[:, :, 0]
        self.losses[k] = self.fold_losses(beta[:, None]).sum() / self.problem.weight
        self.betas[:, k], self.certificates[k] = beta, certificate

    def cross(self, penalties: Sequence[Penalty]) -> tuple[Array, list[list[Certificate]], list[tuple[int, int]]]:
        """Return the mean deviance of every fold under the models without it, (F, L), and their certificates; and which
        of them (fold, strength) the steps have led astray, as far from an optimum as these came."""
        W, F, L = self.problem.weight, self.folds, len(penalties)
        total = self._parts.sum(axis=0)
        points = np.repeat(self.betas[None], F, axis=0)
        for f in range(F):
            left = W - self.weights[f]
            for k in range(L):
                g = (total[:, k] - self._parts[f, :, k]) / left
                points[f, :, k] = minimise(self._between(k, f), g, self.betas[:, k], penalties[k])
        self._own = {}
        losses = np.zeros((F, L))
        certificates = [[_UNPROVEN] * L for _ in range(F)]
        slopes = np.zeros_like(points)
        waiting = list(range(L))
        for step in range(_MOST_STEPS):
            sums, held = self._held_out(points[:, :, waiting])
            losses[:, waiting] = 2 * held / self.weights[:, None]
            still = set()
            for f in range(F):
                for i, k in enumerate(waiting):
                    gradient, beta = sums[f, :, i] / (W - self.weights[f]), points[f, :, k]
                    slopes[f, :, k] = gradient
                    # The loss of these rows at these coefficients has no part in the proof but for its rounding.
                    point = Point(beta, self.losses[k], gradient, None, self.losses[k] + penalties[k].value(beta))
                    certificates[f][k] = self._certify(k, penalties[k], point, f)
                    if not self._met(certificates[f][k]) and step + 1 < _MOST_STEPS:
                        points[f, :, k] = minimise(self._between(k, f), gradient, beta, penalties[k])
                        still.add(k)
            waiting = sorted(still)
            if not waiting:
                break
            if self.problem.family.quadratic:
                continue
            if step >= _SOON:
                self._take_own(points, waiting)
                continue
            # Of a neighbour's Hessian too far away for a bound; of the others one more step does.
            far = [k for k in waiting if step or not all(np.isfinite(c[k].gap) for c in certificates)]
            if far := [k for k in far if k not in self._references]:
                self._renew(far)
        return losses, certificates, self._astray(penalties, points, slopes, certificates)

    def _astray(
        self, penalties: Sequence[Penalty], points: Array, slopes: Array, certificates: list[list[Certificate]]
    ) -> list[tuple[int, int]]:
        """Return the models without a proof that are not stationary, or that a step by a Hessian of their own betters.

        Of others the Hessian is singular, as where columns repeat each other.
        """
        unproven = [(f, k) for f, own in enumerate(certificates) for k, c in enumerate(own) if not self._met(c)]
        if unproven and not self.problem.family.quadratic:
            self._take_own(points, sorted({k for _, k in unproven}))
        units = np.maximum(self.frame.magnitude, np.finfo(float).tiny)
        astray = []
        for f, k in unproven:
            H, g, beta, penalty = self._between(k, f), slopes[f, :, k], points[f, :, k], penalties[k]
            phi = 2 * self.losses[k] if self.problem.family.has_dispersion else 1.0
            gap = phi * self.tolerance.relative(self.problem.weight - self.weights[f], self.null_loss) * self.null_loss
            # Of the optimality conditions, in the columns' own units, a hundredth as in a fit (StoppingRule).
            steep = float(np.max(np.abs(penalty.residual(beta, g)) / units)) if np.isfinite(H).all() else np.inf
            better = np.inf
            if steep <= 1e-2 * np.sqrt(2 * gap):
                d = minimise(H, g, beta, penalty) - beta
                better = penalty.value(beta) - penalty.value(beta + d) - float(g @ d + d @ H @ d / 2)
            if not better <= max(gap, certificates[f][k].rounding):
                astray.append((f, k))
        return astray

    def _take_own(self, points: Array, waiting: list[int]) -> None:
        """Take Hessians of the rows outside of every fold where they are now, which neighbours do not bound."""
        most = max(_HESSIAN_BYTES // (8 * len(self.betas) ** 2 * self.folds), 1)
        for first in range(0, len(waiting), most):
            some = waiting[first : first + most]
            (H,) = self.problem.sum(kernels.outside, self.problem.family, points[:, :, some])
            for f in range(self.folds):
                left = self.problem.weight - self.weights[f]
                self._own |= {(f, k): (H[f, i] / left, points[f, :, k].copy()) for i, k in enumerate(some)}

    def _held_out(self, points: Array) -> tuple[Array, Array]:
        if self._origin is None:
            sums, held = self.problem.sum(kernels.held_out, self.problem.family, points)
            return sums, held
        found = [self.gradients(points[f]) for f in range(self.folds)]
        inside = [self.fold_losses(points[f])[f] for f in range(self.folds)]
        outside = [np.asarray(s.sum(axis=0) - s[f]) for f, s in enumerate(found)]
        return np.array(outside), np.array(inside)

    def _refer(self, betas: Array, references: list[int]) -> None:
        """Take Hessians at these strengths as they are now, and no others."""
        self._references, points = references, betas[:, references]
        if self._origin is not None:
            self._H = self._origin[3][:, None]
        else:
            (self._H,) = self.problem.sum(kernels.hessians, self.problem.family, points, self.folds)
        self._at = points.copy()

    def _renew(self, slow: list[int]) -> None:
        """Take Hessians at these strengths as they are now."""
        p = len(self.betas)
        most = max(_HESSIAN_BYTES // (8 * p * p * self.folds), 1)
        slow = slow[:most]
        (H,) = self.problem.sum(kernels.hessians, self.problem.family, self.betas[:, slow], self.folds)
        for i, k in enumerate(slow):
            if k in self._references:
                r = self._references.index(k)
                self._H[:, r], self._at[:, r] = H[:, i], self.betas[:, k]
            else:
                self._references.append(k)
                self._H = np.concatenate([self._H, H[:, i : i + 1]], axis=1)
                self._at = np.column_stack([self._at, self.betas[:, k]])

    def _nearest(self, k: int) -> int:
        return int(np.argmin(np.abs(np.array(self._references) - k)))

    def _between(self, k: int, without: int | None = None) -> Array:
        """Return the Hessian at strength ``k`` as those of its neighbours on both sides have it: good for a step."""
        if without is not None and (without, k) in self._own:
            return self._own[without, k][0]
        order = sorted(self._references)
        place = bisect(order, k)
        if k in order or not 0 < place < len(order):
            return self._hessian(k, without)
        cubic = self._interpolated(k, order[max(place - 2, 0) : place + 2], without)
        return cubic if definite(cubic) else self._interpolated(k, order[place - 1 : place + 1], without)

    def _interpolated(self, k: int, among: list[int], without: int | None) -> Array:
        """Return the polynomial in the strength's number through the Hessians ``among`` some strengths, at ``k``."""
        shares = [math.prod((k - other) / (r - other) for other in among if other != r) for r in among]
        found = [share * self._hessian(r, without) for share, r in zip(shares, among, strict=True)]
        return np.asarray(np.sum(found, axis=0))

    def _hessian(self, k: int, without: int | None = None) -> Array:
        """Return the mean Hessian nearest to strength ``k``, of all rows or of those outside of a fold."""
        H = self._H[:, self._nearest(k)]
        if without is None:
            return np.asarray(H.sum(axis=0) / self.problem.weight)
        left = self.problem.weight - self.weights[without]
        return np.asarray((H.sum(axis=0) - H[without]) / left)

    def _certify(self, k: int, penalty: Penalty, point: Point, without: int | None) -> Certificate:
        weight = self.problem.weight - (0.0 if without is None else self.weights[without])
        view = Problem(self.problem.rows, self.problem.family, penalty, weight)
        certifier = Certifier(view, self.frame.magnitude, self.offset, self.frame)
        H, there = self._hessian(k, without), self._at[:, self._nearest(k)]
        if without is not None and (without, k) in self._own:
            H, there = self._own[without, k]
        reference = Point(there, point.loss, point.gradient, H, point.objective)
        return certifier.from_reference(reference, point)

    def _met(self, certificate: Certificate) -> bool:
        """Whether the proof is within the tolerance, or at the working precision of the sums."""
        if self.tolerance.met(certificate, self.null_loss):
            return True
        return certificate.gap <= _SMALL * self.null_loss and self.tolerance.out_of_reach(certificate)


def _at_null(block: Block, family: Family, points: Array, folds: int) -> tuple[Array, ...]:
    found = kernels.gradients(block, family, points, folds), kernels.losses(block, family, points, folds)
    bent = kernels.hessians(block, family, points, folds) if family.quadratic else (np.zeros((folds, 0, 0, 0)),)
    return (*found[0], *found[1], *bent)


_UNPROVEN = Certificate("none", np.inf, np.inf, np.inf, np.inf, 0.0)

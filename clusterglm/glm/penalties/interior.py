"""The quadratic model under norms of groups, by an interior point method: where sweeps and signs would take long.

    minimise over x, t    1/2 x'Q x + q'x + sum_g t_g    subject to    ||x_g|| <= t_g

x = D z, D_j = l1_j where coefficient j has a kink; one without a group is a group by itself, and those without a kink
have no t. Each group is a second-order cone of s = (t_g, x_g), its dual variable is (1, -w_g), ||w_g|| <= 1. At the
optimum w_g is a subgradient of the norm, Q x + q + w = 0 and t_g = w_g'x_g. Steps are in the scaling of Nesterov and
Todd, with Mehrotra's predictor and corrector (Vandenberghe 2010, "The CVXOPT linear and quadratic cone program
solvers"). As the first entry of every dual variable stays 1, t drops out, and a step is one Cholesky factorisation of Q
and a matrix within the groups: some fifteen of them, however the columns are correlated. Rounding ends it before the
last digits: what it finds is where a method that ends exactly begins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.algebra import scales
from clusterglm.glm.penalties import Penalty

Array = NDArray[np.float64]
Element = tuple[Array, Array]  # of all cones: their first entries (G,), and the others (k,), coefficient by coefficient
_EPS = float(np.finfo(float).eps)
_MOST_STEPS = 60
_NEAR = 1e-12  # duality gap and residual, relative
_NOTHING = 1e-6  # what all norms may be beside the model's fall, to count as 0 together
_INSIDE = 0.99  # of the way to the boundary
_SLACK = 1e-4  # of ||w_g|| to 1, from which on a group is taken to be 0
_SHORT = 0.01  # a step that rounding has stopped


def interior(H: Array, g: Array, center: Array, penalty: Penalty) -> Array:
    """Return nearly the minimiser over z of 1/2 (z - c)'H (z - c) + g'(z - c) + Omega(z), (p,), c = ``center``.

    Groups that are 0 at the minimiser are 0, as far as their dual variables tell. Some coefficient has a kink.
    """
    kinked = np.flatnonzero(penalty.l1 > 0)
    cones = _Cones(penalty.kinks[kinked])
    curved = H + np.diag(penalty.l2)
    D = np.where(penalty.l1 > 0, penalty.l1, scales(curved))
    Q, q = curved / D / D[:, None], (g - H @ center) / D
    units = scales(Q)
    x = _solver(Q, 1.0)(-q)
    worth, steepest = float(abs(q @ x)), float(np.max(np.abs(q) / units, initial=0.0))
    # A gap as large as all there is to win: from near the boundary of the cones steps are short.
    sizes = cones.norm(x[kinked])
    primal = (sizes + max(float(np.max(sizes)), worth / cones.count), x[kinked])
    dual = (np.ones(cones.count), np.zeros(len(kinked)))
    gap = float(cones.dot(primal, dual).sum())
    for _ in range(_MOST_STEPS):
        residual = Q @ x + q
        residual[kinked] -= dual[1]
        norms = max(float(primal[0].sum()), _NOTHING * worth)
        ended = gap <= _NEAR * norms and np.max(np.abs(residual) / units) <= _NEAR * steepest
        if ended or not min(np.min(cones.determinant(v)) for v in (primal, dual)) > 0:  # on the boundary, by rounding
            break
        scaling = _Scaling(cones, primal, dual)
        try:
            solve = _solver(scaling.added(Q, kinked), 10 * len(Q) * _EPS)
        except np.linalg.LinAlgError:
            break
        middle = scaling.apply(dual)
        dx, ds, dl = _direction(solve, scaling, kinked, -residual, (-middle[0], -middle[1]))
        length = min(1.0, cones.longest(primal, ds), cones.longest(dual, dl))
        ahead = float(cones.dot(_moved(primal, length, ds), _moved(dual, length, dl)).sum())
        centred = min(max(ahead / gap, 0.0), 1.0) ** 3
        square, bent = cones.product(middle, middle), cones.product(scaling.inverse(ds), scaling.apply(dl))
        goal = (centred * gap / cones.count - square[0] - bent[0], -square[1] - bent[1])
        dx, ds, dl = _direction(solve, scaling, kinked, (centred - 1) * residual, cones.quotient(goal, middle))
        length = min(1.0, _INSIDE * cones.longest(primal, ds), _INSIDE * cones.longest(dual, dl))
        if length < _SHORT:
            break
        x, primal, dual = x + length * dx, _moved(primal, length, ds), _moved(dual, length, dl)
        gap = float(cones.dot(primal, dual).sum())
    at_zero = cones.norm(dual[1]) < 1 - _SLACK
    x[kinked[at_zero[cones.groups]]] = 0.0
    found: Array = x / D
    return found


def _solver(A: Array, ridge: float) -> Callable[[Array], Array]:
    """Return b -> (A + ridge diag(A))^-1 b for positive semi-definite A; more where rounding has made A less.

    Raises np.linalg.LinAlgError where no ridge makes it positive definite.
    """
    from scipy.linalg import cho_factor, cho_solve  # here, because a refusal of bad input has no time to import it

    diagonal = np.where(np.diag(A) > 0, np.diag(A), 1.0)
    raised = A.copy(order="F")
    np.fill_diagonal(raised, (1 + ridge) * diagonal)
    try:
        factor = cho_factor(raised, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        if not ridge < 1:
            raise
        return _solver(A, 100 * ridge)

    def solve(b: Array) -> Array:
        x: Array = cho_solve(factor, b, check_finite=False)
        return x

    return solve


def _direction(
    solve: Callable[[Array], Array], scaling: _Scaling, kinked: NDArray[np.intp], b: Array, r: Element
) -> tuple[Array, Element, Element]:
    """Return (dx, ds, d lambda) with Q dx - d lambda = ``b`` and W^-1 ds + W d lambda = ``r``."""
    pull = scaling.inverse(r)
    b[kinked] += scaling.without_head(pull)
    dx = solve(b)
    ds = scaling.with_head(dx[kinked], pull)
    return dx, ds, (np.zeros_like(ds[0]), pull[1] - scaling.inverse(scaling.inverse(ds))[1])


def _moved(u: Element, length: float, step: Element) -> Element:
    return u[0] + length * step[0], u[1] + length * step[1]


class _Cones:
    """The second-order cones {(u_0, u_1): ||u_1|| <= u_0} of groups, ``groups`` (k,) their numbers from 0 on."""

    def __init__(self, groups: NDArray[np.intp]) -> None:
        sizes = np.bincount(groups)
        self.groups, self.count, self.single = groups, len(sizes), sizes == 1
        members = np.split(np.argsort(groups, kind="stable"), np.cumsum(sizes)[:-1])
        self.several = [(k, own) for k, own in enumerate(members) if len(own) > 1]

    def dot(self, u: Element, v: Element) -> Array:
        """Return the inner product in each of the cones, (G,)."""
        return u[0] * v[0] + self.sum(u[1] * v[1])

    def sum(self, body: Array) -> Array:
        """Return the sums over the groups, (G,)."""
        return np.asarray(np.bincount(self.groups, body, self.count), dtype=np.float64)

    def norm(self, body: Array) -> Array:
        return np.sqrt(self.sum(body * body))

    def determinant(self, u: Element) -> Array:
        """Return u_0^2 - ||u_1||^2, (G,): above 0 inside."""
        norm = self.norm(u[1])
        return (u[0] - norm) * (u[0] + norm)

    def product(self, u: Element, v: Element) -> Element:
        """Return u o v = (u'v, u_0 v_1 + v_0 u_1)."""
        return self.dot(u, v), u[0][self.groups] * v[1] + v[0][self.groups] * u[1]

    def quotient(self, v: Element, u: Element) -> Element:
        """Return the element whose product with ``u`` is ``v``."""
        head = (u[0] * v[0] - self.sum(u[1] * v[1])) / self.determinant(u)
        return head, (v[1] - head[self.groups] * u[1]) / u[0][self.groups]

    def longest(self, u: Element, step: Element) -> float:
        """Return how far from ``u``, inside, the first of the cones is left, in steps."""
        a, c = step[0] ** 2 - self.norm(step[1]) ** 2, self.determinant(u)
        b = u[0] * step[0] - self.sum(u[1] * step[1])
        root = b * b - a * c
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.where(root >= 0, c / (np.sqrt(np.maximum(root, 0.0)) - b), np.inf)
        return float(np.min(np.where(length > 0, length, np.inf), initial=np.inf))


class _Scaling:
    """The symmetric W with W lambda = W^-1 s, of Nesterov and Todd: in every cone a multiple ``size`` of

    [ v_0   v_1'                       ]
    [ v_1   I + v_1 v_1' / (1 + v_0)   ],    v_0^2 - ||v_1||^2 = 1.
    """

    def __init__(self, cones: _Cones, s: Element, dual: Element) -> None:
        self.cones, groups = cones, cones.groups
        det_s, det_dual = cones.determinant(s), cones.determinant(dual)
        root_s, root_dual = np.sqrt(det_s), np.sqrt(det_dual)
        twice = np.sqrt(2 + 2 * cones.dot(s, dual) / root_s / root_dual)
        self.head = (s[0] / root_s + dual[0] / root_dual) / twice
        self.body = (s[1] / root_s[groups] - dual[1] / root_dual[groups]) / twice[groups]
        self.size = np.sqrt(root_s / root_dual)

    def apply(self, u: Element) -> Element:
        """Return W u."""
        groups = self.cones.groups
        along = self.cones.sum(self.body * u[1])
        body = u[1] + self.body * (u[0] + along / (1 + self.head))[groups]
        return self.size * (self.head * u[0] + along), self.size[groups] * body

    def inverse(self, u: Element) -> Element:
        """Return W^-1 u."""
        groups = self.cones.groups
        along = self.cones.sum(self.body * u[1])
        body = u[1] + self.body * (along / (1 + self.head) - u[0])[groups]
        return (self.head * u[0] - along) / self.size, body / self.size[groups]

    @property
    def _slope(self) -> Array:
        """W^-2's first column over its first entry, without that, (k,)."""
        return -(2 * self.head / (2 * self.head**2 - 1))[self.cones.groups] * self.body

    def without_head(self, u: Element) -> Array:
        """Return u_1 once the first row of W^-2 has been eliminated, (k,)."""
        return u[1] - self._slope * u[0][self.cones.groups]

    def with_head(self, body: Array, u: Element) -> Element:
        """Return the element with this ``body`` for which W^-2 times it has the first entry u_0."""
        first = self.size**2 / (2 * self.head**2 - 1)
        return first * u[0] - self.cones.sum(self._slope * body), body

    def added(self, Q: Array, kinked: NDArray[np.intp]) -> Array:
        """Return Q plus, among ``kinked``, what the elimination leaves of W^-2, (p, p).

        It is (I - 2 v_1 v_1' / (2 v_0^2 - 1)) / size^2: 1 / (2 v_0^2 - 1) where that is one number.
        """
        groups, A, whole = self.cones.groups, Q.copy(), 1 / self.size**2
        bend = whole / (2 * self.head**2 - 1)
        A[kinked, kinked] += np.where(self.cones.single, bend, whole)[groups]
        for k, own in self.cones.several:
            A[np.ix_(kinked[own], kinked[own])] -= 2 * bend[k] * np.outer(self.body[own], self.body[own])
        return A

"""The size theta of a negative binomial, estimated together with the coefficients.

    maximise over beta and theta  sum_i w_i log f(y_i; mu_i, theta),   f of glm/likelihood.py

in turn: the coefficients at a theta, which is a convex problem with a certificate, then theta at the means, by Newton
steps in log theta with

    d/dtheta   = psi(y + theta) - psi(theta) + log(theta / (theta + mu)) + 1 - (y + theta) / (theta + mu)
    d2/dtheta2 = psi'(y + theta) - psi'(theta) + 1/theta - 2 / (theta + mu) + (y + theta) / (theta + mu)^2

(Venables and Ripley, Modern Applied Statistics with S, section 7.4: ``glm.nb``). beta and theta are orthogonal (Lawless
1987, Can. J. Stat. 15), so that a few turns are enough; each begins where the last one ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError
from clusterglm.glm.families.positive import NegativeBinomial
from clusterglm.glm.kernels import Block, predictor
from clusterglm.glm.model import Fit, Model
from clusterglm.glm.problem import Rows

Array = NDArray[np.float64]
_MOST_TURNS, _MOST_STEPS = 60, 60
_NEAR = 1e-10  # relative change of theta after which it is there
_SETTLED = 1e-12  # relative step in theta after which it is there for these coefficients
_LARGEST = 1e7  # beyond which the variance is that of poisson


@np.errstate(over="ignore")
def theta_terms(block: Block, beta: Array, theta: float) -> tuple[float, float]:
    """Return the first and the second derivative of the log-likelihood in theta."""
    from scipy.special import digamma, polygamma

    w = np.ones(len(block.y)) if block.weights is None else block.weights
    y, mu = block.y, np.exp(predictor(block, beta))
    share = (y + theta) / (theta + mu)
    first = digamma(y + theta) - digamma(theta) - np.log1p(mu / theta) + 1 - share
    second = polygamma(1, y + theta) - polygamma(1, theta) + 1 / theta - (2 - share) / (theta + mu)
    return float(w @ first), float(w @ second)


class Fitting(Protocol):
    """Fits a model, from coefficients where there are any; ``last`` is the fit whose answer counts."""

    def __call__(self, model: Model, begin: Array | None, last: bool) -> Fit: ...


def fit_theta(rows: Rows, model: Model, fit: Fitting) -> Fit:
    """Return the fit at the theta that is the most likely.

    Raises
    ------
    DataError
        The rows vary no more than those of a Poisson distribution.
    """
    theta, begin, passes, note = 1.0, None, 0, "warning: theta is not the most likely one"
    for _ in range(_MOST_TURNS):
        found = fit(replace(model, family=NegativeBinomial(theta)), begin, last=False)
        passes += found.passes
        if found.status not in ("optimal", "converged"):
            break
        begin = found.beta
        before = theta
        theta, error, steps = _most_likely(rows, begin, theta)
        passes += steps
        if abs(theta - before) <= _NEAR * theta:
            note = f"note: theta {theta:.6g}, estimated with a standard error of {error:.3g}"
            break
    else:
        note = "warning: theta did not settle: the last one is used"
    if found.status in ("optimal", "converged"):
        found = fit(replace(model, family=NegativeBinomial(theta)), begin, last=True)
        passes += found.passes
    inference = found.inference
    if inference is not None:  # theta is a parameter as any other
        inference = replace(inference, aic=inference.aic + 2, bic=inference.bic + float(np.log(inference.observations)))
    return replace(found, passes=passes, notes=[*found.notes, note], inference=inference)


def _most_likely(rows: Rows, beta: Array, theta: float) -> tuple[float, float, int]:
    """Return the theta that is the most likely at ``beta``, its standard error, and the passes that it took."""
    low, high = 0.0, np.inf
    steps = 0
    while steps < _MOST_STEPS:
        steps += 1
        slope, bend = (float(s) for s in rows.sum(theta_terms, beta, theta))
        low, high = (theta, high) if slope > 0 else (low, theta)
        # In log theta: derivative theta s, second derivative theta^2 b + theta s.
        curvature = theta * theta * bend + theta * slope
        move = -theta * slope / curvature if curvature < 0 else np.sign(slope)
        new = theta * float(np.exp(np.clip(move, -2, 2)))
        # Asked before the bracket, for a step that rounds to none lies on an end of it.
        if abs(new - theta) <= _SETTLED * theta:
            theta = new
            break
        if not low < new < high:
            new = (low + high) / 2
        if new > _LARGEST:
            raise DataError("--theta", "estimate", "the rows vary no more than Poisson's: use --family poisson")
        theta = new
    return theta, float(1 / np.sqrt(-bend)) if bend < 0 else np.inf, steps

"""Log-densities of the families, with everything that the deviance leaves out.

McCullagh and Nelder (1989), table 2.1; Tweedie: Dunn and Smyth (2005), "Series evaluation of Tweedie exponential
dispersion model densities", Stat. Comput. 15, whose series is Wright's generalised Bessel function.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.glm.families.family import Family

Array = NDArray[np.float64]
_LOG_2PI = float(np.log(2 * np.pi))


def log_density(family: Family, y: Array, mu: Array, dispersion: Any = 1.0) -> Array:
    """Return log f(y; mu, dispersion) of every row, (m,); ``dispersion`` is a number or (m,).

    A binomial target is a share of trials that are counted by the weights of its row: one is taken here.
    """
    from scipy.special import betaln, gammaln, log_wright_bessel, xlog1py, xlogy

    with np.errstate(divide="ignore", invalid="ignore"):
        if family.name == "gaussian":
            found = -((y - mu) ** 2 / dispersion + np.log(dispersion) + _LOG_2PI) / 2
        elif family.name == "binomial":
            found = xlogy(y, mu) + xlog1py(1 - y, -mu)
        elif family.name == "poisson":
            found = xlogy(y, mu) - mu - gammaln(y + 1)
        elif family.name == "gamma":
            shape = 1 / dispersion
            found = shape * (np.log(shape * y / mu) - y / mu) - gammaln(shape) - np.log(y)
        elif family.name == "inverse-gaussian":
            off = (y - mu) ** 2 / (dispersion * y * mu**2)
            found = -(off + np.log(dispersion * y**3) + _LOG_2PI) / 2
        elif family.name == "negative-binomial":
            theta = family.parameters["theta"]
            # Of the binomial coefficient: Gamma(y + theta) / (Gamma(theta) Gamma(y + 1)).
            ways = np.where(y > 0, -betaln(theta, np.maximum(y, 1e-300)) - np.log(np.maximum(y, 1e-300)), 0.0)
            found = ways + xlogy(y, mu / (theta + mu)) - theta * np.log1p(mu / theta)
        else:
            p = family.parameters["power"]
            alpha = (2 - p) / (1 - p)
            some = np.where(y > 0, y, 1.0)
            x = ((p - 1) * dispersion / some) ** alpha / ((2 - p) * dispersion)
            drawn = np.where(y > 0, log_wright_bessel(-alpha, 0, x) - np.log(some), 0.0)
            found = (y * mu ** (1 - p) / (1 - p) - mu ** (2 - p) / (2 - p)) / dispersion + drawn
    return np.asarray(found)

"""The families by name, link and parameter, and the links with which nothing could be proven."""

from __future__ import annotations

from collections.abc import Callable

from clusterglm.errors import UsageError, unknown
from clusterglm.glm.families.binomial import Cloglog, Probit
from clusterglm.glm.families.canonical import Binomial, Gaussian, Poisson
from clusterglm.glm.families.family import Family
from clusterglm.glm.families.positive import Gamma, GammaInverse, InverseGaussian, NegativeBinomial, Tweedie
from clusterglm.glm.families.softmax import Multinomial

FAMILIES: dict[str, Family] = {family.name: family for family in (Gaussian(), Binomial(), Poisson())}
_PARAMETERS = {"tweedie": "power", "negative-binomial": "theta"}
# Every pair that there is, the link that a family has by itself first.
PAIRS: dict[str, dict[str, Callable[..., Family]]] = {
    "gaussian": {"identity": Gaussian},
    "binomial": {"logit": Binomial, "probit": Probit, "cloglog": Cloglog},
    "poisson": {"log": Poisson},
    "gamma": {"log": Gamma, "inverse": GammaInverse},
    "inverse-gaussian": {"inverse-squared": InverseGaussian},
    "tweedie": {"log": Tweedie},
    "negative-binomial": {"log": NegativeBinomial},
    "multinomial": {"logit": Multinomial},
}
# Pairs of other packages, and why there is no proof for them.
REFUSED = {
    ("gaussian", "log"): "the loss is not convex",
    ("gaussian", "inverse"): "the loss is not convex",
    ("gamma", "identity"): "the loss is not convex",
    ("poisson", "identity"): "the best mean may be 0, at the edge of where there is a likelihood",
    ("poisson", "sqrt"): "the loss is not convex where the predictor is negative",
    ("binomial", "cauchy"): "the loss is not convex",
    ("binomial", "log"): "the best mean may be 1, at the edge of where there is a likelihood",
    ("inverse-gaussian", "log"): "the loss is not convex",
    ("inverse-gaussian", "identity"): "the loss is not convex",
    ("inverse-gaussian", "inverse"): "the loss is not convex",
    ("negative-binomial", "identity"): "the loss is not convex",
    ("tweedie", "identity"): "the loss is not convex",
}


def get_family(
    name: str,
    link: str | None = None,
    power: float | None = None,
    theta: float | None = None,
    classes: int | None = None,
) -> Family:
    """Return the family of this name, with its own link or another one.

    Parameters
    ----------
    name : str
    link : str, optional
    power : float, optional
        Of the variance of ``tweedie``, between 1 and 2; 1.5 where it is left out.
    theta : float, optional
        The size of ``negative-binomial``, above 0: the variance is mu + mu^2 / theta.
    classes : int, optional
        Those of ``multinomial``, where they are known.

    Raises
    ------
    UsageError
        An unknown family, a link with which no answer could be proven, a parameter that the family has not or lacks.
    """
    if name not in PAIRS:
        raise unknown("--family", name, PAIRS)
    links = PAIRS[name]
    if link is not None and link not in links:
        if (why := REFUSED.get((name, link))) is not None:
            raise UsageError(
                "--link", link, f"{name}: {why}, so that nothing could be proven: use {' or '.join(links)}"
            )
        raise unknown("--link", link, list(links))
    given = {"power": power, "theta": theta}
    for parameter, value in given.items():
        if value is not None and _PARAMETERS.get(name) != parameter:
            raise UsageError(f"--{parameter}", value, f"{name} has none: leave it out")
    own: dict[str, float] = {key: value for key, value in given.items() if value is not None}
    if classes is not None and name == "multinomial":
        own["classes"] = int(classes)
    if not own and name in FAMILIES and link in (None, FAMILIES[name].link):
        return FAMILIES[name]
    return links[link or next(iter(links))](**own)

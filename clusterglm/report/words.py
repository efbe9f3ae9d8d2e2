"""What the figures mean, in plain words: status, certificate, counts and times as a report says them."""

from __future__ import annotations

import math
from typing import Any

from clusterglm.report.run import Run, number
from clusterglm.units import rounded_up

_SOLVERS = {
    "admm": "ADMM",
    "async_admm": "asynchronous ADMM",
    "async_newton": "asynchronous Newton",
    "lbfgs": "L-BFGS",
    "owlqn": "OWL-QN",
    "newton": "Newton's method",
    "proximal_newton": "proximal Newton",
}
_FAMILIES = {"binomial": "Logistic", "gaussian": "Linear", "poisson": "Poisson"}
_PENALTIES = {
    "none": "no penalty",
    "l1": "L1 penalty",
    "l2": "L2 penalty",
    "elastic-net": "elastic-net penalty",
    "group": "group penalty",
}
# Colour of the badge, its word, and what it means.
_STATUS = {
    "optimal": ("good", "optimal", "The proven bound on the error is within the tolerance asked for."),
    "converged": (
        "good",
        "converged",
        "The optimality conditions hold; for this model no bound on the distance exists.",
    ),
    "max_passes": ("poor", "not finished", "The limit on passes came before the tolerance was reached."),
    "no_finite_mle": (
        "bad",
        "no finite estimate",
        "The likelihood rises without end along some direction: add a penalty.",
    ),
    "diverged": (
        "bad",
        "diverged",
        "The steps led away from any solution: the coefficients below are the last finite ones.",
    ),
    "interrupted": (
        "poor",
        "interrupted",
        "The fit was stopped; the coefficients below are those of the last checkpoint.",
    ),
}


def count(value: float) -> str:
    """Return a whole number with its thousands marked: ``8,000,000``."""
    return f"{int(value):,}"


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: ``1 chunk``, ``24 chunks``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def short(value: float, digits: int = 3) -> str:
    """Return a number in ``digits`` significant digits; ``not known`` for NaN and infinity."""
    return f"{value:.{digits}g}" if math.isfinite(value) else "not known"


def at_most(bound: float) -> str:
    """Return what is proven as two significant digits, rounded up."""
    return short(rounded_up(bound), 2)


def large(value: float) -> str:
    """Return a number in words where it is large: ``38.5 million``."""
    if not math.isfinite(value):
        return "not known"
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:.3g}"


def solver_name(name: str) -> str:
    return _SOLVERS.get(name, name.replace("_", " "))


def title(result: dict[str, Any]) -> str:
    name = result["link"] if result.get("link") in ("probit", "cloglog") else result["family"]
    family = _FAMILIES.get(name, name.replace("-", " ").capitalize())
    return f"{family} regression by {solver_name(result['solver'])}"


def model(result: dict[str, Any]) -> str:
    """Return the penalty with its strength, the link and the intercept, as one line."""
    penalty = result.get("penalty") or "none"
    text = _PENALTIES.get(penalty, penalty)
    if penalty != "none":
        strengths = [f"alpha {short(number(result.get('alpha')), 4)}"]
        if result.get("lamduh") is not None:
            strengths.append(f"lamduh {short(number(result['lamduh']), 4)}")
        if penalty == "elastic-net" or (penalty == "group" and number(result.get("l1_ratio")) < 1):
            strengths.append(f"l1-ratio {short(number(result.get('l1_ratio')), 4)}")
        text += f" ({', '.join(strengths)})"
    link = f", {result['link']} link" if result.get("link") else ""
    of_classes = result.get("classes") and str(result["feature_names"][0]).endswith(":intercept")
    intercept = "with intercept" if result.get("intercept") is not None or of_classes else "without intercept"
    return f"{text}{link}, {intercept}"


def status(result: dict[str, Any]) -> tuple[str, str, str]:
    """Return the badge's class, its word and the sentence that explains it."""
    return _STATUS.get(result["status"], ("poor", result["status"], ""))


def proof(result: dict[str, Any]) -> str:
    """Return the certificate as a sentence: how far the answer can be from the exact one."""
    certificate = result["certificate"]
    gap, error = number(certificate.get("gap")), number(certificate.get("error_in_se"))
    parts = []
    if math.isfinite(gap):
        parts.append(f"the objective is within {at_most(gap)} of the optimum")
    if math.isfinite(error):
        parts.append(f"every coefficient is within {at_most(error)} standard errors of the exact one")
    if parts:
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."
    kkt = number(certificate.get("kkt"))
    if math.isfinite(kkt):
        return (
            f"No bound on the distance to the optimum was proven; "
            f"the optimality conditions are off by {short(kkt, 2)} standard errors at most."
        )
    return "Nothing is proven about the distance to the optimum."


def asked(result: dict[str, Any]) -> str:
    """Return the stopping rule as the user gave it."""
    rule = result.get("tolerance") or {}
    if not rule:
        return ""
    flag = {"tol": "--tol", "rel_gap": "--rel-gap"}.get(rule.get("kind", ""), rule.get("kind", ""))
    return f"{flag} {short(number(rule.get('value')), 3)}"


def start(result: dict[str, Any]) -> str:
    """Return where the fit began, and what that was worth."""
    name, worth = result.get("start") or "", result.get("start_saved")
    if not worth:
        return name
    passes, foreseen = (int(number(worth.get(key))) for key in ("passes", "foreseen_from_null"))
    near = f"{short(number(worth.get('distance')), 2)} of the null model's distance from the optimum"
    return f"{name}: {near}; {count(passes)} passes, where about {count(foreseen)} are foreseen from the null model"


def call(result: dict[str, Any]) -> str:
    """Return the call of Python that makes this fit, with every option that is not left out."""
    options = {name: value for name, value in (result.get("request") or {}).items() if value is not None}
    return f"clusterglm.fit({', '.join(f'{name}={value!r}' for name, value in options.items())})" if options else ""


def method(result: dict[str, Any]) -> str:
    """Return how the bound was proven."""
    return {
        "curvature": "from the curvature, by the Newton decrement over the Gram matrix",
        "free": "from convexity and the gradient alone",
        "dual": "from a dual point",
    }.get(result["certificate"].get("method") or "none", "none")


def bytes_per_pass(run: Run) -> float:
    """Return the bytes that one pass reads: the plan's figure, else rows x columns x itemsize."""
    if run.plan.get("bytes"):
        return float(run.plan["bytes"])
    itemsize = 4 if run.result.get("dtype") == "float32" else 8
    return float(run.result["rows"] * run.result["columns"] * itemsize)


def place(worker: str) -> str:
    """Return a worker's address without its protocol; a worker known by a number is called by it."""
    return f"worker {worker}" if worker.isdigit() else worker.split("://")[-1]

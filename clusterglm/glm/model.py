"""What is asked of a fit, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import DataError, UsageError, quoted, unknown
from clusterglm.glm.families.family import Family
from clusterglm.glm.inference import Inference
from clusterglm.glm.lanes import Round
from clusterglm.glm.penalties import PENALTIES, Penalty, elastic_net
from clusterglm.glm.problem import Problem
from clusterglm.glm.proof.certificate import Certificate
from clusterglm.glm.trace import Iteration, Tolerance

Array = NDArray[np.float64]
STARTS = ("auto", "null")
LEAST_PASSES = 2  # of any fit: a look at the rows, and the point that it begins with


@dataclass(frozen=True)
class Model:
    """What is to be fitted.

    ``alpha`` multiplies the penalty of the mean loss; ``lamduh`` is the sum form, alpha = lamduh / sum of weights. Give
    one of them. ``l1_ratio`` is the share of L1 (1 for ``l1``, 0 for ``l2``), and of the groups' norms for ``group``.
    ``factors`` multiply the penalty of a column, or of all those that a coded one was made into; 0 takes them out of
    it. ``bounds`` are (lower, upper) of the coefficients in the columns' own units, infinite where there is none.
    ``groups`` are those of ``group``, each by the names of its columns or by ``NAME*`` for all that begin so; of the
    columns in none of them, those that a coded one was made into are a group, and all others are by themselves.
    """

    family: Family
    penalty: str = "none"
    alpha: float | None = None
    lamduh: float | None = None
    l1_ratio: float = 0.5
    intercept: bool = True
    standardize: bool = False
    factors: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise unknown("--penalty", self.penalty, PENALTIES)
        for name, value in (("--alpha", self.alpha), ("--lamduh", self.lamduh)):
            if value is not None and not 0 <= value < np.inf:
                raise UsageError(name, value, "must be 0 or more")
        if self.alpha is not None and self.lamduh is not None:
            raise UsageError("--lamduh", self.lamduh, "given together with --alpha: give one of them")
        if not 0 <= self.l1_ratio <= 1:
            raise UsageError("--l1-ratio", self.l1_ratio, "must be 0 to 1")
        for name, (low, high) in self.bounds.items():
            if not (low <= high and low < np.inf and high > -np.inf):
                raise UsageError("--bounds", f"{name}={low:g}:{high:g}", "the lower must not be above the upper")
        if self.groups and self.penalty != "group":
            raise UsageError("--penalty-groups", None, "go with --penalty group")
        if self.penalty == "group" and self.bounds:
            raise UsageError("--bounds", None, "no solver knows both bounds and groups: leave one of them out")
        if self.penalty == "group" and self.l1_ratio == 0:
            raise UsageError("--l1-ratio", 0, "leaves nothing of the groups: use --penalty l2")
        if self.family.predictors != 1 and self.bounds:
            raise UsageError("--bounds", None, f"coefficients of {self.family.name} have none: leave them out")
        for name, factor in self.factors.items():
            if not 0 <= factor < np.inf:
                raise UsageError("--penalty-factors", f"{name}={factor}", "must be 0 or more")
        if self.family.positive and not self.intercept:
            link = f"{self.family.name} with link {self.family.link}"
            raise UsageError(
                "--no-intercept", None, f"{link} has predictors above 0, and no start without an intercept"
            )

    @property
    def share(self) -> float:
        """The share of L1 in the penalty that was asked for."""
        return {"none": 0.0, "l1": 1.0, "l2": 0.0}.get(self.penalty, self.l1_ratio)

    @property
    def penalised(self) -> bool:
        return self.penalty != "none" and (self.alpha or self.lamduh or 0.0) > 0

    @property
    def has_l1(self) -> bool:
        return self.penalised and self.share > 0

    def penalty_factors(self, labels: Sequence[str]) -> Array:
        """Return the factor of every column, (p,), 0 for an intercept, which comes first.

        Raises
        ------
        DataError
            A factor of a column that is not there.
        """
        found = np.ones(len(labels))
        found[: int(self.intercept)] = 0.0
        for name, factor in self.factors.items():
            found[self._columns("--penalty-factors", name, labels)] = factor
        return found

    def penalty_of(self, alpha: float, labels: Sequence[str], deviations: Array, share: float | None = None) -> Penalty:
        """Return the penalty of strength ``alpha`` on columns of these standard deviations, (p,), 1 where one is 0.

        ``share`` stands in for that of L1.

        Raises
        ------
        DataError
            A factor, a bound or a group of a column that is not there; a column in two groups; two factors in one.
        """
        factors, groups = self.penalty_factors(labels), self.groups_of(labels) if self.penalty == "group" else None
        for k in range(0 if groups is None else int(groups.max(initial=-1)) + 1):
            if len(np.unique(factors[groups == k])) > 1:
                names = "+".join(labels[j] for j in np.flatnonzero(groups == k)[:3])
                raise DataError("--penalty-factors", names, "are one group: give all of it the same factor")
        scales = deviations if self.standardize else None
        penalty = elastic_net(alpha, self.share if share is None else share, factors, scales, groups)
        if not self.bounds:
            return penalty
        lower, upper = self.bounds_of(labels)
        return replace(penalty, lower=lower, upper=upper)

    def groups_of(self, labels: Sequence[str]) -> NDArray[np.intp]:
        """Return the number of every column's group, (p,), -1 for those by themselves.

        Raises
        ------
        DataError
            A group of a column that is not there, or a column in two groups.
        """
        found = np.full(len(labels), -1)
        for k, names in enumerate(self.groups):
            for name in names:
                own = self._columns("--penalty-groups", name, labels)
                if (found[own] >= 0).any():
                    raise DataError("--penalty-groups", quoted(name), "in two groups, or twice: name a column once")
                found[own] = k
        coded: dict[str, int] = {}
        for j, label in enumerate(labels):
            name, bracket, _ = label.partition("[T.")
            if bracket and found[j] < 0:
                found[j] = coded.setdefault(name, len(self.groups) + len(coded))
        return found

    def bounds_of(self, labels: Sequence[str]) -> tuple[Array, Array]:
        """Return the lower and the upper bound of every coefficient, (p,) each.

        Raises
        ------
        DataError
            A bound of a column that is not there.
        """
        lower, upper = np.full(len(labels), -np.inf), np.full(len(labels), np.inf)
        for name, (low, high) in self.bounds.items():
            own = self._columns("--bounds", name, labels)
            lower[own], upper[own] = low, high
        return lower, upper

    def _columns(self, option: str, name: str, labels: Sequence[str]) -> list[int]:
        own = [j for j, label in enumerate(labels) if label == name or label.startswith(f"{name}[T.")]
        if not own and name.endswith("*"):
            own = [j for j, label in enumerate(labels) if j >= self.intercept and label.startswith(name[:-1])]
        if not own or (self.intercept and own == [0]):
            raise DataError(option, quoted(name), "no such column among the features: correct it")
        return own

    def strength(self, weight: float) -> float:
        """Return alpha for rows of total weight W."""
        if self.penalty == "none":
            return 0.0
        return self.alpha if self.alpha is not None else (self.lamduh or 0.0) / weight


@dataclass(frozen=True)
class Fit:
    """A finished fit by ``solver``. ``coefficients`` (p,) without the intercept, 0 where a column was left out.

    Of K classes they are (K, p), and intercepts (K,): of a column without penalty less those of the first class.
    Of an asynchronous one ``rounds`` say how old every lane's answers were, and ``lanes`` whose it is and its rows.
    """

    solver: str
    family: Family
    coefficients: Array
    intercept: float | Array | None
    status: str
    objective: float
    null_objective: float
    start: str
    alpha: float
    weight: float
    certificate: Certificate
    passes: int
    iterations: list[Iteration]
    dropped: list[str]
    notes: list[str]
    direction: Array | None = None
    inference: Inference | None = None
    rounds: list[Round] = field(default_factory=list)
    lanes: list[tuple[str, int]] = field(default_factory=list)

    @property
    def beta(self) -> Array:
        """The coefficients with the intercept first, where there is one."""
        if self.coefficients.ndim == 2:  # class by class
            first = [] if self.intercept is None else [self.intercept]
            return np.column_stack([*first, self.coefficients]).ravel()
        return self.coefficients if self.intercept is None else np.append(self.intercept, self.coefficients)


@dataclass(frozen=True)
class Limits:
    """Where to start, when to stop, and what to tell on the way.

    No pass is made beyond ``max_passes``, but for ``LEAST_PASSES``. ``start`` is one of ``STARTS``: ``auto`` draws a
    sample where the rows are enough for one; ``begin`` (p,), coefficients with the intercept first, goes before both.
    ``on_pass`` is called after every new pass, ``on_iteration`` after each
    step with its row and the objective of the null model.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    max_passes: int = 1000
    start: str = "auto"
    begin: Array | None = None
    on_pass: Callable[[Problem], None] | None = None
    on_iteration: Callable[[Iteration, float], None] | None = None

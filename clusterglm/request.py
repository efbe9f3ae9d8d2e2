"""What a user asks of a fit: every option once, checked before anything is started.

The fields are the options of ``clusterglm fit`` and the keywords of ``clusterglm.fit``; where, output and cluster
options are not among them, because they do not change the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clusterglm.errors import UsageError, unknown
from clusterglm.units import parse_count

if TYPE_CHECKING:
    from clusterglm.glm.families.family import Family
    from clusterglm.glm.model import Model
    from clusterglm.glm.solvers import Solver
    from clusterglm.glm.trace import Tolerance

DTYPES = ("float64", "float32")
MISSING = ("raise", "drop")
STORAGES = ("auto", "memory", "stream", "disk")
COVARIANCES = ("nonrobust", "HC0", "HC1", "cluster")  # of glm/inference.py, which takes scipy to import
WEIGHTS = ("frequency", "analytic")
CLASSES = "multinomial"  # the family whose target has classes
ESTIMATE = "estimate"  # a theta that is to be found
GENERATED = ("binomial", "gaussian", "poisson")  # families of data/synthetic.py, which takes numpy to import
_LARGEST_SEED = 2**63 - 1
# On the iterates, so a fit may resume with others.
_WITHOUT_EFFECT = {"tol", "rel_gap", "max_passes", "chunk_rows", "storage"}


@dataclass(frozen=True)
class Request:
    """A fit's options. None means the default of ``clusterglm fit``.

    What is no matter of the mathematics is checked first, without numpy, which costs more time than the rest together.

    Raises
    ------
    UsageError
        A value that no data could make right.
    """

    most_columns: ClassVar[float] = 4000  # of generated rows: a block of them takes 262 MB then
    own_rows: ClassVar[bool] = False  # whether ``rows`` are not to be generated, but at hand

    solver: str = "auto"
    rows: int | float | str | None = None
    columns: int = 15
    seed: int = 20009
    data: str | None = None
    target: str | None = None
    features: tuple[str, ...] | None = None
    categorical: tuple[str, ...] | None = None
    weights: str | None = None
    offset: str | None = None
    missing: str = "raise"
    family: str | None = None
    link: str | None = None
    power: float | None = None
    theta: float | str | None = None
    penalty: str | None = None
    alpha: float | None = None
    lamduh: float | None = None
    l1_ratio: float | None = None
    penalty_factors: Mapping[str, float] | None = None
    bounds: Mapping[str, tuple[float, float]] | None = None
    penalty_groups: tuple[tuple[str, ...], ...] | None = None
    summary: bool = False
    covariance: str | None = None
    groups: str | None = None
    weights_are: str = "frequency"
    level: float = 0.95
    intercept: bool | None = None
    standardize: bool = False
    dtype: str = "float64"
    storage: str = "auto"
    chunk_rows: int | float | str | None = None
    tol: float | None = None
    rel_gap: float | None = None
    max_passes: int = 1000
    start: str = "auto"

    def __post_init__(self) -> None:
        for name in ("solver", "data", "start"):  # paths may come as Path objects
            if getattr(self, name) is not None:
                object.__setattr__(self, name, str(getattr(self, name)))
        for name in ("features", "categorical"):
            given = getattr(self, name)
            if given is not None:
                names = split_names(given, f"--{name}") if isinstance(given, str) else tuple(given)
                object.__setattr__(self, name, names)
        if isinstance(self.penalty_factors, str):
            object.__setattr__(self, "penalty_factors", split_numbers(self.penalty_factors, "--penalty-factors"))
        elif self.penalty_factors is not None:
            object.__setattr__(self, "penalty_factors", {str(k): float(v) for k, v in self.penalty_factors.items()})
        if isinstance(self.bounds, str):
            object.__setattr__(self, "bounds", split_bounds(self.bounds, "--bounds"))
        elif self.bounds is not None:
            ends = {str(k): tuple(float(e) for e in v) for k, v in self.bounds.items()}
            object.__setattr__(self, "bounds", ends)
        if self.penalty_groups is not None:
            object.__setattr__(self, "penalty_groups", split_groups(self.penalty_groups, "--penalty-groups"))
        self._check_data()
        self._check_numbers()
        _ = self.model
        self._check_inference()
        if self.rows is not None and not self.model.penalised:
            width = self.columns + bool(self.intercept)
            rows = self.row_count
            if rows == 1:
                raise UsageError("--rows", 1, "one row fits any line: add --penalty l2 --alpha A")
            if rows is not None and width > rows:
                raise UsageError("--columns", self.columns, f"more than the {rows} rows: add --penalty l2 --alpha A")

    def _check_data(self) -> None:
        if self.rows is None and self.data is None:
            raise UsageError("fit", None, "no data: give --rows N for generated rows, or --data PATH --target COLUMN")
        if self.rows is not None and self.data is not None:
            raise UsageError("--rows", self.rows, "given together with --data: give one of them")
        if self.missing not in MISSING:
            raise unknown("--missing", self.missing, MISSING)
        if self.data is None:
            if self.family not in (None, *GENERATED) and not self.own_rows:
                _ = self.family_used  # which refuses what is none
                cure = f"needs --data: generated rows are {', '.join(GENERATED)}"
                raise UsageError("--family", self.family, cure)
            if self.missing != "raise":
                raise UsageError("--missing", self.missing, "needs --data: generated rows have no missing values")
            for option in ("target", "features", "categorical", "weights", "offset"):
                if (given := getattr(self, option)) is not None:
                    value = ",".join(given) if isinstance(given, tuple) else given
                    raise UsageError(f"--{option}", value, "needs --data: generated rows have none")
            return
        if not self.data:
            raise UsageError("--data", '""', "give a file, a folder or a pattern")
        if not self.target:
            raise UsageError(
                "--target", '""' if self.target == "" else None, "needed with --data: the column to explain"
            )
        if self.family is None:
            from clusterglm.glm.families import PAIRS

            raise UsageError("--family", None, f"needed with --data: one of {', '.join(PAIRS)}")
        if self.family == CLASSES and self.offset is not None:
            raise UsageError("--offset", self.offset, f"{CLASSES} takes none: every class has its own predictor")
        roles = {"--weights": self.weights, "--offset": self.offset}
        for option, column in roles.items():
            if column == self.target:
                raise UsageError(option, column, "is the target")
        if self.features is not None:
            for column in self.features:
                if column == self.target:
                    raise UsageError("--features", column, "is the target")
                if self.features.count(column) > 1:
                    raise UsageError("--features", column, "named twice")
        for column in self.categorical or ():
            if column in (self.target, self.weights, self.offset):
                raise UsageError("--categorical", column, "is no feature: name only features")
            if self.features is not None and column not in self.features:
                raise UsageError("--categorical", column, "is not among --features")

    def _check_inference(self) -> None:
        given = {"--covariance": self.covariance, "--groups": self.groups}
        for option, value in given.items():
            if value is not None and not self.summary:
                raise UsageError(option, value, "has no effect without --summary: add it")
        if not 0 < self.level < 1:
            raise UsageError("--level", self.level, "must lie between 0 and 1")
        if self.weights_are not in WEIGHTS:
            raise unknown("--weights-are", self.weights_are, WEIGHTS)
        if not self.summary:
            return
        if self.covariance not in (None, *COVARIANCES):
            raise unknown("--covariance", self.covariance, COVARIANCES)
        if self.bounds:
            raise UsageError("--summary", None, "standard errors are for fits without bounds: leave one of them out")
        if self.model.penalised:
            cure = "standard errors are for fits without a penalty: add --penalty none"
            raise UsageError("--summary", None, cure)
        if (self.covariance == "cluster") != (self.groups is not None):
            raise UsageError("--groups", self.groups, "goes with --covariance cluster: give both or none")
        if self.groups is None or self.own_rows:
            return
        if self.features is None or self.groups in self.features:
            raise UsageError("--groups", self.groups, "needs --features, and is none of them: name the features alone")
        if self.groups in (self.target, self.weights, self.offset):
            raise UsageError("--groups", self.groups, "has another role: name a column of its own")
        if self.dtype != "float64":
            raise UsageError("--groups", self.groups, "needs --dtype float64, in which numbers of groups are exact")

    @property
    def columns_read(self) -> tuple[str, ...] | None:
        """The columns that become those of the rows: the features, and the groups of the rows behind them."""
        return self.features if self.groups is None or self.features is None else (*self.features, self.groups)

    def _check_numbers(self) -> None:
        _ = self.row_count, self.rows_per_chunk
        if self.columns < 1:
            raise UsageError("--columns", self.columns, "must be at least 1")
        if self.columns > self.most_columns:
            raise UsageError("--columns", self.columns, f"must be at most {self.most_columns}")
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UsageError("--seed", self.seed, f"must be 0 to {_LARGEST_SEED}")
        if self.dtype not in DTYPES:
            raise unknown("--dtype", self.dtype, DTYPES)
        if self.storage not in STORAGES:
            raise unknown("--storage", self.storage, STORAGES)
        if self.tol is not None and self.rel_gap is not None:
            raise UsageError("--rel-gap", self.rel_gap, "given together with --tol: give one of them")
        for name, value in (("--tol", self.tol), ("--rel-gap", self.rel_gap)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(name, value, "must be greater than 0")
        if self.max_passes < 1:
            raise UsageError("--max-passes", self.max_passes, "must be at least 1")

    @cached_property
    def row_count(self) -> int | None:
        return None if self.rows is None else parse_count(self.rows)

    @cached_property
    def rows_per_chunk(self) -> int | None:
        if self.chunk_rows is None or self.chunk_rows == "auto":
            return None
        try:
            return parse_count(self.chunk_rows, "--chunk-rows")
        except UsageError as error:
            raise UsageError("--chunk-rows", self.chunk_rows, f"{error.cure}, or auto") from None

    @cached_property
    def method(self) -> Solver:
        from clusterglm.glm.solvers import get_solver

        return get_solver(self.solver)

    @cached_property
    def family_used(self) -> Family:
        from clusterglm.glm.families import get_family

        theta = 1.0 if self.theta == ESTIMATE else self.theta
        try:
            theta = None if theta is None else float(theta)
        except ValueError:
            raise UsageError("--theta", self.theta, f"must be a number above 0, or {ESTIMATE}") from None
        return get_family(self.family or "binomial", self.link, self.power, theta)

    @cached_property
    def model(self) -> Model:
        from clusterglm.glm.model import STARTS, Model
        from clusterglm.glm.solvers import refuse_classes, refuse_kink

        if self.start not in STARTS and not Path(self.start).exists():
            raise unknown("--start", self.start, (*STARTS, "RUN"))
        penalty, lamduh = self.penalty, self.lamduh
        strength = self.alpha is not None or self.lamduh is not None
        if penalty is None:
            if self.penalty_groups is not None:
                penalty = "group"
            elif self.l1_ratio is not None:
                penalty = "elastic-net"
            elif self.rows is not None or strength:
                penalty = "none" if self.method.smooth_only and not strength else "l1"
                penalty = "l2" if self.method.smooth_only and strength else penalty
            else:
                penalty = "none"
        if penalty != "none" and not strength:
            lamduh = 1.0
        if self.penalty == "none" and strength:
            option, value = ("--alpha", self.alpha) if self.alpha is not None else ("--lamduh", self.lamduh)
            raise UsageError(option, value, "has no effect with --penalty none: leave one of them out")
        if self.l1_ratio is not None and penalty not in ("elastic-net", "group"):
            raise UsageError("--l1-ratio", self.l1_ratio, "goes with --penalty elastic-net or group")
        ratio = self.l1_ratio if self.l1_ratio is not None else (1.0 if penalty == "group" else 0.5)
        model = Model(
            self.family_used,
            penalty,
            self.alpha,
            lamduh,
            ratio,
            self.data is not None if self.intercept is None else self.intercept,
            self.standardize,
            dict(self.penalty_factors or {}),
            {name: (ends[0], ends[1]) for name, ends in (self.bounds or {}).items()},
            self.penalty_groups or (),
        )
        if self.penalty_factors and not model.penalised:
            raise UsageError("--penalty-factors", None, "has no effect without a penalty: add --penalty and --alpha")
        refuse_classes(self.method, model.family)
        refuse_kink(self.method, model.has_l1, penalty, bool(self.bounds))
        return model

    @property
    def tolerance(self) -> Tolerance:
        from clusterglm.glm.trace import Tolerance

        return Tolerance(0.01 if self.tol is None else self.tol, self.rel_gap)

    def check_memory(self, workers: int, threads: int, memory: int) -> None:
        """Refuse generated rows for which ``workers`` of ``memory`` bytes, or this machine's memory, are too little,
        before any worker is started.

        What files hold is known only once they are opened, on the workers.

        Raises
        ------
        UsageError
            The rows do not fit.
        """
        if self.row_count is None:
            return
        from clusterglm.data import chunks

        made = chunks.plan(  # which refuses them
            solver=self.method.name,
            rows=self.row_count,
            columns=self.columns + self.model.intercept,
            dtype=self.dtype,
            storage="memory" if self.storage == "memory" else "stream",
            workers=workers,
            threads=workers * threads,
            memory=memory,
        )
        if self.method.ranges:  # asked here too, because Dask takes a while to import
            from clusterglm.planning import refuse_client_memory

            refuse_client_memory(self.method, made)

    def chosen(self, columns: int) -> Solver:
        """Return the solver for this many columns, the intercept's among them.

        Raises
        ------
        UsageError
            They are too many for it.
        """
        from clusterglm.glm.solvers import for_columns

        return for_columns(self.method, columns, not self.model.has_l1)

    def notes(self, columns: int) -> list[str]:
        """Return what was chosen in the user's place for this many columns, in words."""
        notes = []
        if self.solver == "auto":
            solver = self.chosen(columns)
            why = "they are too many for" if solver.wide else "a pass costs least with"
            notes.append(f"note: solver auto: {solver.name}: at {columns} columns {why} a Gram matrix")
        if self.rows is not None and self.penalty is None and self.method.smooth_only and not self.model.penalised:
            notes.append(f"note: {self.method.name} needs a smooth penalty: none used")
        if self.penalty not in (None, "none") and self.alpha is None and self.lamduh is None:
            notes.append("note: no strength given: --lamduh 1")
        return notes

    def identity(self) -> dict[str, Any]:
        """Return the options that the iterates depend on, for a checkpoint's fingerprint."""
        options = {k: v for k, v in asdict(self).items() if k not in _WITHOUT_EFFECT}
        lists = {name: None if (v := getattr(self, name)) is None else list(v) for name in ("features", "categorical")}
        groups = None if self.penalty_groups is None else [list(names) for names in self.penalty_groups]
        return options | lists | {"rows": self.row_count, "penalty_groups": groups}

    def options(self) -> dict[str, Any]:
        """Return all options as JSON-able values, from which ``Request(**options)`` is the same request."""
        return self.identity() | {name: getattr(self, name) for name in _WITHOUT_EFFECT}

    def resumed_from(self, saved: dict[str, Any], given: set[str], folder: object) -> Request:
        """Return the saved request with the options of ``given`` laid over it.

        Raises
        ------
        UsageError
            One that was given changes the iterates.
        """
        then = Request(**saved)
        now = replace(then, **{name: getattr(self, name) for name in given})
        for name, value in now.identity().items():
            if value != then.identity()[name]:
                option = "solver" if name == "solver" else f"--{name.replace('_', '-')}"
                cure = f"made with {option} {then.identity()[name]}: the same options, or a new --out"
                raise UsageError("--resume", folder, cure)
        return now


OPTIONS = tuple(field.name for field in fields(Request))


def split_numbers(text: str, option: str) -> dict[str, float]:
    """Return the numbers of a list ``NAME=NUMBER,...`` by name.

    Raises
    ------
    UsageError
        Something else, or a name twice.
    """
    found: dict[str, float] = {}
    for entry in text.split(","):
        name, equals, number = entry.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals or not name.strip() or name.strip() in found:
            raise UsageError(option, entry or '""', "write NAME=NUMBER,NAME=NUMBER, each name once")
        found[name.strip()] = value
    return found


def split_bounds(text: str, option: str) -> dict[str, tuple[float, float]]:
    """Return the bounds of a list ``NAME=LOWER:UPPER,...`` by name; an end that is left out is infinite.

    Raises
    ------
    UsageError
        Something else, or a name twice.
    """
    found: dict[str, tuple[float, float]] = {}
    for entry in text.split(","):
        name, equals, ends = entry.rpartition("=")
        low, colon, high = ends.partition(":")
        try:
            bounds = float(low) if low.strip() else -math.inf, float(high) if high.strip() else math.inf
        except ValueError:
            equals = ""
        if not equals or not colon or not name.strip() or name.strip() in found:
            raise UsageError(option, entry or '""', "write NAME=LOWER:UPPER,NAME=0:, each name once")
        found[name.strip()] = bounds
    return found


def split_groups(given: str | Iterable[str | Iterable[str]], option: str) -> tuple[tuple[str, ...], ...]:
    """Return the groups of a list ``A+B,C+D,...`` or of lists of names.

    Raises
    ------
    UsageError
        An empty name.
    """
    listed = given.split(",") if isinstance(given, str) else given
    groups = tuple(
        tuple(name.strip() for name in (names.split("+") if isinstance(names, str) else names)) for names in listed
    )
    if not groups or not all(groups) or not all(map(all, groups)):
        raise UsageError(option, given if isinstance(given, str) else None, "write NAME+NAME,NAME*: + in a group")
    return groups


def split_names(text: str, option: str) -> tuple[str, ...]:
    """Return the names of a comma-separated list.

    Raises
    ------
    UsageError
        No name, or an empty one.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(option, text or '""', "write names separated by commas")
    return names

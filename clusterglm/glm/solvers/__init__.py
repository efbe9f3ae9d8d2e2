"""The solvers by name, what each needs, and the refusals that follow.

A solver is a function ``(problem, start, stop, trace) -> Solution``: the signature is the interface. ``start`` is a
``Point`` that has been evaluated with its Hessian, or the Hessian's diagonal alone where there are too many columns for
more; ``stop(trace(point))`` is None or a status. Each solver is the algorithm that its name says.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterglm.errors import UsageError, unknown
from clusterglm.glm.algebra import MOST_COLUMNS
from clusterglm.glm.families.family import Family
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.admm import admm
from clusterglm.glm.solvers.async_admm import approach as consensus_of_prompt
from clusterglm.glm.solvers.async_admm import async_admm
from clusterglm.glm.solvers.async_newton import approach as optimum_of_prompt
from clusterglm.glm.solvers.async_newton import async_newton
from clusterglm.glm.solvers.gradient_descent import gradient_descent
from clusterglm.glm.solvers.lbfgs import lbfgs
from clusterglm.glm.solvers.newton import newton
from clusterglm.glm.solvers.proximal_gradient import proximal_gradient
from clusterglm.glm.solvers.proximal_newton import proximal_newton
from clusterglm.glm.trace import StoppingRule, Trace

Array = NDArray[np.float64]
_NEAR = 0.18  # p / sqrt(m) of a sample of m rows whose fit is so near the optimum that its bound holds at once
Solve = Callable[[Problem, Point, StoppingRule, Trace], Solution]


@dataclass(frozen=True)
class Pace:
    """How many passes a solver makes to a relative gap of 1e-8 on rows of moderate condition, for a plan to go by.

    They are those after the first look, ``sample`` from the fit of a sample and ``null`` from the null model, and
    ``quadratic`` from anywhere where the objective is that but for the penalty; each further digit takes ``digit``
    more. ``renewed`` is the share of them that forms a Hessian on the way from the null model, besides the first; from
    a sample's fit none does, unless all do. The others take gradients, at two points at once where they come in
    ``pairs``.
    """

    sample: int
    null: int
    quadratic: int
    digit: float
    renewed: float = 0.0
    pairs: bool = False

    def passes(self, relative: float, columns: int, quadratic: bool, sample: int = 0, subsampled: bool = False) -> int:
        """Return the passes after the first look to a ``relative`` gap: from the fit of ``sample`` rows, or, where that
        is 0, from the null model. ``subsampled`` as of a solver."""
        digits = math.log10(1e-8 / relative)
        if quadratic:
            return self.quadratic + (max(round(self.digit * digits / 4), 0) if self.quadratic > 2 else 0)
        first = self.sample if sample else self.null
        if sample and subsampled:
            # The bound of the first points needs c A delta < 1 (certificate.py), which grows like this; without it
            # there is no telling how short the way is.
            first += round(max(math.log2(columns / math.sqrt(sample) / _NEAR), 0.0))
            # A step gains more digits the more rows there are (sample.py): one is enough for all that may be asked.
            digits = min(digits, 1 / self.digit)
        return first + max(round(self.digit * digits), -first // 2)

    def hessians(self, passes: int, sample: int) -> int:
        """Return how many of these passes form a Hessian."""
        return 1 + round((0 if sample and self.renewed < 1 else self.renewed) * (passes - 1))


@dataclass(frozen=True)
class Solver:
    """A solver and what it needs.

    ``smooth_only``: a smooth penalty; ``ranges``: points that tell the local problems' shares; ``wide``: whether the
    diagonal of the Hessian is enough, as there is no more of it with more than ``MOST_COLUMNS`` columns. ``automatic``:
    nobody asked for this one. ``subsampled``: whether Hessians may be of a share of the rows (sample.py).
    ``approach`` is how an asynchronous solver leaves the null model on the rows of those who answer first, and its
    points tell the lanes' shares. ``pace`` is unknown of a solver from a file.
    """

    name: str
    solve: Solve
    smooth_only: bool = False
    ranges: bool = False
    wide: bool = False
    subsampled: bool = False
    automatic: bool = False
    approach: Callable[[Problem, Array], Array | None] | None = None
    pace: Pace | None = None

    @property
    def in_parts(self) -> bool:
        """Whether it asks for the shares of a point that local problems or lanes have."""
        return self.ranges or self.approach is not None


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("gradient_descent", gradient_descent, smooth_only=True, pace=Pace(11, 28, 5, 2.8)),
        Solver("proximal_gradient", proximal_gradient, wide=True, pace=Pace(4, 17, 2, 1.2, pairs=True)),
        Solver("newton", newton, smooth_only=True, pace=Pace(3, 6, 2, 0.1, renewed=1.0)),
        Solver("proximal_newton", proximal_newton, subsampled=True, pace=Pace(2, 6, 2, 0.4, renewed=0.5)),
        Solver("lbfgs", lbfgs, smooth_only=True, wide=True, pace=Pace(3, 9, 2, 0.4)),
        Solver("admm", admm, ranges=True, pace=Pace(3, 8, 2, 0.65, renewed=0.3)),
        Solver("async_newton", async_newton, approach=optimum_of_prompt, pace=Pace(3, 6, 2, 0.1, renewed=0.5)),
        Solver("async_admm", async_admm, approach=consensus_of_prompt, pace=Pace(3, 8, 2, 0.65, renewed=0.3)),
    )
}
NAMES = (*SOLVERS, "auto")


def get_solver(name: str) -> Solver:
    """Return the solver of this name, or the function ``NAME`` of ``FILE.py:NAME``.

    A function says what it needs by attributes: ``NAME.smooth_only = True``, say.

    Raises
    ------
    UsageError
        An unknown name, a file that does not exist or cannot be imported, or that has no such function.
    """
    if name == "auto":
        return replace(SOLVERS["proximal_newton"], automatic=True)
    if name in SOLVERS:
        return SOLVERS[name]
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        solve = _load(Path(path), function)
        needs: dict[str, Any] = {
            name: bool(getattr(solve, name, False)) for name in ("smooth_only", "ranges", "wide", "subsampled")
        }
        return Solver(function, solve, **needs)
    raise unknown("solver", name, (*NAMES, "FILE.py:FUNCTION"))


def for_columns(solver: Solver, columns: int, smooth: bool) -> Solver:
    """Return the solver for ``columns`` columns, the intercept's among them: another one where the choice was ours.

    Raises
    ------
    UsageError
        Too many columns for the solver.
    """
    if columns <= MOST_COLUMNS or solver.wide:
        return solver
    able = [s for s in SOLVERS.values() if s.wide and (smooth or not s.smooth_only)]
    if solver.automatic:
        return able[-1]
    others = " or ".join(s.name for s in able)
    limit = f"needs the Hessian, which is formed up to {MOST_COLUMNS} columns, and here are {columns}: use {others}"
    raise UsageError("solver", solver.name, limit)


def refuse_classes(solver: Solver, family: Family) -> None:
    """Raise UsageError for a solver that works on local problems' Hessians and a family with several predictors."""
    if solver.in_parts and family.predictors != 1:
        others = ", ".join(s.name for s in SOLVERS.values() if not s.in_parts)
        cure = f"its local problems know nothing of {family.name}'s classes: use one of {others}"
        raise UsageError("solver", solver.name, cure)


def refuse_kink(solver: Solver, has_l1: bool, penalty: str, bounded: bool = False) -> None:
    """Raise UsageError for a solver that needs a smooth penalty and one with an L1 part, or bounds."""
    if solver.smooth_only and bounded:
        others = ", ".join(s.name for s in SOLVERS.values() if not s.smooth_only)
        raise UsageError("--bounds", None, f"{solver.name} knows no bounds: use one of {others}")
    if solver.smooth_only and has_l1:
        others = ", ".join(s.name for s in SOLVERS.values() if not s.smooth_only)
        kinked = "the norm of a group has" if penalty == "group" else "L1 has"
        raise UsageError(
            "--penalty",
            penalty,
            f"{solver.name} needs a smooth penalty, and {kinked} a kink at zero: use one of {others}",
        )


def _load(path: Path, function: str) -> Solve:
    if not path.is_file():
        raise UsageError("solver", path, "no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it runs; afterwards it leaves sys.modules, so that kernels defined in it
    # travel to the workers by value.
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError("solver", path, f"cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        del sys.modules[path.stem]
        if before is not None:
            sys.modules[path.stem] = before
    solve = getattr(module, function, None)
    if not callable(solve):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == path.stem]
        raise unknown(f"solver {path}", function, names)
    return solve  # type: ignore[no-any-return]

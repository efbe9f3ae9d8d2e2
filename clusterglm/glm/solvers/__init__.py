"""The solvers by name, what each needs, and the refusals that follow.

A solver is a function ``(problem, start, stop, trace) -> Solution``: the signature is the interface. ``start`` is a
``Point`` that has been evaluated with its Hessian; ``stop(trace(point))`` is None or a status. Each solver is the
algorithm that its name says.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clusterglm.errors import UsageError, unknown
from clusterglm.glm.problem import Point, Problem, Solution
from clusterglm.glm.solvers.admm import admm
from clusterglm.glm.solvers.gradient_descent import gradient_descent
from clusterglm.glm.solvers.lbfgs import lbfgs
from clusterglm.glm.solvers.newton import newton
from clusterglm.glm.solvers.proximal_gradient import proximal_gradient
from clusterglm.glm.solvers.proximal_newton import proximal_newton
from clusterglm.glm.trace import StoppingRule, Trace

Solve = Callable[[Problem, Point, StoppingRule, Trace], Solution]
MOST_COLUMNS = 4000  # all solvers take their metric from one p x p Hessian


@dataclass(frozen=True)
class Solver:
    """A solver, whether it needs a smooth penalty, and whether points must tell the local problems' shares."""

    name: str
    solve: Solve
    smooth_only: bool = False
    ranges: bool = False


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("gradient_descent", gradient_descent, smooth_only=True),
        Solver("proximal_gradient", proximal_gradient),
        Solver("newton", newton, smooth_only=True),
        Solver("proximal_newton", proximal_newton),
        Solver("lbfgs", lbfgs, smooth_only=True),
        Solver("admm", admm, ranges=True),
    )
}
NAMES = (*SOLVERS, "auto")


def get_solver(name: str) -> Solver:
    """Return the solver of this name, or the function ``NAME`` of ``FILE.py:NAME``.

    A function that needs a smooth penalty says so by an attribute: ``NAME.smooth_only = True``.

    Raises
    ------
    UsageError
        An unknown name, a file that does not exist or cannot be imported, or that has no such function.
    """
    if name == "auto":
        return SOLVERS["proximal_newton"]
    if name in SOLVERS:
        return SOLVERS[name]
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        solve = _load(Path(path), function)
        return Solver(function, solve, getattr(solve, "smooth_only", False), getattr(solve, "ranges", False))
    raise unknown("solver", name, (*NAMES, "FILE.py:FUNCTION"))


def refuse_kink(solver: Solver, has_l1: bool, penalty: str) -> None:
    """Raise UsageError for a solver that needs a smooth penalty and one with an L1 part."""
    if solver.smooth_only and has_l1:
        others = ", ".join(s.name for s in SOLVERS.values() if not s.smooth_only)
        raise UsageError(
            "--penalty",
            penalty,
            f"{solver.name} needs a smooth penalty, and L1 has a kink at zero: use one of {others}",
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

"""What ``clusterglm bench`` compares, checked before anything starts and before a heavy library is imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clusterglm.errors import UsageError
from clusterglm.request import Request
from clusterglm.units import format_size, parse_count

if TYPE_CHECKING:
    from clusterglm.data.synthetic import Synthetic

SOLVERS = ("proximal_gradient", "admm", "auto")
REL_GAP = 1e-8


@dataclass(frozen=True)
class Experiment:
    """What is compared, checked before anything starts.

    Parameters
    ----------
    rows, columns, seed
        The generated rows: binomial, without intercept.
    lamduh : float
        Strength of the L1 penalty beside the sum of the losses, above 0.
    solvers : sequence of str
        Ours; each must take an L1 penalty.
    peers : bool
        Whether scikit-learn's take part.
    workers : int, optional
        Processes of our clusters; one per core where it is left out.

    Raises
    ------
    UsageError
        A value that is no good.
    """

    rows: int | float | str = 8e6
    columns: int = 15
    seed: int = 20009
    lamduh: float = 1.0
    solvers: Sequence[str] = SOLVERS
    peers: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lamduh < math.inf:
            raise UsageError("--lamduh", self.lamduh, "must be greater than 0: scikit-learn takes its reciprocal")
        if not self.solvers:
            raise UsageError("--solvers", '""', "name at least one")
        for i, name in enumerate(self.solvers):
            if name in self.solvers[:i]:
                raise UsageError("--solvers", name, "named twice")
            Request(**self.options(name))

    def options(self, solver: str) -> dict[str, Any]:
        """Return the options of ``clusterglm.fit`` for one of the solvers."""
        numbers = {name: getattr(self, name) for name in ("rows", "columns", "seed", "lamduh")}
        return numbers | {"solver": solver, "penalty": "l1", "intercept": False, "rel_gap": REL_GAP}

    @property
    def source(self) -> Synthetic:
        from clusterglm.data.synthetic import Synthetic

        return Synthetic(parse_count(self.rows), self.columns, self.seed)

    @property
    def workers_used(self) -> int:
        from clusterglm.clusters.embedded import shape

        return shape(self.workers).workers

    def check_memory(self) -> None:
        """Raise UsageError where the rows fit neither into the workers nor into one process of scikit-learn's."""
        import psutil
        from distributed.system import MEMORY_LIMIT

        from clusterglm.clusters.embedded import shape
        from clusterglm.peers import memory_needed

        Request(**self.options(self.solvers[0])).check_memory(*shape(self.workers))
        rows = self.source.rows
        needed, free = memory_needed(rows, self.columns), min(psutil.virtual_memory().available, MEMORY_LIMIT)
        if self.peers and needed > free:
            most = int(free / memory_needed(1, self.columns))
            cure = (
                f"scikit-learn holds all rows in one process, {format_size(needed)} of which {format_size(free)} are "
                f"free: at most {most} rows, or --no-peers"
            )
            raise UsageError("--rows", f"{rows:.6g}", cure)

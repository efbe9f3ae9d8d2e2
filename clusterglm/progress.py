"""Who is told how a fit goes on."""

from __future__ import annotations

from typing import Protocol

from clusterglm.glm.trace import Iteration


class Progress(Protocol):
    """Who is told how a fit goes on."""

    def phase(self, text: str) -> None:
        """Called when a phase begins: ``loading 8e6 rows``."""

    def iteration(self, row: Iteration, null_objective: float, rows: int) -> None:
        """Called after every iteration."""

    def rows(self, done: int, total: int, seconds: float) -> None:
        """Called about once a second in a long pass, ``seconds`` after its beginning, in another thread."""

    def note(self, text: str) -> None:
        """Called with a line that begins with ``note:`` or ``warning:``."""


class Silent:
    """Tells nobody."""

    def phase(self, text: str) -> None: ...
    def iteration(self, row: Iteration, null_objective: float, rows: int) -> None: ...
    def rows(self, done: int, total: int, seconds: float) -> None: ...
    def note(self, text: str) -> None: ...

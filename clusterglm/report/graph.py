"""One pass over the data as a drawing: chunks on the workers, their sums, the tree of sums, the solver.

Here are only coordinates, computed from the plan; ``templates/pass.svg.j2`` draws them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_LANES = 6
_TOP, _LANE, _CHUNK, _TASK, _TREE, _SOLVER = 46, 46, 120, 330, 520, 820


@dataclass(frozen=True)
class Lane:
    """A chunk with its sums, or (``hidden`` above 0) the place of so many chunks that are not drawn."""

    y: float
    chunk: int
    hidden: int = 0


@dataclass
class Pass:
    """The drawing.

    ``lines`` are (x1, y1, x2, y2), ``sums`` the (x, y) of additions, ``workers`` (y, height, label).
    """

    height: float
    lanes: list[Lane]
    lines: list[tuple[float, float, float, float]] = field(default_factory=list)
    sums: list[tuple[float, float]] = field(default_factory=list)
    workers: list[tuple[float, float, str]] = field(default_factory=list)
    solver_y: float = 0.0
    chunk_x: float = _CHUNK
    task_x: float = _TASK
    tree_x: float = _TREE
    solver_x: float = _SOLVER


def draw_pass(plan: dict[str, Any]) -> Pass | None:
    """Return the drawing of one pass, or None for a plan that does not say how many chunks there are."""
    chunks, workers = int(plan.get("chunks") or 0), int(plan.get("workers") or 0)
    if chunks < 1 or workers < 1:
        return None
    lanes = _lanes(chunks)
    drawing = Pass(height=_TOP + _LANE * len(lanes) + 62, lanes=lanes)
    # Chunks lie in row order, every worker its share of neighbours; a hidden stretch may span several workers.
    groups: list[tuple[float, float, str]] = []
    for lane in lanes:
        first = lane.chunk * workers // chunks
        last = (lane.chunk + max(lane.hidden, 1) - 1) * workers // chunks
        label = f"worker {first + 1}" if first == last else f"workers {first + 1} to {last + 1}"
        if groups and groups[-1][2] == label:
            groups[-1] = (groups[-1][0], groups[-1][1] + _LANE, label)
        else:
            groups.append((lane.y - _LANE / 2 + 3, _LANE - 6, label))
    drawing.workers = groups
    level = [(float(_TASK + 110), lane.y) for lane in lanes]
    depth = max(1, (len(lanes) - 1).bit_length())
    step = (_SOLVER - 60 - _TREE) / max(1, depth - 1) if depth > 1 else 0
    for i in range(depth if len(lanes) > 1 else 0):
        x = _TREE + i * step if depth > 1 else (_TREE + _SOLVER) / 2 - 30
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            node = (x, (left[1] + right[1]) / 2)
            drawing.lines += [(*left, *node), (*right, *node)]
            drawing.sums.append(node)
            above.append(node)
        if len(level) % 2:
            above.append(level[-1])
        level = above
    drawing.solver_y = level[0][1]
    drawing.lines.append((*level[0], _SOLVER, drawing.solver_y))
    return drawing


def _lanes(chunks: int) -> list[Lane]:
    if chunks <= MOST_LANES:
        return [Lane(_TOP + _LANE * (i + 0.5), i) for i in range(chunks)]
    shown = [Lane(_TOP + _LANE * (i + 0.5), i) for i in range(MOST_LANES - 2)]
    hidden = chunks - (MOST_LANES - 1)
    shown.append(Lane(_TOP + _LANE * (MOST_LANES - 1.5), MOST_LANES - 2, hidden))
    shown.append(Lane(_TOP + _LANE * (MOST_LANES - 0.5), chunks - 1))
    return shown

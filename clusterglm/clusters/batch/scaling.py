"""From the jobs there are and the number of workers wanted to what has to be done: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from clusterglm.clusters.batch.job import WORKER, Job, number


@dataclass
class Moves:
    """``throttles``: tasks that an array may run at once; ``forsaken``: tasks that wait and shall not come;
    ``leaving``: tasks that hand over their data and end, the newest first; ``more``: workers for which a new array is
    needed."""

    throttles: dict[str, int] = field(default_factory=dict)
    forsaken: list[Job] = field(default_factory=list)
    leaving: list[Job] = field(default_factory=list)
    more: int = 0


def moves(jobs: Sequence[Job], workers: int, throttled: bool = True) -> Moves:
    """Return how the arrays among ``jobs`` come to run ``workers`` tasks, the oldest kept.

    In arrays that are not ``throttled`` whatever waits will run, so none may wait beyond the number wanted.
    """
    tasks = sorted((job for job in jobs if job.role == WORKER), key=lambda job: (number(job.job), number(job.task)))
    running = [job for job in tasks if job.state == "running"]
    kept, found = running[:workers], Moves(leaving=running[workers:][::-1])
    found.more = workers - len(kept)
    for array in dict.fromkeys(job.job for job in tasks):
        waiting = [job for job in tasks if job.job == array and job.state in ("pending", "held")]
        if not waiting:
            continue
        called = min(sum(not job.delayed for job in waiting), found.more)  # nobody waits for those
        found.more -= called
        if not throttled:
            found.forsaken += [job for job in waiting if not job.delayed][called:]
        elif allowed := called + sum(job.job == array for job in kept):
            found.throttles[array] = allowed
        else:
            found.forsaken += waiting  # a throttle of nought means none
    return found


def shares(workers: int, generations: int, most: int) -> list[tuple[int, int]]:
    """Return (tasks, how many of them run at once) of the arrays that ``workers`` need where one has ``most`` tasks."""
    arrays = -(-workers // most)
    each = [workers // arrays + (i < workers % arrays) for i in range(arrays)]
    return [(max(n, min(n * generations, most)), n) for n in each]

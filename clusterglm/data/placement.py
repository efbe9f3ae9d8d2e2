"""Which worker holds which chunk: a pure function, asked when rows are loaded and when workers come or go.

Every worker thread gets its share of the chunks, the same for all but for one chunk. Chunks stay where they are as far
as that allows, because one that moves is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def place(holders: Sequence[str | None], threads: Mapping[str, int]) -> list[str]:
    """Return a worker for every chunk, by address.

    Parameters
    ----------
    holders : sequence of str or None
        Where each chunk lies now; None for nowhere. Workers that are not in ``threads`` are gone.
    threads : mapping
        Worker threads by the worker's address; at least one.
    """
    quota = _quotas(len(holders), threads)
    placed: list[str | None] = []
    for holder in holders:
        stays = holder is not None and quota.get(holder, 0) > 0
        placed.append(holder if stays else None)
        if stays:
            quota[holder] -= 1  # type: ignore[index]
    free = (address for address in sorted(quota) for _ in range(quota[address]))  # neighbours come together
    return [next(free) if holder is None else holder for holder in placed]


def _quotas(chunks: int, threads: Mapping[str, int]) -> dict[str, int]:
    """Return how many of the chunks each worker takes, in proportion to its threads."""
    total, given, seats, quota = sum(threads.values()), 0, 0, {}
    for address in sorted(threads):
        seats += threads[address]
        quota[address] = seats * chunks // total - given
        given += quota[address]
    return quota

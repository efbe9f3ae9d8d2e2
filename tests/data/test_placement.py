"""Who holds which chunk."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clusterglm.data.placement import place

WORKERS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4), min_size=1)
HOLDERS = st.lists(st.one_of(st.none(), st.sampled_from("abcdefghxyz")), max_size=60)


@given(HOLDERS, WORKERS)
def test_every_thread_has_its_share(holders: list[str | None], threads: dict[str, int]) -> None:
    placed = Counter(place(holders, threads))
    fair = len(holders) / sum(threads.values())
    assert placed.keys() <= threads.keys()
    assert all(abs(placed[address] - fair * threads[address]) < 1 for address in threads)


@given(HOLDERS, WORKERS)
def test_no_more_chunks_move_than_must(holders: list[str | None], threads: dict[str, int]) -> None:
    placed = place(holders, threads)
    held, quota = Counter(holders), Counter(placed)
    stayed = sum(a == b for a, b in zip(holders, placed, strict=True))
    assert stayed == sum(min(held[address], quota[address]) for address in threads)


@given(st.integers(0, 60), WORKERS)
def test_neighbours_come_together_at_first_and_stay(chunks: int, threads: dict[str, int]) -> None:
    placed = place([None] * chunks, threads)
    assert placed == sorted(placed)
    assert place(list(placed), threads) == placed


def test_a_worker_that_comes_back_takes_its_share() -> None:
    assert place(["a"] * 4 + ["b"] * 8, {"a": 1, "b": 1, "c": 1}).count("c") == 4

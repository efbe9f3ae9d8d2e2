"""The tasks of a round: what waiting for them leaves behind."""

from __future__ import annotations

import gc
import time
import weakref
from typing import Any

import numpy as np

from clusterglm.data.tasks import waited


def test_waiting_keeps_nothing_of_who_waits(shared_client: Any) -> None:
    """A refusal of Dask's that is caught holds all frames below it until the garbage collector comes."""
    future = shared_client.submit(time.sleep, 0.5, pure=False)

    def sums() -> weakref.ref[np.ndarray]:
        large = np.zeros(1000)
        assert not waited([future], 0.05)
        return weakref.ref(large)

    gc.disable()
    try:
        assert sums()() is None
    finally:
        gc.enable()
    assert waited([future], 30)
    assert waited([future, shared_client.submit(time.sleep, 5, pure=False)], 30, "FIRST_COMPLETED")

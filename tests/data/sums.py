"""Kernels for rows on workers, which import them from here."""

from __future__ import annotations

import os
import signal

import numpy as np

from clusterglm.data.chunk import Block


def gradient(block: Block, beta: np.ndarray) -> tuple[float, np.ndarray]:
    residual = block.X @ beta - block.y
    return float(residual @ residual), block.X.T @ residual


def gradient_or_death(block: Block, beta: np.ndarray, flag: str) -> tuple[float, np.ndarray]:
    """Kill this worker once, in the middle of a pass."""
    if block.start == 8192 * 20:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return gradient(block, beta)


def squares(block: Block, beta: np.ndarray) -> tuple[float]:
    """Return the sum of the squared coefficients, once a row."""
    return (len(block.y) * float(beta @ beta),)

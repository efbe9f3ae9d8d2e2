"""What happens to a job of a worker on Slurm: ``(slurm, task, node)`` are a fixture, the task's number and its node."""

from __future__ import annotations

from typing import Any


def cancel(slurm: Any, task: str, node: str) -> None:
    slurm.command("scancel", task)


def kill(slurm: Any, task: str, node: str) -> None:
    slurm.command("scancel", "--batch", "--signal=KILL", task)


def requeue(slurm: Any, task: str, node: str) -> None:
    slurm.command("scontrol", "requeue", task)

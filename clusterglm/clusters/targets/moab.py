"""``moab``: Moab over Torque. Its msub takes Torque's words; jobs are listed and ended by Torque's commands."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import ClassVar

from clusterglm.clusters.batch.job import Queue
from clusterglm.clusters.targets.pbs import PBS, PBSQueue


class MoabQueue(PBSQueue):
    """The commands of Moab."""

    system = "moab"

    def __init__(self) -> None:
        super().__init__("msub", "-t")

    def here(self) -> bool:
        return shutil.which("msub") is not None


@dataclass(frozen=True)
class Moab(PBS):
    """Jobs of Moab over Torque: the scheduler is one, the workers are an array of them."""

    target: ClassVar[str] = "moab"
    section: ClassVar[str] = "moab"
    mark: ClassVar[str] = "#MSUB"
    usual: ClassVar[str] = "torque"

    @property
    def commands(self) -> Queue:
        return MoabQueue()

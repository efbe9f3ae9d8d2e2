"""Where a command works: what ``fit`` and its relatives have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clusterglm.errors import ClusterError, UsageError
from clusterglm.units import parse_count, parse_duration, parse_memory

if TYPE_CHECKING:
    from distributed import Client

    from clusterglm.clusters.crew import Crew

# The options of every command that works on a cluster, said once.
Cluster = Annotated[str | None, typer.Option(metavar="NAME", help="A cluster that `clusterglm up` started.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler that runs already.")]
SchedulerFile = Annotated[str | None, typer.Option(metavar="FILE", help="Where a Dask scheduler wrote its address.")]
AllowMismatch = Annotated[bool, typer.Option(help="Go on where the cluster's versions differ.")]
Workers = Annotated[str | None, typer.Option(metavar="N", help="Processes of the cluster that this command starts.")]
Threads = Annotated[str | None, typer.Option(metavar="N", help="Threads of each of them.  [default: 1]")]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of each of them, such as 4GB.")]
Hosts = Annotated[
    str | None, typer.Option(metavar="HOSTS", help="Look on these hosts too, a,b,c or an inventory (up ssh).")
]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Give up when the cluster takes longer to answer.")]


@dataclass(frozen=True)
class Where:
    """The running cluster that the options name; none of them means one that the command starts itself.

    Raises
    ------
    UsageError
        Two clusters are named, or the time limit is none.
    """

    cluster: str | None = None
    scheduler: str | None = None
    scheduler_file: str | None = None
    timeout: str | None = None
    allow_version_mismatch: bool = False
    least: int | None = None  # workers, of a cluster whose number of them follows the fit
    most: int | None = None

    def __post_init__(self) -> None:
        if len(self.named) > 1:
            raise UsageError(self.named[1], None, f"given together with {self.named[0]}: give one of them")
        _ = self.seconds

    @property
    def named(self) -> list[str]:
        places = {"--cluster": self.cluster, "--scheduler": self.scheduler, "--scheduler-file": self.scheduler_file}
        return [option for option, value in places.items() if value is not None]

    @property
    def seconds(self) -> int | None:
        return None if self.timeout is None else parse_duration(self.timeout)

    def own_cluster(self, workers: str | None, threads_per_worker: str | None, memory: str | None) -> dict[str, int]:
        """Return the shape of the command's own cluster, as far as it is given.

        Raises
        ------
        UsageError
            Not a number or a size, or a running cluster is named too.
        """
        own = {}
        if workers is not None:
            own["workers"] = parse_count(workers, "--workers", of="workers")
        if threads_per_worker is not None:
            own["threads_per_worker"] = parse_count(threads_per_worker, "--threads-per-worker", of="threads")
        if memory is not None:
            own["memory"] = parse_memory(memory)
        if self.named and own:
            option = f"--{next(iter(own)).replace('_', '-')}"
            cure = f"belongs to a cluster that the command starts itself: leave it out with {self.named[0]}"
            raise UsageError(option, None, cure)
        return own

    def hourly(self) -> float | None:
        """Return the dollars that an hour of the cluster costs, None where it costs none or nobody knows."""
        if self.cluster is None:
            return None
        from clusterglm.clusters.launcher import Account
        from clusterglm.clusters.lookup import lookup

        launcher, record = lookup(self.cluster)
        if not isinstance(launcher, Account):
            return None
        dollars, complete = launcher.hourly(record)
        return dollars if complete else None

    @contextlib.contextmanager
    def client(self, phase: Callable[[str], object]) -> Iterator[tuple[Client | None, Crew | None]]:
        """Yield the client of a running cluster, and its workers where they can be asked for; None for none.

        A cluster that waits in the queue of a batch system is waited for; ``phase`` is called with what for.

        Raises
        ------
        UsageError
            Not an address, or no such cluster.
        ClusterError
            It does not answer, or its versions differ.
        """
        if not self.named:
            yield None, None
            return
        crew, mismatch = None, self.allow_version_mismatch
        if self.cluster is not None:
            from clusterglm.clusters.crew import Crew
            from clusterglm.clusters.lookup import await_cluster, connect_cluster

            await_cluster(self.cluster, "--cluster", self.seconds, phase)
            client = connect_cluster(self.cluster, timeout=self.seconds, allow_version_mismatch=mismatch)
            crew = Crew(self.cluster, self.least, self.most)
        else:
            from clusterglm.clusters.connect import connect, read_scheduler_file

            file = Path(self.scheduler_file or "")
            address = read_scheduler_file(file, self.seconds) if self.scheduler is None else self.scheduler
            beside = file.parent / "tls"  # where `clusterglm keys` has put them
            keys = beside if self.scheduler is None and address.startswith("tls:") and beside.is_dir() else None
            client = connect(address, timeout=self.seconds, allow_version_mismatch=mismatch, keys=keys)
        from clusterglm.clusters.connect import disconnect
        from clusterglm.clusters.settings import quiet

        with quiet():  # a scheduler that goes is told in one line, by the command
            try:
                yield client, crew
            finally:
                if crew is not None:
                    crew.release()
                disconnect(client)

    @contextlib.contextmanager
    def client_or_own(self, own: dict[str, int], phase: Callable[[str], object]) -> Iterator[Client]:
        """Yield the client of the cluster that is named, or of one of the shape ``own`` for this command alone.

        Raises what ``client`` raises, and ClusterError where the scheduler goes meanwhile.
        """
        with contextlib.ExitStack() as stack:
            client, _ = stack.enter_context(self.client(phase))
            if client is None:
                from clusterglm.clusters.embedded import embedded

                phase("starting a local cluster")
                client, _ = stack.enter_context(embedded(**own, timeout=self.seconds))
            try:
                yield client
            except ClusterError:
                raise
            except Exception as error:
                if client.status == "running":
                    raise
                raise ClusterError("cluster", None, "the scheduler is gone") from error

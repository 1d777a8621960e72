"""The processes of a job, as one value."""

import dataclasses

from palmscale.cluster.agree import Peers
from palmscale.cluster.join import Deadlines
from palmscale.cluster.watchdog import Watchdog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The processes of a job, this process's watchdog, and the timeouts."""

    peers: Peers
    watchdog: Watchdog
    deadlines: Deadlines

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints for the whole job."""
        return self.peers.index == 0

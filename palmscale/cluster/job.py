"""The processes of a job, as one value."""

import dataclasses
from collections.abc import Callable

from palmscale.cluster.agree import Peers
from palmscale.cluster.join import Deadlines
from palmscale.cluster.watchdog import Watchdog


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The processes of a job, this process's watchdog, and the timeouts.

    `leave` ends this process at once with an exit code and a reason, which the others learn. None:
    it belongs to someone's program, which outlives the job.
    """

    peers: Peers
    watchdog: Watchdog
    deadlines: Deadlines
    leave: Callable[[int, str], None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints for the whole job."""
        return self.peers.index == 0

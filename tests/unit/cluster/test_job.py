import board

from palmscale.cluster.job import Job
from palmscale.cluster.join import Deadlines


def test_process_0_leads():
    jobs = [Job(peers=one, watchdog=None, deadlines=Deadlines()) for one in board.peers(3)]
    assert [job.leads for job in jobs] == [True, False, False]

"""Process groups in /proc."""

import os
import signal
import subprocess
import time

from northstar.linux import procfs


def test_the_members_of_a_process_group_and_their_states() -> None:
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True) as leader:
        try:
            deadline = time.monotonic() + 10
            while len(procfs.process_group(leader.pid)) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            assert leader.pid in procfs.process_group(leader.pid)
            assert os.getpid() not in procfs.process_group(leader.pid)

            os.killpg(leader.pid, signal.SIGSTOP)
            while set(procfs.process_group(leader.pid).values()) != {"T"}:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            os.killpg(leader.pid, signal.SIGKILL)

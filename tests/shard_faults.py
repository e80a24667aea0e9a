"""Encoders whose process meets with something; apart from the tests, so that it is loaded quickly in each process."""

import errno
import os
import signal
import time
from pathlib import Path

from dear.data import shard_pool
from dear.data.shards import prepare


def prepare_by_forks(*arguments, **options) -> None:
    """Prepare in processes that are forked: a fork server of its own would load torch anew each time."""
    shard_pool.METHOD = "fork"
    prepare(*arguments, **options)


def noted(home: Path, load):
    """No encoders for a minute, after the process has left its number in a folder."""
    (home / str(os.getpid())).touch()
    time.sleep(60)
    return load()


def killed(load):
    """The process is killed, as by a machine that is short of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_after(clips: int, load):
    """Encoders in a process whose disk is full after so many clips."""
    import webdataset

    write, written = webdataset.TarWriter.write, []

    def fail(self, sample):
        written.append(sample)
        if len(written) > clips:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, sample)

    webdataset.TarWriter.write = fail
    return load()

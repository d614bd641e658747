"""Several processes that share one evaluation, each replaced after some runs."""

import os
import pathlib
import tempfile

from tf_amalgam import processes, sweep
from tf_amalgam.checks import check_whole
from tf_amalgam.processes import LOGS

# TensorFlow keeps some megabytes of every run for the life of a process.
RUNS_PER_PROCESS = 100


def share(parent, since=None) -> dict:
    """Returns what a process is told that does a share of the runs of `parent`.

    Beside its .gin files. It shows nothing, ends after its share of runs, and takes no
    more of them once its parent is gone, however that ended.

    Args:
        parent: number of the process that started this one.
        since: when that began; what a process failed to do after it is left alone, or
            its share would be spent on it again.
    """
    return {
        "progress": False,
        "write_report": False,
        "limit": RUNS_PER_PROCESS,
        # A process whose parent has ended gets another one.
        "halt": lambda: os.getppid() != parent,
        "since": since,
    }


def _now(folder):
    """Returns the time by the clock that stamps a folder's files, in nanoseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime_ns


class Workers:
    """Processes of `amalgam-evaluate` on one folder, each with its `share`.

    Args:
        count: how many at the same time; they share out the GPUs of this machine.
        gin_files, gin_bindings, workdir: what they evaluate; output goes to
            `workdir/logs`.
    """

    def __init__(self, count, gin_files, gin_bindings, workdir):
        check_whole("parallel", count, 1)
        self._command = (gin_files, gin_bindings, workdir)
        self._workdir = pathlib.Path(workdir)
        self._count = count
        self._since = None  # by the clock of the folder, which may be a server's
        self._waiting = list(range(count))
        # Process → (its number, how many runs were left when it began).
        self._running = {}

    def work(self, left) -> int:
        """Replaces processes that have done their share; returns how many work now.

        Args:
            left: number of runs that are still to be done, none of those that failed.
        """
        for process in [p for p in self._running if p.poll() is not None]:
            number, before = self._running.pop(process)
            left -= sweep.blame(self._workdir, process)
            # One that could do nothing would do nothing again.
            if left < before:
                self._waiting.append(number)
        while self._waiting and left > len(self._running):
            number = self._waiting.pop()
            if self._since is None:
                self._since = _now(self._workdir / LOGS)
            log = self._workdir / LOGS / f"worker-{number}.txt"
            flags = (
                f"--worker_of={os.getpid()}",
                f"--worker_since={self._since}",
            )
            gpus = processes.share_of_gpus(number, self._count)
            process = processes.started(
                "evaluate", *self._command, log, flags, gpus=gpus
            )
            self._running[process] = (number, left)
        return len(self._running)

    def stop(self):
        """Interrupts all; at most the runs in flight are lost."""
        processes.interrupt(self._running)
        self._running = {}

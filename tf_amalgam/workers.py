"""Several processes that share one evaluation, each replaced after some runs."""

import pathlib

from tf_amalgam import processes

# TensorFlow keeps some megabytes of every run for the life of a process.
RUNS_PER_PROCESS = 100
LOGS = "logs"


class Workers:
    """Processes of `amalgam-evaluate` on one folder.

    Args:
        count: how many at the same time.
        gin_files, gin_bindings, workdir: what they evaluate; output goes to
            `workdir/logs`.
        runs: after how many a process is replaced.
    """

    def __init__(self, count, gin_files, gin_bindings, workdir, runs=RUNS_PER_PROCESS):
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"parallel must be a whole number from 1, received {count}."
            )
        bindings = ["evaluate.progress = False", "evaluate.write_report = False"]
        self._command = (
            gin_files,
            [*gin_bindings, *bindings, f"evaluate.limit = {runs}"],
            workdir,
        )
        self._workdir = pathlib.Path(workdir)
        self._waiting = list(range(count))
        # Process → (its number, how many runs were left when it began).
        self._running = {}

    def work(self, left) -> bool:
        """Replaces processes that have done their share; whether any still works.

        Args:
            left: number of runs that are still to be done.
        """
        for process in [p for p in self._running if p.poll() is not None]:
            number, before = self._running.pop(process)
            # One that could do nothing would do nothing again.
            if left < before:
                self._waiting.append(number)
        while self._waiting and left > len(self._running):
            number = self._waiting.pop()
            log = self._workdir / LOGS / f"worker-{number}.txt"
            process = processes.started("evaluate", *self._command, log)
            self._running[process] = (number, left)
        return bool(self._running)

    def stop(self):
        """Interrupts all; at most the runs in flight are lost."""
        processes.interrupt(self._running)
        self._running = {}

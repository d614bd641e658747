"""Which job of a list is next: after those it needs, and after what may kill us."""

import contextlib
import hashlib
import pathlib
from collections import Counter, deque
from typing import Any

from tf_amalgam import files

# Folder of marks of the jobs that run.
BEGUN = ".begun"


def check_order(jobs):
    """Raises ValueError for jobs that wait for one another, before any starts."""
    queue = Queue(jobs)
    while queue.ready:
        queue.finish(queue.ready.popleft())
    if queue.waiting:
        names = ", ".join(list(queue.waiting)[:5])
        raise ValueError(f"These jobs wait for one another: {names}.")


class Marks:
    """Files that name the jobs that run; a process that is killed leaves its own."""

    def __init__(self, folder):
        self._folder = pathlib.Path(folder) / BEGUN

    def left(self):
        """Returns the names of jobs that have a mark."""
        found = set()
        for path in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # another process has just removed it
                found.add(path.read_text("utf-8"))
        return found

    def put(self, job):
        """Marks a job that is about to start."""
        files.write_text(self._of(job), job.name)

    def remove(self, job):
        """Takes the mark of a job away, which has ended."""
        self._of(job).unlink(missing_ok=True)

    def _of(self, job):
        return self._folder / hashlib.sha256(job.name.encode()).hexdigest()[:16]


class Queue:
    """The jobs that are not done: ready ones, and those that wait for others.

    Args:
        undone: all of them.
        last: names of those that come last.
    """

    def __init__(self, undone, last=()):
        # What is run always looks first whether all that is there is its own.
        undone = sorted(undone, key=lambda job: job.name in last and not job.always)
        self.ready: deque = deque()
        self.waiting: dict[str, Any] = {}
        # What may be waited for → how many such jobs are undone.
        self._left: Counter = Counter(n for job in undone for n in _names(job.name))
        self._waiters: dict[str, list] = {}
        self._missing: dict[str, int] = {}
        for job in undone:
            needs = [name for name in job.after if self._left[name]]
            if not needs:
                self.ready.append(job)
                continue
            self.waiting[job.name] = job
            self._missing[job.name] = len(needs)
            for name in needs:
                self._waiters.setdefault(name, []).append(job.name)

    def finish(self, job):
        """Takes note that a job is done."""
        freed = []
        for name in _names(job.name):
            self._left[name] -= 1
            if self._left[name]:
                continue
            for waiter in self._waiters.pop(name, ()):
                self._missing[waiter] -= 1
                if not self._missing[waiter]:
                    freed.append(self.waiting.pop(waiter))
        # Before what else is ready: the sooner one sees what came out of a job.
        self.ready.extendleft(reversed(freed))


def _names(name):
    """Yields a name, and the parts of it by which others may wait for it."""
    yield name
    parts = name.split("/")
    for i in range(1, len(parts)):
        yield "/".join(parts[:i]) + "/"

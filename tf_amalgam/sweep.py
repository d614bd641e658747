"""Many small jobs over one folder: resumable, shared by processes, killed at any time.

What is finished is on disk, and what is being run is locked. A lock belongs to its
process and ends with it, however that ends.
"""

import errno
import hashlib
import os
import pathlib
import socket
import time
import traceback
from typing import NamedTuple

from tf_amalgam import files, processes
from tf_amalgam.checks import first_of
from tf_amalgam.processes import LOGS
from tf_amalgam.progress import Bar

FAILURE_SUFFIX = ".failed.txt"
BEGUN_SUFFIX = ".begun"  # of a file beside that of a job, while a process does it
# Seconds between looks at what other processes are running.
PATIENCE = 1.0
# What makes every later write fail too.
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Job(NamedTuple):
    """One job: the file that it will write, and what to say while it runs."""

    path: pathlib.Path
    title: str


def sweep(
    jobs,
    run,
    folder,
    *,
    progress=True,
    description="running",
    limit=None,
    meanwhile=None,
    halt=None,
    since=None,
):
    """Runs every job whose file does not exist yet, until all files exist.

    Processes with the same jobs and folder divide the work: each takes what no other
    has taken. A job that raises is not tried again in this call; its traceback lies
    beside its file, ending in `.failed.txt`, until it succeeds. What killed processes
    left half written in the folder is removed first (`files.remove_abandoned`).

    Args:
        jobs: sequence of `Job`.
        run: `run(index)` does jobs[index] and writes its file atomically.
        folder: where the locks lie.
        progress: whether to show one progress bar over all jobs.
        description: its first word.
        limit: at most so many jobs in this call; None for all.
        meanwhile: `meanwhile(left)` is called again and again after the limit is
            reached, for as long as it says that others still work (it returns how
            many); what they leave undone has failed. `left` is the number of jobs that
            are undone and were not failed since this call began. The bar then shows
            how many work, and how many jobs they failed to do.
        halt: `halt()` is asked before each job; once it says yes, the call takes no
            more and leaves the rest, as after the limit.
        since: what another process failed to do after this time (as of `time.time_ns`)
            is not tried again either, and does not count against the limit.

    Raises:
        RuntimeError: naming the jobs that failed here, after all others have ended.
        OSError: where the disk is full, read-only or broken; at once, since no other
            file could be written either.
    """
    _clean({pathlib.Path(folder), *(job.path.parent for job in jobs)})
    waiting = _undone(jobs, range(len(jobs)))
    before = {i: _failed_at(jobs[i]) for i in waiting}
    failed: dict[int, str] = {}
    taken = 0

    def tried(i):
        return since is not None and (_failed_at(jobs[i]) or 0) >= since

    def lost(places):
        return sum(_failed_at(jobs[i]) not in (None, before[i]) for i in places)

    def ended():
        return taken == limit or bool(halt and halt())

    with Bar(
        total=len(jobs),
        initial=len(jobs) - len(waiting),
        desc=description,
        unit="run",
        disable=not progress,
    ) as bar:
        advance = _Advance(bar, jobs)
        while waiting:
            elsewhere = []
            for i in waiting:
                if ended():
                    break
                with _lock(folder, jobs[i].path) as mine:
                    files.look_anew(jobs[i].path.parent)
                    if not mine:
                        elsewhere.append(i)
                    elif not (jobs[i].path.is_file() or tried(i)):
                        bar.say(_status(jobs[i].title, _others(elsewhere), len(failed)))
                        taken += 1
                        if said := _done(jobs[i], lambda i=i: run(i)):
                            failed[i] = said
                advance(at_once=False)
            if ended():
                waiting = _undone(jobs, waiting)
                left = len(waiting) - lost(waiting)
                working = int(meanwhile(left)) if waiting and meanwhile else 0
                if not working:
                    break
                bar.say(_status(f"{working} running", "", lost(waiting)))
            else:
                waiting = [i for i in _undone(jobs, elsewhere) if not tried(i)]
                bar.say(_status("", _others(waiting), len(failed)))
            if waiting:
                time.sleep(PATIENCE)
                advance()
        advance()
    if meanwhile:
        failed |= {i: _said(jobs[i], folder) for i in waiting}
    # Another process may have had more luck since.
    failed = {i: said for i, said in failed.items() if not jobs[i].path.is_file()}
    if failed:
        first = next(iter(failed))
        named = first_of(jobs[i].title for i in failed)
        raise RuntimeError(
            f"{len(failed)} of {len(jobs)} runs failed: {named}. The first: "
            f"{failed[first]} (see {_where(jobs[first], folder)}). Finished runs are "
            "kept; the same command tries the others again."
        )


def _clean(folders):
    for folder in folders:
        files.remove_abandoned(folder)


def failures(folder):
    """Returns the paths of the tracebacks of jobs that have no file yet."""
    return [
        path
        for path in sorted(pathlib.Path(folder).rglob(f"*{FAILURE_SUFFIX}"))
        if not (path.parent / f"{_stem(path)}.json").is_file()
    ]


def _stem(path):
    return path.name.removesuffix(FAILURE_SUFFIX)


def blame(folder, process) -> int:
    """Writes down that a killed process has failed to do what it was doing.

    So that others of its call leave that alone: it may have been what killed it, for
    want of memory say.

    Args:
        folder: of the sweep.
        process: a `subprocess.Popen` that has ended.

    Returns:
        How many jobs it was doing, one or none.
    """
    if process.returncode >= 0:
        return 0
    name, found = processes.killer(process.returncode), 0
    for path in pathlib.Path(folder).glob(f"*/*{BEGUN_SUFFIX}"):
        try:
            whose = path.read_text("utf-8")
        except FileNotFoundError:  # another one has just done its own
            continue
        if whose == _whose(process.pid):
            path.unlink(missing_ok=True)
            job = Job(path.with_suffix(".json"), "")
            said = f"The process that did this run was killed by {name}."
            files.write_text(_failure(job), f"{said}\n")
            found += 1
    return found


def _whose(number):
    """Returns what tells a process of this machine from all others."""
    return f"{socket.gethostname()} {number}"


def _done(job, run):
    """Runs one job; returns nothing, or why it failed, which it also writes down."""
    begun = job.path.with_suffix(BEGUN_SUFFIX)
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text(_whose(os.getpid()), "utf-8")
    try:
        return _told(job, run)
    finally:  # but where the process is killed
        begun.unlink(missing_ok=True)


def _told(job, run):
    try:
        run()
        if not job.path.is_file():
            raise RuntimeError(f"the run ended without writing {job.path}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FATAL:
            raise
        files.write_text(_failure(job), traceback.format_exc())
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    _failure(job).unlink(missing_ok=True)
    return ""


def _said(job, folder):
    """Returns why another process failed to do a job."""
    where = _where(job, folder)
    said = where.read_text("utf-8").strip() if where.is_file() else ""
    last = said.splitlines()[-1] if said else "no process left a word"
    return last if where == _failure(job) else f"no process did it ({last})"


def _where(job, folder):
    """Returns where it says why a job was not done: its traceback, or a log.

    A process that a full disk has stopped leaves no traceback beside the job.
    """
    logs = sorted(
        (path.stat().st_mtime_ns, path)
        for path in (pathlib.Path(folder) / LOGS).glob("*.txt")
    )
    if _failure(job).is_file() or not logs:
        return _failure(job)
    return logs[-1][1]


def _undone(jobs, places):
    return [i for i in places if not jobs[i].path.is_file()]


def _failed_at(job):
    """Returns when the traceback of a job was written; None where there is none."""
    try:
        return _failure(job).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _failure(job):
    return job.path.with_suffix(FAILURE_SUFFIX)


class _Advance:
    """Moves a bar to how many jobs are done: others do some, so what is on disk counts.

    Of many jobs a look at all takes as long as a short job does.
    """

    def __init__(self, bar, jobs):
        self._bar, self._jobs = bar, jobs
        self._left = range(len(jobs))
        self._looked = 0.0

    def __call__(self, at_once=True):
        if at_once or time.monotonic() - self._looked > PATIENCE:
            self._left = _undone(self._jobs, self._left)
            self._bar.reach(len(self._jobs) - len(self._left))
            self._looked = time.monotonic()


def _others(elsewhere):
    return f"{len(elsewhere)} in other processes" if elsewhere else ""


def _status(title, others, failed):
    return ", ".join(
        filter(None, [title, others, f"{failed} failed" if failed else ""])
    )


def _lock(folder, path):
    # Named by content: labels may be long, and locks lie in one flat folder.
    name = hashlib.sha256(str(path.relative_to(folder)).encode()).hexdigest()[:24]
    return files.locked(pathlib.Path(folder) / files.LOCKS / name, wait=False)

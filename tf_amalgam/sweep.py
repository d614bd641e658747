"""Many small jobs over one folder: resumable, shared by processes, killed at any time.

What is finished is on disk, and what is being run is locked. A lock belongs to its
process and ends with it, however that ends.
"""

import contextlib
import fcntl
import hashlib
import pathlib
import time
import traceback
from typing import NamedTuple

import tqdm

from tf_amalgam import files

LOCKS = ".locks"
FAILURE_SUFFIX = ".failed.txt"
# Seconds between looks at what other processes are running.
PATIENCE = 1.0


class Job(NamedTuple):
    """One job: the file that it will write, and what to say while it runs."""

    path: pathlib.Path
    title: str


def sweep(jobs, run, folder, *, progress=True, description="running"):
    """Runs every job whose file does not exist yet, until all files exist.

    Processes with the same jobs and folder divide the work: each takes what no other
    has taken. A job that raises is not tried again in this call; its traceback lies
    beside its file, ending in `.failed.txt`, until it succeeds.

    Args:
        jobs: sequence of `Job`.
        run: `run(index)` does jobs[index] and writes its file atomically.
        folder: where the locks lie.
        progress: whether to show one progress bar over all jobs.
        description: its first word.

    Raises:
        RuntimeError: naming the jobs that failed here, after all others have ended.
        OSError: where a file cannot be written (a full disk, say); at once, since no
            other could be written either.
    """
    waiting = [i for i, job in enumerate(jobs) if not job.path.is_file()]
    failed: list[int] = []
    with tqdm.tqdm(
        total=len(jobs),
        initial=len(jobs) - len(waiting),
        desc=description,
        unit="run",
        disable=not progress,
    ) as bar:
        while waiting:
            elsewhere = []
            for i in waiting:
                with _lock(folder, jobs[i].path) as mine:
                    if not mine:
                        elsewhere.append(i)
                    elif not jobs[i].path.is_file():
                        bar.set_postfix_str(_status(jobs[i].title, elsewhere, failed))
                        if not _done(jobs[i], lambda i=i: run(i)):
                            failed.append(i)
                _advance(bar, jobs)
            waiting = [i for i in elsewhere if not jobs[i].path.is_file()]
            if waiting:
                bar.set_postfix_str(_status("", waiting, failed))
                time.sleep(PATIENCE)
                _advance(bar, jobs)
    if failed:
        named = ", ".join(jobs[i].title for i in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        first = _failure(jobs[failed[0]])
        last_line = first.read_text().strip().splitlines()[-1]
        raise RuntimeError(
            f"{len(failed)} of {len(jobs)} runs failed: {named}{more}. The first: "
            f"{last_line} (see {first}). Finished runs are kept; the same command "
            "tries the others again."
        )


def failures(folder):
    """Returns the paths of the tracebacks of jobs that have failed so far."""
    return sorted(pathlib.Path(folder).rglob(f"*{FAILURE_SUFFIX}"))


def _done(job, run):
    """Runs one job; returns whether it went well, and writes down why not."""
    try:
        run()
    except OSError:
        raise
    except Exception:
        files.write_text(_failure(job), traceback.format_exc())
        return False
    _failure(job).unlink(missing_ok=True)
    return True


def _failure(job):
    return job.path.with_suffix(FAILURE_SUFFIX)


def _advance(bar, jobs):
    # Others finish jobs too, so what counts is what is on disk.
    bar.update(sum(job.path.is_file() for job in jobs) - bar.n)


def _status(title, elsewhere, failed):
    parts = [title] if title else []
    if elsewhere:
        parts.append(f"{len(elsewhere)} in other processes")
    if failed:
        parts.append(f"{len(failed)} failed")
    return ", ".join(parts)


@contextlib.contextmanager
def _lock(folder, path):
    """Yields whether this process, and no other, may make a file now."""
    # Named by content: labels may be long, and locks lie in one flat folder.
    name = hashlib.sha256(str(path.relative_to(folder)).encode()).hexdigest()[:24]
    place = pathlib.Path(folder) / LOCKS / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True

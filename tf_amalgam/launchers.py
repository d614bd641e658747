"""Running lists of jobs: here, as some processes at a time, or on a Ray cluster."""

import pathlib
from typing import Any

from tf_amalgam import jobs as listed
from tf_amalgam import upcoming
from tf_amalgam.checks import first_of
from tf_amalgam.engines import Local, Ray
from tf_amalgam.processes import LOGS
from tf_amalgam.progress import Bar

LAUNCHERS = ("local", "ray")


def launcher(name, parallel=1, address=None, retries=3):
    """Returns a launcher by name.

    Args:
        name: `"local"` or `"ray"`.
        parallel: of `"local"`, processes at a time.
        address: of `"ray"`, of the cluster; None starts one on this machine (or takes
            the one that `RAY_ADDRESS` names).
        retries: of `"ray"`, how often a lost job is begun again.

    Raises:
        ValueError: for another name or number, or without Ray.
    """
    if name == "local":
        return Local(parallel)
    if name == "ray":
        return Ray(address, retries)
    raise ValueError(
        f"launcher must be one of {', '.join(LAUNCHERS)}; received {name!r}."
    )


def run(jobs, on, folder, *, progress=True, description="running", ended=None):
    """Runs what is not done; returns why jobs failed, by name.

    Each job starts when those that it comes after are done, as far as they are in the
    list, and is then the next. One that fails is not tried again in this call (a lost
    one is, by Ray); those that come after it are left. What was running (on Ray,
    what was handed over) when an earlier call was killed, with all its processes, comes
    last: it may have been what killed it, for want of memory say. (What is run `always`
    keeps its place.)

    Args:
        jobs: sequence of `jobs.Job`.
        on: a launcher.
        folder: for the logs.
        progress: whether to show a progress bar.
        description: its first word.
        ended: `ended(job, error)` is called after each; error is "" where it went well.

    Raises:
        ValueError: for two jobs of one name, or jobs that wait for one another.
        KeyboardInterrupt: on Ctrl-C, after what was running has been stopped.
    """
    listed.check(jobs)
    undone = [job for job in jobs if not job.done]
    upcoming.check_order(undone)
    on.check(undone)
    marks = upcoming.Marks(folder)
    queue = upcoming.Queue(undone, marks.left())
    running: dict[Any, listed.Job] = {}
    failed: dict[str, str] = {}
    with Bar(
        total=len(jobs),
        initial=len(jobs) - len(undone),
        desc=description,
        unit="job",
        disable=not progress,
    ) as bar:
        try:
            while queue.ready or running:
                while queue.ready and on.has_room(len(running)):
                    job = queue.ready.popleft()
                    marks.put(job)
                    try:
                        running[on.start(job, log_of(job, folder))] = job
                    except BaseException:
                        marks.remove(job)
                        raise
                for handle, error in on.ended(running):
                    job = running.pop(handle)
                    marks.remove(job)
                    if not error and job.makes and not job.done_elsewhere():
                        error = f"it ended without {', '.join(job.makes)}"
                    if error:
                        failed[job.name] = error
                    else:
                        queue.finish(job)
                        bar.update()
                    if ended:
                        ended(job, error)
                bar.say(_status(running, failed))
        except BaseException:
            try:
                on.stop(running)
            finally:
                for job in running.values():
                    marks.remove(job)
            raise
    return failed


def log_of(job, folder) -> pathlib.Path:
    """Returns where a job's output goes."""
    return pathlib.Path(job.log or pathlib.Path(folder) / LOGS / f"{job.name}.txt")


def check(failed, jobs, folder):
    """Raises RuntimeError naming the jobs that failed, if any did."""
    if failed:
        first = next(iter(failed))
        by_name = {job.name: job for job in jobs}
        named = first_of(failed)
        left = sum(bool(j.after) and not j.done for j in jobs if j.name not in failed)
        after = f" {left} that come after them were left." if left else ""
        raise RuntimeError(
            f"{len(failed)} of {len(jobs)} jobs failed: {named}.{after} The "
            f"first: {failed[first]} (see {log_of(by_name[first], folder)}). What is "
            "done is kept; the same command tries the others again."
        )


def _status(running, failed):
    told = [f"{len(running)} running" if running else ""]
    told.append(f"{len(failed)} failed" if failed else "")
    return ", ".join(filter(None, told))

"""The launchers: what runs jobs, as processes of this machine or on a Ray cluster."""

import contextlib
import logging
import os
import pathlib
import signal
import threading
import time
from typing import Any

from tf_amalgam import processes
from tf_amalgam.checks import check_whole

# Seconds between looks at what is running.
PATIENCE = 0.2
# Status of a program that a SIGINT or SIGTERM has ended in good order.
INTERRUPTED = 128 + signal.SIGINT
# Status of a program whose folder is of another experiment, and how that is told.
ANOTHER = 3
OF_ANOTHER = "its folder holds another experiment"
# What becomes of a job that is killed for no fault of its own. (Of a fault of its own,
# SIGSEGV or SIGABRT say, it would die again.)
LOST = (INTERRUPTED, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
# What is no business of other machines: a place in a cluster, this one's memory.
OF_THIS_MACHINE = ("TF_CONFIG", "TF_CPU_BFC_MEM_LIMIT_IN_MB")
SAID = 300  # characters of what Ray says; advice comes last
# Jobs that are handed to Ray at a time, which keeps the others in no memory.
ON_RAY = 1000


class Failed(RuntimeError):
    """A job ended without having done its work."""


class Lost(RuntimeError):
    """A job was killed, or the machine that it ran on is gone."""


class ClusterLost(RuntimeError):
    """The cluster that jobs were handed to does not answer any more."""


class Local:
    """Runs jobs as processes of this machine, so many at a time.

    Its GPUs are shared out among them.
    """

    def __init__(self, parallel=1):
        check_whole("parallel", parallel, 1)
        self._parallel = self._sharing = parallel
        self._numbers: dict[Any, int] = {}  # of the processes, from 0

    def check(self, jobs):
        """Raises nothing: a job of any size runs here."""
        self._sharing = max(1, min(self._parallel, len(jobs)))

    def has_room(self, running):
        """Whether another job can start beside so many."""
        return running < self._parallel

    def start(self, job, log):
        """Returns the process of a job."""
        taken = self._numbers.values()
        number = next(n for n in range(self._parallel) if n not in taken)
        gpus = processes.share_of_gpus(number, self._sharing)
        process = _process(job, log, gpus=gpus)
        self._numbers[process] = number
        return process

    def ended(self, running):
        """Returns `(process, error)` of each that has ended, after a moment's wait."""
        time.sleep(PATIENCE)
        found = [process for process in running if process.poll() is not None]
        for process in found:
            del self._numbers[process]
        return [(process, _said(process.returncode)) for process in found]

    def stop(self, running):
        """Interrupts all and waits until they have ended."""
        processes.interrupt(running)
        self._numbers.clear()


class Ray:
    """Runs jobs on a Ray cluster, whose machines all see the folders of the jobs.

    Each is a process started by a Ray task that takes up the job's CPUs and GPUs; one
    that is lost with its machine, or killed, is begun again and goes on from what it
    has on disk.
    """

    def __init__(self, address=None, retries=3):
        # What runs out of memory is by default begun again without end. Ray may read
        # this while it is loaded.
        os.environ.setdefault("RAY_task_oom_retries", str(retries))
        try:
            import ray
        except ImportError as error:
            raise ValueError(
                "launcher 'ray' needs Ray: pip install 'ray>=2.40,<3'."
            ) from error
        check_whole("retries", retries, 0)
        given = bool(address or os.environ.get("RAY_ADDRESS"))
        self._ray, self._whole = ray, not given
        if not ray.is_initialized():
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            # Without an address Ray would join what `ray start` has started here.
            where = address or os.environ.get("RAY_ADDRESS") or "local"
            heeded = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(address=where, log_to_driver=False, include_dashboard=False)
            except ConnectionError as error:
                raise ValueError(
                    f"No Ray cluster answers at {where!r} ({error}). Start one with "
                    "ray start --head, or leave the address (RAY_ADDRESS, too) out."
                ) from error
            # Ray puts in its own, which ends this process without more ado.
            main = threading.current_thread() is threading.main_thread()
            if main and heeded is not None:
                signal.signal(signal.SIGTERM, heeded)
        self._retries = {"max_retries": retries, "retry_exceptions": [Lost]}
        self._task = ray.remote(_on_ray)

    def check(self, jobs):
        """Raises ValueError if no machine of the cluster could ever run a job.

        One that is given by its address may grow: then it is only warned of.
        """
        with self._telling():
            nodes = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        gpus = sum(n.get("GPU", 0) for n in nodes)
        if gpus and jobs and not any(job.gpus for job in jobs):
            logging.warning(
                "The Ray cluster has %g GPUs, of which no job takes any: give "
                "--job_gpus to use them.",
                gpus,
            )
        for job in {(job.cpus, job.gpus): job for job in jobs}.values():
            needs = {"CPU": job.cpus, "GPU": job.gpus}
            if any(all(n.get(k, 0) >= v for k, v in needs.items()) for n in nodes):
                continue
            there = "; ".join(
                f"{n.get('CPU', 0):g} CPUs, {n.get('GPU', 0):g} GPUs" for n in nodes
            )
            said = (
                f"{job.name} needs {job.cpus:g} CPUs and {job.gpus:g} GPUs, which no "
                f"machine of the Ray cluster has ({there}). Ask for less with "
                "--job_cpus and --job_gpus, or add machines."
            )
            if self._whole:
                raise ValueError(said)
            logging.warning("%s", said)

    def has_room(self, running):
        """Whether another job can be handed over: Ray itself waits for room."""
        return running < ON_RAY

    def start(self, job, log):
        """Returns the reference of a job's task."""
        task = self._task.options(
            num_cpus=job.cpus, num_gpus=job.gpus, name=job.name, **self._retries
        )
        # How TensorFlow computes here, and where its data sets are.
        given = {
            k: v
            for k, v in os.environ.items()
            if k.startswith(("TF_", "TFDS_")) and k not in OF_THIS_MACHINE
        }
        log = str(pathlib.Path(log).absolute())
        with self._telling():
            # A Ray worker has this folder in its path, whatever this process has.
            here = (os.getcwd(), processes.path_flags(os.getcwd()))
            return task.remote(job, log, *here, given)

    def ended(self, running):
        """Returns `(task, error)` of each that has ended, after a moment's wait."""
        with self._telling():
            found, _ = self._ray.wait(
                list(running), num_returns=len(running), timeout=PATIENCE
            )
        return [(reference, self._error(reference)) for reference in found]

    def stop(self, running):
        """Interrupts all and waits until they have ended, or the cluster has."""
        try:
            for reference in running:
                self._ray.cancel(reference)
            self._ray.wait(list(running), num_returns=len(running))
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            logging.warning("The Ray cluster does not answer: %s", self._said(error))

    @contextlib.contextmanager
    def _telling(self):
        """Within it a cluster that is gone is a `ClusterLost`."""
        try:
            yield
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise ClusterLost(
                f"The Ray cluster does not answer any more ({self._said(error)}). What "
                "is done is kept; with a cluster the same command does the rest."
            ) from error

    def _error(self, reference):
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._said(error)
        return ""

    def _said(self, error):
        """Returns what happened, in a line: the end of a traceback, or Ray's words."""
        words = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return str(error).strip().splitlines()[-1]
        return words if len(words) <= SAID else f"{words[:SAID]}…"


def _process(job, log, **options):
    """Returns the process of a job, which does not outlive this one."""
    return processes.started(
        job.program,
        job.gin_files,
        job.gin_bindings,
        job.workdir,
        log,
        job.flags,
        with_parent=True,
        **options,
    )


def _on_ray(job, log, folder, path, environment):
    """Runs a job as a process of a Ray worker."""
    if not pathlib.Path(folder).is_dir():
        raise Failed(f"{folder} is not on this machine; all must see the same folders")
    # Ray cancels by SIGINT, which its workers ignore where what has started them does,
    # as what a script has put into the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    gpus = None if job.gpus else "-1"  # those that Ray has given, or none
    options = {"folder": folder, "path": path, "cpus": job.cpus, "gpus": gpus}
    process = _process(job, log, **options)
    try:
        # Ray cancels between two lines of Python, which a mere wait would not reach.
        while (status := process.poll()) is None:
            time.sleep(PATIENCE)
    except BaseException:  # cancelled
        processes.interrupt([process])
        raise
    if status in LOST:
        raise Lost(_said(status))
    if status:
        raise Failed(_said(status))


def _said(status):
    """Returns what became of a process; "" if all went well."""
    if status == INTERRUPTED:
        return "it was interrupted"
    if status == ANOTHER:
        return OF_ANOTHER
    if status < 0:
        return f"it was killed by {processes.killer(status)}"
    return f"it ended with status {status}" if status else ""

"""Binaries as processes of their own, side by side."""

import os
import pathlib
import signal
import subprocess
import sys

# Variable of the number of the process that a binary is not to outlive.
PARENT = "TF_AMALGAM_PARENT"
# Says that bindings are a part of what another process was given, and has checked.
CHECKED = "TF_AMALGAM_CHECKED"
# Variable of the GPUs that a process sees, by name, with commas between them.
GPUS = "CUDA_VISIBLE_DEVICES"
LOGS = "logs"  # folder of their output, beside what they write


def started(
    binary,
    gin_files,
    gin_bindings,
    workdir,
    log,
    flags=(),
    folder=None,
    with_parent=False,
    cpus=None,
    gpus=None,
    path=None,
):
    """Returns the process of one binary; it computes as this process does.

    Args:
        binary: its module in `tf_amalgam_launch`.
        gin_files, gin_bindings, workdir: its flags.
        log: file that its output is added to.
        flags: other flags of it, as they are written.
        folder: where it runs; by default here.
        with_parent: whether it is killed if this process ends, however that ends.
        cpus: how many TensorFlow may use; by default all.
        gpus: which it may use, see `share_of_gpus`; by default all.
        path: flags of Python, see `path_flags`; by default as this process has it.
    """
    log = pathlib.Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    path = path_flags(folder) if path is None else path
    command = [sys.executable, *path, "-m", f"tf_amalgam_launch.{binary}"]
    if "TF_ENABLE_ONEDNN_OPTS" not in os.environ:  # TensorFlow's own choice is in force
        command.append("--noonednn")
    command += [f"--gin_file={name}" for name in gin_files]
    command += [f"--gin_bindings={binding}" for binding in gin_bindings]
    # Several may share a GPU, of which TensorFlow would take all memory at once.
    environment = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **os.environ, CHECKED: "1"}
    if with_parent:
        environment[PARENT] = str(os.getpid())
    if cpus is not None:
        environment["TF_NUM_INTRAOP_THREADS"] = str(max(1, round(cpus)))
    if gpus is not None:
        environment[GPUS] = gpus
    with open(log, "ab") as file:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *flags],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            # A Ctrl-C of the terminal comes through `interrupt`, once.
            start_new_session=True,
        )


def path_flags(folder):
    """Returns flags of Python with which a child in a folder finds what we have found.

    `-m` would look into that folder first, a checkout of another version say.
    """
    mine = {os.path.realpath(path) for path in sys.path}  # "" is here
    return [] if os.path.realpath(folder or ".") in mine else ["-P"]


def share_of_gpus(number, count) -> str | None:
    """Returns the GPUs of one of several processes at a time, as `started` takes them.

    All that this process sees are shared out; where there are fewer than processes,
    some share one.

    Args:
        number: of the process, from 0.
        count: of processes.

    Returns:
        Names with commas between them; None where there are no GPUs.
    """
    import tensorflow as tf  # a report does without it

    seen = len(tf.config.list_physical_devices("GPU"))
    if not seen:
        return None
    named = os.environ.get(GPUS) or ",".join(map(str, range(seen)))
    return ",".join(named.split(",")[:seen][number % seen :: count])


def killer(status) -> str:
    """Returns the name of the signal that has ended a process of a negative status."""
    try:
        return signal.Signals(-status).name
    except ValueError:  # most of the real-time ones have none
        return f"signal {-status}"


def interrupt(running):
    """Has programs stop as on Ctrl-C, and waits until they have ended.

    By SIGTERM, which they take for one: SIGINT is ignored by what a script has put
    into the background, and blocked in what Ray starts.
    """
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        process.wait()

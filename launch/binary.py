"""Flags and the clean start and end that all binaries share."""

import contextlib
import ctypes
import logging
import os
import shlex
import signal
import sys
import tempfile

from absl import app, flags
from absl import logging as absl_logging
from tf_amalgam_launch import processors

PR_SET_PDEATHSIG = 1  # of Linux
INTERRUPTED = 128 + signal.SIGINT  # as shells say it

# Flags that are paths: a shell expands no ~ behind "=".
PATHS = (
    *("workdir", "output", "evaluation", "checkpoint", "markdown", "gin_file"),
    *("jobs", "export"),
)

FLAGS = flags.FLAGS
flags.DEFINE_boolean(
    "onednn",
    True,
    "Have TensorFlow use oneDNN on every x86 processor; --noonednn leaves it to "
    "TensorFlow, which computes the same to rounding. TF_ENABLE_ONEDNN_OPTS wins.",
)


def define_gin_flags():
    """Defines the flags of a binary that a .gin file configures; call it on import."""
    flags.DEFINE_multi_string(
        "gin_file", None, "A .gin file; may be given several times."
    )
    flags.DEFINE_multi_string(
        "gin_bindings", [], "A gin binding that wins over the files; repeatable."
    )
    flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
    flags.register_validator(
        "workdir", lambda path: path != "", "It is empty (an unset variable?)."
    )
    flags.mark_flags_as_required(["gin_file", "workdir"])


def define_launcher_flags():
    """Defines the flags of a binary whose jobs run here or on a Ray cluster."""
    flags.DEFINE_enum(
        "launcher",
        "local",
        ["local", "ray"],
        "Where its runs are: processes of this machine, or jobs of a Ray cluster whose "
        "machines all see workdir.",
    )
    flags.DEFINE_integer(
        "parallel",
        1,
        "Of local: runs at the same time, which share out the GPUs of this machine.",
    )
    flags.DEFINE_string(
        "ray_address",
        None,
        "Of ray: the cluster (auto, ray://…); by default RAY_ADDRESS', or one here.",
    )
    flags.DEFINE_integer("retries", 3, "Of ray: how often a lost run is begun again.")
    flags.DEFINE_float("job_cpus", 2.0, "Of ray: CPUs that a run takes up.")
    flags.DEFINE_float("job_gpus", 0.0, "Of ray: GPUs that a run takes up.")


def launcher(one_is_here=True):
    """Returns the launcher that the flags name.

    Args:
        one_is_here: whether a single local process is this one, and no launcher: None.
    """
    from tf_amalgam import launchers

    if FLAGS.launcher == "local" and FLAGS.parallel == 1 and one_is_here:
        return None
    return launchers.launcher(
        FLAGS.launcher, FLAGS.parallel, FLAGS.ray_address, FLAGS.retries
    )


def _check_launcher():
    """Exits if flags of a cluster are given without one, or others with one."""
    if "launcher" not in FLAGS:
        return
    if FLAGS.launcher == "ray":
        if FLAGS["parallel"].present:
            sys.exit(
                "error: --parallel is of this machine; Ray runs what it has room for."
            )
        return
    needs = () if "plan" in FLAGS else ("job_cpus", "job_gpus")  # plans count them
    for name in ("ray_address", "retries", *needs):
        if FLAGS[name].present:
            sys.exit(f"error: --{name} is of a cluster; give --launcher=ray, too.")


def end_with_parent():
    """Has Linux kill this process when the one named by the environment ends.

    More exactly, when the thread that started it does.
    """
    parent = os.environ.pop("TF_AMALGAM_PARENT", None)
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it has ended before
            sys.exit("The process that started this one has ended.")


def command(name):
    """Returns the command line as it was typed, flags and all."""
    return shlex.join([name, *sys.argv[1:]])


def start(main, with_tensorflow=True, words=False):
    """Runs an absl main; mistakes end in one message, a stop ends in a checkpoint.

    Args:
        main: what is run, of the module whose docstring and flags are the program's.
        with_tensorflow: whether it needs TensorFlow.
        words: whether it takes words that are no flags.
    """
    _explain(main.__module__)

    def guarded(argv):
        if argv[1:] and not words:
            sys.exit(
                f"error: not understood: {shlex.join(argv[1:])}. Flags are written "
                "--name=value, and one that takes several values once for each."
            )
        # Also where it is a container's first process, which is spared what has no
        # handler.
        signal.signal(signal.SIGTERM, _leave)
        end_with_parent()
        _check_launcher()
        _expand_paths()
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("tensorflow").setLevel(logging.WARNING)
        if with_tensorflow:
            processors.set_up(FLAGS.onednn)
            with _without_chatter():
                import tensorflow

                tensorflow.config.list_physical_devices()
                import tf_amalgam.bindings  # noqa: F401 -- what all programs need
        signal.signal(signal.SIGTERM, _stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # of a script's `&`
            signal.signal(signal.SIGINT, _stop)
        try:
            main(argv)
        except Exception as error:
            if not isinstance(error, _mistakes(with_tensorflow)):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(_status(error, with_tensorflow))
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                print(
                    "Interrupted; the same command continues from the last checkpoint.",
                    file=sys.stderr,
                )
            _let_go()
            sys.exit(INTERRUPTED)

    app.run(guarded)


def _explain(module):
    """Has --help tell of a program what its module says, and its flags.

    absl looks for both in `__main__`, which a console script is.
    """
    of_module = FLAGS.flags_by_module_dict()
    name = sys.argv[0] if module == "__main__" else module
    sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
    for flag in (*of_module.get(name, ()), *of_module[__name__]):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _mistakes(with_tensorflow):
    """Returns the types of errors that one message is enough for."""
    usual = (ValueError, OSError, RuntimeError, ImportError)
    if not with_tensorflow:
        return usual
    import tensorflow

    return (*usual, tensorflow.errors.OpError)  # no memory, say


def _status(error, with_tensorflow):
    """Returns the exit status of a program that ends with an error."""
    if with_tensorflow:
        from tf_amalgam import engines, workdir

        if isinstance(error, workdir.AnotherExperiment):
            return engines.ANOTHER
    return 1


def _expand_paths():
    for name in PATHS:
        given = FLAGS[name].value if name in FLAGS else None
        if isinstance(given, str):
            FLAGS[name].value = os.path.expanduser(given)
        elif given:
            FLAGS[name].value = [os.path.expanduser(path) for path in given]


def _leave(*_):
    """Ends the program at once, while modules are loaded: nothing has been begun."""
    os._exit(INTERRUPTED)


def _stop(*_):
    """Takes a batch system's stop for Ctrl-C.

    A second one, of either kind, is not heard, or it would break off the checkpoint
    that the first has caused: a batch system may send it to all processes, of which one
    sends it on, and a hand may be impatient.
    """
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt


def _let_go():
    """Lets go of streams whose reader has ended (Ctrl-C ends `tee`, too).

    Python would flush them once more, fail, and end with a status of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as of a daemon
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _without_chatter():
    """Holds back what TensorFlow's C++ side prints on import, unless that fails."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)

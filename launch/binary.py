"""Flags and the clean start and end that all binaries share."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import tempfile

from absl import app, flags
from absl import logging as absl_logging
from tf_amalgam_launch import processors

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
    flags.mark_flags_as_required(["gin_file", "workdir"])


def command(name):
    """Returns the command line as it was typed, flags and all."""
    return shlex.join([name, *sys.argv[1:]])


def start(main, with_tensorflow=True):
    """Runs an absl main; mistakes end in one message, a stop ends in a checkpoint."""

    def guarded(argv):
        # A batch system's stop is treated like Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        absl_logging.set_verbosity(absl_logging.WARNING)
        logging.getLogger("tensorflow").setLevel(logging.WARNING)
        if with_tensorflow:
            processors.set_up(FLAGS.onednn)
            with _without_chatter():
                import tensorflow

                tensorflow.config.list_physical_devices()
        try:
            main(argv)
        except (ValueError, OSError, RuntimeError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(
                "Interrupted; the same command continues from the last checkpoint."
            )

    app.run(guarded)


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

"""Flags and the clean start and end that all binaries share."""

import signal
import sys

from absl import app, flags

FLAGS = flags.FLAGS

flags.DEFINE_multi_string("gin_file", None, "A .gin file; may be given several times.")
flags.DEFINE_multi_string(
    "gin_bindings", [], "A gin binding that wins over the files; repeatable."
)
flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
flags.mark_flags_as_required(["gin_file", "workdir"])


def start(main):
    """Runs an absl main; mistakes end in one message, a stop ends in a checkpoint."""

    def guarded(argv):
        # A batch system's stop is treated like Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            main(argv)
        except (ValueError, OSError, RuntimeError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit(
                "Interrupted; the same command continues from the last checkpoint."
            )

    app.run(guarded)

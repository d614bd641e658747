"""How programs have TensorFlow use processors; before it is loaded."""

import logging
import os
import platform
import sys


def set_up(onednn=True):
    """Chooses TensorFlow's faster operations, if `onednn`, and how it takes memory.

    It reads these choices from the environment, the first while it is loaded, and they
    hold for the whole process: this is for programs to call, not for libraries. What
    the environment already says wins.
    """
    if "tensorflow" in sys.modules:
        logging.warning("TensorFlow is loaded already, and keeps its operations.")
        onednn = False
    if onednn and platform.machine().lower() in ("x86_64", "amd64"):
        # By itself TensorFlow takes oneDNN's convolutions from AVX-512 VNNI on only;
        # with AVX2 they are twice as fast as its own.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # A convolution's gradient takes tens of megabytes for a moment, and a page that
    # comes fresh from the system costs microseconds: 5 to 14 % of a meta-update.
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
    # Others may share a GPU, of which it would take all memory at once: the processes
    # that this one starts, to begin with.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # By default it ends at 64 GiB, whatever the machine has.
    megabytes = _whole() // 2**20
    if megabytes > 0:
        os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(megabytes))


def _whole():
    """Returns the machine's memory in bytes; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0

"""Memory that TensorFlow keeps for itself on processors."""

import os


def keep_freed_memory():
    """Has TensorFlow use memory again instead of asking the system each time.

    A convolution's gradient takes tens of megabytes for a moment, and a page that comes
    fresh from the system costs microseconds: 5 to 14 % of a meta-update. It has to be
    called before TensorFlow's first operation and holds for the whole process, so it
    is for programs and not for libraries to call. What the environment already says
    about it wins.
    """
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
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

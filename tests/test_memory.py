"""Pages of memory that come fresh from the system."""

import os
import subprocess
import sys

import pytest

from tf_amalgam import memory

FAULTS = """
import resource, sys
import tensorflow as tf
from tf_amalgam import memory

if sys.argv[1] == "kept":
    memory.keep_freed_memory()


@tf.function(autograph=False)
def step():  # 48 MB for a moment, more than an allocator keeps by itself
    return tf.reduce_sum(tf.tanh(tf.random.normal((12, 1000, 1000))))


for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux' page faults")
def test_no_page_comes_fresh_twice():
    def faults(way):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, way],
            capture_output=True,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if not k.startswith("TF_CPU_")},
        )
        assert not done.returncode, done.stderr
        return int(done.stdout)

    usual, kept = faults("usual"), faults("kept")
    assert usual > 5_000
    assert kept < usual / 10


def test_what_the_environment_says_wins(monkeypatch):
    for name in ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB"):
        monkeypatch.delenv(name, raising=False)
    memory.keep_freed_memory()
    assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "true"
    assert int(os.environ["TF_CPU_BFC_MEM_LIMIT_IN_MB"]) > 100
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "false")
    memory.keep_freed_memory()
    assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "false"

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
    others = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPU_")}

    def faults(way):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, way],
            capture_output=True,
            text=True,
            check=False,
            env={**others, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        assert not done.returncode, done.stderr
        return int(done.stdout)

    usual, kept = faults("usual"), faults("kept")
    if usual < 5_000:
        pytest.skip(f"pages are large here: {usual} came fresh")
    assert kept < usual / 10


def test_what_the_environment_says_wins(monkeypatch):
    names = ("TF_CPU_ALLOCATOR_USE_BFC", "TF_CPU_BFC_MEM_LIMIT_IN_MB")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back whatever it was
        monkeypatch.delenv(name)
    with monkeypatch.context() as there:
        there.delattr(os, "sysconf")
        memory.keep_freed_memory()
        assert names[1] not in os.environ
    memory.keep_freed_memory()
    assert os.environ[names[0]] == "true"
    assert int(os.environ[names[1]]) > 100
    monkeypatch.setenv(names[0], "false")
    memory.keep_freed_memory()
    assert os.environ[names[0]] == "false"


def test_binaries_keep_memory():
    code = """
import os
from tf_amalgam.launch import binary
binary.start(lambda _: print(os.environ["TF_CPU_ALLOCATOR_USE_BFC"]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.split()[-1] == "true"

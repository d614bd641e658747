"""How programs have TensorFlow use processors."""

import os
import platform
import subprocess
import sys
import types

import pytest
from tf_amalgam_launch import processors

NAMES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_CPU_ALLOCATOR_USE_BFC",
    "TF_CPU_BFC_MEM_LIMIT_IN_MB",
    "TF_FORCE_GPU_ALLOW_GROWTH",
)
FAULTS = """
import resource, sys
from tf_amalgam_launch import processors

if sys.argv[1] == "kept":
    processors.set_up()

import tensorflow as tf


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
OPERATIONS = """
import os, pathlib, tempfile
from tf_amalgam_launch import binary


def main(_):
    import tensorflow as tf

    images, kernel = tf.ones((2, 8, 8, 3)), tf.ones((3, 3, 3, 4))
    program = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "VALID"))
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            program()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        print("_MklNative" in trace.read_text(errors="replace"))
    print(os.environ.get("TF_CPU_ALLOCATOR_USE_BFC"))


binary.start(main)
"""


def run(code, *words):
    """Returns what a program prints, in an environment that says nothing about it."""
    others = {k: v for k, v in os.environ.items() if k not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**others, "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux' page faults")
@pytest.mark.slow
def test_no_page_comes_fresh_twice():
    usual, kept = (int(run(FAULTS, way)) for way in ("usual", "kept"))
    if usual < 5_000:
        pytest.skip(f"pages are large here: {usual} came fresh")
    assert kept < usual / 10


@pytest.fixture
def silent(monkeypatch):
    """An environment that says nothing, put back afterwards whatever it was."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)


def test_what_the_environment_says_wins(silent, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with monkeypatch.context() as there:
        there.delattr(os, "sysconf")
        processors.set_up()
        assert NAMES[2] not in os.environ
    processors.set_up()
    assert os.environ[NAMES[0]] == "1"
    assert os.environ[NAMES[1]] == os.environ[NAMES[3]] == "true"
    assert int(os.environ[NAMES[2]]) > 100
    monkeypatch.setenv(NAMES[0], "0")
    monkeypatch.setenv(NAMES[1], "false")
    processors.set_up()
    assert [os.environ[name] for name in NAMES[:2]] == ["0", "false"]


def test_operations_may_be_left_to_tensorflow(silent, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    processors.set_up(onednn=False)
    assert NAMES[0] not in os.environ
    assert os.environ[NAMES[1]] == "true"


def test_it_comes_too_late_where_tensorflow_is_loaded(silent, monkeypatch, caplog):
    """Nothing is then said of operations to the processes that this one starts."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tf"))
    processors.set_up()
    assert NAMES[0] not in os.environ
    assert "TensorFlow is loaded already" in caplog.text


def test_other_processors_keep_their_operations(silent, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    processors.set_up()
    assert NAMES[0] not in os.environ


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="TensorFlow's oneDNN is for x86",
)
@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--noonednn", "--onednn"])
def test_binaries_are_set_up_before_tensorflow_is_loaded(flag):
    onednn, kept = run(OPERATIONS, flag).split()[-2:]
    assert kept == "true"
    # Without the flag it is as this processor has it.
    usual = run(OPERATIONS.replace("binary.start(main)", "main(None)"))
    assert onednn == ("True" if flag == "--onednn" else usual.split()[-2])

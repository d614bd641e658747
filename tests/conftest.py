"""Four logical CPU devices for every test, so that distribution is tested everywhere.

And no GPU: tests are of devices that every machine has.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# As `amalgam-report` does; the suite's processes share the cores besides.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import pytest
import tensorflow as tf

from tests import helpers

tf.config.set_visible_devices([], "GPU")
CPUS = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    CPUS[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@pytest.fixture
def float64():
    """Makes float64 Keras' default for one test."""
    # Layers follow the policy, which Keras fixes when it is first asked for.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def eagerly():
    """Has steps taken, not compiled."""
    with helpers.eagerly():
        yield


@pytest.fixture
def shared_data():
    """Folder of prepared real image sets; the test is skipped without it."""
    if helpers.SHARED_DATA is None:
        pytest.skip(
            "no prepared image sets: set TF_AMALGAM_TEST_DATA to a TFDS data_dir"
        )
    return helpers.SHARED_DATA


@pytest.fixture
def authors_weights():
    """Folder of the authors' released checkpoints; the test is skipped without it."""
    if helpers.AUTHORS_WEIGHTS is None:
        pytest.skip(
            "no released checkpoints: set TF_AMALGAM_TEST_WEIGHTS to their folder"
        )
    return helpers.AUTHORS_WEIGHTS

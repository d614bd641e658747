"""One trained optimizer on TensorFlow, JAX and PyTorch: the same walks.

Run by `launch/test.sh` on TensorFlow and by `launch/test_backends.sh` on all; all
compare with one file, which TensorFlow wrote.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_amalgam
from tests.backends import walks

pytestmark = pytest.mark.backends
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def expected():
    with np.load(walks.FILE) as archive:
        return dict(archive)


def close(found, expected, tolerance=1e-5):
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", walks.NAMES)
def test_every_rule_walks_alike(name, expected):
    close(walks.applied(name), expected[f"applied/{name}"])


@pytest.mark.skipif(
    BACKEND == "tensorflow", reason="under TensorFlow Keras' steps all have a state"
)
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_a_step_without_state_leaves_what_it_is_given(chunk_size):
    optimizer = tf_amalgam.load("choice-small", warmup_steps=0, chunk_size=chunk_size)
    variable = keras.Variable(np.linspace(-1.0, 1.0, 12, dtype="float32"))
    optimizer.build([variable])
    given = [keras.ops.copy(v.value) for v in optimizer.variables]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in given]
    gradients = [keras.ops.ones((12,))]
    _, after = optimizer.stateless_apply(given, gradients, [variable.value])
    for value, was in zip(given, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(value), was)
    changed = [
        np.abs(keras.ops.convert_to_numpy(value) - was).max()
        for value, was in zip(after, before, strict=True)
    ]
    assert sum(change > 0 for change in changed) > 4  # moments, states, the count


@pytest.mark.parametrize("chunk_size", [5, 16])
@pytest.mark.parametrize("name", walks.FITTED)
def test_in_chunks(name, chunk_size, expected):
    found = walks.applied(name, chunk_size=chunk_size)
    close(found, expected[f"applied/{name}"])


@pytest.mark.parametrize("options", walks.OPTIONS)
def test_fit_trains_alike(options, expected):
    close(walks.fitted(walks.OPTIONS[options]), expected[f"fitted/{options}"], 1e-4)


@pytest.mark.parametrize("name", walks.FITTED)
def test_all_kinds_fit_alike(name, expected):
    close(walks.fitted({}, name), expected[f"fitted by/{name}"], 1e-4)


def test_a_guard_takes_over_alike(expected):
    found = walks.applied(walks.UNTRAINED, **walks.GUARDED)
    close(found, expected["guarded"])
    unguarded = expected[f"applied/{walks.UNTRAINED}"]
    assert np.abs(found - unguarded).max() > 1e-2


def test_walks_differ(expected):
    """By more than the tolerance, so that none of the above is another's number.

    But for a guard that has nothing to do.
    """
    kinds = [expected[f"fitted/{key}"] for key in walks.OPTIONS if key != "guarded"]
    for i, one in enumerate(kinds):
        assert all(np.abs(one - other).max() > 3e-4 for other in kinds[:i])
    applied = [expected[f"applied/{name}"] for name in walks.NAMES]
    for i, one in enumerate(applied):
        assert all(np.abs(one - other).max() > 1e-4 for other in applied[:i])


@pytest.mark.parametrize("epochs_before", [0, 1, 2])
def test_a_saved_model_goes_on_exactly(epochs_before, tmp_path):
    """In the middle of the warm-up of 9 steps, 6 an epoch, and after it."""
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}

    def fresh():
        return walks.model_of(tf_amalgam.load("choice-small", warmup_steps=9))

    whole, x, y = fresh()
    whole.fit(x, y, epochs=4, **options)
    first, _, _ = fresh()
    first.fit(x, y, epochs=epochs_before, **options)
    first.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    again.fit(x, y, epochs=4 - epochs_before, **options)
    close(walks.flat(again.trainable_variables), walks.flat(whole.trainable_variables))


def test_learning_rate_may_be_a_schedule():
    """None from the second epoch on: the weights stand still."""
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([5], [1.0, 0.0])
    model, x, y = walks.model_of(
        tf_amalgam.load("choice-small", warmup_steps=2, learning_rate=rate)
    )
    model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
    before = walks.flat(model.trainable_variables)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    close(walks.flat(model.trainable_variables), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mixing_weights_are_shares(dtype):
    optimizer = tf_amalgam.load(state_dtype=dtype, warmup_steps=0)
    model, x, y = walks.model_of(optimizer)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    for share in optimizer.mixing_weights().values():
        close(share.sum(axis=-1), 1.0)
        assert share.min() > 0.0


def test_a_guard_of_a_single_vector():
    """Of which it keeps the best, not the model's own memory."""
    layer = keras.layers.EinsumDense("ab,b->a", output_shape=(), bias_axes=None)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(tf_amalgam.load("choice-small", guard=True, warmup_steps=2), "mse")
    assert [len(v.shape) for v in model.trainable_variables] == [1]
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model.fit(x, x.sum(axis=-1), batch_size=8, epochs=2, verbose=0)
    assert np.isfinite(walks.flat(model.trainable_variables)).all()


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it is TensorFlow")
def test_tensorflow_is_not_imported():
    code = (
        "import sys, keras, tf_amalgam; tf_amalgam.load('choice-large'); "
        "print('tensorflow' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == "False"

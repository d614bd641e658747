"""Private training through compile and fit: any optimizer, any number of devices."""

import importlib
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.test_private import MIDDLE, NUMBERS, with_layer
from tf_amalgam import evaluation, registered, rules
from tf_amalgam.numerics import derive_seed
from tf_amalgam.tasks import private, private_model
from tf_amalgam.warm_up import WarmUp

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DATA = tuple(part[:21] for part in helpers.blobs().train)
WEIGHTS = np.linspace(0.2, 2.0, 21, dtype="float32")


def compiled(
    network, optimizer=None, loss=CROSS_ENTROPY, noise_multiplier=1.1, **options
):
    model = tf_amalgam.private_model(network, MIDDLE, noise_multiplier, seed=5)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **options)
    return model


def seeded(model_fn, seed=0):
    keras.utils.set_random_seed(seed)
    return model_fn()


def fitted(model, epochs=2, examples=21):
    # 21 examples: the last minibatch is a part of one, which replicas share unevenly.
    x, y = (part[:examples] for part in DATA)
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return helpers.flat(model.network.get_weights())


def test_fit_equals_the_pure_functions(float64):
    """Same noise, same clipping, same trajectory as the unroll's own functions."""
    task = private(helpers.tiny_task(), MIDDLE, 1.1)
    record = evaluation.train_once(tf_amalgam.Adam(0.05), task, seed=3, epochs=1)
    initial = derive_seed(3, "initial", "tiny-DP")
    noise = derive_seed(initial, "noise")
    params_P, state = task.initial(initial)
    seed = derive_seed(3, "minibatches", "tiny-DP")
    x, y, _ = task.minibatches(seed, 0, 12)
    rule, losses = rules.Adam(0.05), []
    rule_state = rule.init_state(task.layout, "float64")
    for i in range(12):
        batch = (x[i], y[i], np.array([noise, i], "int32"))
        loss, grads_P, state = task.value_and_grad(params_P, state, batch)
        losses.append(float(loss))
        delta_P, rule_state = rule.update(
            {}, grads_P, params_P, rule_state, task.layout, np.float64(i + 1)
        )
        params_P = params_P + delta_P.numpy()
    np.testing.assert_allclose(record["batch_losses"], losses, rtol=1e-4)
    assert np.abs(np.diff(losses)).max() > 0.05
    assert record["privacy"] == task.privacy_report(12)


def dropout_model():
    return with_layer(lambda: keras.layers.Dropout(0.5, seed=3))()


STDDEV = 1.1 * MIDDLE / 8


def spread(noise, stddev=STDDEV):
    """Returns the measured deviation's difference from the stated, in errors of it."""
    return abs(noise.std() / stddev - 1) * np.sqrt(2 * noise.size)


def noise_model(optimizer=None):
    """A model of 40,000 weights, and SGD at rate 1."""
    dense = keras.layers.Dense(NUMBERS // 4, use_bias=False)
    network = keras.Sequential([keras.Input((4,)), dense])
    return compiled(network, optimizer or keras.optimizers.SGD(1.0), "mse")


def noise_of(model, steps=1):
    """Moves the weights by the noise of so many steps alone; returns the move."""
    before = helpers.flat(model.network.get_weights())
    x, y = np.ones((8 * steps, 4)), np.zeros((8 * steps, NUMBERS // 4))
    nothing = np.zeros(8 * steps)  # sample weights of 0 leave the noise
    model.fit(x, y, sample_weight=nothing, batch_size=8, verbose=0)
    return helpers.flat(model.network.get_weights()) - before


def noise_alone():
    return noise_of(noise_model())


def loss_of_odd_minibatches():
    """The last one is of 5 examples, of which one replica of four gets none."""
    model = compiled(seeded(helpers.tiny_model))
    fitted(model)
    return np.array(model.history.history["loss"])


def counts():
    """The count of noisy gradients on every replica, after 6 steps."""
    model = compiled(helpers.tiny_model())
    fitted(model)
    strategy = tf.distribute.get_strategy()
    found = strategy.experimental_local_results(model.noisy_steps._value)
    assert len(found) == strategy.num_replicas_in_sync
    return np.array([int(value) for value in found])


def clips_are_refused():
    """Whether `fit` refuses an optimizer that clips, as it does on replicas."""
    model = compiled(helpers.tiny_model(), keras.optimizers.SGD(0.1, clipnorm=1.0))
    try:
        fitted(model)
    except ValueError as error:
        return "is not private on 4 replicas" in str(error)
    return False


# Dropout goes by the place in the minibatch: with whole ones alone it is the same.
RUNS = {
    "plain": lambda: fitted(compiled(seeded(helpers.tiny_model))),
    "dropout": lambda: fitted(compiled(seeded(dropout_model)), examples=16),
    "noise": noise_alone,
    "loss": loss_of_odd_minibatches,
}

MIRRORED = """
import sys
import tests.conftest
import numpy as np
import tensorflow as tf
from tests.test_private_model import RUNS, clips_are_refused, counts
devices = [f"CPU:{i}" for i in range(int(sys.argv[1]))]
with tf.distribute.MirroredStrategy(devices).scope():
    found = {name: run() for name, run in RUNS.items()}
    found["refused"] = clips_are_refused()
    np.savez(sys.argv[2], counts=counts(), **found)
"""


@pytest.mark.slow
def test_mirrored_equals_single(tmp_path):
    """In a process of its own: TensorFlow confuses strategies of different sizes."""
    path = tmp_path / "found.npz"
    command = [sys.executable, "-c", MIRRORED, "4", str(path)]
    subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[1])
    with np.load(path) as found:
        for name, run in RUNS.items():
            np.testing.assert_allclose(found[name], run(), atol=1e-5, err_msg=name)
        assert spread(found["noise"]) < 5
        np.testing.assert_array_equal(found["counts"], [6] * 4)
        assert found["refused"]
    assert not clips_are_refused()


def test_steps_in_one_execution_are_single_steps():
    """On one device: TensorFlow runs no model that way on several CPUs."""
    model = compiled(seeded(helpers.tiny_model), steps_per_execution=3)
    np.testing.assert_allclose(fitted(model), RUNS["plain"](), atol=1e-6)
    assert model.privacy_report(8, 21)["steps"] == 6


def test_noise_of_a_step_has_the_stated_deviation():
    moved = noise_alone()
    assert spread(moved) < 5
    assert abs(moved.mean()) < 5 * STDDEV / np.sqrt(NUMBERS)
    start = helpers.flat(seeded(helpers.tiny_model).get_weights())
    assert np.abs(RUNS["plain"]() - start).max() > 0.05


@pytest.mark.parametrize(
    "optimizer", [lambda: keras.optimizers.Adam(0.01), tf_amalgam.RNNProp]
)
def test_any_optimizer_trains_privately_and_resumes_exactly(optimizer, tmp_path):
    model = compiled(seeded(helpers.tiny_model), optimizer())
    start = helpers.flat(model.network.get_weights())
    halfway = fitted(model, 1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.privacy_report(batch_size=8, examples=21)["steps"] == 3
    np.testing.assert_allclose(fitted(again, 1), fitted(model, 1), atol=1e-6)
    assert np.abs(halfway - start).max() > 1e-3
    np.testing.assert_allclose(
        model.predict(DATA[0], verbose=0), model.network(DATA[0]), atol=1e-5
    )
    report = model.privacy_report(batch_size=8, examples=21)
    assert report["steps"] == 6
    assert report["epsilon"] > 1.0
    assert again.privacy_report(batch_size=8, examples=21) == report


def test_a_file_loads_before_the_module_of_its_class(tmp_path, monkeypatch):
    """As in a process that has imported tf_amalgam, and no more."""
    model = compiled(seeded(helpers.tiny_model))
    model.save(tmp_path / "model.keras")
    known = keras.saving.get_custom_objects()
    for name, module in registered.LATER.items():
        cls = getattr(importlib.import_module(module), name)
        assert known[f"tf_amalgam>{name}"] is cls
        monkeypatch.setitem(known, f"tf_amalgam>{name}", registered.stand_in(name))
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    np.testing.assert_array_equal(
        helpers.flat(again.get_weights()), helpers.flat(model.get_weights())
    )


def test_a_smaller_minibatch_than_there_was_is_refused():
    """Epsilon grows with the share of the examples that a minibatch is."""
    model = noise_model()
    noise_of(model, 1)
    report = model.privacy_report(batch_size=8, examples=24)
    with pytest.raises(ValueError, match="up to 8 examples; batch_size=4 would under"):
        model.privacy_report(batch_size=4, examples=24)
    assert report["epsilon"] < model.privacy_report(12, 24)["epsilon"]


def test_another_compile_repeats_no_noise_and_forgets_no_step():
    model = noise_model()
    first = noise_of(model, 3)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    second = noise_of(model, 3)
    assert max(spread(n, np.sqrt(3) * STDDEV) for n in (first, second)) < 5
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(NUMBERS)
    report = model.privacy_report(batch_size=8, examples=24)
    assert report == model.mechanism.report(6, 8, 24)


def test_accumulated_gradients_have_their_own_noise_and_count():
    """The mean of four minibatches' noise has half the deviation of one."""
    four = keras.optimizers.SGD(1.0, gradient_accumulation_steps=4)
    accumulating, plain = noise_model(four), noise_model()
    found = noise_of(accumulating, 4)
    assert spread(found, STDDEV / 2) < 5
    np.testing.assert_allclose(found, noise_of(plain, 4) / 4, atol=1e-5)
    assert accumulating.privacy_report(8, 32) == plain.privacy_report(8, 32)
    assert plain.privacy_report(8, 32)["steps"] == 4


def test_a_file_of_weights_continues_the_count(tmp_path):
    first, whole, again = noise_model(), noise_model(), noise_model()
    noise_of(first, 2)
    first.save_weights(tmp_path / "half.weights.h5")
    again.load_weights(tmp_path / "half.weights.h5")
    assert int(again.noisy_steps) == 2
    noise_of(whole, 2)
    np.testing.assert_allclose(noise_of(again), noise_of(whole), atol=1e-6)
    assert int(again.noisy_steps) == 3


def test_older_weights_do_not_turn_the_count_back(tmp_path):
    """As restoring the best epoch's weights does."""
    model = noise_model()
    path = tmp_path / "start.weights.h5"
    model.save_weights(path)
    start = model.get_weights()
    first = noise_of(model)
    model.set_weights(start)
    second = noise_of(model)
    model.load_weights(path)
    assert int(model.noisy_steps) == 2
    kept = helpers.flat(model.network.get_weights())
    np.testing.assert_array_equal(kept, helpers.flat(start[1:]))
    assert np.abs(first - second).max() > STDDEV


def test_no_checkpoint_turns_the_count_back(tmp_path):
    """TensorFlow's assigns variables one by one, past all that Keras does."""
    model = noise_model()
    path = tf.train.Checkpoint(model=model).save(tmp_path / "c")
    first = noise_of(model)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    assert int(model.noisy_steps) == 0
    assert model.privacy_report(8, 32)["steps"] == 1
    second = noise_of(model)
    assert np.abs(first - second).max() > STDDEV
    assert int(model.noisy_steps) == 2
    # In another process the count is the file's.
    again = noise_model()
    path = tf.train.Checkpoint(model=model).save(tmp_path / "c")
    tf.train.Checkpoint(model=again).restore(path).expect_partial()
    np.testing.assert_allclose(noise_of(again), noise_of(model), atol=1e-6)


@pytest.mark.parametrize("kind", ["keras", "weights", "checkpoint", "arrays"])
def test_what_is_written_after_a_checkpoint_came_back_keeps_the_count(kind, tmp_path):
    """Read in another process it would draw the same noise, and claim too little."""
    model = noise_model()
    path = tf.train.Checkpoint(model=model).save(tmp_path / "c")
    noise_of(model, 2)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    again = noise_model()
    if kind == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
    elif kind == "weights":
        model.save_weights(tmp_path / "model.weights.h5")
        again.load_weights(tmp_path / "model.weights.h5")
    elif kind == "checkpoint":
        path = tf.train.Checkpoint(model=model).save(tmp_path / "d")
        tf.train.Checkpoint(model=again).restore(path).expect_partial()
    else:
        again.set_weights(model.get_weights())
    assert again.privacy_report(8, 32)["steps"] == 2


def test_weights_that_do_not_fit_do_not_turn_the_count_back():
    model = noise_model()
    start = model.get_weights()
    noise_of(model)
    odd = [np.zeros((1, 1)) if part.ndim else part for part in start]
    with pytest.raises(ValueError, match="shape"):
        model.set_weights(odd[::-1])
    with pytest.raises(ValueError, match="shape"):
        model.set_weights(odd)
    assert int(model.noisy_steps) == 1


def test_without_noise_and_clip_it_is_ordinary_training():
    plain = seeded(helpers.tiny_model)
    plain.compile(optimizer=keras.optimizers.SGD(0.1), loss=CROSS_ENTROPY)
    weights = np.linspace(0.5, 2.0, 21).astype("float32")
    options = {"sample_weight": weights, "batch_size": 8, "shuffle": False}
    expected = plain.fit(*DATA, epochs=2, verbose=0, **options)
    model = tf_amalgam.private_model(seeded(helpers.tiny_model), 1e9, 0.0, None)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=CROSS_ENTROPY)
    found = model.fit(*DATA, epochs=2, verbose=0, **options)
    np.testing.assert_allclose(
        helpers.flat(model.network.get_weights()),
        helpers.flat(plain.get_weights()),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        found.history["loss"], expected.history["loss"], rtol=1e-5
    )


def test_gradients_reach_a_loss_scaling_optimizer_unscaled():
    inner = keras.optimizers.SGD(0.1)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0)
    plain = fitted(compiled(seeded(helpers.tiny_model)))
    found = fitted(compiled(seeded(helpers.tiny_model), scaled))
    np.testing.assert_allclose(found, plain, atol=1e-5)


def test_noise_is_drawn_anew_without_a_seed():
    seeds = {tf_amalgam.private_model(helpers.tiny_model()).seed for _ in range(3)}
    assert len(seeds) == 3
    assert max(seeds) >= 2**31  # so many can be tried


def test_all_of_a_seed_names_the_noise():
    ends = []
    for seed in (5, 5 + 2**40):
        model = compiled(seeded(helpers.tiny_model))
        model.seed = seed
        ends.append(fitted(model))
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tf_amalgam.private_model(unbuilt()), "needs a built Keras model"),
        (
            lambda: tf_amalgam.private_model(
                with_layer(keras.layers.BatchNormalization)()
            ),
            "BatchNormalization layer",
        ),
        (
            lambda: tf_amalgam.private_model(helpers.tiny_model(), 0.0),
            "l2_norm_clip",
        ),
        (
            lambda: compiled(helpers.tiny_model(), loss=["mse"]).fit(*DATA, verbose=0),
            "exactly one loss",
        ),
        (
            lambda: compiled(helpers.tiny_model()).fit(DATA[0], verbose=0),
            "needs targets",
        ),
        (
            lambda: compiled(helpers.tiny_model(), loss_weights=0.3).fit(*DATA),
            "no loss_weights",
        ),
        (
            lambda: compiled(helpers.tiny_model()).fit(
                *DATA, sample_weight=np.ones((21, 4)), verbose=0
            ),
            r"one sample weight an example.*\(None, 4\)",
        ),
        (
            lambda: compiled(helpers.tiny_model()).privacy_report(22, 21),
            "batch_size must be from 1 to the 21",
        ),
        (
            lambda: compiled(helpers.tiny_model()).privacy_report(8, 100_000),
            "delta=1e-05 says nothing about 100000 examples",
        ),
    ],
)
def test_bad_private_models_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("clip", private_model.CLIPS)
def test_clipped_parts_of_replicas_are_not_private(clip):
    """Each has a part of the noise; on one device it is post-processing."""
    optimizer = keras.optimizers.SGD(0.1, **{clip: 0.5})
    model = compiled(helpers.tiny_model(), optimizer)
    model._check_terms(replicas=1)
    with pytest.raises(ValueError, match=f"SGD with {clip} is not private on 2"):
        model._check_terms(replicas=2)
    compiled(helpers.tiny_model())._check_terms(replicas=2)
    wrapped = keras.optimizers.LossScaleOptimizer(WarmUp(optimizer, 3, 0.1))
    inside = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, **{clip: 0.5}))
    for one in (wrapped, keras.optimizers.MultiOptimizer(inside)):
        with pytest.raises(ValueError, match=f"SGD with {clip} is not private on 2"):
            compiled(helpers.tiny_model(), one)._check_terms(replicas=2)


def test_weights_of_examples_may_be_a_column():
    ends = []
    for weights in (WEIGHTS, WEIGHTS[:, None]):
        model = compiled(seeded(helpers.tiny_model))
        model.fit(*DATA, sample_weight=weights, batch_size=8, shuffle=False, verbose=0)
        ends.append(helpers.flat(model.network.get_weights()))
    np.testing.assert_allclose(*ends, atol=1e-6)


def test_evaluation_prints_epsilon_beside_the_result(tmp_path):
    task = private(helpers.tiny_task(), MIDDLE, 1.1)
    found = tf_amalgam.evaluate(
        ["adam"],
        task,
        workdir=tmp_path,
        seeds=0,
        epochs=1,
        warmup_steps=5,
        progress=False,
    )
    expected = task.privacy_report(12)
    assert found[0]["privacy"] == expected
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].strip("| ").endswith("epsilon")
    assert f"{expected['epsilon']:.2f} (delta 1e-05)" in table[2]

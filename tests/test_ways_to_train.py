"""All ways to train with Keras: its Adam in our adapter against its own Adam."""

import copy
import functools
import pickle
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers, keras_adam
from tests.test_optimizer import DATA, model
from tf_amalgam import saved

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SHIPPED = "choice-large"
BOTH = pytest.mark.parametrize("name", [SHIPPED, saved.DEFAULT])


def fit(net, optimizer, epochs=2, callbacks=(), **options):
    net.compile(optimizer=optimizer, loss=LOSS, **options)
    return go_on(net, epochs, callbacks)


def go_on(net, epochs=1, callbacks=()):
    net.fit(
        *DATA,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return weights_of(net)


def weights_of(net):
    return helpers.flat(net.get_weights())


def batches():
    for start in range(0, len(DATA[0]), 8):
        yield DATA[0][start : start + 8], DATA[1][start : start + 8]


def one_batch_at_a_time(make):
    net = model()
    net.compile(optimizer=make(), loss=LOSS)
    for _ in range(2):
        for x, y in batches():
            net.train_on_batch(x, y)
    return weights_of(net)


def own_loop(make, compiled=False, by="apply_gradients"):
    net, optimizer = model(), make()
    optimizer.build(net.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, net(x, training=True))
        grads = tape.gradient(loss, net.trainable_variables)
        if by == "apply_gradients":
            optimizer.apply_gradients(zip(grads, net.trainable_variables, strict=True))
        else:
            optimizer.apply(grads)  # the variables that it was built with

    step = tf.function(step) if compiled else step
    for _ in range(2):
        for x, y in batches():
            step(tf.constant(x), tf.constant(y))
    return weights_of(net)


def in_precision(make, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        net = model()
    finally:
        keras.config.set_dtype_policy(before)
    found = fit(net, make())
    scaled = isinstance(net.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    return found


def loss_scale_too_high(make):
    """The first steps overflow float16 and are left out, until the scale is low."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = model()
    finally:
        keras.config.set_dtype_policy(before)
    scaling = keras.optimizers.LossScaleOptimizer(make(), initial_scale=2.0**24)
    found = fit(net, scaling, 1)
    assert 0 < int(scaling.iterations) < 12
    return found


def rates(make, callback):
    net = model()
    found = fit(net, make(), 3, [callback])
    assert float(net.optimizer.learning_rate) < 0.7 * float(make().learning_rate)
    return found


def frozen_first(make):
    net = model()
    net.layers[0].trainable = False
    before = net.layers[0].get_weights()
    fit(net, make())
    for old, new in zip(before, net.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    # Let go again: as with any optimizer, of which a new one is compiled.
    net.layers[0].trainable = True
    return fit(net, make(), 1)


def frozen_later(make):
    """Frozen after the optimizer was built: its state stays, its weights too."""
    net, optimizer = model(), make()
    fit(net, optimizer, 1)
    net.layers[0].trainable = False
    before = net.layers[0].get_weights()
    found = fit(net, optimizer, 1)
    for old, new in zip(before, net.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    return found


def shared_layer(make):
    keras.utils.set_random_seed(0)
    shared = keras.layers.Dense(5, activation="tanh")
    x = keras.Input((5,))
    net = keras.Model(x, keras.layers.Dense(3)(shared(shared(x))))
    return fit(net, make())


def two_at_once(make):
    """Two models, each with an optimizer, a minibatch each in turn."""
    nets = [model(0), model(1)]
    for net in nets:
        net.compile(optimizer=make(), loss=LOSS)
    for x, y in batches():
        for net in nets:
            net.train_on_batch(x, y)
    return np.concatenate([weights_of(net) for net in nets])


def several_outputs(make):
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    hidden = keras.layers.Dense(4, activation="tanh")(x)
    net = keras.Model(x, [keras.layers.Dense(3)(hidden), keras.layers.Dense(1)(hidden)])
    net.compile(optimizer=make(), loss=[LOSS, "mse"], loss_weights=[1.0, 0.3])
    net.fit(
        DATA[0],
        [DATA[1], DATA[0][:, :1]],
        batch_size=8,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return weights_of(net)


def batch_normalization(make):
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.Input((5,)),
            # Of a bias here the gradient is zero, and Adam's steps its rounding.
            keras.layers.Dense(6, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(3),
        ]
    )
    return fit(net, make())


def constrained(make):
    net = model(kernel_constraint=keras.constraints.MaxNorm(0.5))
    found = fit(net, make())
    norms = np.linalg.norm(net.layers[0].kernel.numpy(), axis=0)
    assert norms.max() == pytest.approx(0.5, rel=1e-5)
    return found


def mirrored(make):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        net, optimizer = model(), make()
    return fit(net, optimizer)


def mirrored_float16(make):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        return in_precision(make, "mixed_float16")


def averaged(make):
    """The average is what is left at the end, by Keras' callback."""
    optimizer = make(use_ema=True, ema_momentum=0.9)
    return fit(model(), optimizer, 2, [keras.callbacks.SwapEMAWeights(True)])


WAYS = {
    "fit": lambda make: fit(model(), make()),
    "eager fit": lambda make: fit(model(), make(), run_eagerly=True),
    "compiled by XLA": lambda make: fit(model(), make(), jit_compile=True),
    "steps per execution": lambda make: fit(model(), make(), steps_per_execution=4),
    "accumulated gradients": lambda make: fit(
        model(), make(gradient_accumulation_steps=3)
    ),
    "train_on_batch": one_batch_at_a_time,
    "own loop": own_loop,
    "own loop, compiled": lambda make: own_loop(make, True),
    "own loop, built variables": lambda make: own_loop(make, True, "apply"),
    "mixed_bfloat16": lambda make: in_precision(make, "mixed_bfloat16"),
    "mixed_float16": lambda make: in_precision(make, "mixed_float16"),
    "float16 overflows": loss_scale_too_high,
    "LearningRateScheduler": lambda make: rates(
        make, keras.callbacks.LearningRateScheduler(lambda _, rate: 0.7 * rate)
    ),
    "ReduceLROnPlateau": lambda make: rates(
        make,
        keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=9.0),
    ),
    "SwapEMAWeights": averaged,
    "frozen layer": frozen_first,
    "frozen later": frozen_later,
    "shared layer": shared_layer,
    "several optimizers": two_at_once,
    "several outputs": several_outputs,
    "batch normalization": batch_normalization,
    "constraint": constrained,
    "MirroredStrategy": mirrored,
    "MirroredStrategy, float16": mirrored_float16,
}


@functools.cache
def by_sgd(way):
    """Weights of the same training with smaller steps, to see how far others went."""
    return WAYS[way](lambda **kwargs: keras.optimizers.SGD(0.001, **kwargs))


# Others of the kind are fast: slower ways of Keras' own that say no more.
SELDOM = [
    *("MirroredStrategy", "MirroredStrategy, float16", "accumulated gradients", "fit"),
    *("several optimizers", "ReduceLROnPlateau", "train_on_batch"),
]


@pytest.mark.parametrize("way", helpers.slow_if(lambda way: way in SELDOM, WAYS))
def test_equals_keras_adam(way):
    ours = WAYS[way](lambda **kwargs: keras_adam.AdaptedAdam(0.01, **kwargs))
    theirs = WAYS[way](lambda **kwargs: keras.optimizers.Adam(0.01, **kwargs))
    moved = np.abs(theirs - by_sgd(way)).max()
    assert moved > 0.02
    # float16 rounds by 5e-4, bfloat16 by 4e-3, of gradients that two roundings of
    # one parameter may then tell apart.
    half = "float16" in way
    np.testing.assert_allclose(ours, theirs, atol=(2e-2 if half else 2e-4) * moved)


# The same training, written in other ways.
SAME = [
    *("eager fit", "compiled by XLA", "steps per execution", "train_on_batch"),
    *("own loop", "own loop, compiled", "own loop, built variables"),
    "MirroredStrategy",
]


def by_a_trained_one(name, way, **options):
    return WAYS[way](
        lambda **kwargs: tf_amalgam.load(name, warmup_steps=4, **options, **kwargs)
    )


@functools.cache
def fitted(name):
    return by_a_trained_one(name, "fit", guard=True)


# Ways on which a guard has something of its own to do.
GUARDED = ["fit", "frozen later", "mixed_float16", "float16 overflows"]


@BOTH
@pytest.mark.parametrize("way", helpers.slow_if(lambda way: way not in GUARDED, WAYS))
def test_a_guarded_optimizer_goes_every_way(way, name):
    found = by_a_trained_one(name, way, guard=True)
    assert np.all(np.isfinite(found))
    assert np.abs(found - by_sgd(way)).max() > 0.02
    if way in SAME:
        np.testing.assert_allclose(found, fitted(name), atol=2e-4)


# Ways on which a step is told other gradients, or of other variables.
OTHER_GRADIENTS = ["mixed_float16", "frozen later"]


@BOTH
@pytest.mark.parametrize(
    "way", helpers.slow_if(lambda way: way not in OTHER_GRADIENTS, WAYS)
)
def test_a_model_in_blocks_goes_every_way(way, name):
    """Of two rows each, against all coordinates at once."""
    blocks, whole = (by_a_trained_one(name, way, chunk_size=n) for n in (20, None))
    assert np.all(np.isfinite(whole))
    moved = np.abs(whole - by_sgd(way)).max()
    assert moved > 0.02
    half = "float16" in way
    np.testing.assert_allclose(blocks, whole, atol=(2e-2 if half else 2e-4) * moved)


def by_keras_file(net, _, folder):
    net.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def by_weights_file(net, make, folder):
    """The optimizer's state is in it as well, where the model is compiled alike."""
    net.save_weights(folder / "model.weights.h5")
    again = model(1)
    again.compile(optimizer=make(), loss=LOSS)
    again.optimizer.build(again.trainable_variables)
    again.load_weights(folder / "model.weights.h5")
    return again


def by_checkpoint(net, make, folder):
    path = tf.train.Checkpoint(model=net, optimizer=net.optimizer).save(folder / "c")
    again = model(1)
    again.compile(optimizer=make(), loss=LOSS)
    again.optimizer.build(again.trainable_variables)
    status = tf.train.Checkpoint(model=again, optimizer=again.optimizer).restore(path)
    status.assert_existing_objects_matched()
    return again


def by_pickle(net, *_):
    return pickle.loads(pickle.dumps(net))


def by_deepcopy(net, *_):
    return copy.deepcopy(net)


KEEPERS = {
    "keras file": by_keras_file,
    "weights file": by_weights_file,
    "checkpoint": by_checkpoint,
    "pickle": by_pickle,
    "deepcopy": by_deepcopy,
}
IN_BLOCKS = "after it, in blocks"
MAKERS = {
    "adapted Adam": lambda: keras_adam.AdaptedAdam(0.01),
    "in the warm-up": lambda: tf_amalgam.load(SHIPPED, warmup_steps=18),
    IN_BLOCKS: lambda: tf_amalgam.load(SHIPPED, warmup_steps=4, chunk_size=20),
    "guarded": lambda: tf_amalgam.load(SHIPPED, warmup_steps=4, guard=True),
}


# Each keeper keeps a state in blocks, and a file of Keras' all others: pickles and
# copies are made of what it holds.
@pytest.mark.parametrize(
    ("keeper", "which"),
    [
        pytest.param(
            *(keeper, which),
            marks=[pytest.mark.slow] * (which != IN_BLOCKS and keeper != "keras file"),
        )
        for keeper in KEEPERS
        for which in MAKERS
    ],
)
def test_kept_and_gone_on(which, keeper, tmp_path):
    """Twelve steps, kept, found again, twelve more: as if never interrupted."""
    net = model()
    fit(net, MAKERS[which](), 1)
    again = KEEPERS[keeper](net, MAKERS[which], tmp_path)
    assert again is not net
    assert type(again.optimizer) is type(net.optimizer)
    assert int(again.optimizer.iterations) == 12
    np.testing.assert_array_equal(go_on(again), go_on(net))


only_in_blocks = pytest.mark.parametrize(
    "which", helpers.slow_if(lambda which: which != IN_BLOCKS, MAKERS)
)


@only_in_blocks
def test_a_cloned_model_starts_afresh(which):
    net = model()
    fit(net, MAKERS[which](), 1)
    clone = keras.models.clone_model(net)
    clone.set_weights(net.get_weights())
    config = net.optimizer.get_config()
    optimizer = type(net.optimizer).from_config(config)
    same = MAKERS[which]()
    ours, theirs = fit(clone, optimizer, 1), fit(net, same, 1)
    np.testing.assert_array_equal(ours, theirs)


class KilledInSecondEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("which", helpers.slow_if(lambda w: w != "guarded", MAKERS))
def test_backup_and_restore(which, tmp_path):
    """A run that died in its second epoch goes on there, by Keras' callback."""
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        fit(model(), MAKERS[which](), 2, [backup(), KilledInSecondEpoch()])
    resumed = fit(model(1), MAKERS[which](), 2, [backup()])
    np.testing.assert_array_equal(resumed, fit(model(), MAKERS[which](), 2))


def late_layer_error(optimizer):
    net = model()
    fit(net, optimizer, 1)
    net.add(keras.layers.Dense(3))
    net.compile(optimizer=optimizer, loss=LOSS)
    with pytest.raises(Exception) as found:  # noqa: PT011 -- compared below
        go_on(net)
    return found.type, re.sub(r"_\d+", "", str(found.value))


@only_in_blocks
def test_layers_that_come_late_get_keras_own_error(which):
    ours, theirs = (
        late_layer_error(make()) for make in (MAKERS[which], keras.optimizers.Adam)
    )
    assert ours == theirs
    assert "Unknown variable" in ours[1]

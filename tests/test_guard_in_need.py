"""Where a trained optimizer fails without a guard, and what the guard makes of it.

Real data throughout. The margin that the docs state: the loss of the last epoch under
guard is above the fallback's by at most a fifth of what there is to gain, the loss of
knowing nothing (log 10 of ten classes).
"""

import math

import keras
import pytest

import tf_amalgam
from tf_amalgam.guard import ADAM

MARGIN = 0.2 * math.log(10)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def digits(scale):
    data = tf_amalgam.load_dataset("digits").train
    return scale * data.x.astype("float32") / 255, data.y


def mlp():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def losses(make_net, optimizer, data, batch_size=64, **options):
    """Returns the training loss of each epoch."""
    keras.utils.set_random_seed(0)
    net = make_net()
    net.compile(optimizer=optimizer, loss=LOSS)
    fitted = net.fit(*data, batch_size=batch_size, verbose=0, **options)
    return fitted.history["loss"]


def fallback():
    """Returns what the guard falls back on, as an optimizer of its own."""
    return tf_amalgam.Adam(ADAM.learning_rate)


def check(name, make_net, data, **options):
    """Trains without a guard, with one, and by the fallback."""
    alone = losses(make_net, tf_amalgam.load(name), data, **options)
    optimizer = tf_amalgam.load(name, guard=True)
    guarded = losses(make_net, optimizer, data, **options)
    known = losses(make_net, fallback(), data, **options)
    told = f"{alone[-1]=} {guarded[-1]=} {known[0]=} {known[-1]=}"
    limit = known[-1] + MARGIN
    assert not alone[-1] <= limit, f"{name} does without a guard: {told}"
    assert guarded[-1] <= limit, told
    assert optimizer.guard_report["fallback_steps"] > 0
    return optimizer.guard_report


@pytest.mark.parametrize("name", ["choice-large", "rnnprop"])
def test_absurd_input_scale(name):
    """Inputs a thousand times too large: the warm-up alone would kill the net."""
    report = check(name, mlp, digits(1000.0), epochs=20)
    assert report["out_of_bounds"] > 0


@pytest.mark.slow
def test_ten_times_the_horizon():
    """Unrolls of meta-training had 500 steps; here are 5,000."""
    data = digits(1.0)
    steps = -(-len(data[0]) // 64)
    report = check("stronger", mlp, data, epochs=5000 // steps)
    assert report["loss_climbed"] > 0

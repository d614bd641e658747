"""Walks of every rule on made-up gradients and models, the same on every backend.

    python -m tests.backends.walks

writes those of the backend at hand to `walks.npz`, which the tests of all compare with.
Weights, gradients and data are NumPy's, since backends draw other numbers by a seed.
"""

import pathlib

import keras
import numpy as np
from keras import ops

import tf_amalgam
from tf_amalgam import rules, saved
from tf_amalgam.optimizers import optimizer_for

FILE = pathlib.Path(__file__).with_name("walks.npz")
SHAPES = [(4, 3), (3,), (2, 3, 2), ()]
STEPS = 12
WARM_UP = {"warmup_steps": 3, "warmup_learning_rate": 0.05}
# Beside rules some of which are called the same.
SHIPPED = [f"shipped {name}" for name in saved.shipped_names()]
# What `fit` of Keras does beside the step itself.
OPTIONS = {
    "plain": {},
    "clipped": {"global_clipnorm": 0.1},
    "decayed": {"weight_decay": 0.1},
    "averaged": {"use_ema": True, "ema_overwrite_frequency": 5},
    "accumulated": {"gradient_accumulation_steps": 2},
    "guarded": {"guard": True},
    "half": {"state_dtype": "bfloat16"},
}
# Of one kind each: of a student, of a mixture, with rates, by its own global step.
FITTED = [
    f"shipped {name}"
    for name in ("choice-large", "choice-rule-small", saved.DEFAULT, "scale")
]
NAMES = [*rules.RULES, *SHIPPED]
UNTRAINED = "rnnprop"  # with drawn weights, whose steps a guard does not let pass
# But those of a gentle warm-up.
GUARDED = {"guard": True, "warmup_learning_rate": 0.005}


def optimizer_of(name, **options):
    """Returns a shipped optimizer, or one of a rule with weights drawn by NumPy."""
    if name in SHIPPED:
        return tf_amalgam.load(name.split()[1], **{**WARM_UP, **options})
    rule = (
        rules.make_rule(name, pool=("adam", "rmsprop"))
        if name == "choice"
        else (rules.make_rule(name))
    )
    generator = np.random.default_rng(3)
    weights = {
        key: (0.2 * generator.normal(size=np.shape(value))).astype("float32")
        for key, value in sorted(rule.init_weights(0).items())
    }
    return optimizer_for(rule, weights, **{**WARM_UP, **options})


def applied(name, **options):
    """Returns what `apply` makes of made-up variables, `[P]`."""
    generator = np.random.default_rng(0)

    def drawn(shape, size):
        return np.asarray(size * generator.normal(size=shape), "float32")

    optimizer = optimizer_of(name, **options)
    variables = [keras.Variable(drawn(shape, 1.0)) for shape in SHAPES]
    optimizer.build(variables)
    for step in range(STEPS):
        size = 0.3 if step % 2 else 2.0
        grads = [ops.convert_to_tensor(drawn(shape, size)) for shape in SHAPES]
        optimizer.apply(grads, variables)
    return flat(variables)


def model_of(optimizer):
    """Returns a compiled network and its data."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(96, 6)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int64")
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )
    model.set_weights([0.5 * generator.normal(size=w.shape) for w in model.weights])
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model, x, y


def fitted(options, name=FITTED[0]):
    """Returns the weights after `fit`, `[P]`."""
    model, x, y = model_of(optimizer_of(name, **options))
    model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    return flat(model.trainable_variables)


def flat(variables):
    """Returns the values of variables as one NumPy vector."""
    return np.concatenate([np.ravel(ops.convert_to_numpy(v)) for v in variables])


def main():
    """Writes the file."""
    found = {f"applied/{name}": applied(name) for name in NAMES}
    found |= {f"fitted/{key}": fitted(options) for key, options in OPTIONS.items()}
    found |= {f"fitted by/{name}": fitted({}, name) for name in FITTED}
    found["guarded"] = applied(UNTRAINED, **GUARDED)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()

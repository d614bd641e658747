"""Small real optimizees and comparisons that several test files share."""

import contextlib
import functools
import json
import os
import pathlib
import random
import socket
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_amalgam import alone, meta_step, tasks
from tf_amalgam.data import Dataset, Split
from tf_amalgam.meta_train import Trainer
from tf_amalgam.rules import make_pool, make_rule
from tf_amalgam.tasks import networks
from tf_amalgam.tasks.resnet import resnet_model
from tf_amalgam.tasks.task import Task

_SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
_FOLDER = pathlib.Path(os.environ.get("TF_AMALGAM_TEST_DATA", _SHARED / "tfds"))
SHARED_DATA = _FOLDER if _FOLDER.is_dir() else None
_WEIGHTS = pathlib.Path(
    os.environ.get("TF_AMALGAM_TEST_WEIGHTS", _SHARED / "authors_weights")
)
AUTHORS_WEIGHTS = _WEIGHTS if _WEIGHTS.is_dir() else None


# A short run on a small optimizee.
SHORT_LESSON = {
    "stages": ((20, 3),),
    "alpha": 0.01,
    "truncation_steps": 20,
    "meta_batch": 1,
    "meta_learning_rate": 0.01,
    "scaling": 0.0,
    "warmup_steps": 1,
    "period": 10,
    "validation_optimizees": 1,
    "replicas": 1,
    "progress": False,
}


# Enough for a student to learn `quadratics()` by meta loss alone, in seconds.
FAMILY_LESSON = {
    "teachers": (),
    "stages": ((20, 4),),
    "alpha": 0.0,
    "truncation_steps": 20,
    "meta_batch": 2,
    "meta_learning_rate": 0.01,
    "adaptive_clip": 0.1,
    "scaling": 0.0,
    "warmup_steps": 1,
    "period": 10,
    "validation_optimizees": 4,
    "replicas": 1,
    "progress": False,
}


# Enough for a student to learn the tiny task.
LESSON = {
    "stages": ((20, 3),),
    "truncation_steps": 20,
    "meta_learning_rate": 0.01,
    "scaling": 1.0,
    "warmup_steps": 5,
    "period": 5,
    "meta_batch": 2,
    "progress": False,
}


def slow_if(slow, values):
    """Returns the values of a parameter, those marked slow that are by `slow`."""
    return [pytest.param(v, marks=[pytest.mark.slow] * bool(slow(v))) for v in values]


@contextlib.contextmanager
def eagerly():
    """Within it steps are not compiled: what compiling does is tested elsewhere."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def wait_until(seen, seconds=60):
    """Waits for something that another process does; fails if it never does."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def interrupted_after(updates):
    """Presses Ctrl-C before the next meta-update once so many were made inside."""
    step, done = Trainer.step, []

    def counted(self, state):
        if len(done) == updates:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", counted)
        with pytest.raises(KeyboardInterrupt):
            yield


def blobs(examples=96, features=5, classes=3):
    """Returns a small classification data set in floatx."""
    generator = np.random.default_rng(7)
    y = generator.integers(0, classes, examples)
    centers = 2.0 * generator.normal(size=(classes, features))
    x = centers[y] + generator.normal(size=(examples, features))
    split = Split(x.astype(keras.config.floatx()), y.astype("int32"))
    return Dataset("blobs", split, split, split)


def tiny_model():
    return keras.Sequential(
        [
            keras.Input((5,), dtype=keras.config.floatx()),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def tiny_task(batch_size=8):
    """Returns an MLP of 39 parameters whose second derivatives matter."""
    return Task(
        "tiny",
        tiny_model,
        blobs(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size,
        ("accuracy",),
    )


def noise_images(shape=(8, 8, 1), classes=3, examples=48, name="noise"):
    """Returns made-up 8-bit images, with every class among the labels."""
    generator = np.random.default_rng(11)

    def split():
        x = generator.integers(0, 256, (examples, *shape), dtype=np.uint8)
        return Split(x, np.arange(examples, dtype="int32") % classes)

    return Dataset(name, split(), split(), split())


def tiny_resnet_task():
    """Returns a residual net with BatchNorm, of 9 convolutions and 3 blocks."""
    dataset = noise_images()
    model_fn = functools.partial(resnet_model, (8, 8, 1), (8, 8, 1), 3, 10, (2, 3, 4))
    return networks.classifier("tiny resnet", model_fn, dataset, 8)


def quadratics():
    """Returns a family of quadratics, another at each initialization."""
    return tasks.quadratic(dimensions=6, seed=None)


def players(
    student="rnnprop", teachers=("adam", "rmsprop"), preset="paper", **student_config
):
    pool = make_pool(teachers, preset) if teachers else ()
    student = make_rule(student, preset, **student_config)
    return meta_step.Players(student, pool, tuple({} for _ in pool))


def gains_on_fresh_members(amalgam, task, members=8, steps=20):
    """Returns by how much training lowered the log loss on each of some members.

    Means along unrolls on initializations that meta-training and its validations have
    not seen, fresh weights compared with trained ones; natural logarithms.
    """
    who = meta_step.Players(amalgam.rule, (), ())
    score = tf.function(
        lambda weights, carry, batches: alone.held_out_score(
            task, amalgam.rule, weights, carry, batches, task.dataset.validation
        )[0]
    )

    def scores(weights):
        found = []
        for seed in range(members):
            carry = started(task, who, seed, scaling=0.0, warmup=1)
            batches = constants(task.minibatches(seed, 1, steps))
            found.append(float(score(constants(weights), carry, batches)))
        return np.array(found)

    return scores(amalgam.rule.init_weights(0)) - scores(amalgam.weights)


def cluster_of(count):
    """Returns the environment of each worker of a cluster on this machine."""
    hosts = [f"localhost:{port}" for port in _free_ports(count)]
    told = [
        {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        for i in range(count)
    ]
    return [{**os.environ, "TF_CONFIG": json.dumps(one)} for one in told]


def _free_ports(count):
    """Returns ports below those that a system gives to whoever asks for any."""
    ports = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("localhost", port))
            ports += [port] if port not in ports else []
    return ports


def constants(tree):
    return tf.nest.map_structure(tf.constant, tree)


def started(task, who, seed=0, scaling=1.0, warmup=3):
    """Returns a carry after a short warm-up, in floatx."""
    dtype = keras.config.floatx()
    carry = constants(meta_step.initial_carry(task, who, seed, scaling, dtype))
    if not warmup:
        return carry
    batches = constants(task.minibatches(seed, 0, warmup))
    return meta_step.warm_up(task, who, carry, batches, 0.01, False)


def weights_of(rule, seed=0):
    dtype = keras.config.floatx()
    return {k: tf.constant(v, dtype) for k, v in rule.init_weights(seed).items()}


def released_checkpoint(prefix, weights, **others):
    """Writes weights, and `others`, as the authors' released code names them."""
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    variables = {
        "_CHECKPOINTABLE_OBJECT_GRAPH": tf.constant(b"graph"),
        f"optimizer/beta_1{suffix}": 0.9,
        f"save_counter{suffix}": 1,
    }
    for name, value in {**weights, **others}.items():
        for ours, theirs in (("lstm_", "recurrent/"), ("head/", "delta/")):
            name = name.replace(ours, f"network/{theirs}")
        variables[f"{name}{suffix}"] = value
        slot = f"{name}/.OPTIMIZER_SLOT/optimizer"
        variables[f"{slot}/m{suffix}"] = np.zeros_like(value)
    pathlib.Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.convert_to_tensor(value) for value in variables.values()],
    )


def flat(tree):
    """Returns all numbers of a nested structure, end to end, as float64."""
    return np.concatenate(
        [np.zeros(0)]
        + [np.ravel(np.asarray(v, "float64")) for v in tf.nest.flatten(tree)]
    )

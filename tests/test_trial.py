"""One run: the test split at the last epoch's weights and at the best epoch's."""

import types

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import frames, tasks, trial
from tf_amalgam.numerics import derive_seed
from tf_amalgam.tasks import networks
from tf_amalgam.warm_up import WarmUp


class Spoils(keras.optimizers.SGD):
    """SGD that makes the weights useless at one step, as overfitting does slowly."""

    def __init__(self, at, times=-8.0, learning_rate=0.05):
        super().__init__(learning_rate)
        self.at, self.times = at, times

    def apply(self, grads, variables):
        super().apply(grads, variables)
        last = keras.ops.equal(self.iterations, self.at)
        for v in variables:
            v.assign(keras.ops.where(last, self.times, 1.0) * v)


def spoilt(task, epochs, after):
    """Returns the records of a run spoilt right after some epochs, and of one that
    ended there."""
    steps = len(task.dataset.train.x) // task.batch_size
    optimizer = Spoils(after * steps + 1)
    whole = trial.train_once(optimizer, task, seed=3, epochs=epochs)
    short = trial.train_once(keras.optimizers.SGD(0.05), task, seed=3, epochs=after)
    losses = whole["curves"]["val_loss"]
    assert np.argmin(losses) == after - 1
    assert losses[-1] > 1.5 * losses[after - 1]
    return whole, short


def check(whole, short):
    assert whole["test_at_best"].keys() == whole["test"].keys()
    for name, value in short["test"].items():
        assert whole["test_at_best"][name] == pytest.approx(value, rel=1e-6), name
    assert whole["test"]["loss"] > 1.2 * whole["test_at_best"]["loss"]


def apart(dataset):
    """Returns the data with a test split of its own."""
    x, y = dataset.test
    return dataset._replace(test=type(dataset.test)(x[::2] + 0.1, y[::2]))


def test_the_best_epochs_weights_are_tested_too():
    """Training that goes bad: the best is as if training had ended there."""
    task = helpers.tiny_task()
    task.dataset = apart(task.dataset)
    whole, short = spoilt(task, epochs=4, after=2)
    check(whole, short)
    assert whole["test"]["loss"] != pytest.approx(whole["curves"]["val_loss"][-1])
    row = frames.runs([{**short, **whole, **WHO}]).iloc[0]
    assert row["test_at_best_loss"] == whole["test_at_best"]["loss"]
    assert row["log_test_at_best_loss"] == pytest.approx(np.log(row.test_at_best_loss))
    assert row["test_at_best_accuracy"] == whole["test_at_best"]["accuracy"]
    assert row["test_loss"] == whole["test"]["loss"]


WHO = {"optimizer": "spoils", "replicate": 0, "seed": 3, "kind": "keras", "trained": {}}


def test_batch_norm_statistics_belong_to_the_weights():
    """They move in every epoch, and inference depends on them."""

    def model_fn():
        return keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.Dense(3),
            ]
        )

    task = networks.classifier("normed", model_fn, helpers.blobs(), 8)
    check(*spoilt(task, epochs=2, after=1))


def test_private_optimizees_too():
    task = tasks.private(helpers.tiny_task(), noise_multiplier=0.1)
    whole, short = spoilt(task, epochs=2, after=1)
    check(whole, short)
    # What was spent is what was trained, not what was chosen.
    assert whole["privacy"]["steps"] == 2 * short["privacy"]["steps"]


def test_where_the_last_epoch_is_best_both_are_one():
    record = trial.train_once(
        keras.optimizers.SGD(0.05), helpers.tiny_task(), seed=0, epochs=2
    )
    assert np.argmin(record["curves"]["val_loss"]) == 1
    assert record["test_at_best"] == record["test"] != {}


def test_a_diverged_run_has_neither():
    """Though its first epoch was fine."""
    record = trial.train_once(
        Spoils(13, times=np.inf), helpers.tiny_task(), seed=0, epochs=3
    )
    assert record["diverged"]
    assert np.isfinite(record["curves"]["val_loss"][0])
    assert record["test"] == record["test_at_best"] == {}
    row = frames.runs([{**record, **WHO}]).iloc[0]
    assert np.isnan(row["test_at_best_loss"])


@pytest.fixture
def ticking(monkeypatch):
    """A look at the clock is a second after the one before; 100 of the first eleven."""
    looks = []

    def now():
        looks.append(1.0 if len(looks) >= 11 else 100.0)
        return sum(looks)

    monkeypatch.setattr(trial, "time", types.SimpleNamespace(perf_counter=now))
    return looks


def test_milliseconds_are_those_of_steps_that_build_nothing(ticking):
    """A look before, and two of each step, of which five are not counted."""
    optimizer = keras.optimizers.SGD(0.05)
    record = trial.train_once(optimizer, helpers.tiny_task(), seed=0, epochs=2)
    assert record["step_milliseconds"] == 1000.0
    assert record["seconds"] == sum(ticking[1:])


def test_milliseconds_are_those_of_steps_after_the_warm_up(monkeypatch):
    """In it a learned rule only observes: steps of 1 s, and of 3 s after the 15th."""
    looks = []

    def now():
        looks.append(1.0 if len(looks) < 32 else 3.0)
        return sum(looks)

    monkeypatch.setattr(trial, "time", types.SimpleNamespace(perf_counter=now))
    for optimizer in (
        tf_amalgam.SGD(0.05, warmup_steps=15, warmup_learning_rate=0.1),
        WarmUp(keras.optimizers.SGD(0.05), 15, 0.1),
    ):
        looks.clear()
        record = trial.train_once(optimizer, helpers.tiny_task(), seed=0, epochs=2)
        assert len(record["batch_losses"]) == 24
        assert record["step_milliseconds"] == 3000.0


def test_an_epoch_is_all_its_steps_and_a_validation(ticking):
    task = helpers.tiny_task()
    found = trial.seconds_of_an_epoch(keras.optimizers.SGD(0.05), task)
    assert found == len(task.dataset.train.x) // task.batch_size + 1.0


def test_each_loss_is_of_its_split():
    """A rate of 0 leaves the network as it began, to be held against each split."""
    task = helpers.tiny_task()
    x, y = task.dataset.train
    task.dataset = task.dataset._replace(
        validation=type(task.dataset.train)(x[:40] + 0.5, np.minimum(y[:40], 1)),
        test=type(task.dataset.train)(x[40:70] - 0.5, y[40:70]),
    )
    optimizer = keras.optimizers.SGD(0.0)
    record = trial.train_once(optimizer, task, seed=3, epochs=1)
    model = task.build_model(derive_seed(3, "initial", task.name))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train, validation, test = (
        float(loss(part.y, model(part.x))) for part in task.dataset[1:]
    )
    assert len({round(value, 3) for value in (train, validation, test)}) == 3
    assert record["start_loss"] == pytest.approx(validation, rel=1e-5)
    assert record["curves"]["val_loss"] == [pytest.approx(validation, rel=1e-5)]
    assert record["curves"]["loss"] == [pytest.approx(train, rel=1e-5)]
    assert record["test"]["loss"] == pytest.approx(test, rel=1e-5)
    shares = np.bincount(task.dataset.validation.y) / 40
    entropy = -np.sum(shares * np.log(shares))
    assert record["constant_loss"] == pytest.approx(entropy, rel=1e-6)

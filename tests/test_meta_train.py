"""The meta-training loop: resuming, devices, skipping, learning."""

import dataclasses
import json
import logging
import math
import pathlib
import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tf_amalgam import (
    alone,
    checkpoints,
    data,
    files,
    meta_step,
    meta_train,
    rules,
    run,
    saved,
    workdir,
)
from tf_amalgam.curriculum import Curriculum, Progress, Stage
from tf_amalgam.meta_train import Diverged, Trainer
from tf_amalgam.numerics import derive_seed
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.programs import Programs, adaptive_clip
from tf_amalgam.settings import Settings
from tf_amalgam.state import Learned, fresh
from tf_amalgam.tasks.task import Task

SMALL = {
    "truncation_steps": 6,
    "stages": ((6, 2), (18, 2, 0.02)),
    "meta_batch": 4,
    "scaling": 1.0,
    "warmup_steps": 4,
    "period": 1,
    "validation_optimizees": 1,
    "validation_steps": 6,
    "meta_learning_rate": 0.01,
    "replicas": 1,
    "progress": False,
}
UPDATES = 2 * 1 + 2 * 3
# What is traced in no time, where neither rule nor teachers matter.
SIMPLE = {
    "student": "learned_scalars",
    "teachers": ["sgd"],
    "second_order": False,
    "meta_batch": 1,
}


def amalgamated(**options):
    return tf_amalgam.amalgamate(helpers.tiny_task(), **{**SMALL, **options})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return amalgamated(workdir=folder), folder


def same(a, b):
    np.testing.assert_array_equal(helpers.flat(a.weights), helpers.flat(b.weights))
    assert a.history == b.history
    assert a.validations == b.validations


def test_a_finished_run(uninterrupted):
    amalgam, folder = uninterrupted
    assert amalgam.finished
    assert [row["update"] for row in amalgam.history] == list(range(1, UPDATES + 1))
    assert [row["meta_epoch"] for row in amalgam.history] == [0, 1, 2, 2, 2, 3, 3, 3]
    assert [row["update"] for row in amalgam.validations] == [0, 1, 2, 2, 5, 8]
    assert [row["stage"] for row in amalgam.validations] == [0, 0, 0, 1, 1, 1]
    best = min(amalgam.validations[3:], key=lambda row: row["score"])
    rule, weights, header = saved.read(folder)
    assert header["about"]["best_after_meta_updates"] == best["update"]
    assert header["warmup_steps"] == 4
    np.testing.assert_array_equal(helpers.flat(weights), helpers.flat(amalgam.weights))
    assert rule == amalgam.rule
    for name in ("settings.json", "history.csv", "curves.png", "untrained.npz"):
        assert (folder / name).stat().st_size > 0
    rows = files.read_csv(folder / "history.csv")
    assert [row["loss"] for row in rows] == [row["loss"] for row in amalgam.history]


def test_the_untrained_student_is_kept(uninterrupted):
    amalgam, folder = uninterrupted
    _, weights, _ = saved.read(folder / "untrained.npz")
    fresh = amalgam.rule.init_weights(tf_amalgam.numerics.derive_seed(0, "student"))
    np.testing.assert_array_equal(helpers.flat(weights), helpers.flat(fresh))


def test_it_is_a_keras_optimizer(uninterrupted, tmp_path):
    amalgam, _ = uninterrupted
    path = amalgam.save(tmp_path / "mine.npz")
    made, loaded = amalgam.optimizer(), tf_amalgam.load(path)
    expected, found = made.get_config(), loaded.get_config()
    assert {**expected, "name": None} == {**found, "name": None}
    assert made.warmup_steps == 4


# In the middle of one, below; between two, in test_run, too.
@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3, 6])
def test_resumed_equals_uninterrupted(uninterrupted, tmp_path, stop_after):
    """Interrupted between unrolls (1, 2) and in the middle of one (3, 6)."""
    whole, _ = uninterrupted
    with helpers.interrupted_after(stop_after):
        amalgamated(workdir=tmp_path)
    found = checkpoints.load_newest(tmp_path / "checkpoints")
    assert found[1]["updates"] == stop_after
    same(amalgamated(workdir=tmp_path), whole)


def test_a_finished_run_is_not_run_again(uninterrupted, monkeypatch):
    whole, folder = uninterrupted
    monkeypatch.setattr(Trainer, "step", None)
    same(amalgamated(workdir=folder), whole)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-4000])


def called_encrypted(path):
    """A flag of each entry of the archive's directory."""
    content = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(content)):
        content[found.start() + 8] |= 1
    path.write_bytes(content)


def compressed_and_damaged(path):
    """As a file is that was packed again, and lost some bytes of a stream."""
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays)
    content = bytearray(path.read_bytes())
    content[40:120] = bytes(range(80, 160))
    path.write_bytes(content)


@pytest.mark.parametrize(
    "broken",
    helpers.slow_if(lambda how: how == called_encrypted, [cut_short, called_encrypted]),
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    uninterrupted, tmp_path, monkeypatch, caplog, broken
):
    whole, _ = uninterrupted
    step = Trainer.step

    def stopping(self, state):
        if state.updates == 5:
            raise KeyboardInterrupt
        return step(self, state)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        amalgamated(workdir=tmp_path, checkpoint_seconds=0.0)
    monkeypatch.setattr(Trainer, "step", step)
    older, newest = sorted((tmp_path / "checkpoints").iterdir())
    broken(newest)
    with caplog.at_level(logging.WARNING):
        same(amalgamated(workdir=tmp_path), whole)
    assert f"{newest} is damaged" in caplog.text
    assert older.name == "checkpoint-00000004.npz"


def test_no_readable_checkpoint_is_an_error(tmp_path):
    checkpoints.save(tmp_path / "encrypted", 1, {}, {})
    (path,) = (tmp_path / "encrypted").iterdir()
    called_encrypted(path)
    with pytest.raises(ValueError, match="None of the 1 checkpoints"):
        checkpoints.load_newest(path.parent)
    path.unlink()
    checkpoints.save(path.parent, 1, {"x": np.arange(1000.0)}, {})
    compressed_and_damaged(path)
    with pytest.raises(ValueError, match="None of the 1 checkpoints"):
        checkpoints.load_newest(path.parent)
    (tmp_path / "checkpoint-00000001.npz").write_text("x")
    with pytest.raises(ValueError, match="None of the 1 checkpoints"):
        checkpoints.load_newest(tmp_path)


@pytest.mark.parametrize("replicas", helpers.slow_if(lambda n: n != 3, [2, 3, 4]))
def test_devices_do_not_change_the_mathematics(uninterrupted, replicas):
    single, _ = uninterrupted
    mirrored = amalgamated(replicas=replicas)
    start = saved.read(uninterrupted[1] / "untrained.npz")[1]
    moved = np.abs(helpers.flat(single.weights) - helpers.flat(start)).max()
    assert moved > 1e-3
    np.testing.assert_allclose(
        helpers.flat(mirrored.weights), helpers.flat(single.weights), atol=1e-2 * moved
    )
    ours, theirs = single.history[0], mirrored.history[0]
    assert ours.keys() == theirs.keys()
    for name in ("loss", "meta_gradient_norm", "distance/adam"):
        assert theirs[name] == pytest.approx(ours[name], rel=1e-4)


def test_what_a_device_repeats_goes_on_nowhere():
    """Four optimizees on three devices: two of them repeat the last one."""
    found = []

    def step(self, state):
        found.append(stepped(self, state))
        return found[-1]

    stepped = Trainer.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        options = {**SIMPLE, "meta_batch": 4, "stages": ((12, 1),)}
        amalgamated(**options, replicas=3)
    assert [len(state.carries) for state in found] == [4, 0]
    seeds = [int(carry.seed) for carry in found[0].carries]
    assert len(set(seeds)) == 4


def test_sum_and_mean_of_the_meta_batch_differ_by_its_size(monkeypatch):
    applied, totals = Trainer._applied, []

    def noted(self, state, gradients):
        totals.append(helpers.flat(gradients))
        return applied(self, state, gradients)

    monkeypatch.setattr(Trainer, "_applied", noted)
    for reduction in ("mean", "sum"):
        amalgamated(
            **{**SIMPLE, "meta_batch": 4}, reduction=reduction, stages=((6, 1),)
        )
    np.testing.assert_allclose(totals[1], 4 * totals[0], rtol=1e-4, atol=1e-7)
    assert np.abs(totals[0]).max() > 1e-3


def test_one_trace_per_program(monkeypatch):
    """A stage of many meta-epochs compiles each program once."""
    traces = []
    truncation = meta_step.truncation

    def counted(*arguments):
        traces.append(1)
        return truncation(*arguments)

    monkeypatch.setattr(meta_step, "truncation", counted)
    amalgamated(**SIMPLE, stages=((12, 3),))
    assert len(traces) == 1
    # One for two stages whose α differ; another, without an imitation loss.
    amalgamated(**SIMPLE, stages=((12, 1, 0.1), (12, 1, 0.3), (12, 1, 0.0)))
    assert len(traces) == 3


def poisoned(monkeypatch, bad):
    """Makes the meta-gradient of some updates NaN."""
    truncation = meta_step.truncation
    calls = tf.Variable(0)

    def broken(*arguments):
        gradient, carry, metrics = truncation(*arguments)
        count = calls.assign_add(1)
        nan = tf.reduce_any(tf.equal(count, list(bad)))
        gradient = {
            k: tf.where(nan, tf.fill(g.shape, np.float32("nan")), g)
            for k, g in gradient.items()
        }
        return gradient, carry, metrics

    monkeypatch.setattr(meta_step, "truncation", broken)


def test_non_finite_meta_gradients_are_skipped_and_counted(monkeypatch, caplog):
    poisoned(monkeypatch, [3, 5])
    with caplog.at_level(logging.WARNING):
        amalgam = amalgamated(**SIMPLE, stages=((6, 6),))
    assert [row["skipped"] for row in amalgam.history] == [0, 0, 1, 0, 1, 0]
    assert np.isfinite(helpers.flat(amalgam.weights)).all()
    assert amalgam.about["meta_updates_skipped"] == 2
    assert "2 of 6 meta-updates were skipped" in caplog.text


def test_an_unroll_whose_meta_gradient_is_lost_ends(monkeypatch):
    """The second of three truncations; what is left of it would be lost as well."""
    poisoned(monkeypatch, [2])
    rows = amalgamated(**SIMPLE, stages=((18, 3),)).history
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0, 0, 0, 0, 0]
    assert [row["meta_epoch"] for row in rows] == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_lost_student_ends_its_unroll(monkeypatch):
    """At the last step of the first of three truncations, so that no gradient tells."""
    truncation = meta_step.truncation
    calls = tf.Variable(0)

    def losing(*arguments):
        gradient, carry, metrics = truncation(*arguments)
        first = tf.equal(calls.assign_add(1), 1)
        student = carry.student
        params_P = tf.where(first, np.float32("nan"), student.params_P)
        carry = carry._replace(student=student._replace(params_P=params_P))
        return gradient, carry, metrics

    monkeypatch.setattr(meta_step, "truncation", losing)
    rows = amalgamated(**SIMPLE, stages=((18, 2),)).history
    assert not any(row["skipped"] for row in rows)
    assert [row["meta_epoch"] for row in rows] == [0, 1, 1, 1]


def test_a_lost_teacher_ends_its_unroll(monkeypatch):
    """Its parameters stay lost, and with them every meta-gradient after that."""
    start, lost = Trainer._start, []

    def broken(self, state):
        carries = start(self, state)
        if state.meta_epoch != 1:
            return carries
        lost.append(state.updates)
        first, *others = carries
        teacher = first.teachers[0]
        params_P = teacher.params_P * np.float32("nan")
        teachers = (teacher._replace(params_P=params_P), *first.teachers[1:])
        return (first._replace(teachers=teachers), *others)

    monkeypatch.setattr(Trainer, "_start", broken)
    amalgam = amalgamated(
        **{**SIMPLE, "meta_batch": 2}, stages=((18, 3),), max_skipped=2
    )
    assert lost == [3]
    assert [row["skipped"] for row in amalgam.history] == [0, 0, 0, 1, 0, 0, 0]
    assert np.isfinite(helpers.flat(amalgam.weights)).all()


def test_a_meta_gradient_whose_square_is_too_large_is_skipped(monkeypatch):
    """Adam would keep an infinite second moment, and weights be NaN one step later."""
    truncation = meta_step.truncation
    calls = tf.Variable(0)

    def huge(*arguments):
        gradient, carry, metrics = truncation(*arguments)
        factor = tf.where(tf.equal(calls.assign_add(1), 2), 1e25, 1.0)
        return {k: factor * g for k, g in gradient.items()}, carry, metrics

    monkeypatch.setattr(meta_step, "truncation", huge)
    amalgam = amalgamated(**SIMPLE, stages=((6, 4),))
    assert [row["skipped"] for row in amalgam.history] == [0, 1, 0, 0]
    assert np.isfinite(amalgam.history[1]["last_loss"])
    assert np.isfinite(helpers.flat(amalgam.weights)).all()


def test_skipped_weights_that_are_given_up_do_not_count_on():
    verdict = types.SimpleNamespace(then="repeat", best=False, progress=Progress())
    learned = Learned({}, ())
    before = fresh({}, ())._replace(now=learned, skipped=4, skipped_in_a_row=3)
    after = Trainer._judged(before, verdict, 1.0)
    assert (after.skipped, after.skipped_in_a_row) == (4, 0)
    on = types.SimpleNamespace(then="", best=False, progress=Progress())
    assert Trainer._judged(before, on, 1.0).skipped_in_a_row == 3


def test_too_many_in_a_row_stop_the_run_and_keep_what_was_learned(
    monkeypatch, tmp_path
):
    poisoned(monkeypatch, range(3, 100))
    with pytest.raises(Diverged, match="3 meta-gradients in a row"):
        amalgamated(**SIMPLE, stages=((6, 20),), max_skipped=3, workdir=tmp_path)
    _, facts = checkpoints.load_newest(tmp_path / "checkpoints")
    assert facts["updates"] == 4
    assert saved.read(tmp_path)[0].name == "learned_scalars"


def test_adaptive_clip_by_hand():
    weight = np.full(4, 2.0, "float32")
    gradient = np.array([3.0, 0, 4.0, 0], "float32")
    np.testing.assert_allclose(adaptive_clip(gradient, weight, 0.1), 0.08 * gradient)
    np.testing.assert_array_equal(adaptive_clip(gradient, weight, 2.0), gradient)
    zero = adaptive_clip(gradient, np.zeros(4, "float32"), 0.1)  # the floor of 1e-3
    assert np.linalg.norm(zero) == pytest.approx(1e-4)
    # Where squares overflow, too.
    np.testing.assert_allclose(
        adaptive_clip(np.float32(1e30) * gradient, weight, 0.1),
        0.08 * gradient,
        rtol=1e-6,
    )
    for lost in ("nan", "inf"):
        found = adaptive_clip(gradient + np.float32([lost, 0, 0, 0]), weight, 0.1)
        assert not np.isfinite(found).all()


def test_one_exploding_optimizee_does_not_drown_the_others(monkeypatch):
    """Where all are clipped, the size of one meta-gradient does not matter."""
    options = {"stages": ((6, 1),), "meta_batch": 2, "adaptive_clip": 1e-6}
    calm, free = amalgamated(**options), amalgamated(**{**options, "adaptive_clip": 0})
    truncation = meta_step.truncation
    first = meta_step.initial_carry(
        helpers.tiny_task(),
        helpers.players(),
        derive_seed(0, "optimizee", "training", 0, 0),
    )

    def exploding(task, players, objective, weights, carry, *others):
        gradient, after, metrics = truncation(
            task, players, objective, weights, carry, *others
        )
        factor = tf.where(carry.seed == first.seed, 1e8, 1.0)
        return {k: factor * g for k, g in gradient.items()}, after, metrics

    monkeypatch.setattr(meta_step, "truncation", exploding)
    wild = amalgamated(**options)
    ratio = (
        wild.history[0]["meta_gradient_norm"] / calm.history[0]["meta_gradient_norm"]
    )
    assert ratio > 1e5
    np.testing.assert_allclose(
        helpers.flat(wild.weights), helpers.flat(calm.weights), atol=1e-6
    )
    assert np.abs(helpers.flat(free.weights) - helpers.flat(calm.weights)).max() > 1e-4


def test_a_student_beats_its_initial_self():
    amalgam = tf_amalgam.amalgamate(helpers.tiny_task(), **helpers.LESSON)
    scores = [row["score"] for row in amalgam.validations]
    assert min(scores) < scores[0] - 0.3
    assert amalgam.history[-1]["meta_loss"] < amalgam.history[0]["meta_loss"] - 0.2


@pytest.mark.slow
def test_starting_from_a_saved_optimizer(uninterrupted, tmp_path):
    _, folder = uninterrupted
    path = folder / "student.npz"
    amalgam = amalgamated(initial_weights=path, stages=((6, 1),), workdir=tmp_path)
    _, start, _ = saved.read(tmp_path / "untrained.npz")
    np.testing.assert_array_equal(
        helpers.flat(start), helpers.flat(saved.read(path)[1])
    )
    assert amalgam.about["initial_weights"]["sha256"]


def test_starting_from_a_shipped_rule_that_learns_rates_now(tmp_path):
    rule, weights, header = saved.find("choice-rule-small")
    amalgam = amalgamated(
        teachers=(),
        student=dataclasses.replace(rule, rate_range=3.0),
        initial_weights="choice-rule-small",
        stages=((6, 1),),
        workdir=tmp_path,
    )
    _, start, _ = saved.read(tmp_path / "untrained.npz")
    for name, value in weights.items():
        np.testing.assert_array_equal(start[name], value, name)
    assert not np.any(start["rate/time"])
    assert np.all(amalgam.weights["rate/time"])
    told = {"path": "choice-rule-small", "sha256": header["sha256"]}
    assert amalgam.about["initial_weights"] == told


@pytest.mark.slow
def test_a_stage_with_teacher_forcing(tmp_path, monkeypatch):
    """The student comes near its teachers, unscaled; the next stage starts there."""
    forced = {
        "stages": ((18, 8, 0.1, True), (18, 1, 0.1)),
        "teachers": ["adam"],
        "preset": "released",
        "meta_learning_rate": 0.003,
    }
    begun = []
    initial_carry = meta_step.initial_carry

    def told(task, players, seed, scaling):
        begun.append((bool(players.teachers), scaling))
        return initial_carry(task, players, seed, scaling)

    monkeypatch.setattr(meta_step, "initial_carry", told)
    whole = amalgamated(**forced)
    # Validation and unrolls of four optimizees: nine times, eight times; then scaled.
    unscaled = 9 * [(False, 0.0)] + 8 * 4 * [(True, 0.0)]
    scaled = 2 * [(False, 1.0)] + 4 * [(True, 1.0)]
    assert sorted(begun) == sorted(unscaled + scaled)
    rows = whole.history
    assert [row["stage"] for row in rows] == [0] * 24 + [1] * 3
    distances = [row["distance/adam"] for row in rows]
    assert sum(distances[21:24]) < sum(distances[:3]) - 3 * 0.5
    # All stand where the teacher does.
    assert all(row["last_loss"] == row["last_loss/adam"] for row in rows[:24])
    assert rows[26]["last_loss"] != rows[26]["last_loss/adam"]
    monkeypatch.undo()
    with helpers.interrupted_after(5):
        amalgamated(workdir=tmp_path, **forced)
    same(amalgamated(workdir=tmp_path, **forced), whole)


def test_a_stage_with_a_meta_learning_rate_of_its_own(tmp_path, monkeypatch):
    """Adam's, whose averages go on; also where the run is resumed in that stage."""
    given = {**SIMPLE, "stages": ((6, 2), (6, 2, None, False, 1e-5), (6, 1))}
    moved, rates = [], []
    applied = Trainer._applied

    def told(self, state, gradients):
        after = applied(self, state, gradients)
        before = helpers.flat(state.now.weights)
        moved.append(np.abs(helpers.flat(after.now.weights) - before).max())
        rates.append(float(self._optimizer.learning_rate))
        return after

    monkeypatch.setattr(Trainer, "_applied", told)
    whole = amalgamated(**given)
    np.testing.assert_allclose(rates, [0.01, 0.01, 1e-5, 1e-5, 0.01], rtol=1e-6)
    assert max(moved[2:4]) < 3e-5
    assert min(moved[0], moved[1], moved[4]) > 1e-3
    stages = whole.settings.describe()["curriculum"]["stages"]
    assert [stage.get("meta_learning_rate") for stage in stages] == [None, 1e-5, None]
    assert "meta_learning_rate" not in stages[0]  # folders of before go on
    with helpers.interrupted_after(3):
        amalgamated(workdir=tmp_path, **given)
    same(amalgamated(workdir=tmp_path, **given), whole)


def test_the_meta_optimizer_is_adam_from_update_to_update(monkeypatch):
    """Kingma and Ba 2015, with averages that outlive an update."""
    taken = []
    applied = Trainer._applied

    def told(self, state, gradients):
        after = applied(self, state, gradients)
        names = sorted(gradients)
        taken.append(
            [
                np.concatenate([np.ravel(part[name]) for name in names]).astype(float)
                for part in (gradients, state.now.weights, after.now.weights)
            ]
        )
        return after

    monkeypatch.setattr(Trainer, "_applied", told)
    amalgamated(**{**SIMPLE, "stages": ((6, 4),)})
    assert len(taken) == 4
    m = v = 0.0
    for t, (gradient, before, after) in enumerate(taken, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        step = (m / (1.0 - 0.9**t)) / np.sqrt(v / (1.0 - 0.999**t))
        np.testing.assert_allclose(before - after, 0.01 * step, rtol=1e-3, atol=1e-7)


def test_figures_of_an_update_are_means_over_its_optimizees():
    def metrics(size):
        numbers = np.arange(1.0, 7.0)
        return meta_step.Metrics(
            size,
            2.0 * size,
            3.0 * size,
            size * numbers[:2],
            0.1 * size * numbers[:2],
            size * numbers[:3],
            size * numbers.reshape(2, 3),
        )

    players = meta_step.Players(None, (rules.Adam(0.1), rules.SGD(0.1)), ())
    found = meta_train._row([(metrics(1.0), 10.0), (metrics(3.0), 30.0)], players)
    expected = {
        "loss": 2.0,
        "meta_loss": 4.0,
        "imitation": 6.0,
        "meta_gradient_norm": 20.0,
        "first_loss": 2.0,
        "last_loss": 6.0,
        "distance/adam": 2.0,
        "farthest/adam": 0.2,
        "last_loss/adam": 6.0,
        "distance/sgd": 4.0,
        "farthest/sgd": 0.4,
        "last_loss/sgd": 12.0,
    }
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


def test_tensorboard_scalars(uninterrupted):
    folder = uninterrupted[1] / "tensorboard"
    names = set()
    for file in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            names |= {value.tag for value in event.summary.value}
    assert {
        "meta/meta_loss",
        "meta/distance/adam",
        "meta/farthest/rmsprop",
        "meta/meta_gradient_norm",
        "meta/skipped_in_all",
        "validation/score",
    } <= names


def test_validation_looks_at_all_of_a_sorted_split(monkeypatch):
    """The first of a user's own split may be of one class."""
    monkeypatch.setattr(alone, "VALIDATION_EXAMPLES", 20)
    x = np.arange(90, dtype="float32")[:, None]
    split = data.Split(x, np.repeat(np.arange(3), 30))
    task = types.SimpleNamespace(dataset=helpers.blobs()._replace(validation=split))
    some, labels = Trainer._held_out(types.SimpleNamespace(task=task))
    assert len(some) == len(set(np.ravel(some))) == 20
    assert set(labels.numpy()) == {0, 1, 2}
    np.testing.assert_array_equal(labels, np.ravel(some) // 30)
    again, _ = Trainer._held_out(types.SimpleNamespace(task=task))
    np.testing.assert_array_equal(some, again)
    # In no order: the first, as ever.
    mixed = data.Split(x, np.arange(90) % 3)
    task.dataset = task.dataset._replace(validation=mixed)
    some, _ = Trainer._held_out(types.SimpleNamespace(task=task))
    np.testing.assert_array_equal(some, x[:20])
    # Of numbers nothing tells.
    task.dataset = task.dataset._replace(validation=data.Split(x, x))
    some, _ = Trainer._held_out(types.SimpleNamespace(task=task))
    assert len(some) == 20
    assert np.max(some) > 40
    # Nor the numbers of whole vectors.
    each = data.Split(x, np.eye(3, dtype=int)[np.repeat(np.arange(3), 30)])
    task.dataset = task.dataset._replace(validation=each)
    _, labels = Trainer._held_out(types.SimpleNamespace(task=task))
    assert np.all(labels.numpy().sum(axis=0) > 0)


@pytest.mark.usefixtures("float64")
def test_another_floatx_is_refused(tmp_path):
    with pytest.raises(ValueError, match="floatx is 'float64'"):
        amalgamated(workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trained_weights_may_lie_elsewhere(tmp_path):
    """A run that began with them goes on: they are told by their hash."""

    def settings(path, sha256):
        return {"initial_weights": {"path": path, "sha256": sha256}, "alpha": 0.1}

    check = workdir.Workdir._check_same
    check(settings("a/student.npz", "1"), settings("/b/student.npz", "1"), tmp_path)
    for other in (settings("a/student.npz", "2"), {"initial_weights": "fresh"}):
        with pytest.raises(ValueError, match="initial_weights"):
            check(settings("a/student.npz", "1"), {"alpha": 0.1, **other}, tmp_path)


def test_another_experiment_in_the_workdir_is_refused(uninterrupted):
    _, folder = uninterrupted
    with pytest.raises(
        ValueError, match=r"another experiment(?s:.)*alpha: 0.1 there, 0.3"
    ):
        amalgamated(workdir=folder, alpha=0.3)
    with pytest.raises(ValueError, match="teachers"):
        amalgamated(workdir=folder, teachers=["adam"])


def test_another_model_of_the_same_shapes_is_another_experiment(tmp_path):
    def task(activation):
        return tf_amalgam.tasks.mlp("digits", activation=activation)

    short = {**SMALL, "meta_batch": 1, "stages": ((6, 1),), "workdir": tmp_path}
    tf_amalgam.amalgamate(task("sigmoid"), **short)
    with pytest.raises(ValueError, match=r"another experiment(?s:.)*task.*model"):
        tf_amalgam.amalgamate(task("relu"), **short)
    other, digits = task("sigmoid"), tf_amalgam.load_dataset("digits")
    darker = [split._replace(x=split.x // 2) for split in digits[1:]]
    other.dataset = data.Dataset("digits", *darker)
    with pytest.raises(
        ValueError, match=r"(?s)another experiment.*task.data.*shuffles"
    ):
        tf_amalgam.amalgamate(other, **short)
    # Folders of earlier versions do not know.
    file = tmp_path / "settings.json"
    told = json.loads(file.read_text())
    for key in ("model", "data", "loss_options"):
        del told["task"][key]
    file.write_text(json.dumps(told))
    assert tf_amalgam.amalgamate(task("sigmoid"), **short).finished


def test_unreadable_settings_are_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        amalgamated(workdir=tmp_path)


MISTAKES = {
    "teacher": ({"teachers": ["adamm"]}, "Unknown teacher 'adamm'"),
    "scheme": ({"scheme": "maxmin"}, "Unknown amalgamation scheme"),
    "preset": ({"preset": "relaesed"}, r"Unknown preset.*'released'\?"),
    "student": ({"student": "adam"}, "student must be a learned rule"),
    "student name": ({"student": "rnnprp"}, "Unknown rule 'rnnprp'"),
    "meta-batch": ({"meta_batch": 3, "replicas": 4}, "keep no more devices than that"),
    "replicas": ({"replicas": 9}, "there are 4 CPU devices"),
    "stage": ({"stages": ((0, 1),)}, "unroll must be a whole number from 1"),
    "stage alpha": (
        {"stages": ((6, 1, -1.0),)},
        "alpha must be a finite number from 0",
    ),
    "no stage": ({"stages": ()}, "at least one Stage"),
    "unroll": ({"stages": ((10, 1),)}, "truncations of 6 do not divide"),
    "forcing in alpha's place": (
        {"stages": ((6, 1, True),)},
        "alpha must be a finite number from 0, or None, received True",
    ),
    "forcing by a word": (
        {"stages": ((6, 1, 0.1, "False"),)},
        "teacher_forcing must be True or False, received 'False'",
    ),
    "stage rate": (
        {"stages": ((6, 1, 0.1, False, 0.0),)},
        "Stage: meta_learning_rate must be a finite number above 0, or None",
    ),
    "forcing alpha": (
        {"stages": ((6, 1, 0.0, True),)},
        "needs teachers and an alpha above 0",
    ),
    "forcing later": (
        {"stages": ((6, 1), (6, 1, 0.0, True))},
        "needs teachers and an alpha above 0",
    ),
    "forcing alone": (
        {"stages": ((6, 1, 0.1, True),), "teachers": ()},
        "rnnprop has no teachers",
    ),
    "forcing a Choice rule": (
        {"scheme": "choice", "choice_stages": ((6, 1, 0.1, True),)},
        "choice has no teachers",
    ),
    "choice": ({"choice": "choice.npz"}, "goes with scheme='choice'"),
    "choice file": (
        {"scheme": "choice", "choice": "min-max-small"},
        "holds a trained rnnprop; expected a Choice rule",
    ),
    "choice pool": ({"scheme": "choice", "teachers": ["adam"]}, "at least two"),
    "choice unroll": (
        {"scheme": "choice", "choice_stages": ((8, 1),)},
        "truncations of 6 do not divide",
    ),
    "input noise": (
        {"input_noise": -0.1},
        "input_noise must be a finite number from 0",
    ),
    "threshold": (
        {"repeat_threshold": -1.0},
        "repeat_threshold must be a finite number from 0",
    ),
    "steps": ({"truncation_steps": 0}, "truncation_steps must be a whole number"),
    "rate": (
        {"meta_learning_rate": 0.0},
        "meta_learning_rate must be a finite number above 0",
    ),
    "infinite rate": (
        {"meta_learning_rate": math.inf},
        "finite number above 0, received inf",
    ),
    "rate as text": ({"meta_learning_rate": "1e-3"}, "received '1e-3'"),
    "warm-up": ({"warmup_steps": 4.0}, "warmup_steps must be a whole number from 0"),
    "seed": ({"seed": 1.5}, "seed must be a whole number, received 1.5"),
    "no seed": ({"seed": None}, "seed must be a whole number, received None"),
    "replicate": ({"replicate": -1}, "replicate must be a whole number from 0"),
    "checkpoints": ({"checkpoint_seconds": None}, "checkpoint_seconds must be a fin"),
    "noise's name": ({"perturbation": "gaussian"}, "must be a Perturbation or None"),
    "one stage": ({"stages": (6, 1)}, r"such as \(\(100, 4\),\); received \(6, 1\)"),
    "stages of Choice": (
        {"scheme": "choice", "choice_stages": (6, 1)},
        "^choice_stages must be a sequence",
    ),
    "a lone stage": ({"stages": Stage(6, 1)}, "sequence of Stage"),
    "scaling": ({"scaling": -1.0}, "scaling must be a finite number from 0"),
    "reduction": ({"reduction": "max"}, "Unknown reduction"),
    "other rule": (
        {"initial_weights": "other.npz"},
        "holds RNNProp.*the student is.*student=tf_amalgam.load.'.*other.npz'.*rule",
    ),
    "other name": ({"initial_weights": "min-max-smal"}, "min-max-small"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained_before_any_work(name, tmp_path, monkeypatch):
    options, message = MISTAKES[name]
    if options.get("initial_weights") == "other.npz":
        rule = tf_amalgam.rules.RNNProp(units=4)
        path = saved.save(
            tmp_path / "other.npz",
            rule,
            rule.init_weights(0),
            warmup_steps=1,
            warmup_learning_rate=0.1,
        )
        options = {"initial_weights": path}
    monkeypatch.setattr(run, "learn", None)
    with pytest.raises(ValueError, match=message):
        amalgamated(workdir=tmp_path / "run", **options)
    assert not pathlib.Path(tmp_path / "run").exists()


def test_a_loss_whose_logarithm_is_none_is_refused(tmp_path):
    """The meta-gradient would point the wrong way, and no validation be finite."""

    def similarity(y, p):
        return -tf.ones_like(p[:, 0])

    task = Task.from_keras(
        helpers.tiny_model, helpers.blobs(), similarity, batch_size=8
    )
    with pytest.raises(ValueError, match="Task 'tiny_model' is -1 with a fresh model"):
        tf_amalgam.amalgamate(task, **{**SMALL, "workdir": tmp_path / "run"})
    assert not (tmp_path / "run").exists()


def test_a_loss_that_falls_below_zero_ends_the_run(tmp_path):
    """From there on it would be taught to raise the loss."""

    def below(y, p):
        return tf.reduce_mean(tf.square(p - 1.0), -1) - 0.5

    task = Task.from_keras(helpers.tiny_model, helpers.blobs(), below, batch_size=8)
    given = {**SMALL, **SIMPLE, "student": "learned_scalars", "warmup_steps": 0}
    given = {**given, "stages": ((60, 1),), "truncation_steps": 60}
    with pytest.raises(Diverged, match=r"loss of an optimizee fell to -0\.1.*above 0"):
        tf_amalgam.amalgamate(task, **{**given, "workdir": tmp_path})
    assert (tmp_path / "student.npz").is_file()


def test_constraints_are_refused(tmp_path):
    """No step of meta-training holds them."""

    def model():
        held = keras.constraints.MaxNorm(1.0)
        layers = [keras.Input((5,)), keras.layers.Dense(3, kernel_constraint=held)]
        return keras.Sequential(layers)

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = Task.from_keras(model, helpers.blobs(), loss, batch_size=8)
    with pytest.raises(ValueError, match=r"dense.*/kernel of Task 'model' have constr"):
        tf_amalgam.amalgamate(task, **{**SMALL, "workdir": tmp_path / "run"})
    assert not (tmp_path / "run").exists()


class Inherits(tf_amalgam.rules.RNNProp):
    """A rule of one's own under another's name."""


class Named(tf_amalgam.rules.RNNProp):
    """A rule of one's own that no file can name."""

    name = "named"


class Teaches(tf_amalgam.rules.Adam):
    """A teacher of one's own."""

    name = "teaches"


class InheritsAdam(tf_amalgam.rules.Adam):
    """A teacher of one's own under another's name."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": Inherits()}, "Inherits cannot be a student: .* 'rnnprop'"),
        (
            {"student": Named()},
            "Named cannot be a student: files would name it 'named'",
        ),
        ({"teachers": [InheritsAdam(0.1)]}, "cannot be a teacher named 'adam'"),
        (
            {"scheme": "choice", "teachers": [Teaches(0.1), "sgd"]},
            "Teaches cannot be a member of a Choice rule",
        ),
        ({"teachers": [{"rule": "adma"}]}, "Unknown teacher 'adma'.*'adam'"),
        ({"teachers": [{"learning_rate": 0.1}]}, "Unknown teacher None"),
        (
            {"scheme": "choise", "stages": ((6, 1, 0.1, True),)},
            "Unknown amalgamation scheme 'choise'.*'choice'",
        ),
    ],
)
def test_what_files_could_not_name_is_refused_before_any_work(
    tmp_path, options, message
):
    with pytest.raises(ValueError, match=message):
        amalgamated(**options, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_ones_own_may_teach():
    history = amalgamated(**{**SIMPLE, "stages": ((6, 1),), "teachers": [Teaches(0.1)]})
    assert "distance/teaches" in history.history[0]


def lost(self, kind, *key, of=Programs.of):
    """Returns programs of which a validation finds nothing finite."""
    if kind == "validation":
        return lambda *_: (np.nan, np.nan)
    return of(self, kind, *key)


def test_a_run_without_a_finite_validation_says_so(caplog, monkeypatch):
    monkeypatch.setattr(Programs, "of", lost)
    amalgamated(stages=((6, 1),))
    assert "No validation was finite: the student is as it began" in caplog.text


def test_a_choice_rule_without_a_finite_validation_teaches_nobody(monkeypatch):
    monkeypatch.setattr(Programs, "of", lost)
    given = {"scheme": "choice", "stages": ((6, 1),), "choice_stages": ((6, 1),)}
    with pytest.raises(Diverged, match="No validation of the Choice rule was finite"):
        amalgamated(**given)


def test_settings_are_ready_for_json():
    options = dict.fromkeys(Settings.__dataclass_fields__, 1)
    options |= {
        "scheme": "min_max",
        "distance": "paper",
        "meta_loss_start": "unroll",
        "reduction": "sum",
        "huber_delta": None,
        "perturbation": Perturbation("fgsm", 0.01),
        "truncation_steps": 5,
        "curriculum": Curriculum((Stage(5, 2), Stage(15, 1, 0.5, True))),
        "validation_steps": None,
        "period": 2,
    }
    settings = Settings(**options)
    told = json.loads(json.dumps(settings.describe()))
    assert told["curriculum"]["stages"][1]["unroll"] == 15
    assert told["perturbation"]["kind"] == "fgsm"
    assert settings.meta_updates == 2 * 2 * 1 + 1 * 2 * 3
    assert [settings.truncations(i) for i in (0, 1)] == [1, 3]
    assert [settings.objective(i).alpha for i in (0, 1)] == [1, 0.5]
    assert [settings.objective(i).scheme for i in (0, 1)] == ["min_max", "mean"]
    assert [settings.scaling_of(i) for i in (0, 1)] == [1, 0]
    assert [settings.validated_steps(i) for i in (0, 1)] == [15, 15]


def test_every_meta_epoch_and_optimizee_has_minibatches_of_its_own():
    """A warm-up's, then those after it, truncation by truncation."""
    task, asked = helpers.tiny_task(), []
    minibatches = task.minibatches
    task.minibatches = lambda *given: asked.append(given) or minibatches(*given)
    given = {**SMALL, **SIMPLE, "meta_batch": 2, "stages": ((12, 2),)}
    settings = tf_amalgam.amalgamate(task, **given).settings
    training = [
        (derive_seed(settings.seed, "minibatches", "training", e, j), start, count)
        for e in range(2)
        for j in range(2)
        for start, count in ((0, 4), (4, 6), (10, 6))
    ]
    root = settings.validation_seed or settings.seed
    seed = derive_seed(root, "minibatches", "validation", 0, 0)
    assert set(asked) == {*training, (seed, 0, 4), (seed, 4, 6)}


def test_a_validation_is_the_mean_of_its_optimizees(monkeypatch):
    found = iter([-1.0, -3.0, -2.0, -7.0])

    def programs(self, kind, *given):
        if kind == "validation":
            return lambda *_: ((score := next(found)), 2.0 * score)
        return made(self, kind, *given)

    made = Programs.of
    monkeypatch.setattr(Programs, "of", programs)
    given = {**SMALL, **SIMPLE, "stages": ((6, 1),), "validation_optimizees": 2}
    first, second = tf_amalgam.amalgamate(helpers.tiny_task(), **given).validations
    assert (first["score"], first["final"]) == (-2.0, -4.0)
    assert (second["score"], second["final"]) == (-4.5, -9.0)


class Asked(Exception):
    """What a run would learn by is known."""


def asked_to_learn(monkeypatch, **options):
    """Returns the settings by which the first part of a run would learn."""
    seen = []

    def learn(trainer, *_, **__):
        seen.append(trainer.settings)
        raise Asked

    monkeypatch.setattr(run, "learn", learn)
    with pytest.raises(Asked):
        amalgamated(**options)
    return seen[0]


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_what_is_set_is_what_is_minimized(monkeypatch, preset):
    settings = asked_to_learn(
        monkeypatch,
        preset=preset,
        scheme="min_max",
        second_order=False,
        input_noise=0.1,
        perturbation=Perturbation("gaussian", 0.1),
        segment=3,
        **({"huber_delta": 0.5} if preset == "released" else {}),
    )
    released = preset == "released"
    expected = Objective(
        scheme="min_max",
        alpha=settings.alpha,
        distance=preset,
        meta_loss_start="truncation" if released else "unroll",
        huber_delta=0.5 if released else None,
        second_order=False,
        segment=3,
        perturbation=settings.perturbation,
        input_noise=0.1,
    )
    assert settings.objective(0) == expected
    assert settings.perturbation.radius == 0.1


@pytest.mark.parametrize(
    ("preset", "expected"), [("paper", (0.01, False)), ("released", (0.05, True))]
)
def test_a_presets_warm_up(monkeypatch, preset, expected):
    given, warm_up = [], meta_step.warm_up

    def told(*arguments):
        given.append(arguments[-2:])
        return warm_up(*arguments)

    monkeypatch.setattr(meta_step, "warm_up", told)
    amalgamated(**{**SIMPLE, "stages": ((6, 1),), "preset": preset})
    assert set(given) == {expected}


def test_a_choice_rule_learns_by_settings_of_its_own(monkeypatch):
    """Without the student's noise, by App. C.3's curriculum; replicates as one."""
    two = [
        asked_to_learn(
            monkeypatch,
            scheme="choice",
            alpha=0.3,
            input_noise=0.1,
            perturbation=Perturbation("gaussian", 0.1),
            replicate=replicate,
        )
        for replicate in (0, 1)
    ]
    for settings in two:
        assert (settings.input_noise, settings.perturbation) == (0.0, None)
        assert settings.alpha == 0.0
        told = settings.curriculum
        assert [stage.unroll for stage in told.stages] == [6, 12, 30]
        assert [stage.periods for stage in told.stages] == [1, 1, 3]
        assert told.repeat_threshold == 0.9
    assert two[0].seed != two[1].seed
    assert two[0].validation_seed == two[1].validation_seed is not None

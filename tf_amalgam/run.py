"""One meta-training run from its folder to its folder: resume, progress, results."""

import contextlib
import logging
import math
import time
from typing import Any

import tensorflow as tf

from tf_amalgam import plots, records
from tf_amalgam.meta_train import labels
from tf_amalgam.progress import Bar
from tf_amalgam.rules.choice import Choice
from tf_amalgam.workdir import (
    CURVES_FILE,
    MIXING_FILE,
    MIXING_PLOT,
    TENSORBOARD_FOLDER,
    UNTRAINED_FILE,
)


def learn(trainer, weights, folder, about, **options):
    """Returns the last state of a run, started anew or from its checkpoint.

    Args:
        trainer: a `meta_train.Trainer`.
        weights: the student's first weights.
        folder: a `Workdir`, or None to keep everything in memory.
        about: what identifies the run, ready for JSON.
        checkpoint_seconds: at least this long between two checkpoints.
        progress: whether to show a progress bar, and at the end what time went to.
        label: its name.
        spent: seconds of what went before and belongs to the run.
        profile: whether to write a TensorBoard trace of one truncation.

    Raises:
        RuntimeError: if another process trains in the folder.
        cluster.WorkerLost: if another worker of the run has gone.
    """
    programs = trainer.programs
    writes = folder and programs.chief
    alone = folder.alone() if writes else contextlib.nullcontext()
    with alone, programs.watched():
        return _learn(trainer, weights, folder, about, **options)


def _learn(
    trainer,
    weights,
    folder,
    about,
    checkpoint_seconds,
    progress,
    label="amalgamating",
    spent=0.0,
    profile=False,
):
    settings, programs = trainer.settings, trainer.programs
    state = begun = _begun(trainer, weights, folder, spent)
    if not programs.chief:  # who alone writes and shows what is going on
        folder, progress, profile = None, False, False
    if folder:
        rule = trainer.players.student
        folder.save_student(rule, weights, settings, about, UNTRAINED_FILE)
    board = _Board(folder)
    bar = Bar(
        total=max(settings.meta_updates, state.updates),
        initial=state.updates,
        desc=label,
        unit="update",
        disable=not progress,
        dynamic_ncols=True,
    )
    saved_at = time.monotonic()
    began = saved_at - state.seconds
    try:
        while True:
            while trainer.validation_due(state):
                state = trainer.validate(state)
                state = state._replace(seconds=time.monotonic() - began)
                board.validation(state)
                bar.say(_standing(state))
            if trainer.done(state):
                break
            traced = profile and trainer.has_built(state)
            with _trace(folder if traced else None) as done:
                state = trainer.step(state)
            profile = profile and not done
            state = state._replace(seconds=time.monotonic() - began)
            board.update(state)
            bar.total = max(bar.total, state.updates)
            bar.reach(state.updates)
            if folder and time.monotonic() - saved_at >= checkpoint_seconds:
                _save(folder, trainer, state, about)
                saved_at = time.monotonic()
    finally:
        # On success, Ctrl-C, divergence or any error: nothing computed is lost.
        if folder and not (state is begun and folder.holds(state)):
            _save(folder, trainer, state, about)
        bar.close()
        board.close()
    _warn(state, untraced=profile)
    costs = trainer.costs(state) if progress and trainer.clock.inner_steps else ""
    if folder:
        _draw(folder, trainer, state)
    if costs:
        print(f"{label}: {costs}")
    return state


def _warn(state, untraced):
    """Says what of a run that has ended is not as it should be."""
    if state.skipped:
        logging.warning(
            "%d of %d meta-updates were skipped for non-finite meta-gradients.",
            state.skipped,
            state.updates,
        )
    if not any(math.isfinite(row["score"]) for row in state.validations):
        logging.warning(
            "No validation was finite: the student is as it began. What it optimizes "
            "diverges; try a smaller meta_learning_rate, or another preset."
        )
    if untraced:
        logging.warning(
            "No trace was written: this call took no truncation after the first, which "
            "builds the program."
        )


def _begun(trainer, weights, folder, spent):
    """Returns the state to go on from, the same in all processes."""
    state = trainer.fresh_state(weights)._replace(seconds=spent)
    if folder is not None and (found := folder.restore()) is not None:
        state = trainer.from_arrays(*found)
    trainer.check_agreement(state)
    return state


def outcome(about, state) -> dict:
    """Returns what a run was, and what became of it."""
    return {
        **about,
        "meta_updates": state.updates,
        "meta_updates_skipped": state.skipped,
        "best_after_meta_updates": state.best_updates,
        "best_validation": state.best_score,
        "seconds": state.seconds,
        "validations": [
            {key: row[key] for key in ("update", "stage", "steps", "score", "then")}
            for row in state.validations
        ],
        "versions": records.versions(),
    }


@contextlib.contextmanager
def _trace(folder):
    """Writes a TensorBoard trace of a `with` block; yields whether it does."""
    if folder is None:
        yield False
        return
    with tf.profiler.experimental.Profile(str(folder.path / TENSORBOARD_FOLDER)):
        yield True


def _standing(state):
    row = state.validations[-1]
    return f"stage {row['stage'] + 1}, validation {row['score']:+.3f}"


def _save(folder, trainer, state, about):
    folder.save(state)
    folder.save_student(
        trainer.players.student,
        state.best.weights,
        trainer.settings,
        outcome(about, state),
    )


def _draw(folder, trainer, state):
    rule = trainer.players.student
    if isinstance(rule, Choice):
        stage = state.progress.stage
        steps = trainer.settings.validated_steps(stage)
        trace_TNK = trainer.mixing(state.best.weights, steps, stage)
        names, members = trainer.task.layout.titles, labels(rule.pool)
        folder.save_mixing(trace_TNK, names, members, MIXING_FILE)
        plots.mixing(trace_TNK, names, members, folder.path / MIXING_PLOT)
    # The last file: with it, all of a run's are there.
    plots.meta_training(state.history, state.validations, folder.path / CURVES_FILE)


class _Board:
    """TensorBoard scalars of a run; silent without a folder."""

    def __init__(self, folder):
        self._writer: Any = None
        if folder is not None:
            where = str(folder.path / TENSORBOARD_FOLDER)
            self._writer = tf.summary.create_file_writer(where)

    def update(self, state):
        row = dict(state.history[-1])
        step = row.pop("update")
        self._scalars("meta", step, {**row, "skipped_in_all": state.skipped})

    def validation(self, state):
        row = dict(state.validations[-1])
        del row["then"]
        self._scalars("validation", row.pop("update"), row)

    def _scalars(self, prefix, step, values):
        if self._writer is None:
            return
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{prefix}/{name}", value, step=step)

    def close(self):
        if self._writer is not None:
            self._writer.close()

"""`amalgamate`: an optimizer of your own out of a pool of known ones."""

import logging
import pathlib
import time
from typing import Any, NamedTuple

import tensorflow as tf
import tqdm

from tf_amalgam import optimizers, plots, records, rules, saved
from tf_amalgam.meta_step import Players
from tf_amalgam.meta_train import Trainer
from tf_amalgam.numerics import derive_seed
from tf_amalgam.rules.rule import AnalyticRule, Rule
from tf_amalgam.settings import PRESETS, Settings, Stage
from tf_amalgam.workdir import CURVES_FILE, UNTRAINED_FILE, Workdir


class Amalgam(NamedTuple):
    """A trained student.

    Attributes:
        rule: its update rule.
        weights: the best weights found, by name.
        settings: what it was trained with.
        history: figures of each meta-update (list of dicts).
        validations: score of each validation, the untrained student's first.
        finished: False if the run was interrupted.
    """

    rule: Rule
    weights: dict
    settings: Settings
    history: list
    validations: list
    finished: bool
    about: dict

    def optimizer(self, **kwargs):
        """Returns a fresh Keras optimizer, for one model."""
        options = {
            "warmup_steps": self.settings.warmup_steps,
            "warmup_learning_rate": self.settings.warmup_learning_rate,
        }
        return optimizers.optimizer_for(
            self.rule, self.weights, **{**options, **kwargs}
        )

    def save(self, path):
        """Writes the optimizer to a `.npz` file that `tf_amalgam.load` reads."""
        return saved.save(
            path,
            self.rule,
            self.weights,
            warmup_steps=self.settings.warmup_steps,
            warmup_learning_rate=self.settings.warmup_learning_rate,
            about=self.about,
        )


def amalgamate(
    task,
    teachers="small",
    scheme: str = "min_max",
    *,
    student="rnnprop",
    preset: str = "paper",
    workdir=None,
    stages=((1, 40),),
    alpha: float = 0.1,
    truncation_steps: int = 100,
    meta_batch: int = 4,
    meta_learning_rate: float = 1e-3,
    scaling: float = 3.0,
    warmup_steps: int = 100,
    second_order: bool = True,
    segment: int | None = None,
    distance: str | None = None,
    huber_delta: float | None = None,
    meta_loss_start: str | None = None,
    warmup_learning_rate: float | None = None,
    warmup_scaled: bool | None = None,
    adaptive_clip: float | None = None,
    reduction: str | None = None,
    validation_period: int = 10,
    validation_optimizees: int = 2,
    validation_steps: int | None = None,
    max_skipped: int = 10,
    seed: int = 0,
    initial_weights=None,
    replicas: int | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> Amalgam:
    """Trains a student optimizer beside a pool of teachers; returns the `Amalgam`.

    The student optimizes a small network (the optimizee) again and again beside
    its teachers; truncated back-propagation through its unroll lowers the meta
    loss plus α times the distance to the teachers (Huang et al. 2022, 3.2, 3.3,
    Algorithm 1).

    Args:
        task: the optimizee, a `tf_amalgam.Task`.
        teachers: a pool's name (`"small"`, `"large"`), or a sequence of teachers'
            names and rules.
        scheme: `"mean"` or `"min_max"`.
        student: name of a learned rule, or the rule itself.
        preset: `"paper"` (as printed) or `"released"` (as the authors' code does
            it); sets the normalizers of rules given by name, and each argument
            below whose default is None.
        workdir: folder for checkpoints, curves and the trained optimizer
            (`student.npz`, and `untrained.npz` to compare it with); the same call on
            the same folder continues an interrupted run. None keeps everything in
            memory.
        stages: sequence of `Stage`, or of tuples (truncations of an unroll,
            meta-epochs, alpha or None).
        alpha: weight of the imitation loss, unless a stage has its own.
        truncation_steps: inner steps of one truncation, T.
        meta_batch: optimizees whose meta-gradients make one meta-update.
        meta_learning_rate: Adam's, on the student's weights.
        scaling: random scaling s = exp(U(−scaling, scaling)); 0 turns it off.
        warmup_steps: SGD steps before an unroll, observed by every rule.
        second_order: False drops the optimizee's second derivatives (faster).
        segment: steps between kept rule states; None chooses (see `Objective`).
        distance, huber_delta, meta_loss_start: see `Objective`.
        warmup_learning_rate: of the warm-up's SGD.
        warmup_scaled: warm up in randomly scaled coordinates.
        adaptive_clip: clips each tensor's meta-gradient to this share of its
            weights' norm; 0 turns it off.
        reduction: `"mean"` or `"sum"` of the meta-batch's gradients.
        validation_period: meta-epochs between validations.
        validation_optimizees: fresh optimizees of one validation.
        validation_steps: their steps; by default the longest stage's unroll.
        max_skipped: non-finite meta-gradients in a row after which to stop.
        seed: root of all randomness.
        initial_weights: path of a saved optimizer of the same rule to start from.
        replicas: how many devices share the meta-batch; by default the largest
            number of those present that divides it.
        checkpoint_seconds: at least this long between two checkpoints.
        progress: whether to show a progress bar.

    Raises:
        ValueError: for any argument out of place, before any work starts; and if
            `workdir` holds another experiment.
        Diverged: after `max_skipped` non-finite meta-gradients in a row.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint was written.
    """
    if preset not in PRESETS:
        raise ValueError(rules.unknown("preset", preset, tuple(PRESETS)))
    chosen: dict[str, Any] = {
        "distance": distance,
        "meta_loss_start": meta_loss_start,
        "warmup_learning_rate": warmup_learning_rate,
        "warmup_scaled": warmup_scaled,
        "adaptive_clip": adaptive_clip,
        "reduction": reduction,
    }
    chosen = {k: PRESETS[preset][k] if v is None else v for k, v in chosen.items()}
    stages = tuple(s if isinstance(s, Stage) else Stage(*s) for s in stages)
    longest = max((stage.truncations for stage in stages), default=1)
    settings = Settings(
        scheme=scheme,
        alpha=alpha,
        huber_delta=huber_delta,
        second_order=second_order,
        segment=segment,
        truncation_steps=truncation_steps,
        stages=stages,
        meta_batch=meta_batch,
        meta_learning_rate=meta_learning_rate,
        scaling=scaling,
        warmup_steps=warmup_steps,
        validation_period=validation_period,
        validation_optimizees=validation_optimizees,
        validation_steps=validation_steps or longest * truncation_steps,
        max_skipped=max_skipped,
        seed=seed,
        **chosen,
    )
    players = _players(student, teachers, preset)
    weights, origin = _initial_weights(players.student, initial_weights, seed)
    strategy = _strategy(replicas, meta_batch)
    trainer = Trainer(task, players, settings, strategy)
    about = {
        "task": task.describe(),
        "student": {"rule": players.student.name, **players.student.get_config()},
        "teachers": [
            {"rule": rule.name, **rule.get_config()} for rule in players.teachers
        ],
        "preset": preset,
        "initial_weights": origin,
        **settings.describe(),
    }
    folder = Workdir(workdir, about) if workdir is not None else None
    if folder:
        folder.save_student(players.student, weights, settings, about, UNTRAINED_FILE)
    state = _run(trainer, weights, folder, about, checkpoint_seconds, progress)
    return Amalgam(
        players.student,
        state.best_weights,
        settings,
        list(state.history),
        list(state.validations),
        trainer.done(state),
        _about(about, state),
    )


def _run(trainer, weights, folder, about, checkpoint_seconds, progress):
    """Returns the last state of the run, started anew or from its checkpoint."""
    state = trainer.fresh_state(weights)
    if folder is not None and (found := folder.restore()) is not None:
        state = trainer.from_arrays(*found)
    board = _Board(folder)
    bar = tqdm.tqdm(
        total=trainer.settings.meta_updates,
        initial=state.updates,
        desc="amalgamating",
        unit="update",
        disable=not progress,
        dynamic_ncols=True,
    )
    saved_at = time.monotonic()
    try:
        while True:
            if trainer.validation_due(state):
                state = trainer.validate(state)
                board.validation(state)
                bar.set_postfix_str(f"validation {state.validations[-1]['score']:+.3f}")
            if trainer.done(state):
                break
            before = state.updates
            state = trainer.step(state)
            board.update(state)
            bar.update(state.updates - before)
            if folder and time.monotonic() - saved_at >= checkpoint_seconds:
                _save(folder, trainer, state, about)
                saved_at = time.monotonic()
    finally:
        # On success, Ctrl-C, divergence or any error: nothing computed is lost.
        bar.close()
        board.close()
        if folder:
            _save(folder, trainer, state, about)
    if state.skipped:
        logging.warning(
            "%d of %d meta-updates were skipped for non-finite meta-gradients.",
            state.skipped,
            state.updates,
        )
    if folder:
        plots.meta_training(state.history, state.validations, folder.path / CURVES_FILE)
    return state


def _save(folder, trainer, state, about):
    folder.save(trainer, state)
    folder.save_student(
        trainer.players.student,
        state.best_weights,
        trainer.settings,
        _about(about, state),
    )


def _about(about, state):
    return {
        **about,
        "meta_updates": state.updates,
        "meta_updates_skipped": state.skipped,
        "best_after_meta_updates": state.best_updates,
        "best_validation": state.best_score,
        "versions": records.versions(),
    }


def _players(student, teachers, preset):
    if isinstance(student, str):
        student = rules.make_rule(student, preset)
    if isinstance(student, AnalyticRule) or not isinstance(student, Rule):
        learned = [n for n, r in rules.RULES.items() if not issubclass(r, AnalyticRule)]
        raise ValueError(
            f"The student must be a learned rule ({', '.join(learned)}); received "
            f"{student!r}."
        )
    pool = rules.make_pool(teachers, preset)
    return Players(student, pool, tuple({} for _ in pool))


def _initial_weights(rule, path, seed):
    """Returns (weights, what they are)."""
    if path is None:
        return rule.init_weights(derive_seed(seed, "student")), "fresh"
    found, weights, header = saved.read(path)
    if found != rule:
        raise ValueError(
            f"initial_weights: {path} holds {found}, the student is {rule}. Use the "
            "same rule with the same hyperparameters."
        )
    return weights, {"path": str(pathlib.Path(path)), "sha256": header["sha256"]}


def _strategy(replicas, meta_batch):
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if replicas is None:
        replicas = max(n for n in range(1, len(devices) + 1) if meta_batch % n == 0)
    if not 1 <= replicas <= len(devices):
        raise ValueError(
            f"replicas={replicas}, but there are {len(devices)} {kind} devices."
        )
    return tf.distribute.MirroredStrategy(devices[:replicas])


class _Board:
    """TensorBoard scalars of a run; silent without a folder."""

    def __init__(self, folder):
        self._writer: Any = None
        if folder is not None:
            where = str(folder.path / "tensorboard")
            self._writer = tf.summary.create_file_writer(where)

    def update(self, state):
        row = dict(state.history[-1])
        step = row.pop("update")
        self._scalars("meta", step, {**row, "skipped_in_all": state.skipped})

    def validation(self, state):
        row = dict(state.validations[-1])
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

"""The meta-training loop: from one state to the next."""

import logging

import keras
import numpy as np
import tensorflow as tf

from tf_amalgam import alone, costs, curriculum, meta_step
from tf_amalgam.meta_step import Carry, Players
from tf_amalgam.numerics import ROUNDING, derive_seed
from tf_amalgam.objective import ABOVE_ZERO
from tf_amalgam.programs import Programs
from tf_amalgam.rules.choice import Choice
from tf_amalgam.settings import Settings
from tf_amalgam.state import Learned, State, fresh, restored
from tf_amalgam.tasks.task import Task


class Diverged(RuntimeError):
    """Meta-training cannot go on: its numbers are not finite, or mean nothing."""


class Trainer:
    """One run's functions that move its `State` on, by its compiled `Programs`.

    Each replica of the strategy unrolls one optimizee at a time; a meta-batch of M
    on R replicas takes ⌈M/R⌉ rounds whose meta-gradients add up. In the last one some
    replicas may repeat an optimizee, which then does not count. The mathematics does
    not depend on R.
    """

    def __init__(self, task: Task, players: Players, settings: Settings, strategy):
        stages = settings.curriculum.stages
        if not players.teachers and any(stage.teacher_forcing for stage in stages):
            raise ValueError(
                f"A Stage has teacher_forcing, but the {players.student.name} has no "
                "teachers. Give some, or leave teacher_forcing out."
            )
        self.task, self.players, self.settings = task, players, settings
        self.programs = Programs(task, players, settings, strategy)
        self._names = list(players.student.init_weights(0))
        self._variables: list[tf.Variable] = []
        self.clock = costs.Clock()

    def fresh_state(self, weights) -> State:
        """Returns the state before the first meta-update."""
        weights = {k: np.asarray(weights[k], "float32") for k in self._names}
        self._variables = [tf.Variable(weights[k]) for k in self._names]
        self._optimizer = keras.optimizers.Adam(self.settings.meta_learning_rate)
        self._optimizer.build(self._variables)
        slots = tuple(v.numpy() for v in self._optimizer.variables)
        return fresh(weights, slots)

    def done(self, state: State) -> bool:
        """Whether the curriculum has come to its end."""
        return state.progress.finished

    def has_built(self, state: State) -> bool:
        """Whether the next truncation's program has been built."""
        objective = self.settings.objective(state.progress.stage)
        return ("truncation", objective.alike()) in self.programs

    def step(self, state: State) -> State:
        """Returns the state one truncation (and meta-update) later."""
        settings, programs = self.settings, self.programs
        stage = state.progress.stage
        if not state.carries:
            state = state._replace(carries=self._start(state), truncation=0)
        weights = {k: tf.constant(v) for k, v in state.now.weights.items()}
        objective, steps = settings.objective(stage), settings.truncation_steps
        alike, alpha = objective.alike(), tf.constant(objective.alpha, tf.float32)
        start = settings.warmup_steps + state.truncation * steps
        gradients, carries, metrics = [], [], []
        for places in programs.rounds():
            new = ("truncation", alike) not in programs
            with self.clock.on("building" if new else "data"):
                batches = programs.per_replica(
                    lambda r, places=places: self._batches(
                        state.meta_epoch, places[r].optimizee, start, steps
                    )
                )
            carry = programs.per_replica(
                lambda r, places=places: state.carries[places[r].optimizee]
            )
            counts = programs.counts(places)
            with self.clock.on("building" if new else "steps"):
                program = programs.of("truncation", alike)
                found = program(weights, carry, batches, counts, alpha)
                gradients.append({k: g.numpy() for k, g in found[0].items()})
            wanted = sum(place.counts for place in places)
            if not new:
                self.clock.inner_steps[alike] += wanted * steps
            carries += programs.parts(found[1])[:wanted]
            metrics += programs.parts(found[2])[:wanted]
        _check_losses(metrics)
        total = {k: sum(g[k] for g in gradients) for k in self._names}
        if settings.reduction == "mean":
            total = {k: v / settings.meta_batch for k, v in total.items()}
        row = _row(metrics, self.players)
        # Adam keeps squares: one that overflows would make weights NaN a step later.
        with np.errstate(over="ignore"):
            finite = all(np.isfinite(np.square(v)).all() for v in total.values())
        state = self._applied(state, total) if finite else self._skipped(state)
        alive = all(
            np.isfinite(carry.student.params_P.numpy()).all() for carry in carries
        )
        truncation = state.truncation + 1
        # Whoever was lost (a teacher, too) would be lost in the unroll's rest.
        over = truncation == settings.truncations(stage) or not (finite and alive)
        row.update(
            update=state.updates + 1,
            stage=stage,
            meta_epoch=state.meta_epoch,
            skipped=0 if finite else 1,
        )
        return state._replace(
            carries=() if over else tuple(carries),
            truncation=0 if over else truncation,
            meta_epoch=state.meta_epoch + int(over),
            period_epoch=state.period_epoch + int(over),
            updates=state.updates + 1,
            history=(*state.history, row),
        )

    def validate(self, state: State) -> State:
        """Returns the state after a validation, and what the curriculum makes of it.

        Fresh optimizees with fixed seeds are trained by the student alone; the
        score is the mean log change of the loss on held-out examples along the
        unroll (lower is better; infinite if it diverges).
        """
        settings, before, programs = self.settings, state.progress, self.programs
        weights = {k: tf.constant(v) for k, v in state.now.weights.items()}
        steps = settings.validated_steps(before.stage)
        scores, finals = [], []
        for index in range(settings.validation_optimizees):
            scaling = settings.scaling_of(before.stage)
            carry = self._begun("validation", index, 0, scaling)
            batches = self._validation_batches(index, steps)
            score, final = programs.of("validation")(
                weights, carry, batches, self._held_out()
            )
            scores.append(float(score))
            finals.append(float(final))
        # All processes go on from the chief's: others may round differently.
        score = programs.everywhere(np.mean(scores))[0]
        score = score if np.isfinite(score) else float("inf")
        verdict = curriculum.judge(settings.curriculum, before, score)
        row = {
            "update": state.updates,
            "stage": before.stage,
            "period": before.period + int(before.started),
            "repeat": before.repeats,
            "steps": steps,
            "score": score,
            "final": float(np.mean(finals)),
            "then": verdict.then,
        }
        rule = self.players.student
        if isinstance(rule, Choice):
            trace_TNK = self.mixing(state.now.weights, steps, before.stage)
            mean_K = trace_TNK.mean(axis=(0, 1))
            for label, share in zip(labels(rule.pool), mean_K, strict=True):
                row[f"mixing/{label}"] = float(share)
        return self._judged(state, verdict, score)._replace(
            validations=(*state.validations, row)
        )

    @staticmethod
    def _judged(state, verdict, score):
        if verdict.best:
            # What a stage is handed was found before it.
            found = state.updates if state.progress.started else state.best_updates
            state = state._replace(best=state.now, best_score=score, best_updates=found)
        if verdict.then in ("repeat", "abandon", "next"):
            state = state._replace(now=state.best, skipped_in_a_row=0)
        return state._replace(progress=verdict.progress, period_epoch=0)

    def validation_due(self, state: State) -> bool:
        """Whether the state stands at the start of a stage or the end of a period."""
        if state.carries or self.done(state):
            return False
        return not state.progress.started or state.period_epoch >= self.settings.period

    def check_agreement(self, state: State):
        """Raises ValueError unless all processes go on from the same state."""
        found = self.programs.everywhere(state.updates)
        if len(set(found)) > 1:
            told = ", ".join(f"{n:.0f}" for n in found)
            raise ValueError(
                "The workers found checkpoints of different meta-updates in their "
                f"workdir ({told}): it must be one folder that all of them see."
            )

    def costs(self, state: State) -> costs.Costs:
        """Returns what the steps since this trainer was made took, and for what."""
        weights = {k: tf.constant(v) for k, v in state.best.weights.items()}
        carry = self._begin("training", 0, 0, self.settings.scaling)
        batches = self._batches(0, 0, 0, self.settings.truncation_steps)
        return costs.costs(
            self.clock,
            lambda objective: costs.pieces_of_a_step(
                self.task, self.players, objective, weights, carry, batches
            ),
        )

    def mixing(self, weights, steps, stage):
        """Returns a Choice rule's mixing weights `[T, N, K]` on a fixed optimizee."""
        constants = {k: tf.constant(v) for k, v in weights.items()}
        scaling = self.settings.scaling_of(stage)
        carry = self._begun("validation", 0, 0, scaling)
        found = self.programs.of("mixing")(
            constants, carry, self._validation_batches(0, steps)
        )
        return found.numpy()

    def from_arrays(self, arrays: dict, facts: dict) -> State:
        """Returns the state that `state.to_arrays` and `to_facts` described."""
        start = self.fresh_state({k: arrays[f"now/weights/{k}"] for k in self._names})
        return restored(start, arrays, facts, self._begin(0, 0, 0, 0.0))

    # The optimizees of a meta-epoch.

    def _seed(self, what, kind, *numbers):
        settings = self.settings
        root = settings.seed
        if kind == "validation" and settings.validation_seed is not None:
            root = settings.validation_seed
        return derive_seed(root, what, kind, *numbers)

    def _begin(self, kind, epoch, index, scaling) -> Carry:
        carry = meta_step.initial_carry(
            self.task,
            self.players if kind != "validation" else self.players.alone(),
            self._seed("optimizee", kind, epoch, index),
            scaling,
        )
        return tf.nest.map_structure(tf.constant, carry)

    def _begun(self, kind, epoch, index, scaling):
        """Returns the carry of one fresh optimizee after its warm-up."""
        carry = self._begin(kind, epoch, index, scaling)
        if not self.settings.warmup_steps:
            return carry
        seed = self._seed("minibatches", kind, epoch, index)
        batches = self.task.minibatches(seed, 0, self.settings.warmup_steps)
        program = self.programs.of("warm_up", kind == "validation")
        return program(carry, tuple(map(tf.constant, batches)))

    def _start(self, state):
        scaling = self.settings.scaling_of(state.progress.stage)
        return tuple(
            self._begun("training", state.meta_epoch, j, scaling)
            for j in range(self.settings.meta_batch)
        )

    def _batches(self, meta_epoch, index, start, count):
        seed = self._seed("minibatches", "training", meta_epoch, index)
        batches = self.task.minibatches(seed, start, count)
        return tuple(map(tf.constant, batches))

    def _validation_batches(self, index, steps):
        seed = self._seed("minibatches", "validation", index, 0)
        batches = self.task.minibatches(seed, self.settings.warmup_steps, steps)
        return tuple(map(tf.constant, batches))

    def _held_out(self):
        """Returns so many held-out examples: the first, if every label is among them.

        Named sets are in no order, somebody's own may be; which examples these are
        moves all scores alike, by some tenths on MNIST.
        """
        split, few = self.task.dataset.validation, alone.VALIDATION_EXAMPLES
        chosen = np.arange(len(split.x))
        labels = split.y.dtype.kind in "iu" and split.y.size == len(split.y)
        lacks = labels and len(np.unique(split.y[:few])) < len(np.unique(split.y))
        if len(chosen) > few and (lacks or not labels):
            chosen = np.random.default_rng(0).permutation(chosen)
        return tuple(tf.constant(part[chosen[:few]]) for part in split)

    # Meta-updates.

    def _applied(self, state, gradients):
        """Returns the state after Adam's step on φ."""
        for variable, name in zip(self._variables, self._names, strict=True):
            variable.assign(state.now.weights[name])
        for variable, value in zip(
            self._optimizer.variables, state.now.meta_optimizer, strict=True
        ):
            variable.assign(value)
        stage = state.progress.stage
        self._optimizer.learning_rate = self.settings.meta_learning_rate_of(stage)
        self._optimizer.apply([tf.constant(gradients[k]) for k in self._names])
        weights = {
            k: v.numpy() for k, v in zip(self._names, self._variables, strict=True)
        }
        slots = tuple(v.numpy() for v in self._optimizer.variables)
        return state._replace(now=Learned(weights, slots), skipped_in_a_row=0)

    def _skipped(self, state):
        in_a_row = state.skipped_in_a_row + 1
        logging.warning(
            "Meta-update %d was skipped: non-finite meta-gradient (%d in a row).",
            state.updates + 1,
            in_a_row,
        )
        if in_a_row >= self.settings.max_skipped:
            raise Diverged(
                f"{in_a_row} meta-gradients in a row were not finite (max_skipped). "
                "What was learned before is kept in the workdir, if one was given. "
                "Try a smaller meta_learning_rate, adaptive_clip=0.1, a smaller "
                "scaling, or another seed."
            )
        return state._replace(skipped=state.skipped + 1, skipped_in_a_row=in_a_row)


def _check_losses(metrics):
    """Raises Diverged if a student's loss fell below 0."""
    least = min(float(tf.reduce_min(found.student_losses_T)) for found, _ in metrics)
    if least < -ROUNDING:
        raise Diverged(f"The loss of an optimizee fell to {least:.3g}. {ABOVE_ZERO}")


def _row(metrics, players):
    """Returns the figures of one meta-update, averaged over its optimizees."""

    def mean(field):
        values = np.stack([np.asarray(getattr(m, field)) for m, _ in metrics])
        return values.mean(axis=0)

    row = {
        "loss": float(mean("loss")),
        "meta_loss": float(mean("meta_loss")),
        "imitation": float(mean("imitation")),
        # Before any clipping.
        "meta_gradient_norm": float(np.mean([float(norm) for _, norm in metrics])),
        "first_loss": float(mean("student_losses_T")[0]),
        "last_loss": float(mean("student_losses_T")[-1]),
    }
    for k, label in enumerate(labels(players.teachers)):
        row[f"distance/{label}"] = float(mean("distance_K")[k])
        row[f"farthest/{label}"] = float(mean("farthest_K")[k])
        row[f"last_loss/{label}"] = float(mean("teacher_losses_KT")[k, -1])
    return row


def labels(teachers):
    """Returns a distinct label for each teacher: its name, numbered if repeated."""
    names = [rule.name for rule in teachers]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]

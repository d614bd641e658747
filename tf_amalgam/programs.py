"""The programs of meta-training: compiled, and run on each replica of a strategy."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import tensorflow as tf

from tf_amalgam import alone, cluster, meta_step


class Place(NamedTuple):
    """What a replica does in a round of a meta-batch."""

    optimizee: int  # its number in the meta-batch
    counts: bool  # False where another one has it, and this one would be idle


class Programs:
    """What one run compiles, each at its first use.

    A truncation runs on all replicas, an optimizee each (or one that another has, too,
    and that does not count); everything else on one.
    """

    def __init__(self, task, players, settings, strategy):
        self._task, self._players, self._settings = task, players, settings
        self._strategy = strategy
        self.replicas = strategy.num_replicas_in_sync
        here = len(strategy.extended.worker_devices) if self.replicas > 1 else 1
        # Whether some are other processes', and whether this one writes for all.
        self.elsewhere = here < self.replicas
        self.chief = strategy.extended.should_checkpoint
        self._made: dict[Any, Any] = {}

    def __contains__(self, key):
        """Whether the program of this kind (and key) has been made."""
        return key in self._made

    def of(self, kind, *key):
        """Returns a program: "truncation", "warm_up", "validation", "mixing" or
        "gathering".

        Args:
            kind: which.
            key: of a truncation its objective's `alike`, since it is given α; of a
                warm-up whether the student is alone.
        """
        if (kind, *key) not in self._made:
            make = getattr(self, f"_make_{kind}")
            self._made[kind, *key] = tf.function(make(*key), autograph=False)
        return self._made[kind, *key]

    def _make_truncation(self, objective):
        clip = self._settings.adaptive_clip

        def on_replica(weights, carry, batches, counts, alpha):
            seen = (weights, carry, batches, True, alpha)
            gradient, carry, metrics = meta_step.truncation(
                self._task, self._players, objective, *seen
            )
            norm = tf.linalg.global_norm(list(gradient.values()))
            if clip:
                # Each optimizee's own: or one that explodes would drown the others.
                gradient = {
                    k: adaptive_clip(g, weights[k], clip) for k, g in gradient.items()
                }
            if counts is not None:
                gradient = {
                    k: tf.where(counts, g, tf.zeros_like(g))
                    for k, g in gradient.items()
                }
            return gradient, carry, (metrics, norm)

        def program(weights, carry, batches, counts, alpha):
            gradient, carry, metrics = self._strategy.run(
                on_replica, args=(weights, carry, batches, counts, alpha)
            )
            reduce = self._strategy.reduce
            total = {k: reduce("SUM", g, axis=None) for k, g in gradient.items()}
            return total, carry, metrics

        return program

    def _make_warm_up(self, student_alone):
        players = self._players.alone() if student_alone else self._players

        def program(carry, batches):
            return meta_step.warm_up(
                self._task,
                players,
                carry,
                batches,
                self._settings.warmup_learning_rate,
                self._settings.warmup_scaled,
            )

        return program

    def _make_validation(self):
        def program(weights, carry, batches, held_out):
            return alone.held_out_score(
                self._task, self._players.student, weights, carry, batches, held_out
            )

        return program

    def _make_mixing(self):
        def program(weights, carry, batches):
            return alone.mixing_trace(
                self._task, self._players.student, weights, carry, batches
            )

        return program

    def rounds(self):
        """Yields, for each round of the meta-batch, the `Place` of each replica."""
        count = self._settings.meta_batch
        for first in range(0, count, self.replicas):
            yield [
                Place(min(first + r, count - 1), first + r < count)
                for r in range(self.replicas)
            ]

    def counts(self, places):
        """Returns whether each replica's part counts, as a truncation takes it.

        None where replicas divide the meta-batch, and so all parts always do.
        """
        if self._settings.meta_batch % self.replicas == 0:
            return None
        return self.per_replica(lambda r: tf.constant(places[r].counts))

    def per_replica(self, value_of):
        """Returns `value_of(r)` of each replica r here, as a truncation takes it."""
        if self.replicas == 1:
            return value_of(0)
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: value_of(context.replica_id_in_sync_group)
        )

    def parts(self, values):
        """Returns a list with each replica's part of nested values, on all machines."""
        if self.replicas == 1:
            return [values]
        if self.elsewhere:
            flat = [tf.unstack(v) for v in self.of("gathering")(values)]
        else:
            here = self._strategy.experimental_local_results
            flat = [here(v) for v in tf.nest.flatten(values)]
        return [
            tf.nest.pack_sequence_as(values, [v[r] for v in flat])
            for r in range(self.replicas)
        ]

    def watched(self):
        """Returns a context in which the loss of another process says what to do."""
        return cluster.telling_of_losses() if self.elsewhere else nullcontext()

    def everywhere(self, number) -> list[float]:
        """Returns a number as each replica's process has it, the chief's first."""
        if not self.elsewhere:
            return [number]
        (found,) = self.of("gathering")(tf.constant(number, tf.float64))
        return list(map(float, found))

    def _make_gathering(self):
        """A program that returns nested values `[R, …]`, flat, the same everywhere."""
        strategy = self._strategy

        def on_replica(values):
            return [tf.expand_dims(v, 0) for v in tf.nest.flatten(values)]

        def program(values):
            expanded = strategy.run(on_replica, args=(values,))
            return [strategy.gather(v, axis=0) for v in expanded]

        return program


def adaptive_clip(gradient, weight, clip, floor=1e-3):
    """Returns the gradient cut to ‖g‖ ≤ clip·max(‖w‖, floor) (Brock et al. 2021).

    The released code applies it to each tensor of each optimizee's meta-gradient,
    before these are summed, with clip = .1.
    """
    limit = clip * tf.maximum(tf.norm(weight), floor)
    norm = tf.norm(gradient)
    # Squares of a finite gradient may overflow.
    smaller = gradient / tf.reduce_max(tf.abs(gradient))
    clipped = tf.where(
        tf.math.is_inf(norm),
        smaller * (limit / tf.norm(smaller)),
        gradient * (limit / norm),
    )
    return tf.where(norm > limit, clipped, gradient)

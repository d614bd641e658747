"""The gradient of DP-SGD, as a pure function (Abadi et al. 2016, Algorithm 1).

    g̃ = (Σ_b clip_C(∇ℓ_b) + σ·C·z) / B,   clip_C(g) = g·min(1, C/‖g‖₂),   z ~ N(0, I)

The clipping is TensorFlow Privacy's `GaussianSumQuery`, the noise is of its
distribution but from a seed of ours. TensorFlow Privacy's optimizers and models need
older versions of Keras, so the steps around the query are here.
"""

import functools
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tf_amalgam.privacy import MODULES, imported


class Private(NamedTuple):
    """What `private_gradient` returns."""

    losses: Any  # [B] each example's own loss
    grads_P: Any  # g̃
    aux: Any  # [B, …] what else the loss function returned


def private_gradient(
    example_loss, params_P, examples, mechanism, seed, *, batch_size=None, replicas=1
):
    """Returns the losses and the clipped, noised mean gradient of a minibatch.

    Differentiable in `params_P`, the noise being a constant.

    Args:
        example_loss: `(params_P, example) -> (loss, aux)` of one example, its
            tensors without the leading dimension of `examples`.
        examples: nested tensors `[B, …]`.
        mechanism: a `privacy.Mechanism`.
        seed: int32 or int64 `[2]`; the noise is a function of it.
        batch_size: B of the whole minibatch, where `examples` are a part of it.
        replicas: R, over how many such parts the results will be summed. All draw
            the same noise and add 1/R of it, so that the sum has it once and does
            not depend on R; a single part is not private by itself.
    """
    query = seeded_query(mechanism, seed, params_P.dtype, 1.0 / replicas)
    global_state = query.initial_global_state()

    def with_gradient(params_P, example):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params_P)
            loss, aux = example_loss(params_P, example)
        grads_P = tape.gradient(loss, params_P, unconnected_gradients="zero")
        return loss, grads_P, aux

    losses, grads_BP, aux = tf.vectorized_map(
        functools.partial(with_gradient, params_P),
        examples,
        warn=False,  # that a convolution's kernel gradient loops over examples
    )
    # The query accumulates records one by one; all at once is the same sum.
    sum_P, _, _ = query.get_noised_result(
        tf.reduce_sum(clipped(query, grads_BP), axis=0), global_state
    )
    if batch_size is None:
        batch_size = tf.shape(losses)[0]
    return Private(losses, sum_P / tf.cast(batch_size, sum_P.dtype), aux)


def clipped(query, records_BP):
    """Returns each record as the query clips it, differentiably.

    The values are the query's own. Their derivative is written out, u the gradient
    on the way back: u where ‖g‖ ≤ C, else C/‖g‖·(u − g·⟨g, u⟩/‖g‖²). TensorFlow's
    would be 0·∞ for a record of 0, and would take the records one by one.
    """
    clip = query.derive_sample_params(query.initial_global_state())

    @tf.custom_gradient
    def clip_all(records_BP):
        def back(upstream_BP):
            squares_B1 = tf.reduce_sum(tf.square(records_BP), axis=1, keepdims=True)
            over_B1 = tf.maximum(squares_B1, tf.square(clip))
            inner_B1 = tf.reduce_sum(records_BP * upstream_BP, axis=1, keepdims=True)
            across_BP = upstream_BP - records_BP * (inner_B1 / over_B1)
            return tf.where(
                squares_B1 > tf.square(clip),
                clip / tf.sqrt(over_B1) * across_BP,
                upstream_BP,
            )

        values_BP = tf.vectorized_map(
            functools.partial(query.preprocess_record, clip), records_BP, warn=False
        )
        return values_BP, back

    return clip_all(records_BP)


def seeded_query(mechanism, seed, dtype="float32", share=1.0):
    """Returns TensorFlow Privacy's query of the mechanism, with seeded noise.

    Args:
        mechanism: a `privacy.Mechanism`.
        seed: int32 or int64 `[2]`; the noise is a function of it.
        dtype: of the records.
        share: how much of the noise to add; see `private_gradient`.
    """
    stddev = mechanism.l2_norm_clip * mechanism.noise_multiplier
    return _query_class()(mechanism.l2_norm_clip, stddev, seed, dtype, share)


@functools.cache
def _query_class():
    """Returns the query, made when first needed as its base loads late."""
    gaussian_query = imported(MODULES[1])

    base: Any = gaussian_query.GaussianSumQuery

    class SeededGaussianSumQuery(base):
        """`GaussianSumQuery` with seeded noise, in any precision.

        Clipping and sums are the base's. Its noise cannot be used: it comes from
        TensorFlow's stateful generator and takes no seed, so that a resumed run and
        the way back through an unroll would see other noise than the first pass, and
        every device would add noise of its own, whose sum has a deviation that grows
        with their number. Here devices draw the same noise and add a share each.
        """

        def __init__(self, l2_norm_clip, stddev, seed, dtype, share):
            super().__init__(l2_norm_clip, stddev)
            self._seed = seed
            self._dtype = dtype
            self._share = share

        def make_global_state(self, l2_norm_clip, stddev):
            # The base's are of float32, whatever the records are.
            return self._GlobalState(
                tf.constant(l2_norm_clip, self._dtype), tf.constant(stddev, self._dtype)
            )

        def get_noised_result(self, sample_state, global_state):
            noise = tf.random.stateless_normal(
                tf.shape(sample_state),
                self._seed,
                stddev=global_state.stddev,
                dtype=self._dtype,
                alg="philox",
            )
            event = imported(MODULES[0]).GaussianDpEvent(
                self._stddev / self._l2_norm_clip
            )
            return sample_state + self._share * noise, global_state, event

    return SeededGaussianSumQuery


# What a model may hold besides its weights.


def check_model(model, name):
    """Raises ValueError for a model whose examples do not each have a gradient."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ValueError(
                f"{name} has a BatchNormalization layer ({layer.name}): its output for "
                "one example depends on all others, so that there are no per-example "
                "gradients to clip. Use GroupNormalization or LayerNormalization."
            )


def random_seeds(variables):
    """Returns, per variable, whether it is the seed of dropout or the like."""
    return [v.name == "seed_generator_state" for v in variables]


def own_state(model_state, seeds, place):
    """Returns the model's state as the example at `place` of its minibatch sees it.

    Each example draws its own dropout; the first one draws from the seeds as given.
    """
    offset = tf.stack([place, tf.zeros_like(place)])
    return [
        value + tf.cast(offset, value.dtype) if seed else value
        for value, seed in zip(model_state, seeds, strict=True)
    ]


def seed_steps(before, after, seeds):
    """Returns by how much one example's pass moved each seed on.

    Raises:
        ValueError: if anything else of the model's state was updated.
    """
    for old, new, seed in zip(before, after, seeds, strict=True):
        if not seed and new is not old:
            raise ValueError(
                "A layer of this model updates a state in training (shape "
                f"{tuple(new.shape)}); private training needs models whose outputs for "
                "one example depend on that example and the weights alone."
            )
    triples = zip(before, after, seeds, strict=True)
    return [new - old for old, new, seed in triples if seed]


def moved_on(model_state, seeds, steps_B):
    """Returns the state after a minibatch: seeds moved on, the rest kept."""
    steps = iter(steps_B)  # the same for every example
    return tuple(
        value + next(steps)[0] if seed else value
        for value, seed in zip(model_state, seeds, strict=True)
    )

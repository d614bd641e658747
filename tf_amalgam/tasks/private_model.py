"""Private training through `compile` and `fit`, with any Keras optimizer."""

import contextlib
import secrets

import keras
import tensorflow as tf
from keras import ops

from tf_amalgam import private_gradients
from tf_amalgam.layout import Layout, concat
from tf_amalgam.privacy import Mechanism
from tf_amalgam.tasks import losses
from tf_amalgam.tasks.called import stateless_call


def private_model(model, l2_norm_clip=1.0, noise_multiplier=1.1, delta=1e-5, seed=None):
    """Returns a Keras model that shares `model`'s weights and trains them privately.

        private = tf_amalgam.private_model(model, noise_multiplier=1.1)
        private.compile(optimizer=tf_amalgam.load("min-max-small"), loss=...)
        private.fit(x, y, batch_size=128, epochs=5)
        private.privacy_report(batch_size=128, examples=len(x))["epsilon"]

    `fit` gives the optimizer the gradients of DP-SGD (`private_gradient`). `model`
    itself has the trained weights afterwards. Every minibatch is a step of its own,
    with its own noise, also where an optimizer accumulates gradients.

    Args:
        model: a built Keras model with one output, without BatchNorm.
        l2_norm_clip: the norm that each example's gradient is clipped to.
        noise_multiplier: standard deviation of the noise on their sum, in units of
            `l2_norm_clip`.
        delta: of (ε, δ), below 1/examples; None makes no claim.
        seed: names the noise, which then depends on it and the step alone. It has to
            stay secret, and to name one training alone, for the result to be private;
            by default it is drawn anew. Files of the private model hold it, so that a
            training can go on: publish `model`, and go on from a file once. So does
            its config: what `clone_model` or `from_config` makes draws the same
            noise. Begin another training by another `private_model`.

    Raises:
        ValueError: for numbers out of range, a model that is not built, or one
            without per-example gradients.
        ImportError: without tensorflow-privacy.
    """
    seed = secrets.randbits(63) if seed is None else seed
    return PrivateModel(model, Mechanism(l2_norm_clip, noise_multiplier, delta), seed)


# What Keras' optimizers do to a gradient that is no sum of its parts.
CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


@keras.saving.register_keras_serializable("tf_amalgam")
class PrivateModel(keras.Model):
    """See `private_model`. Predicts and evaluates as `network` does.

    Works under `MirroredStrategy`: the noise is that of the whole minibatch,
    however many replicas share it. The loss has to be a single one; it is averaged
    over examples.

    A weight, `noisy_steps`, counts the noisy gradients ever made, so that another
    `compile` neither repeats noise nor forgets what was spent; saved files keep it.
    Older weights, however they are loaded, do not turn it back: what was seen was seen.
    """

    # On a CPU, XLA makes the convolutions of a step several times slower.
    supports_jit = False

    def __init__(self, network, mechanism, seed, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(network, keras.Model) or not network.built:
            raise ValueError(
                "A private model needs a built Keras model (give its first layer an "
                f"Input); received {type(network).__name__}."
            )
        private_gradients.check_model(network, f"Model {network.name!r}")
        self.network = network
        self.mechanism = mechanism
        self.seed = int(seed)
        whole = {
            "shape": (),
            "initializer": "zeros",
            "dtype": "int64",
            "trainable": False,
            "aggregation": "only_first_replica",  # the same on all
        }
        self.noisy_steps = self.add_weight(**whole, name="noisy_steps")
        # The same in no file and no checkpoint: no one turns it back.
        seen = keras.Variable(**whole, name="noisy_steps_seen")
        self._seen = lambda: seen
        largest = keras.Variable(**whole, name="largest_minibatch")
        self._largest = lambda: largest
        self.built = True
        mechanism.report(1, 1, 1)  # a missing package shows before any work

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def train_step(self, data):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("Private training needs targets: pass fit(x, y).")
        if self.loss is None or isinstance(self.loss, (list, tuple, dict)):
            raise ValueError(
                f"A private model needs exactly one loss; received {self.loss!r}."
            )
        loss_of_example = losses.of_minibatch(losses.find(self.loss))
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._check_terms(replicas)
        weights = None if weights is None else _by_example(weights)
        context = tf.distribute.get_replica_context()
        count = tf.shape(y)[0]
        total, replica = count, 0
        if replicas > 1:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, count)
            replica = context.replica_id_in_sync_group
        network = self.network
        variables = network.trainable_variables
        layout = Layout.of(variables)
        model_state = [
            tf.convert_to_tensor(v.value) for v in network.non_trainable_variables
        ]
        seeds = private_gradients.random_seeds(network.non_trainable_variables)

        def example_loss(params_P, example):
            x, y, weight, place = example
            state = private_gradients.own_state(model_state, seeds, place)
            outputs, after, penalties = stateless_call(
                network,
                layout.split(params_P),
                state,
                tf.nest.map_structure(lambda part: part[None], x),
                training=True,
            )
            loss = loss_of_example(y[None], outputs)
            loss = tf.cast(weight, loss.dtype) * loss + sum(
                tf.cast(p, loss.dtype) for p in penalties
            )
            after = private_gradients.seed_steps(state, after, seeds)
            return loss, (outputs[0], after)

        step = ops.maximum(self.noisy_steps, self._seen())
        found = private_gradients.private_gradient(
            example_loss,
            concat([tf.convert_to_tensor(v.value) for v in variables]),
            (
                x,
                y,
                tf.ones(count) if weights is None else weights,
                tf.range(count) + replica * count,
            ),
            self.mechanism,
            tf.stack([tf.constant(self.seed, "int64"), step]),
            batch_size=total,
            replicas=replicas,
        )
        for count_of_steps in (self.noisy_steps, self._seen()):
            count_of_steps.assign(step + 1)
        largest = self._largest()
        largest.assign(ops.maximum(largest, tf.cast(total, "int64")))
        outputs, steps_B = found.aux
        after = private_gradients.moved_on(model_state, seeds, steps_B)
        for variable, value, seed in zip(
            network.non_trainable_variables, after, seeds, strict=True
        ):
            if seed:
                variable.assign(value)
        # What `apply` will divide by; the exact loss stays hidden from the optimizer,
        # and this 1 is none.
        scale = self.optimizer.scale_loss(tf.ones((), found.grads_P.dtype))
        if hasattr(self.optimizer, "forget_loss"):
            self.optimizer.forget_loss()
        self.optimizer.apply(layout.split(scale * found.grads_P), variables)
        for metric in self.metrics:
            if metric.name == "loss":
                # A replica may be left without an example.
                whole = tf.cast(count, found.losses.dtype)
                mean = tf.math.divide_no_nan(tf.reduce_sum(found.losses), whole)
                metric.update_state(mean, sample_weight=count)
        return self.compute_metrics(x, y, outputs, sample_weight=weights)

    def _check_terms(self, replicas):
        """Raises ValueError for what would change the loss, or the noise, unsaid."""
        if getattr(self._compile_loss, "_user_loss_weights", None) is not None:
            raise ValueError(
                "A private model takes no loss_weights: its one loss is what an "
                "example's gradient is of. Multiply the loss itself."
            )
        for optimizer in _with_those_inside(self.optimizer) if replicas > 1 else ():
            if clips := [name for name in CLIPS if getattr(optimizer, name, None)]:
                raise ValueError(
                    f"{type(optimizer).__name__} with {', '.join(clips)} is not "
                    f"private on {replicas} replicas: Keras clips each replica's part, "
                    "which has a part of the noise, before they are summed. Leave it "
                    "out; gradients are clipped example by example (l2_norm_clip)."
                )

    def privacy_report(self, batch_size, examples):
        """Returns epsilon after the steps taken so far, with what it depends on.

        Args:
            batch_size: of the training, not below the largest minibatch so far.
            examples: of the whole training set.

        Returns:
            `epsilon` (None where delta is), `steps`, `l2_norm_clip`,
            `noise_multiplier` and `delta`, by name.

        Raises:
            ValueError: for a batch size or a delta that does not suit the examples, or
                a batch size below what this process has trained with.
        """
        if batch_size < (largest := int(self._largest())):
            raise ValueError(
                f"Minibatches had up to {largest} examples; batch_size={batch_size} "
                f"would understate epsilon. Give {largest}."
            )
        steps = max(int(self.noisy_steps), int(self._seen()))
        return self.mechanism.report(steps, batch_size, examples)

    def set_weights(self, weights):
        with self._count_kept():
            super().set_weights(weights)

    def load_own_variables(self, store):
        with self._count_kept():
            super().load_own_variables(store)

    def get_weights(self):
        self._count()
        return super().get_weights()

    def save_own_variables(self, store):
        self._count()
        super().save_own_variables(store)

    def _trackable_children(self, *args, **kwargs):
        """What TensorFlow's checkpoints hold."""
        self._count()
        return super()._trackable_children(*args, **kwargs)

    @contextlib.contextmanager
    def _count_kept(self):
        """Keeps the count from going back in here."""
        before = int(self.noisy_steps)
        try:
            yield
        finally:
            self._count(before)

    def _count(self, before=0):
        """Brings the count up to what was seen; a checkpoint may set it back."""
        most = max(before, int(self.noisy_steps), int(self._seen()))
        self.noisy_steps.assign(most)

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {
            **super().get_config(),
            "network": network,
            "mechanism": self.mechanism.describe(),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        network = keras.saving.deserialize_keras_object(
            config.pop("network"), custom_objects
        )
        return cls(network, Mechanism(**config.pop("mechanism")), **config)


def _with_those_inside(optimizer):
    """Yields an optimizer, and those that it wraps."""
    yield optimizer
    inside = [getattr(optimizer, key, None) for key in ("inner_optimizer", "optimizer")]
    for one in [*inside, *(getattr(optimizer, "optimizers", None) or ())]:
        if one is not None:
            yield from _with_those_inside(one)


def _by_example(weights):
    """Returns weights `[B]` of examples, given as `[B]` or `[B, 1]`."""
    if weights.shape.rank == 2 and weights.shape[1] == 1:
        return weights[:, 0]
    if weights.shape.rank not in (1, None):
        raise ValueError(
            "A private model takes one sample weight an example, [B]; received shape "
            f"{tuple(weights.shape)}: an example's gradient is clipped as a whole."
        )
    return weights

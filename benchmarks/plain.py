"""The plain implementations: a truncation, and a learned step in Keras.

`truncation` is the mathematics of `tf_amalgam.meta_step.truncation`, the obvious way:
teachers and student in one `tf.while_loop` under one `GradientTape`, each rule
applied to one tensor after another. It is the reference for speed and memory, and
an independent route to the meta-gradient for the tests. `PerTensor` takes a rule's step
as Keras' optimizers take theirs, one variable after another.
"""

import keras
import tensorflow as tf
from keras import layers

from tf_amalgam import amalgamation
from tf_amalgam.layout import Layout
from tf_amalgam.numerics import LOG_EPSILON


def train_model():
    """Returns the paper's Train net out of Keras' own layers."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def truncation(task, players, objective, weights, carry, batches):
    """Returns (loss, meta-gradient, student's parameters `[P]` at the end)."""
    steps = batches[0].shape[0]
    dtype = carry.start_params_P.dtype
    layout = task.layout
    scale = layout.split(carry.scale_P)

    def loss_and_grads(params, state, batch):
        flat = tf.concat([tf.reshape(p, [-1]) for p in params], 0)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss, state = task.loss(flat, state, batch)
        return loss, layout.split(tape.gradient(loss, flat)), state

    def start(side):
        """Parameters as tensors, and the rule's state cut up tensor by tensor."""
        pieces = [layout.segments(part) for part in side.rule_state]
        kind = type(side.rule_state)
        states = (
            [kind(*part) for part in zip(*pieces, strict=True)]
            if pieces
            else [kind() for _ in layout.sizes]
        )
        return layout.split(side.params_P), states, side.model_state

    def step_one(rule, fixed, side, batch, step, scale):
        params, states, model_state = side
        loss, grads, model_state = loss_and_grads(params, model_state, batch)
        new_params, new_states = [], []
        for i, (param, grad, state) in enumerate(
            zip(params, grads, states, strict=True)
        ):
            one = Layout(layout.names[i : i + 1], ((layout.sizes[i],),))
            s = scale[i]
            delta, state = rule.update(
                fixed,
                tf.reshape(s * grad, [-1]),
                tf.reshape(param / s, [-1]),
                state,
                one,
                step,
            )
            new_params.append(param + s * tf.reshape(delta, param.shape))
            new_states.append(state)
        return loss, (new_params, new_states, model_state)

    def distance(params, others):
        a = tf.concat([tf.reshape(p, [-1]) for p in params], 0)
        b = tf.concat([tf.reshape(p, [-1]) for p in others], 0)
        return amalgamation.log_distance(
            a, b, carry.scale_P, objective.distance, objective.huber_delta
        )

    from_start = objective.meta_loss_start == "unroll"
    origin = (
        (carry.start_params_P, carry.start_model_state)
        if from_start
        else (carry.student.params_P, carry.student.model_state)
    )
    ones = [tf.ones_like(s) for s in scale]

    def body(i, student, teachers, total):
        batch = tuple(tf.gather(b, i) for b in batches)
        step = tf.cast(carry.step + i + 1, dtype)
        loss, student = step_one(players.student, weights, student, batch, step, scale)
        base, _ = task.loss(*origin, batch)
        total += tf.math.log(loss + LOG_EPSILON) - tf.math.log(base + LOG_EPSILON)
        moved = []
        for rule, fixed, teacher in zip(
            players.teachers, players.teacher_weights, teachers, strict=True
        ):
            moved.append(step_one(rule, fixed, teacher, batch, step, ones)[1])
        if moved:
            distances_K = tf.stack([distance(student[0], m[0]) for m in moved])
            total += objective.alpha * amalgamation.combine(
                distances_K, objective.scheme
            )
        return i + 1, student, moved, total

    with tf.GradientTape() as tape:
        tape.watch(weights)
        carried = (
            tf.constant(0),
            start(carry.student),
            [start(side) for side in carry.teachers],
            tf.zeros((), dtype),
        )
        _, student, _, total = tf.while_loop(lambda i, *_: i < steps, body, carried)
        loss = total / steps
    gradient = tape.gradient(loss, weights)
    return loss, gradient, tf.concat([tf.reshape(p, [-1]) for p in student[0]], 0)


class PerTensor(keras.optimizers.Optimizer):
    """A rule as a Keras optimizer that updates each variable by itself."""

    def __init__(self, rule, weights, learning_rate=1.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rule, self.weights = rule, weights

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._states = []
        for variable in variables:
            state = self.rule.init_state(Layout.of([variable]))
            parts = {name: getattr(state, name) for name in state._fields}
            self._states.append(
                {
                    name: self.add_variable(part.shape, "zeros", name=name)
                    for name, part in parts.items()
                }
            )

    def update_step(self, gradient, variable, learning_rate):
        kept = self._states[self._get_variable_index(variable)]
        layout = Layout.of([variable])
        state = self.rule.init_state(layout)._replace(
            **{name: tf.convert_to_tensor(v) for name, v in kept.items()}
        )
        delta_P, state = self.rule.update(
            self.weights,
            tf.reshape(gradient, [-1]),
            tf.reshape(variable, [-1]),
            state,
            layout,
            tf.cast(self.iterations + 1, "float32"),
        )
        for name, part in kept.items():
            self.assign(part, getattr(state, name))
        self.assign_add(variable, learning_rate * tf.reshape(delta_P, variable.shape))

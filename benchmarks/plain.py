"""The plain implementations: a truncation, and a learned step in Keras.

`truncation` is the mathematics of `tf_amalgam.meta_step.truncation`, the obvious way:
teachers and student in one `tf.while_loop` under one `GradientTape`, each rule
applied to one tensor after another. It is the reference for speed and memory, and
an independent route to the meta-gradient for the tests. `PerTensor` takes a rule's step
as Keras' optimizers take theirs, one variable after another. `Rows` is RNNProp as one
writes it down.
"""

import dataclasses

import keras
import tensorflow as tf
from keras import layers

from tf_amalgam import amalgamation
from tf_amalgam.layout import Layout
from tf_amalgam.numerics import LOG_EPSILON
from tf_amalgam.rules.moments import by_root, hat, update_moments
from tf_amalgam.rules.rnnprop import RNNProp, RNNPropState


@dataclasses.dataclass(frozen=True)
class Rows(RNNProp):
    """RNNProp with a row for each coordinate, as Keras' layers have one an example."""

    axis = 0  # along which coordinates lie

    def init_state(self, layout, dtype="float32"):
        state = super().init_state(layout, dtype)
        return RNNPropState(*(tf.transpose(part) for part in state))

    def update(self, weights, grads_P, params_P, state, layout, step):
        m, v = update_moments(grads_P, state, self.beta_1, self.beta_2)
        root = hat(v, self.beta_2, step, self.normalizer)
        m_hat = hat(m, self.beta_1, step, self.normalizer)
        x_PF = tf.stack(
            [by_root(a, root, self.epsilon) for a in (m_hat, grads_P)], axis=1
        )
        after = [m, v]
        for n in range(2):
            kernel, recurrent_kernel, bias = (
                weights[f"lstm_{n}/{part}"]
                for part in ("kernel", "recurrent_kernel", "bias")
            )
            hidden_PH, cell_PH = state[2 + 2 * n : 4 + 2 * n]
            gates = x_PF @ kernel + hidden_PH @ recurrent_kernel + bias
            i, f, c, o = tf.split(gates, 4, axis=1)
            cell_PH = tf.sigmoid(f) * cell_PH + tf.sigmoid(i) * tf.tanh(c)
            x_PF = tf.sigmoid(o) * tf.tanh(cell_PH)
            after += [x_PF, cell_PH]
        y_P = (x_PF @ weights["head/kernel"] + weights["head/bias"])[:, 0]
        return -self.alpha * tf.tanh(y_P), RNNPropState(*after)


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
    """Returns (loss, meta-gradient, student's parameters `[P]` at the end).

    Raises:
        ValueError: for teacher forcing and for noise, which are left out here.
    """
    _check_plain(objective)
    steps = batches[0].shape[0]
    dtype = carry.start_params_P.dtype
    layout = task.layout
    scale = layout.split(carry.scale_P)
    # Of first order rules see g as if it were a constant.
    seen = tf.identity if objective.second_order else tf.stop_gradient

    def loss_and_grads(params, state, batch):
        flat = tf.concat([tf.reshape(p, [-1]) for p in params], 0)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss, state = task.loss(flat, state, batch)
        return loss, layout.split(seen(tape.gradient(loss, flat))), state

    def start(rule, side):
        """Parameters as tensors, and the rule's state cut up tensor by tensor."""
        axis = getattr(rule, "axis", -1)
        pieces = [tf.split(part, layout.sizes, axis) for part in side.rule_state]
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
            start(players.student, carry.student),
            list(map(start, players.teachers, carry.teachers)),
            tf.zeros((), dtype),
        )
        _, student, _, total = tf.while_loop(lambda i, *_: i < steps, body, carried)
        loss = total / steps
    gradient = tape.gradient(loss, weights)
    return loss, gradient, tf.concat([tf.reshape(p, [-1]) for p in student[0]], 0)


def _check_plain(objective):
    for name in ("teacher_forcing", "perturbation", "input_noise"):
        if value := getattr(objective, name):
            raise ValueError(
                f"The plain truncation has no {name}; received {value!r}. Take "
                "tf_amalgam.meta_step.truncation."
            )


class PerTensor(keras.optimizers.Optimizer):
    """A rule as a Keras optimizer that updates each variable by itself.

    Args:
        in_turn: whether one waits for the other. TensorFlow does otherwise, and holds
            several gigabytes of gates for each tensor of a million.
    """

    def __init__(self, rule, weights, learning_rate=1.0, in_turn=False, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rule, self.weights, self.in_turn = rule, weights, in_turn
        self._graph, self._last = None, []  # the update before, where it is waited for

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
        if not self.in_turn:
            self._update(gradient, variable, learning_rate)
            return
        graph = tf.compat.v1.get_default_graph()
        if graph is not self._graph:
            self._graph, self._last = graph, []
        with tf.control_dependencies(self._last):
            self._last = [tf.identity(self._update(gradient, variable, learning_rate))]

    def _update(self, gradient, variable, learning_rate):
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
        return tf.convert_to_tensor(variable)[..., :1]

"""One truncation: teachers, then the student, the losses and the meta-gradient."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_amalgam import adjoint, amalgamation, lanes, perturbation, unroll
from tf_amalgam.numerics import derive_seed, log_loss
from tf_amalgam.rules.rule import Rule
from tf_amalgam.sample import Everything, sample_of
from tf_amalgam.unroll import Side

# Of a truncation's rule states so many bytes are kept; others are computed again.
# Beside teachers it is less by what a second network at a time takes (Train, 128
# examples).
KEPT_STATE_BYTES = 320 * 2**20
SECOND_NETWORK_BYTES = 96 * 2**20

# Streams of random numbers beside those of the weights' tensors (0, 1, …).
INPUT_STREAM, RULE_STREAM = 1000, 1001


class Carry(NamedTuple):
    """One optimizee in the middle of an unroll: all that the next truncation needs."""

    student: Side
    teachers: tuple  # K × Side
    start_params_P: Any  # θ₀ of the unroll
    start_model_state: tuple
    scale_P: Any  # random scaling s; ones when off
    step: Any  # gradients seen so far, warm-up included; int32
    seed: Any  # names this optimizee's noise; int32


class Metrics(NamedTuple):
    """What one truncation reports."""

    loss: Any  # [] what is minimized
    meta_loss: Any  # [] mean log change of the loss
    imitation: Any  # []
    distance_K: Any  # [K] mean log distance to each teacher
    farthest_K: Any  # [K] share of steps on which each teacher was the farthest
    student_losses_T: Any
    teacher_losses_KT: Any


class Players(NamedTuple):
    """Who takes part: one student, K teachers (rules with fixed weights)."""

    student: Rule
    teachers: tuple  # K × Rule
    teacher_weights: tuple  # K × dict of tensors

    def alone(self):
        """Returns the student without its teachers."""
        return Players(self.student, (), ())


def initial_carry(task, players, seed, scaling=0.0, dtype="float32"):
    """Returns the `Carry` at a fresh initialization of the optimizee, as NumPy.

    Args:
        seed: names the initialization and the random scaling.
        scaling: random scaling s = exp(U(−scaling, scaling)) per coordinate (Lv
            et al. 2017; the paper uses 3); 0 turns it off.
    """
    params_P, model_state = task.initial(derive_seed(seed, "initial"))
    params_P = params_P.astype(dtype)
    generator = np.random.default_rng(derive_seed(seed, "scaling"))
    exponent_P = generator.uniform(-scaling, scaling, params_P.shape)

    def side(rule):
        state = rule.init_state(task.layout, dtype)
        return Side(params_P, tf.nest.map_structure(np.asarray, state), model_state)

    return Carry(
        student=side(players.student),
        teachers=tuple(side(rule) for rule in players.teachers),
        start_params_P=params_P,
        start_model_state=model_state,
        scale_P=np.exp(exponent_P).astype(dtype),
        step=np.int32(0),
        seed=np.int32(derive_seed(seed, "noise")),
    )


def warm_up(task, players, carry, batches, learning_rate, scaled):
    """Returns the carry after plain SGD steps that every rule only observes.

    Moments see the gradients, LSTM states stay frozen; teachers start where the
    student ends (Huang et al. 2022, C.3). With `scaled` the steps are taken in
    randomly scaled coordinates, θ/s ← θ/s − lr·s·g (released code).
    """
    steps = batches[0].shape[0]
    dtype = carry.start_params_P.dtype

    def body(i, carry):
        side = carry.student
        _, grads_P, model_state = task.value_and_grad(
            side.params_P, side.model_state, unroll.take(task, batches, i)
        )
        step = unroll.step_count(carry.step, i, dtype)
        rate_P = learning_rate * carry.scale_P**2 if scaled else learning_rate
        params_P = side.params_P - rate_P * grads_P

        def watched(rule, side, seen_P):
            state = rule.observe(seen_P, side.rule_state, step)
            return Side(params_P, state, model_state)

        return carry._replace(
            student=watched(players.student, side, carry.scale_P * grads_P),
            teachers=tuple(
                watched(rule, teacher, grads_P)
                for rule, teacher in zip(players.teachers, carry.teachers, strict=True)
            ),
        )

    carry = unroll.count_up(steps, body, carry)
    return carry._replace(
        start_params_P=carry.student.params_P,
        start_model_state=carry.student.model_state,
        step=carry.step + steps,
    )


def student_step(task, rule, weights, scale_P, noise=None, coordinates=None):
    """Returns `step(grads_P, params_P, state, step) -> (params_P, state)`.

    The student works on θ/s and sees s·g; its step counts s-fold (Lv et al. 2017).
    States are cut as by `lanes.way_of`. A tape differentiates it with `taped=True`.

    Args:
        noise: `(objective, seed)` in meta-training, None without any noise. The same
            step draws the same noise whenever it is computed.
        coordinates: a `sample.Sample`, whose alone are moved; all by default. States
            are those of the sample.
    """

    coordinates = coordinates or Everything(task.layout)
    layout = coordinates.layout
    way = lanes.way_of(rule, weights, layout)
    scale_S = coordinates.of(scale_P)

    def step_fn(grads_P, params_P, state, step, taped=False):
        params_S = coordinates.of(params_P)
        phi, seen_S, options = weights, scale_S * coordinates.of(grads_P), {}
        if noise is not None:
            objective, root = noise
            seed = tf.stack([root, tf.cast(step, tf.int32)])
            drawn = objective.perturbation
            if drawn is not None and drawn.draws("inner_step"):
                phi = perturbation.add_noise(drawn, weights, seed)
            if objective.input_noise:
                seen_S += objective.input_noise * perturbation.normal(
                    seen_S.shape, seed, INPUT_STREAM, seen_S.dtype
                )
            shape = rule.noise_shape(layout)
            if shape is not None:
                options["noise"] = perturbation.uniform(
                    shape, seed, RULE_STREAM, seen_S.dtype
                )
        delta_S, state = way.update(
            phi, seen_S, params_S / scale_S, state, step, taped, **options
        )
        return coordinates.into(params_P, params_S + scale_S * delta_S), state

    return step_fn


def taught(task, rule, objective, seed):
    """Returns which coordinates of an optimizee a student is taught on."""
    if objective.teacher_forcing:
        return sample_of(rule, task.layout, seed)
    return Everything(task.layout)


def teacher_step(task, rule, weights):
    """Returns the same for a teacher, in the clean problem's own coordinates."""

    def step_fn(grads_P, params_P, state, step):
        delta_P, state = rule.update(
            weights, grads_P, params_P, state, task.layout, step
        )
        return params_P + delta_P, state

    return step_fn


def segment_length(objective, steps, rule_state, teachers):
    """Returns the segment that `objective` asks for, or a good default.

    It is the shortest whose kept states fit into `KEPT_STATE_BYTES`, beside teachers
    less `SECOND_NETWORK_BYTES`; from √T on longer ones would need more inside.
    """
    if objective.segment is not None:
        return min(objective.segment, steps)
    state_bytes = sum(
        part.shape.num_elements() * part.dtype.size
        for part in tf.nest.flatten(rule_state)
    )
    kept_bytes = KEPT_STATE_BYTES - (SECOND_NETWORK_BYTES if teachers else 0)
    shortest = -(-steps * state_bytes // kept_bytes)
    return max(1, min(shortest, math.isqrt(steps - 1) + 1))


def truncation(
    task,
    players,
    objective,
    weights,
    carry,
    batches,
    with_gradient=True,
    alpha=None,
):
    """Runs one truncation; returns `(meta_gradient, carry, metrics)`.

    Student and teachers go forward side by side, outside any tape; then comes the
    meta-gradient of

        mean_i [log M(xᵢ, θᵢ) − log M(xᵢ, θ₀)] + α·mean_i combine_k d(θᵢ₊₁, θᵢ₊₁ᵏ).

    With teacher forcing one of the teachers, drawn for each optimizee, makes all θᵢ;
    θᵢ₊₁ and θᵢ₊₁ᵏ are one step away from there, and the second term is the whole loss.

    With a perturbation ψ the student is unrolled, and the meta-gradient taken, at
    φ + ψ (Algorithm 2); an adversarial one takes further unrolls to find ψ.

    Args:
        weights: dict of tensors φ.
        carry: where the last truncation ended; cut off there (truncated BPTT).
        batches: arrays `[T, B, …]`; teachers and student see the same ones.
        with_gradient: False leaves the meta-gradient out (`{}`).
        alpha: `[]`, in place of the objective's, which then says only whether it is 0:
            one program for stages that differ in it.
    """
    alpha = objective.alpha if alpha is None else alpha

    def at(phi, gradient):
        return _truncation(
            task, players, objective, alpha, phi, carry, batches, gradient
        )

    noise = objective.perturbation
    if noise is not None and noise.draws("meta_step"):
        seed = tf.stack([carry.seed, carry.step])
        weights = perturbation.add_noise(noise, weights, seed)
    if noise is not None and noise.attack_steps:
        psi = {name: tf.zeros_like(w) for name, w in weights.items()}
        for _ in range(noise.attack_steps):
            gradient, _, _ = at({k: w + psi[k] for k, w in weights.items()}, True)
            psi = perturbation.ascend(noise, psi, gradient, weights)
        weights = {k: w + psi[k] for k, w in weights.items()}
    return at(weights, with_gradient)


def _truncation(
    task, players, objective, alpha, weights, carry, batches, with_gradient
):
    coordinates = taught(task, players.student, objective, carry.seed)
    leader = None
    if objective.teacher_forcing:
        leader = carry.seed % len(players.teachers)
    way = lanes.way_of(players.student, weights, coordinates.layout)
    rule_state = way.cut(coordinates.of(carry.student.rule_state))
    way.compile_ahead(weights, rule_state, carry.scale_P.dtype, with_gradient)
    segment = segment_length(
        objective, batches[0].shape[0], rule_state, players.teachers
    )
    if objective.meta_loss_start == "unroll":
        origin = (carry.start_params_P, carry.start_model_state)
    else:
        origin = (carry.student.params_P, carry.student.model_state)
    step_fn = student_step(
        task,
        players.student,
        weights,
        carry.scale_P,
        (objective, carry.seed),
        coordinates,
    )

    def pull(params_P, points):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params_P)
            distances_K = amalgamation.log_distance(
                coordinates.of(params_P),
                coordinates.of(tf.stack(points)),
                coordinates.of(carry.scale_P),
                objective.distance,
                objective.huber_delta,
            )
            loss = alpha * amalgamation.combine(distances_K, objective.scheme)
        if not objective.alpha:  # a teacher that is lost costs nothing then
            return distances_K, tf.zeros_like(params_P)
        return distances_K, tape.gradient(loss, params_P)

    forward = unroll.unroll_forward(
        task,
        step_fn,
        [
            teacher_step(task, rule, fixed)
            for rule, fixed in zip(
                players.teachers, players.teacher_weights, strict=True
            )
        ],
        (carry.student._replace(rule_state=rule_state), carry.teachers),
        origin,
        batches,
        carry.step,
        segment=segment,
        pull=pull,
        leader=leader,
    )
    gradient = {}
    if with_gradient:
        gradient = adjoint.student_adjoint(
            task,
            step_fn,
            weights,
            forward.trace,
            rule_state,
            batches,
            carry.step,
            segment=segment,
            second_order=objective.second_order,
            led=objective.teacher_forcing,
        )
    student = forward.student
    carry = carry._replace(
        student=student._replace(
            rule_state=coordinates.into(
                carry.student.rule_state, way.joined(student.rule_state)
            )
        ),
        teachers=forward.teachers,
        step=carry.step + batches[0].shape[0],
    )
    return gradient, carry, _metrics(objective, alpha, forward)


def _metrics(objective, alpha, forward):
    losses_T, start_losses_T, distances_TK = (
        array.stack()
        for array in (forward.trace.losses, forward.start_losses, forward.distances)
    )
    meta_loss = tf.reduce_mean(log_loss(losses_T) - log_loss(start_losses_T))
    teachers = len(forward.teachers)
    if teachers:
        imitation = tf.reduce_mean(amalgamation.combine(distances_TK, objective.scheme))
        farthest_TK = tf.one_hot(tf.argmax(distances_TK, axis=1), teachers)
        teacher_losses_KT = tf.stack([a.stack() for a in forward.teacher_losses])
    else:
        imitation = tf.zeros((), losses_T.dtype)
        farthest_TK = distances_TK
        teacher_losses_KT = tf.zeros((0, losses_T.shape[0]), losses_T.dtype)
    loss = alpha * imitation if objective.alpha else tf.zeros_like(meta_loss)
    return Metrics(
        loss=loss if objective.teacher_forcing else meta_loss + loss,
        meta_loss=meta_loss,
        imitation=imitation,
        distance_K=tf.reduce_mean(distances_TK, axis=0),
        farthest_K=tf.reduce_mean(farthest_TK, axis=0),
        student_losses_T=losses_T,
        teacher_losses_KT=teacher_losses_KT,
    )

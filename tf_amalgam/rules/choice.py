"""Choice: a learned mixture of known optimizers, the teacher of Optimal Choice."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

from keras import ops

from tf_amalgam.checks import check_number
from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.dense import affine
from tf_amalgam.rules.fresh import full, glorot
from tf_amalgam.rules.lstm import cell_weights, init_lstm, lstm_step
from tf_amalgam.rules.moments import ema
from tf_amalgam.rules.rmsprop import RMSProp
from tf_amalgam.rules.rule import AnalyticRule, Rule, check_positive, zeros
from tf_amalgam.rules.teachers import (
    LEARNING_RATES,
    as_config,
    check_pool,
    from_config,
)

# The one-hot feature knows tensors of 1, 2 and 3 dimensions; convolution kernels,
# with 4, get zeros (released code).
RANKS = (1, 2, 3)
RATE_TIME = 100.0  # inner steps
# Decays of m, and of the means of m² and g², by which gradients are told to agree.
BETA_M, BETA_SQUARES = 0.9, 0.98
# m² over g² where gradients know nothing of one another.
INDEPENDENT = (1.0 - BETA_M) / (1.0 + BETA_M)
LEAST_SQUARE = 1e-12  # of gradients, below which nothing is told
HUGE = 1e18  # as far as gradients are told: float32 holds its square
# Hyperparameters that files and records of before lack; in a configuration where they
# are not 0, so that what was made without them is still the same rule.
LATER = ("rate_agreement",)


class ChoiceState(NamedTuple):
    """States of the pool's members and of the LSTM layers, and `Agreement` or ()."""

    pool: tuple  # K × the member's own state
    hidden: tuple  # layers × [H, P]
    cell: tuple  # layers × [H, P]
    agreement: tuple = ()


class Agreement(NamedTuple):
    """How far successive gradients agree: means of g, of g² and of the former's square.

    With β of m, m² is (1 − β)/(1 + β) of g² where gradients are independent, more where
    they agree, and less where they take turns, as they do when steps are too long.
    """

    m: Any  # [P]
    squares: Any  # [P], mean of g²
    agreed: Any  # [P], mean of m²

    def seen(self, grads_P):
        """Returns the same after another gradient."""
        grads_P = ops.clip(grads_P, -HUGE, HUGE)
        m = ema(self.m, grads_P, BETA_M)
        return Agreement(
            m,
            ema(self.squares, ops.square(grads_P), BETA_SQUARES),
            ema(self.agreed, ops.square(m), BETA_SQUARES),
        )

    def log_ratio(self):
        """Returns `[P]`: ½·log of m²/g² over that of independent gradients."""
        agreed = self.agreed / INDEPENDENT + LEAST_SQUARE
        return 0.5 * ops.log(agreed / (self.squares + LEAST_SQUARE))


class Mixture(NamedTuple):
    """What a Choice rule decided in one step."""

    weights_KP: Any  # softmax weights, each column sums to 1
    delta_P: Any
    state: ChoiceState


@dataclasses.dataclass(frozen=True)
class Choice(Rule):
    """δ = Σₖ wₖuₖ over the pool's updates (Huang et al. 2022, 3.3 and C.1.2).

    Inputs per coordinate: the K pool updates (their learning rates included), the
    time t/2000 (t steps done, unbounded), a one-hot of the tensor's number of
    dimensions → LSTM layers → dense(K) → softmax. 5,482 weights for two members,
    5,886 for six.

    Attributes:
        pool: the members, analytic rules; by default the small pool.
        units: of each LSTM layer.
        layers: LSTM layers; 1 is the "shallow" variant.
        time_scale: inner steps after which the time feature is 1.
        hardness: 0 for a softmax. Above 0 a step of training draws Gumbel noise and
            takes a softmax at temperature 1/hardness; outside training the best
            member alone moves ("hard" variant: 10).
        rate_range: if above 0, member k's update is also multiplied by
            exp(rate_range·tanh(·)) of a second dense layer, which sees
            log(1 + t/rate_time), too. An LSTM would first have to learn to tell
            late from early.
        rate_time: inner steps.
        rate_decay: before any training these rates are about
            (1 + t/rate_time)^(-rate_decay): by default 1, at all times.
        rate_agreement: if above 0, the second layer also sees how far the coordinate's
            gradients agree, and before any training rates are multiplied by
            (m²/g²)^(rate_agreement/2), over that of independent ones (`Agreement`):
            shorter steps where gradients take turns, longer ones where they agree.
    """

    name = "choice"
    sees_tensors: ClassVar[bool] = True  # their number of dimensions
    recurrent: ClassVar[tuple[str, ...]] = ("hidden", "cell")
    pool: tuple = (Adam(LEARNING_RATES["adam"]), RMSProp(LEARNING_RATES["rmsprop"]))
    units: int = 20
    layers: int = 2
    time_scale: float = 2000.0
    hardness: float = 0.0
    rate_range: float = 0.0
    rate_time: float = RATE_TIME
    rate_decay: float = 0.0
    rate_agreement: float = 0.0

    def __post_init__(self):
        members = tuple(from_config(m) if isinstance(m, dict) else m for m in self.pool)
        object.__setattr__(self, "pool", members)
        check_positive(self, "units", "layers", "time_scale", "rate_time")
        if len(members) < 2 or not all(isinstance(m, AnalyticRule) for m in members):
            raise ValueError(
                "Choice: pool must hold at least two analytic rules, received "
                f"{self.pool!r}."
            )
        check_pool(members)
        of_rates = ("rate_decay", "rate_agreement")
        for field in ("hardness", "rate_range", *of_rates):
            check_number(f"Choice: {field}", getattr(self, field))
        for field in of_rates:
            if getattr(self, field) and not self.rate_range:
                raise ValueError(
                    f"Choice: {field}={getattr(self, field)!r} is of learned rates, of "
                    "which there are none; give rate_range, 3.0 say."
                )

    def get_config(self):
        config = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in LATER:
            if not config[name]:
                del config[name]
        config["pool"] = [as_config(member) for member in self.pool]
        return config

    def init_weights(self, seed):
        weights: dict = {}
        inputs = len(self.pool) + 1 + len(RANKS)
        for i in range(self.layers):
            weights |= init_lstm(f"lstm_{i}", inputs, self.units, seed)
            inputs = self.units
        members = len(self.pool)
        weights["head/kernel"] = glorot((self.units, members), seed, "head")
        weights["head/bias"] = full(members)
        return {**weights, **self._init_rates()}

    def _init_rates(self):
        """Returns weights of the rates before any training: nothing without rates."""
        if not self.rate_range:
            return {}
        members = len(self.pool)
        found = {
            "rate/kernel": full((self.units, members)),
            "rate/bias": full(members),
            "rate/time": full(members, -self.rate_decay / self.rate_range),
        }
        if self.rate_agreement:
            share = self.rate_agreement / self.rate_range
            found["rate/agreement"] = full(members, share)
        return found

    def weights_of(self, rule, weights):
        """As `Rule`; also of the same rule without rates, or without agreement.

        What that one lacks begins untrained.
        """
        blind = dataclasses.replace(self, rate_agreement=0.0)
        without = dataclasses.replace(
            blind, rate_range=0.0, rate_time=RATE_TIME, rate_decay=0.0
        )
        if rule in (blind, without):
            return {**self._init_rates(), **weights}
        return super().weights_of(rule, weights)

    def init_state(self, layout, dtype="float32"):
        def layers():
            return tuple(
                zeros(layout, self.units, dtype=dtype) for _ in range(self.layers)
            )

        members = tuple(member.init_state(layout, dtype) for member in self.pool)
        nothing = (zeros(layout, dtype=dtype) for _ in Agreement._fields)
        agreement = Agreement(*nothing) if self.rate_agreement else ()
        return ChoiceState(members, layers(), layers(), agreement)

    def noise_shape(self, layout):
        return (len(self.pool), layout.size) if self.hardness else None

    def observe(self, grads_P, state, step):
        members = zip(self.pool, state.pool, strict=True)
        return state._replace(
            pool=tuple(member.observe(grads_P, s, step) for member, s in members),
            agreement=self._agreement(state, grads_P),
        )

    def _agreement(self, state, grads_P):
        """Returns the part of the state that says how far gradients agree."""
        return state.agreement.seen(grads_P) if self.rate_agreement else ()

    def update(self, weights, grads_P, params_P, state, layout, step, noise=None):
        mixture = self.mix(weights, grads_P, params_P, state, layout, step, noise)
        return mixture.delta_P, mixture.state

    def mix(self, weights, grads_P, params_P, state, layout, step, noise=None):
        """Returns the `Mixture` of one step.

        Args:
            noise: uniform numbers in (0, 1), `[K, P]`, for Gumbel noise in training.
        """
        moved = [
            member.update({}, grads_P, params_P, member_state, layout, step)
            for member, member_state in zip(self.pool, state.pool, strict=True)
        ]
        updates_KP = ops.stack([delta_P for delta_P, _ in moved])
        x = ops.concatenate([updates_KP, self._features(updates_KP, layout, step)])
        hidden, cell = [], []
        for i in range(self.layers):
            x, c = lstm_step(
                x, state.hidden[i], state.cell[i], *cell_weights(weights, f"lstm_{i}")
            )
            hidden.append(x)
            cell.append(c)
        weights_KP = self.mixing_weights(weights, x, noise)
        agreement = self._agreement(state, grads_P)
        if self.rate_range:
            updates_KP = updates_KP * self._rates(weights, x, step, agreement)
        delta_P = ops.sum(weights_KP * updates_KP, axis=0)
        members = tuple(s for _, s in moved)
        state = ChoiceState(members, tuple(hidden), tuple(cell), agreement)
        return Mixture(weights_KP, delta_P, state)

    def mixing_weights(self, weights, hidden_HP, noise=None):
        """Returns `[K, P]`: of a step that left the last layer at `hidden_HP`."""
        logits_KP = affine(hidden_HP, weights["head/kernel"], weights["head/bias"])
        return self._softmax(logits_KP, noise)

    def _rates(self, weights, hidden_HP, step, agreement):
        """Returns `[K, P]`: what the members' updates are multiplied by."""
        rates_KP = affine(hidden_HP, weights["rate/kernel"], weights["rate/bias"])
        done = ops.cast(step, hidden_HP.dtype) - 1.0
        time = ops.log1p(done / self.rate_time)
        rates_KP += time * ops.expand_dims(weights["rate/time"], -1)
        if self.rate_agreement:
            agreed_K1 = ops.expand_dims(weights["rate/agreement"], -1)
            rates_KP += agreed_K1 * agreement.log_ratio()
        return ops.exp(self.rate_range * ops.tanh(rates_KP))

    def _features(self, updates_KP, layout, step):
        """Returns `[4, P]`: time, and one-hot of the tensor's number of dimensions."""
        dtype = updates_KP.dtype
        time = (ops.cast(step, dtype) - 1.0) / self.time_scale
        ones_1P = ops.ones((1, layout.size), dtype)
        return ops.concatenate([time * ones_1P, layout.rank_one_hot(RANKS, dtype)])

    def _softmax(self, logits_KP, noise):
        if not self.hardness:
            return ops.softmax(logits_KP, axis=0)
        if noise is None:
            best = ops.argmax(logits_KP, axis=0)
            return ops.one_hot(best, len(self.pool), axis=0, dtype=logits_KP.dtype)
        gumbel_KP = -ops.log(-ops.log(noise))
        return ops.softmax(self.hardness * (logits_KP + gumbel_KP), axis=0)

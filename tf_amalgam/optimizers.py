"""The teachers and the learned rules as Keras optimizers."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tf_amalgam import rules
from tf_amalgam.chunks import joined
from tf_amalgam.numerics import derive_seed
from tf_amalgam.optimizer import RuleOptimizer
from tf_amalgam.rules.rule import AnalyticRule
from tf_amalgam.weights import check_weights, decoded, encoded

register = keras.saving.register_keras_serializable(package="tf_amalgam")


class AnalyticOptimizer(RuleOptimizer):
    """Base of the teachers as Keras optimizers.

    Args:
        learning_rate: float or schedule; by default the rate that the paper's
            authors tuned for this optimizer as a direct teacher, in their code,
            whose steps of Adam are a third as long (`load(…, preset="released")`).
        **kwargs: hyperparameters of the rule, `warmup_steps`,
            `warmup_learning_rate`, and what every Keras optimizer takes.
    """

    rule_type: type[AnalyticRule]

    def __init__(self, learning_rate=None, **kwargs):
        if learning_rate is None:
            learning_rate = rules.LEARNING_RATES[self.rule_type.name]
        if kwargs.get("guard"):
            raise ValueError(
                f"{type(self).__name__}: guard goes with learned optimizers; this one "
                "is what they fall back on. Leave it out."
            )
        hyperparameters = _taken(self.rule_type, kwargs)
        # Keras' own learning rate multiplies the rule's step.
        rule = self.rule_type(learning_rate=1.0, **hyperparameters)
        super().__init__(rule, {}, learning_rate, **kwargs)

    @property
    def rule(self):
        """The rule at the present learning rate.

        Raises:
            ValueError: where that is a schedule, a function, or 0.
        """
        if not isinstance(self._learning_rate, keras.Variable):
            raise ValueError(
                f"The learning rate of this {self.name} is a schedule or a function; a "
                f"rule has one: give tf_amalgam.rules.{type(self).__name__}"
                "(learning_rate=…)."
            )
        rate = np.float32(ops.convert_to_numpy(self.learning_rate))
        # As it was written: .003, not .003000000026.
        return dataclasses.replace(self._rule, learning_rate=float(str(rate)))

    def get_config(self):
        config = super().get_config()
        hyperparameters = self._rule.get_config()
        del hyperparameters["learning_rate"]  # Keras' own stands in the config
        return {**config, **hyperparameters}


class LearnedOptimizer(RuleOptimizer):
    """Base of the learned rules as Keras optimizers.

    Args:
        rule_weights: the rule's weights by name; fresh ones by default.
        learning_rate: multiplies the learned step.
        seed: names the fresh weights, where `rule_weights` is not given.
        **kwargs: hyperparameters of the rule and what every Keras optimizer takes.
    """

    rule_type: type[rules.Rule]

    def __init__(
        self,
        rule_weights=None,
        learning_rate=1.0,
        *,
        seed=0,
        warmup_steps=100,
        warmup_learning_rate=0.01,
        **kwargs,
    ):
        rule = self.rule_type(**_taken(self.rule_type, kwargs))
        if not isinstance(rule_weights, (Mapping, type(None))):
            raise ValueError(
                f"{type(self).__name__}: rule_weights must be a dict of arrays by "
                f"name, received {rule_weights!r}. A learning rate is given by name "
                "(learning_rate=…); tf_amalgam.load takes paths."
            )
        if rule_weights is None:
            rule_weights = rule.init_weights(derive_seed(seed, "student"))
        elif any(isinstance(value, dict) for value in rule_weights.values()):
            rule_weights = {k: decoded(v) for k, v in rule_weights.items()}
        check_weights(rule, rule_weights)
        super().__init__(
            rule,
            rule_weights,
            learning_rate,
            warmup_steps=warmup_steps,
            warmup_learning_rate=warmup_learning_rate,
            **kwargs,
        )

    def get_config(self):
        # The weights are part of the config (about 27 kB of base64), so that a
        # clone, a saved model or a pickle can never end up with other weights.
        weights = {k: encoded(v) for k, v in self.rule_weights.items()}
        return {
            **super().get_config(),
            **self.rule.get_config(),
            "rule_weights": weights,
        }


def _taken(rule_type, kwargs):
    """Takes the rule's hyperparameters out of `kwargs`."""
    fields = {field.name for field in dataclasses.fields(rule_type)} - {"learning_rate"}
    return {name: kwargs.pop(name) for name in sorted(fields & kwargs.keys())}


@register
class SGD(AnalyticOptimizer):
    """θ ← θ − lr·g.

    Args:
        learning_rate: .2 by default.
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.SGD


@register
class Momentum(AnalyticOptimizer):
    """θ ← θ − lr·m̂, m̂ the average of gradients (not the heavy ball's sum).

    Args:
        learning_rate: .5 by default.
        beta_1: decay of the average, .9 by default.
        normalizer: see `Adam` (released code: `"none"`).
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.Momentum


@register
class RMSProp(AnalyticOptimizer):
    """θ ← θ − lr·g/√(v̂ + ε) (Tieleman & Hinton 2012).

    Args:
        learning_rate: .005 by default.
        beta_2: decay of the average of squares, .999 by default (released code: .9).
        epsilon: 1e-10 by default, inside the root.
        normalizer: see `Adam` (released code: `"none"`).
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.RMSProp


@register
class Adam(AnalyticOptimizer):
    """θ ← θ − lr·m̂/√(v̂ + ε) (Kingma & Ba 2015); Keras' Adam has √v̂ + ε instead.

    Args:
        learning_rate: .005 by default.
        beta_1, beta_2: decays of the averages of gradients, .9, and of their squares,
            .999.
        epsilon: 1e-10 by default, inside the root.
        normalizer: of the averages: `"bias_corrected"`, by 1/(1 − βᵗ) (the paper);
            `"constant"`, by 1/(1 − β) at all steps (the released code, whose steps of
            Adam are a third as long); or `"none"`.
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.Adam


@register
class AddSign(AnalyticOptimizer):
    """θ ← θ − lr·g·(1 + tanh(m̂/√v̂)·tanh(g/√v̂)) (Bello et al. 2017).

    Args:
        learning_rate: .1 by default.
        beta_1, beta_2, epsilon, normalizer: see `Adam` (released code: `"none"`).
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.AddSign


@register
class PowerSign(AnalyticOptimizer):
    """θ ← θ − lr·g·exp(tanh(m̂/√v̂)·tanh(g/√v̂)) (Bello et al. 2017).

    Args:
        learning_rate: .1 by default.
        beta_1, beta_2, epsilon, normalizer: see `Adam` (released code: `"none"`).
        **kwargs: see `tf_amalgam.optimizer.RuleOptimizer`.
    """

    rule_type = rules.PowerSign


@register
class RNNProp(LearnedOptimizer):
    """The student: θ ← θ − α·tanh(LSTM(m̂/√v̂, g/√v̂)), 328 bytes of state a parameter.

    Made by itself it is untrained; `tf_amalgam.load("min-max-small")` is a trained one.

    Args:
        rule_weights: by name; fresh ones of `seed` by default.
        learning_rate: multiplies the learned step, 1.0 by default.
        **kwargs: hyperparameters of `tf_amalgam.rules.RNNProp` (units, alpha, beta_1,
            beta_2, epsilon, normalizer, inputs, output), and what
            `tf_amalgam.optimizer.RuleOptimizer` takes.
    """

    rule_type = rules.RNNProp


@register
class Choice(LearnedOptimizer):
    """A learned mixture of known optimizers: θ ← θ + Σₖ wₖuₖ (Huang et al. 2022, 3.3).

    Made by itself it is an even mixture; `tf_amalgam.load()` is a trained one.

    Args:
        rule_weights: by name; fresh ones of `seed` by default.
        learning_rate: multiplies the learned step, 1.0 by default.
        **kwargs: hyperparameters of `tf_amalgam.rules.Choice` (pool, units, …), and
            what `tf_amalgam.optimizer.RuleOptimizer` takes.
    """

    rule_type = rules.Choice

    def mixing_weights(self) -> dict:
        """Returns the last step's shares, NumPy: `[*shape, K]` by variable's path.

        K are the members, `optimizer.rule.pool`; shares sum to 1. During a warm-up, or
        while a guard's fallback is in charge, they are what the rule begins with. Of
        variables that share a path, all but the first have their number after it.

        Raises:
            ValueError: before the optimizer is built.
        """
        if not self.built:
            raise ValueError(
                "This optimizer has no mixing weights yet: it knows no variables. "
                "Train with it first, or call optimizer.build(variables)."
            )
        layout = self._layout
        parts = list(zip(*self._state, strict=True))
        start = f"hidden_{self.rule.layers - 1}"
        [last] = [part for part in parts if part[0].name.startswith(start)]
        last_HP = joined([ops.convert_to_numpy(v) for v in last], layout.size)
        weights = {k: ops.convert_to_tensor(v) for k, v in self.rule_weights.items()}
        # NumPy's bfloat16 would stay one on PyTorch, whatever it is cast to.
        last_HP = ops.convert_to_tensor(last_HP.astype("float32"))
        shares_KP = self.rule.mixing_weights(weights, last_HP)
        pieces = layout.segments(ops.convert_to_numpy(shares_KP))
        found: dict = {}
        for name, shape, piece in zip(layout.names, layout.shapes, pieces, strict=True):
            key = f"{name} ({len(found)})" if name in found else name
            shares = np.moveaxis(ops.convert_to_numpy(piece), 0, -1)
            found[key] = shares.reshape(*shape, len(self.rule.pool))
        return found


@register
class Original(LearnedOptimizer):
    """θ ← θ − α·LSTM(g) of Andrychowicz et al. 2016, 320 bytes of state a parameter.

    Made by itself it is untrained; `tf_amalgam.load("original")` is a trained one.

    Args:
        rule_weights: by name; fresh ones of `seed` by default.
        learning_rate: multiplies the learned step, 1.0 by default.
        **kwargs: hyperparameters of `tf_amalgam.rules.Original` (units, alpha,
            preprocessing, p), and what `tf_amalgam.optimizer.RuleOptimizer` takes.
    """

    rule_type = rules.Original


@register
class Scale(LearnedOptimizer):
    """Hierarchical GRUs of Wichrowska et al. 2017, 120 bytes of state a parameter.

    Made by itself it is untrained; `tf_amalgam.load("scale")` is a trained one.

    Args:
        rule_weights: by name; fresh ones of `seed` by default.
        learning_rate: multiplies the learned step, 1.0 by default.
        **kwargs: hyperparameters of `tf_amalgam.rules.Scale`, and what
            `tf_amalgam.optimizer.RuleOptimizer` takes.
    """

    rule_type = rules.Scale


@register
class LearnedScalars(LearnedOptimizer):
    """An analytic optimizer whose learning rate and decays are meta-learned.

    Made by itself it is its base (Adam) with that one's defaults.

    Args:
        rule_weights: by name; what its base begins with by default.
        learning_rate: multiplies the learned step, 1.0 by default.
        **kwargs: hyperparameters of `tf_amalgam.rules.LearnedScalars` (base,
            initial_learning_rate, …), and what `tf_amalgam.optimizer.RuleOptimizer`
            takes.
    """

    rule_type = rules.LearnedScalars


OPTIMIZERS = {
    cls.rule_type.name: cls
    for cls in (
        SGD,
        Momentum,
        RMSProp,
        Adam,
        AddSign,
        PowerSign,
        RNNProp,
        Choice,
        Original,
        Scale,
        LearnedScalars,
    )
}


def check_known(rule, what):
    """Raises ValueError unless files can name a rule, and it has a Keras optimizer.

    Args:
        rule: to check.
        what: it is to be, for the message.
    """
    rules.check_known(rule, what)
    if rule.name not in OPTIMIZERS:
        raise ValueError(
            f"{rule.name} cannot be {what}: it has no Keras optimizer. Add its class "
            "to tf_amalgam.optimizers.OPTIMIZERS (CONTRIBUTING.md)."
        )


def optimizer_for(rule, weights, **kwargs):
    """Returns the Keras optimizer of a rule with its weights."""
    check_known(rule, "a Keras optimizer by its name")
    cls = OPTIMIZERS[rule.name]
    config = rule.get_config()
    if issubclass(cls, LearnedOptimizer):
        return cls(rule_weights=weights, **{**config, **kwargs})
    return cls(**{**config, **kwargs})

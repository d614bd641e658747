"""The teachers and the learned rules as Keras optimizers."""

import keras
from keras import ops

from tf_amalgam import rules
from tf_amalgam.optimizer import PACKAGE, AnalyticOptimizer, LearnedOptimizer

register = keras.saving.register_keras_serializable(package=PACKAGE)


@register
class SGD(AnalyticOptimizer):
    """θ ← θ − lr·g."""

    rule_type = rules.SGD


@register
class Momentum(AnalyticOptimizer):
    """θ ← θ − lr·m̂, m̂ the average of gradients (not the heavy ball's sum)."""

    rule_type = rules.Momentum


@register
class RMSProp(AnalyticOptimizer):
    """θ ← θ − lr·g/√(v̂ + ε)."""

    rule_type = rules.RMSProp


@register
class Adam(AnalyticOptimizer):
    """θ ← θ − lr·m̂/√(v̂ + ε); Keras' Adam has √v̂ + ε instead."""

    rule_type = rules.Adam


@register
class AddSign(AnalyticOptimizer):
    """θ ← θ − lr·g·(1 + tanh(m̂/√v̂)·tanh(g/√v̂))."""

    rule_type = rules.AddSign


@register
class PowerSign(AnalyticOptimizer):
    """θ ← θ − lr·g·exp(tanh(m̂/√v̂)·tanh(g/√v̂))."""

    rule_type = rules.PowerSign


@register
class RNNProp(LearnedOptimizer):
    """The student: θ ← θ − α·tanh(LSTM(m̂/√v̂, g/√v̂)), 328 bytes of state a parameter."""

    rule_type = rules.RNNProp


@register
class Choice(LearnedOptimizer):
    """A learned mixture of known optimizers: θ ← θ + Σₖ wₖuₖ."""

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
        names = [variable.name for variable in self._state]
        last_PH = self._state[names.index(f"hidden_{self.rule.layers - 1}")]
        weights = {k: ops.convert_to_tensor(v) for k, v in self.rule_weights.items()}
        shares_PK = self.rule.mixing_weights(
            weights, ops.cast(ops.convert_to_tensor(last_PH), "float32")
        )
        layout = self._layout
        pieces = layout.segments(ops.convert_to_numpy(shares_PK))
        found: dict = {}
        for name, shape, piece in zip(layout.names, layout.shapes, pieces, strict=True):
            key = f"{name} ({len(found)})" if name in found else name
            found[key] = ops.convert_to_numpy(piece).reshape(*shape, -1)
        return found


@register
class Original(LearnedOptimizer):
    """θ ← θ − α·LSTM(g) of Andrychowicz et al. 2016, 320 bytes of state a parameter."""

    rule_type = rules.Original


@register
class Scale(LearnedOptimizer):
    """Hierarchical GRUs of Wichrowska et al. 2017, 120 bytes of state a parameter."""

    rule_type = rules.Scale


@register
class LearnedScalars(LearnedOptimizer):
    """An analytic optimizer whose learning rate and decays are meta-learned."""

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


def optimizer_for(rule, weights, **kwargs):
    """Returns the Keras optimizer of a rule with its weights."""
    cls = OPTIMIZERS[rule.name]
    config = rule.get_config()
    if issubclass(cls, LearnedOptimizer):
        return cls(rule_weights=weights, **{**config, **kwargs})
    return cls(**{**config, **kwargs})

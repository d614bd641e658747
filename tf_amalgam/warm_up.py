"""The paper's warm-up around any Keras optimizer, for comparisons on equal terms."""

import keras
from keras import ops


class WarmUp(keras.optimizers.Optimizer):
    """Any Keras optimizer, its first steps taken by plain SGD (Huang et al. 2022, B.3).

    The optimizer sees the gradients of these steps, so that its moments are warm
    when it takes over; what it did to the weights is undone and SGD's step taken.

    Args:
        optimizer: the `keras.optimizers.Optimizer`, fresh.
        steps: number of first steps.
        learning_rate: SGD's.

    Raises:
        ValueError: for an optimizer that a warm-up would not leave as it is: one that
            keeps weights of its own, or takes steps at other times than gradients come.
    """

    def __init__(self, optimizer, steps, learning_rate):
        check_steps(optimizer)
        _check_weights(optimizer, steps)
        super().__init__(learning_rate=learning_rate, name=optimizer.name)
        self.optimizer = optimizer
        self.warmup_steps = steps

    def build(self, variables):
        """Creates the optimizer's own variables."""
        super().build(variables)
        self.optimizer.build(variables)

    def apply(self, grads, trainable_variables=None):
        """Takes one step on the variables: SGD's, or the optimizer's own."""
        if not self.built:
            self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        pairs = [
            (ops.convert_to_tensor(grad), variable)
            for grad, variable in zip(grads, variables, strict=True)
            if grad is not None  # as in Keras, what has no gradient stays
        ]
        grads, variables = [g for g, _ in pairs], [v for _, v in pairs]

        def own():
            self.optimizer.apply(grads, variables)
            return 0

        def warm():
            rate = ops.convert_to_tensor(self.learning_rate)
            clipped = self.optimizer._clip_gradients(grads)  # as those of ours are
            after = [
                ops.convert_to_tensor(v) - ops.cast(rate * grad, v.dtype)
                for v, grad in zip(variables, clipped, strict=True)
            ]
            own()
            for variable, value in zip(variables, after, strict=True):
                if variable.constraint is not None:
                    value = variable.constraint(value)
                variable.assign(value)
            return 0

        ops.cond(self.iterations < self.warmup_steps, warm, own)
        self._iterations.assign_add(1)

    def get_config(self):
        return {
            **self.optimizer.get_config(),
            "warmup_steps": self.warmup_steps,
            "warmup_learning_rate": float(ops.convert_to_numpy(self.learning_rate)),
        }


# Weights live in their slots, so that these, not SGD's steps, decide what comes next.
OWN_WEIGHTS = ("Ftrl", "ScheduleFreeAdamW")


def check_steps(optimizer):
    """Raises ValueError if steps are not those of plain gradients, or of weights."""
    name = type(optimizer).__name__
    odd = [
        option
        for option in ("use_ema", "gradient_accumulation_steps", "loss_scale_factor")
        if getattr(optimizer, option, None)
    ]
    if name == "LossScaleOptimizer":
        odd.append("loss scaling")
    if odd:
        raise ValueError(
            f"{name} with {', '.join(odd)} cannot be compared on equal terms: its "
            "steps are not those of plain gradients. Leave that out."
        )


def _check_weights(optimizer, steps):
    name = type(optimizer).__name__
    if steps and name in OWN_WEIGHTS:
        raise ValueError(
            f"{name} keeps weights of its own, which a warm-up by SGD would not move. "
            "Compare it with warmup_steps=0, or leave it out."
        )

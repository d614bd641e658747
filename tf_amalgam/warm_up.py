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
    """

    def __init__(self, optimizer, steps, learning_rate):
        super().__init__(learning_rate=learning_rate, name=optimizer.name)
        self.optimizer = optimizer
        self.steps = steps

    def build(self, variables):
        """Creates the optimizer's own variables."""
        super().build(variables)
        self.optimizer.build(variables)

    def apply(self, grads, trainable_variables=None):
        """Takes one step on the variables: SGD's, or the optimizer's own."""
        if not self.built:
            self.build(trainable_variables)
        variables = list(trainable_variables or self._trainable_variables)
        grads = [ops.convert_to_tensor(grad) for grad in grads]

        def own():
            self.optimizer.apply(grads, variables)
            return 0

        def warm():
            rate = ops.convert_to_tensor(self.learning_rate)
            after = [
                ops.convert_to_tensor(v) - ops.cast(rate * grad, v.dtype)
                for v, grad in zip(variables, grads, strict=True)
            ]
            own()
            for variable, value in zip(variables, after, strict=True):
                variable.assign(value)
            return 0

        ops.cond(self.iterations < self.steps, warm, own)
        self._iterations.assign_add(1)

    def get_config(self):
        return {
            **self.optimizer.get_config(),
            "class": type(self.optimizer).__name__,
            "warmup_steps": self.steps,
            "warmup_learning_rate": float(ops.convert_to_numpy(self.learning_rate)),
        }

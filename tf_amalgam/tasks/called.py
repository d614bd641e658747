"""A Keras model as a function of the values of its variables."""

import inspect

import keras


def stateless_call(model, params, model_state, x, training=False):
    """Returns `(outputs, model state after the call, penalties)`.

    As `keras.Model.stateless_call`, but also of a model with a `call` of its own as
    `fit` calls it: Keras' leaves `__call__` out, so that the layers inside would not
    know whether it is training (dropout would do nothing, BatchNormalization not move).
    Where `call` takes no `training`, `fit` does not tell them either.

    Args:
        model: a built Keras model.
        params, model_state: values of its trainable and its other variables.
        x: a minibatch of inputs.
        training: whether it is trained, or only used.
    """
    if type(model).call.__module__.startswith("keras."):
        # Functional and Sequential models tell each layer.
        return model.stateless_call(
            params, model_state, x, training=training, return_losses=True
        )
    takes = "training" in inspect.signature(model.call).parameters
    told = {"training": training} if takes else {}
    others = model.non_trainable_variables
    variables = [*model.trainable_variables, *others]
    mapping = list(zip(variables, [*params, *model_state], strict=True))
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        outputs = model(x, **told)
        penalties = model.losses
    return outputs, [scope.get_current_value(v) for v in others], penalties

"""Gradients and the loss as a training step hands them to an optimizer."""

import keras


def check_shapes(grads, variables):
    """Raises ValueError unless every gradient has its variable's shape, if known."""
    for grad, variable in zip(grads, variables, strict=True):
        if getattr(grad.shape, "rank", 0) is None:  # TensorFlow's alone
            continue
        given, shape = tuple(grad.shape), tuple(variable.shape)
        if len(given) != len(shape) or any(
            g not in (s, None) for g, s in zip(given, shape, strict=True)
        ):
            name = getattr(variable, "path", variable.name)
            raise ValueError(
                f"The gradient of {name} has shape {given}, the variable {shape}. "
                "Give gradients in the order of their variables."
            )


def dense(grads, variables):
    """Returns gradients of TensorFlow's, sparse ones too, as tensors of known shapes.

    Args:
        variables: theirs, of Keras or of TensorFlow.

    Raises:
        ValueError: as `check_shapes`.
    """
    import tensorflow as tf

    tensors = [_tensor(*pair) for pair in zip(grads, variables, strict=True)]
    check_shapes(tensors, variables)
    return [
        # A gradient of Python code may have a shape that shows in each step alone.
        t if t.shape.is_fully_defined() else tf.ensure_shape(t, v.shape)
        for t, v in zip(tensors, variables, strict=True)
    ]


def _tensor(grad, variable):
    import tensorflow as tf

    if isinstance(grad, tf.IndexedSlices) and grad.dense_shape is None:
        shape = tf.TensorShape(variable.shape)
        grad = tf.IndexedSlices(grad.values, grad.indices, shape)
    return tf.convert_to_tensor(grad)


def is_here(loss):
    """Whether a loss belongs to what is being traced, or is a value.

    Args:
        loss: of the backend, or None.
    """
    if loss is None or keras.backend.backend() != "tensorflow":
        return loss is not None
    import tensorflow as tf

    if not hasattr(loss, "graph"):  # eager; a program would keep it for ever
        return not tf.inside_function()
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and graph is not loss.graph:
        graph = getattr(graph, "outer_graph", None)
    return graph is not None

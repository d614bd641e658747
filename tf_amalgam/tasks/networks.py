"""The paper's perceptron and convolutional optimizees (Huang et al. 2022, B.2)."""

import functools

import keras
from keras import layers

from tf_amalgam.data import load_dataset
from tf_amalgam.tasks.layers import ConvBlock
from tf_amalgam.tasks.task import Task

# Pool and stride of a convolution that is given by filters and kernel size alone.
USUAL = (2, 1)


def mlp(
    dataset="mnist",
    data_dir=None,
    hidden=(20,),
    activation="sigmoid",
    batch_size=128,
    name=None,
    validation_examples=None,
):
    """Returns a fully connected optimizee; by default the paper's MLP.

    MLP (Table 1): 784-20 sigmoid-10, 15,910 parameters on MNIST.

    Args:
        hidden: units of each hidden layer.
        activation: of these, a name that Keras knows.
        dataset, data_dir, batch_size, name, validation_examples: see `conv`.
    """
    found = load_dataset(dataset, data_dir, validation_examples)
    model_fn = functools.partial(
        mlp_model, found.example_shape, classes(found), tuple(hidden), activation
    )
    return classifier(name or f"mlp_{dataset}", model_fn, found, batch_size)


def conv(
    dataset="mnist",
    data_dir=None,
    filters=((16, 3), (32, 5)),
    batch_size=128,
    name=None,
    validation_examples=None,
):
    """Returns a convolutional optimizee; by default the paper's Train net.

    Train (Table 2a): conv 16@3×3, pool 2, conv 32@5×5, pool 2, dense 10; valid
    padding, ReLU; 18,122 parameters on MNIST.

    Args:
        dataset, data_dir: see `data.load_dataset`.
        filters: (filters, kernel size[, pool[, stride]]) of each convolution; the
            pool is 2 and the stride 1 where they are left out, and a pool of 1 is
            none. ((32, 3), (64, 5)) is Wider.
        batch_size: examples in a minibatch.
        name: for records and curves.
        validation_examples: see `data.load_dataset`.

    Raises:
        ValueError: for an entry of another form, or where nothing is left of the
            images.
    """
    found = load_dataset(dataset, data_dir, validation_examples)
    model_fn = functools.partial(
        conv_model,
        found.example_shape,
        image_shape(found),
        classes(found),
        tuple(filters),
    )
    return classifier(name or f"conv_{dataset}", model_fn, found, batch_size)


def mlp_model(input_shape, outputs, hidden, activation):
    """Returns a Keras MLP on 8-bit images; outputs are logits."""
    return keras.Sequential(
        [
            keras.Input(input_shape, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            *(layers.Dense(units, activation=activation) for units in hidden),
            layers.Dense(outputs),
        ]
    )


def conv_model(input_shape, shape, outputs, filters):
    """Returns a Keras convolutional net on 8-bit images; outputs are logits."""
    return keras.Sequential(
        [
            keras.Input(input_shape, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Reshape(shape),
            *_convolutions(filters, shape),
            layers.Flatten(),
            layers.Dense(outputs),
        ]
    )


def _convolutions(filters, shape):
    """Returns the layers of `filters` on images of this shape."""
    found, shape = [], (None, *shape)
    for i, entry in enumerate(filters):
        count, size, pool, stride = _four(i, entry)
        before = shape
        found.append(ConvBlock(count, size, pool, stride))
        shape = found[-1].compute_output_shape(shape)
        if min(shape[1:3]) < 1:
            raise ValueError(
                f"filters[{i}]={entry!r} leaves nothing of its {before[1]}x{before[2]} "
                f"images (kernel {size}, stride {stride}, then pool {pool}). Use fewer "
                "convolutions, or smaller kernels, pools and strides."
            )
    return found


def _four(i, entry):
    """Returns (filters, kernel size, pool, stride) of an entry of `filters`."""
    if (
        not isinstance(entry, (tuple, list))
        or not 2 <= len(entry) <= 4
        or not all(isinstance(number, int) and number >= 1 for number in entry)
    ):
        raise ValueError(
            f"filters[{i}]={entry!r}: each convolution is (filters, kernel size[, "
            "pool[, stride]]), whole numbers from 1, as in ((16, 3), (32, 5))."
        )
    return (*entry, *USUAL[len(entry) - 2 :])


def classifier(name, model_fn, dataset, batch_size):
    """Returns the `Task` of a model whose outputs are logits of classes."""
    # Made here and not once for all: a loss keeps the floatx of its making.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task(name, model_fn, dataset, loss, batch_size, ("accuracy",))


def classes(dataset):
    """Returns how many classes a data set's labels name."""
    return int(dataset.train.y.max()) + 1


def image_shape(dataset):
    """Returns (height, width, channels); digits come as rows of 64 numbers.

    Raises:
        ValueError: for examples that are no images.
    """
    shape = dataset.example_shape
    if len(shape) == 3:
        return shape
    side = round(shape[0] ** 0.5)
    if len(shape) != 1 or side * side != shape[0]:
        raise ValueError(
            f"A convolutional net needs images; received examples of shape {shape}."
        )
    return (side, side, 1)

"""The optimizees of the paper (B.2), and a quadratic one."""

import functools

import keras
import numpy as np
from keras import layers

from tf_amalgam.data import Dataset, Split, load_dataset
from tf_amalgam.tasks.layers import ConvBlock, ImagePatches
from tf_amalgam.tasks.task import Task

# The first convolution reads patches of up to this many numbers.
PATCH_NUMBERS = 32


def mlp(
    dataset="mnist",
    data_dir=None,
    hidden=(20,),
    activation="sigmoid",
    batch_size=128,
    name=None,
):
    """Returns the paper's MLP optimizee: 784-20 sigmoid-10, 15,910 parameters."""
    found = load_dataset(dataset, data_dir)
    model_fn = functools.partial(
        mlp_model, found.example_shape, _classes(found), tuple(hidden), activation
    )
    return _classifier(name or f"mlp_{dataset}", model_fn, found, batch_size)


def conv(
    dataset="mnist",
    data_dir=None,
    filters=((16, 3), (32, 5)),
    batch_size=128,
    name=None,
):
    """Returns a convolutional optimizee; by default the paper's Train net.

    Train (Table 2a): conv 16@3×3, pool 2, conv 32@5×5, pool 2, dense 10; valid
    padding, ReLU; 18,122 parameters on MNIST. `filters` lists (filters, kernel)
    of each convolution, each followed by a pool: ((32, 3), (64, 5)) is Wider.
    """
    found = load_dataset(dataset, data_dir)
    shape = found.example_shape
    shape = shape if len(shape) == 3 else _as_image(shape)
    model_fn = functools.partial(
        conv_model, found.example_shape, shape, _classes(found), tuple(filters)
    )
    return _classifier(name or f"conv_{dataset}", model_fn, found, batch_size)


def quadratic(dimensions=10, condition=10.0, noise=0.0, seed=0, batch_size=None):
    """Returns ½(θ−θ*)ᵀA(θ−θ*) as a linear regression without noise on labels.

    With the whole data as one minibatch (`batch_size=None`) the loss is exactly
    quadratic with A = XᵀX/N, whose eigenvalues run from 1/condition to 1; with
    smaller minibatches, or `noise` on the targets, gradients are noisy.
    """
    generator = np.random.default_rng(seed)
    examples = 8 * dimensions
    basis = np.linalg.qr(generator.normal(size=(examples, dimensions)))[0]
    scales = np.sqrt(examples * np.geomspace(1.0 / condition, 1.0, dimensions))
    x = basis * scales
    target = generator.normal(size=(dimensions, 1))
    y = x @ target + noise * generator.normal(size=(examples, 1))
    x, y = x.astype(keras.config.floatx()), y.astype(keras.config.floatx())
    split = Split(x, y)
    # A quadratic has no unseen examples: every split is the whole of it.
    dataset = Dataset(f"quadratic_{dimensions}", split, split, split)
    return Task(
        f"quadratic_{dimensions}",
        functools.partial(_linear_model, dimensions),
        dataset,
        half_squared_error,
        batch_size or examples,
    )


@keras.saving.register_keras_serializable("tf_amalgam")
def half_squared_error(y_true, y_pred):
    """Returns ½(y − ŷ)² per example."""
    return 0.5 * keras.ops.sum(keras.ops.square(y_true - y_pred), axis=-1)


def mlp_model(input_shape, classes, hidden, activation):
    """Returns a Keras MLP on 8-bit images; outputs are logits."""
    return keras.Sequential(
        [
            keras.Input(input_shape, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            *(layers.Dense(units, activation=activation) for units in hidden),
            layers.Dense(classes),
        ]
    )


def conv_model(input_shape, image_shape, classes, filters):
    """Returns a Keras convolutional net on 8-bit images; outputs are logits."""
    size = filters[0][1]
    patches = size**2 * image_shape[-1] <= PATCH_NUMBERS
    body = [ImagePatches(size)] if patches else []
    for i, (count, size) in enumerate(filters):
        body.append(ConvBlock(count, size, pool=2, of_patches=patches and i == 0))
    return keras.Sequential(
        [
            keras.Input(input_shape, dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Reshape(image_shape),
            *body,
            layers.Flatten(),
            layers.Dense(classes),
        ]
    )


def _linear_model(dimensions):
    return keras.Sequential(
        [
            keras.Input((dimensions,)),
            layers.Dense(1, use_bias=False, kernel_initializer="random_normal"),
        ]
    )


def _classifier(name, model_fn, dataset, batch_size):
    # Made here and not once for all: a loss keeps the floatx of its making.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task(name, model_fn, dataset, loss, batch_size, ("accuracy",))


def _classes(dataset):
    return int(dataset.train.y.max()) + 1


def _as_image(shape):
    side = round(shape[0] ** 0.5)
    if len(shape) != 1 or side * side != shape[0]:
        raise ValueError(
            f"A convolutional net needs images; received examples of shape {shape}."
        )
    return (side, side, 1)

"""The paper's residual optimizees (Huang et al. 2022, B.2 and E.2)."""

import functools

import keras
from keras import layers

from tf_amalgam.data import load_dataset
from tf_amalgam.tasks.networks import classes, classifier, image_shape


def resnet(
    dataset="cifar10",
    data_dir=None,
    depth=28,
    widths=(16, 32, 64),
    batch_size=128,
    name=None,
    validation_examples=None,
):
    """Returns a residual optimizee; by default the paper's ResNet.

    Three stages of (depth − 4)/6 blocks, a pool between stages. Table 2d prints the
    widths 64, 128, 256; the parameters it counts, and the released code, have 16, 32,
    64: 372,330 at depth 28, of which 1,824 are BatchNorm's moving statistics (model
    state, not trained); at depth 52 763,882, and 769,732 on CIFAR-100.

    Args:
        dataset, data_dir: see `data.load_dataset`.
        depth: layers in Table 2d's counting; 10, 16, 22, 28, ….
        widths: channels of the three stages; the first convolution has the first.
        batch_size: examples in a minibatch.
        name: for records and curves.
        validation_examples: see `data.load_dataset`.

    Raises:
        ValueError: for a depth or widths that make no such network, or images
            smaller than 4x4.
    """
    _check(depth, widths)
    found = load_dataset(dataset, data_dir, validation_examples)
    model_fn = functools.partial(
        resnet_model,
        found.example_shape,
        image_shape(found),
        classes(found),
        depth,
        tuple(widths),
    )
    return classifier(name or f"resnet{depth}_{dataset}", model_fn, found, batch_size)


def resnet_model(input_shape, shape, outputs, depth, widths):
    """Returns a Keras residual net on 8-bit images; outputs are logits."""
    if min(shape[:2]) < 4:
        raise ValueError(
            f"A residual net pools its images twice, so they need at least 4x4 pixels; "
            f"received images of shape {shape}."
        )
    inputs = keras.Input(input_shape, dtype="uint8")
    x = layers.Reshape(shape)(layers.Rescaling(1 / 255)(inputs))
    x = _conv_norm_relu(x, widths[0])
    for stage, width in enumerate(widths):
        if stage > 0:
            x = layers.MaxPooling2D()(x)
        for _ in range((depth - 4) // 6):
            x = _residual(x, width)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(outputs)(x))


def _residual(x, width):
    """Returns x + F(x), without the usual ReLU after the sum (released code)."""
    change = _conv_norm_relu(_conv_norm_relu(x, width), width)
    if x.shape[-1] != width:
        x = layers.Conv2D(width, 1)(x)
    return layers.Add()([x, change])


def _conv_norm_relu(x, width):
    x = layers.Conv2D(width, 3, padding="same")(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def _check(depth, widths):
    if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
        raise ValueError(
            "depth - 4 must be a multiple of 6 above 0 (three stages of blocks of two "
            f"convolutions): 10, 16, 22, 28, …, 52; received depth={depth!r}."
        )
    if len(widths) != 3 or not all(isinstance(w, int) and w >= 1 for w in widths):
        raise ValueError(
            "widths must be the channels of three stages, whole numbers from 1, as in "
            f"(16, 32, 64); received {widths!r}."
        )

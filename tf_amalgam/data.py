"""Data sets by name, as arrays, with a validation split held out of training."""

import functools
import hashlib
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from tf_amalgam.checks import as_whole, unknown

EMBEDDED = ("digits",)
SPLITS = ("train", "validation", "test")
IMAGE_SETS = ("mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "svhn_cropped")


class Split(NamedTuple):
    """Examples `[N, …]` and labels `[N, …]`, arrays of equal length."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A data set in three splits.

    `validation` is held out of the training data and serves selection; `test`
    is for reporting alone.
    """

    name: str
    train: Split
    validation: Split
    test: Split

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]


def load_dataset(name: str, data_dir=None, validation_examples: int | None = None):
    """Returns a `Dataset`: `"digits"` (embedded) or a set of TensorFlow Datasets.

    Images are uint8 `[N, height, width, channels]`, those of digits `[N, 64]`, from 0
    to 255 at most; labels are int32 `[N]`.

    Args:
        name: `"digits"`, or any image classification set of TFDS (`IMAGE_SETS` are
            those of the paper). One without a test split gives part of its
            training data as such.
        data_dir: folder of prepared TFDS data; `None` means TFDS' own default
            (`~/tensorflow_datasets`, or `$TFDS_DATA_DIR`).
        validation_examples: how many training examples to hold out; 300 of
            digits' 1,797 and 5,000 of an image set by default.

    Raises:
        ValueError: for an unknown name, a set that is no classification of equally
            large images, or a hold-out larger than half of the training data.
        FileNotFoundError: if the set has not been prepared in `data_dir`.
    """
    if validation_examples is not None:
        validation_examples = as_whole("validation_examples", validation_examples)
    if name in EMBEDDED:
        return _digits(300 if validation_examples is None else validation_examples)
    if name not in IMAGE_SETS:
        _check_known(name)
    held_out = 5000 if validation_examples is None else validation_examples
    folder = None if data_dir is None else os.path.expanduser(str(data_dir))
    return _image_set(name, folder, held_out)


def from_arrays(x, y, name: str = "arrays", validation_fraction: float = 0.1):
    """Returns a `Dataset` of the user's own arrays.

    A fixed random tenth becomes the validation split and another the test split
    (`validation_fraction` of the examples each).

    Raises:
        ValueError: if lengths differ, there are too few examples, or numbers in
            `x` are not finite.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise ValueError(
            "x and y must be arrays with one row per example; received shapes "
            f"{x.shape} and {y.shape}."
        )
    if not 0 < validation_fraction < 0.5:
        raise ValueError(
            "validation_fraction must be in (0, 0.5), received "
            f"{validation_fraction!r}."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("x holds NaN or infinite values; clean the data first.")
    held_out = round(len(x) * validation_fraction)
    if held_out < 1:
        raise ValueError(
            f"{len(x)} examples are too few to hold out a fraction of "
            f"{validation_fraction} twice; give more data or a Dataset of your own "
            "three splits."
        )
    order = np.random.default_rng(0).permutation(len(x))
    test, validation, train = np.split(order, [held_out, 2 * held_out])
    return Dataset(name, *(Split(x[i], y[i]) for i in (train, validation, test)))


def digest(dataset) -> str:
    """Returns 12 hexadecimal digits that data sets of one content share.

    Of whole numbers every one counts; of floats their size, mean and a weighted mean,
    to some four digits, so that another machine, which rounds otherwise, says the same.
    Their order counts: of a `tf.data.Dataset` that shuffles without a seed it is
    another one each time.
    """
    told = []
    for split in dataset[1:]:
        for part in split:
            told += [str(part.shape), part.dtype.str]
            told += _in_digits(part) if part.dtype.kind == "f" else [_of_bytes(part)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _of_bytes(part):
    if part.dtype.kind == "O":  # texts, say; their bytes are addresses
        return repr(part.tolist())
    if part.dtype.kind in "biu":
        return hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()
    return hashlib.sha256(part.tobytes()).hexdigest()  # half precision, dates


def _in_digits(part, chunk=2**20):
    """Returns the root mean square in words, and two means as shares of it."""
    part = part.reshape(-1)
    weights = np.cos(np.arange(min(chunk, part.size), dtype="float64"))
    square = total = weighted = 0.0
    for i, start in enumerate(range(0, part.size, chunk)):
        some = part[start : start + chunk].astype("float64")
        square += some @ some
        total += some.sum()
        # No two chunks in a row weigh the same.
        weighted += (some @ weights[: some.size]) * (1.0 + 0.5 * np.sin(i))
    size = np.sqrt(square / max(part.size, 1))
    unit = size * max(part.size, 1) or 1.0
    shares = [total / unit, weighted / unit * np.sqrt(part.size)]
    return [f"{size:.4g}", *(f"{round(share, 4) + 0.0:.4f}" for share in shares)]


def check(dataset, whose):
    """Raises ValueError unless the splits of a data set go together.

    Args:
        dataset: a `Dataset`.
        whose: of whom the message speaks.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{whose}: expected a tf_amalgam.data.Dataset, received "
            f"{type(dataset).__name__}."
        )
    for name, split in zip(SPLITS, dataset[1:], strict=True):
        for part in ("x", "y"):
            found = getattr(split, part)
            if not isinstance(found, np.ndarray) or not found.ndim:
                raise ValueError(
                    f"{whose}: {name}.{part} must be a NumPy array of examples, "
                    f"received {type(found).__name__}."
                )
            like = getattr(dataset.train, part)
            if found.shape[1:] != like.shape[1:]:
                raise ValueError(
                    f"{whose}: an example of {name}.{part} has shape "
                    f"{found.shape[1:]}, of train.{part} {like.shape[1:]}. Give all "
                    "splits alike."
                )
            if found.dtype.kind == "f" and not np.isfinite(found).all():
                raise ValueError(
                    f"{whose}: {name}.{part} holds NaN or infinite values; clean the "
                    "data first."
                )
        if not 0 < len(split.x) == len(split.y):
            raise ValueError(
                f"{whose}: {name} has {len(split.x)} examples and {len(split.y)} "
                "targets; expected as many, and at least one."
            )


def batch_indices(examples: int, batch_size: int, seed: int, start: int, count: int):
    """Returns indices `[count, batch_size]` of minibatches start, start+1, ….

    Each epoch is its own permutation, named by (seed, epoch); the remainder of
    an epoch that does not fill a minibatch is left out. A pure function of its
    arguments, so minibatch i is the same however a run was interrupted.
    """
    per_epoch = examples // batch_size
    if per_epoch < 1:
        raise ValueError(
            f"A minibatch of {batch_size} needs at least as many training examples; "
            f"received {examples}. Use a smaller batch_size or more data."
        )
    rows, epoch, order = [], -1, np.arange(0)
    for batch in range(start, start + count):
        if batch // per_epoch != epoch:
            epoch = batch // per_epoch
            order = np.random.default_rng([seed, epoch]).permutation(examples)
        first = (batch % per_epoch) * batch_size
        rows.append(order[first : first + batch_size])
    return np.stack(rows).astype(np.int32)


@functools.lru_cache(maxsize=2)
def _digits(held_out):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] * (255 / 16)).astype(np.uint8), y[order].astype(np.int32)
    return _three_splits("digits", Split(x, y), None, held_out, test_examples=300)


def check_there(name, data_dir=None):
    """Raises what `load_dataset` would for a name, or a set that is not prepared."""
    if name not in EMBEDDED:
        if name not in IMAGE_SETS:
            _check_known(name)
        _builder(name, None if data_dir is None else os.path.expanduser(str(data_dir)))


def _builder(name, data_dir):
    """Returns what reads a prepared set of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not pathlib.Path(builder.data_path).is_dir():
        where = data_dir or builder._data_dir_root
        raise FileNotFoundError(
            f"{name} is not prepared under data_dir={where!r} (no folder "
            f"{builder.data_path}). Give the folder that holds it as data_dir, or "
            "download it once with:\n"
            f'    python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir={str(where)!r})\""
        )
    return builder


@functools.lru_cache(maxsize=2)
def _image_set(name, data_dir, held_out):
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    # Read by one thread, so that the order of examples is always the same.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    supervised = builder.info.supervised_keys or ()
    named = [key for key in supervised if isinstance(key, str)]
    features = [builder.info.features[key] for key in named]
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if len(features) != 2 or not all(map(isinstance, features, kinds)):
        raise ValueError(
            f"{name} is no image classification set: its supervised features are "
            f"{supervised}. Make a Dataset of your own with data.from_arrays."
        )
    if None in features[0].shape:
        raise ValueError(
            f"The images of {name} differ in size ({features[0].shape}). Make a "
            "Dataset of your own with data.from_arrays."
        )

    def read(split):
        if split not in builder.info.splits:
            return None
        examples = tfds.as_numpy(
            builder.as_dataset(
                split=split, as_supervised=True, batch_size=-1, read_config=config
            )
        )
        return Split(examples[0], examples[1].astype(np.int32))

    return _three_splits(name, read("train"), read("test"), held_out, held_out)


def _check_known(name):
    """Raises ValueError, listing known names, for a set that TFDS does not have."""
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]  # without its configuration and version
    if base not in tfds.list_builders(with_community_datasets=False):
        known = EMBEDDED + IMAGE_SETS
        raise ValueError(
            f"{unknown('data set', name, known)} Any other image classification set "
            "of TensorFlow Datasets works too."
        )


def _three_splits(name, train, test, held_out, test_examples=0):
    """Cuts the validation (and, where there is none, the test) split off the end."""
    if train is None:
        raise ValueError(
            f"{name} has no training data. Make a Dataset of your own with "
            "data.from_arrays."
        )
    known = len(train.x)
    if test is None:
        test = Split(train.x[-test_examples:], train.y[-test_examples:])
        train = Split(train.x[:-test_examples], train.y[:-test_examples])
    if not 0 < held_out <= known // 2 or held_out >= len(train.x):
        raise ValueError(
            f"validation_examples must be between 1 and half of the {known} training "
            f"examples of {name}, of which some are left to train on; received "
            f"{held_out}."
        )
    validation = Split(train.x[-held_out:], train.y[-held_out:])
    return Dataset(
        name, Split(train.x[:-held_out], train.y[:-held_out]), validation, test
    )

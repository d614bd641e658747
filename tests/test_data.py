"""Data sets, their splits, and the order of minibatches."""

import pathlib
import types

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_amalgam import data, tasks
from tf_amalgam.data import Dataset, Split


def rows(split):
    return {row.tobytes() for row in split.x}


def test_digits_in_three_splits():
    digits = data.load_dataset("digits")
    assert [len(split.x) for split in digits[1:]] == [1197, 300, 300]
    assert digits.train.x.dtype == np.uint8
    assert digits.train.x.max() == 255
    assert set(digits.train.y) == set(range(10))
    # Digits holds no image twice, so that the splits must not share one either.
    assert not rows(digits.train) & rows(digits.validation)
    assert not (rows(digits.train) | rows(digits.validation)) & rows(digits.test)


def test_validation_and_test_may_not_take_all():
    """A set without a test split: half of it would be held out twice."""
    six = data.Split(np.arange(6), np.arange(6))
    found = data._three_splits("six", six, None, 2, 2)
    assert [list(split.x) for split in found[1:]] == [[0, 1], [2, 3], [4, 5]]
    for held_out in (0, 3, 4):
        with pytest.raises(ValueError, match="half of the 6 training examples of six"):
            data._three_splits("six", six, None, held_out, held_out)


def test_images_hold_out_training_data(shared_data):
    mnist = data.load_dataset("mnist", shared_data, validation_examples=1000)
    assert mnist.example_shape == (28, 28, 1)
    assert [len(split.x) for split in mnist[1:]] == [59_000, 1000, 10_000]
    again = data.load_dataset("mnist", str(shared_data), validation_examples=1000)
    np.testing.assert_array_equal(again.validation.x[:50], mnist.validation.x[:50])


@pytest.mark.parametrize(
    ("name", "classes", "others"),
    [
        ("svhn_cropped", 10, {}),
        ("cifar100", 100, {"coarse_label": 3}),
    ],
)
def test_made_up_images_in_the_form_of(name, classes, others, tmp_path, monkeypatch):
    """TFDS' own builder writes made-up images (no copy of the real ones is here)."""
    import tensorflow_datasets as tfds

    generator = np.random.default_rng(0)
    made_up = {
        split: (
            generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
            np.arange(count) % classes,
        )
        for split, count in (("train", 120), ("test", 30), ("extra", 5))
    }

    def examples(split):
        for i, (image, label) in enumerate(zip(*made_up[split], strict=True)):
            yield i, {"image": image, "label": label, "id": str(i), **others}

    monkeypatch.setattr(
        tfds.builder_cls(name),
        "_split_generators",
        lambda self, manager: {split: examples(split) for split in made_up},
    )
    tfds.builder(name, data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    found = data.load_dataset(name, tmp_path, validation_examples=20)
    assert found.example_shape == (32, 32, 3)
    assert found.train.x.dtype == np.uint8
    assert [len(split.x) for split in found[1:]] == [100, 20, 30]
    assert set(found.train.y) | set(found.validation.y) == set(range(classes))
    assert rows(found.train) | rows(found.validation) == {
        image.tobytes() for image in made_up["train"][0]
    }
    labels = {x.tobytes(): y for x, y in zip(*made_up["test"], strict=True)}
    for image, label in zip(*found.test, strict=True):
        assert labels[image.tobytes()] == label


def test_batches_are_permutations_by_epoch():
    index = data.batch_indices(examples=10, batch_size=3, seed=1, start=0, count=6)
    assert index.shape == (6, 3)
    for epoch in (index[:3], index[3:]):
        assert len(set(epoch.ravel())) == 9  # no example twice; the tenth left out
    assert np.any(index[:3] != index[3:])


def test_batches_do_not_depend_on_where_one_starts():
    whole = data.batch_indices(10, 3, 1, 0, 8)
    np.testing.assert_array_equal(data.batch_indices(10, 3, 1, 2, 4), whole[2:6])
    assert np.any(data.batch_indices(10, 3, 2, 0, 8) != whole)


def test_own_arrays_are_split():
    x = np.arange(40.0).reshape(20, 2)
    dataset = data.from_arrays(x, np.arange(20))
    assert [len(split.x) for split in dataset[1:]] == [16, 2, 2]
    everything = np.concatenate([split.y for split in dataset[1:]])
    assert sorted(everything) == list(range(20))
    np.testing.assert_array_equal(dataset.train.x[:, 0], 2.0 * dataset.train.y)


def test_any_image_set_of_tfds_is_known(tmp_path):
    with pytest.raises(FileNotFoundError, match="emnist is not prepared"):
        data.load_dataset("emnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="emnist/letters is not prepared"):
        data.load_dataset("emnist/letters", tmp_path)


BITS = data.Split(np.arange(6), np.arange(6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load_dataset("minst"), r"Unknown data set 'minst'.*'mnist'\?"),
        (lambda: data.load_dataset("digits", None, 1200), "validation_examples"),
        (lambda: data.load_dataset("digits", None, 0.1), "examples must be a whole"),
        (lambda: data._three_splits("t", None, BITS, 1), "t has no training data"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(3)), "one row per example"),
        (lambda: data.from_arrays(np.ones((4, 2)), np.ones(4)), "too few"),
        (lambda: data.from_arrays(np.full((40, 2), np.nan), np.ones(40)), "NaN"),
        (lambda: data.from_arrays(np.ones((9, 2)), np.ones(9), "x", 0.7), "fraction"),
        (lambda: data.batch_indices(5, 6, 0, 0, 1), "smaller batch_size"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imdb_reviews", "no image classification set.*'text', 'label'"),
        ("titanic", "no image classification set.*'survived'"),  # nested keys
        ("caltech101", "images of caltech101 differ in size"),
    ],
)
def test_sets_that_are_no_images_of_one_size(name, message, tmp_path):
    """By what TFDS knows of them without their data."""
    folder = tfds.builder(name, data_dir=tmp_path).data_path
    pathlib.Path(folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{message}.*data.from_arrays"):
        data.load_dataset(name, tmp_path)


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir.*(?s:.*)tfds.load"):
        data.load_dataset("mnist", tmp_path)


def of(x):
    part = Split(np.asarray(x), np.arange(len(x)))
    return data.digest(Dataset("mine", part, part, part))


def test_data_in_the_home_folder(monkeypatch):
    given = []
    monkeypatch.setattr(data, "_image_set", lambda *one: given.append(one))
    monkeypatch.setenv("HOME", "/somebody")
    data.load_dataset("mnist", "~/tfds")
    data.load_dataset("mnist", "gs://bucket/tfds")
    assert [folder for _, folder, _ in given] == ["/somebody/tfds", "gs://bucket/tfds"]


KINDS = {
    "texts": np.array(["a", "bc", "d"], dtype=object),
    "dates": np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[D]"),
    "half": np.array([1.0, 2.0, 3.0], "float16"),
    "bfloat16": np.array([1.0, 2.0, 3.0], ml_dtypes.bfloat16),
    "booleans": np.array([True, False, False]),
    "strided": np.arange(6)[::2],
    "nothing": np.zeros((3, 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_array_has_a_digest(kind):
    x = KINDS[kind]
    assert of(x) == of(x.copy())
    if x.size:
        assert of(x) != of(x[::-1])


def test_floats_are_told_apart_in_any_chunk():
    """Chunks of seven numbers, of which a later one, or two in turn, are changed."""
    x = np.random.default_rng(0).normal(size=70)
    other, turned = x.copy(), x.copy()
    other[64] += 1.0
    turned[49:63] = np.roll(x[49:63], 7)
    found = [data._in_digits(one, chunk=7) for one in (x, other, turned)]
    assert found[0] == data._in_digits(x * (1.0 + 1e-12), chunk=7)
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0.1, [80, 10, 10]), (0.2, [60, 20, 20])]
)
def test_own_arrays_may_be_in_order(fraction, sizes):
    y = np.repeat([0, 1], 50)
    dataset = data.from_arrays(np.arange(100.0), y, validation_fraction=fraction)
    assert [len(split.x) for split in dataset[1:]] == sizes
    assert all(set(split.y) == {0, 1} for split in dataset[1:])


def test_how_many_are_held_out(monkeypatch):
    given = []
    monkeypatch.setattr(data, "_image_set", lambda *one: given.append(one[2]))
    data.load_dataset("mnist", "tfds")
    data.load_dataset("mnist", "tfds", 7000)
    assert given == [5000, 7000]
    monkeypatch.undo()
    for task in (
        tasks.mlp("digits", validation_examples=50),
        tasks.conv("digits", filters=[(4, 3)], validation_examples=50),
        tasks.resnet("digits", validation_examples=50),
    ):
        assert len(task.dataset.validation.x) == 50


def test_a_set_without_a_test_split_gives_part_of_its_training_data(monkeypatch):
    features = {"image": tfds.features.Image(shape=(2, 2, 1))}
    features["label"] = tfds.features.ClassLabel(num_classes=2)
    info = types.SimpleNamespace(
        supervised_keys=("image", "label"), features=features, splits={"train": None}
    )
    parts = (np.zeros((100, 2, 2, 1), np.uint8), np.arange(100) % 2)

    class Builder:
        def __init__(self):
            self.info = info

        def as_dataset(self, split, **_):
            assert split == "train"
            return tuple(map(tf.constant, parts))

    monkeypatch.setattr(data, "_builder", lambda *_: Builder())
    dataset = data._image_set.__wrapped__("made_up", None, 20)
    sizes = [len(split.x) for split in dataset[1:]]
    assert sum(sizes) == 100
    assert sizes[1] == 20
    assert sizes[2] > 0

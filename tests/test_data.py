"""Data sets, their splits, and the order of minibatches."""

import numpy as np
import pytest

from tf_amalgam import data


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


def test_images_hold_out_training_data(shared_data):
    mnist = data.load_dataset("mnist", shared_data, validation_examples=1000)
    assert mnist.example_shape == (28, 28, 1)
    assert [len(split.x) for split in mnist[1:]] == [59_000, 1000, 10_000]
    again = data.load_dataset("mnist", str(shared_data), validation_examples=1000)
    np.testing.assert_array_equal(again.validation.x[:50], mnist.validation.x[:50])


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load_dataset("minst"), r"Unknown data set 'minst'.*'mnist'\?"),
        (lambda: data.load_dataset("digits", None, 1200), "validation_examples"),
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


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir.*(?s:.*)tfds.load"):
        data.load_dataset("mnist", tmp_path)

"""The flat vector and the tensors that lie in it."""

import keras
import numpy as np

from tf_amalgam.layout import Layout, concat

LAYOUT = Layout(("kernel", "bias", "scale"), ((2, 3), (3,), ()))


def test_sizes_and_ranks():
    assert LAYOUT.sizes == (6, 3, 1)
    assert LAYOUT.size == 10
    assert LAYOUT.ranks == (2, 1, 0)


def test_split_and_concat_are_inverse():
    values_P = np.arange(10.0)
    tensors = LAYOUT.split(values_P)
    assert [tuple(t.shape) for t in tensors] == [(2, 3), (3,), ()]
    np.testing.assert_array_equal(tensors[0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(concat(tensors), values_P)


def test_segments_keep_trailing_dimensions():
    pieces = LAYOUT.segments(np.ones((10, 4)))
    assert [tuple(p.shape) for p in pieces] == [(6, 4), (3, 4), (1, 4)]


def test_of_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    layout = Layout.of(model.trainable_variables)
    assert layout.shapes == ((2, 3), (3,))
    assert layout.names[0].endswith("kernel")

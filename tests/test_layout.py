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


def test_segment_mean_by_hand():
    values_PF = np.stack([np.arange(10.0), -2.0 * np.arange(10.0)], axis=1)
    np.testing.assert_allclose(
        LAYOUT.segment_mean(values_PF), [[2.5, -5.0], [7.0, -14.0], [9.0, -18.0]]
    )


def test_spread_repeats_a_row_for_each_coordinate():
    rows_NF = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    np.testing.assert_array_equal(
        LAYOUT.spread(rows_NF), np.repeat(rows_NF, [6, 3, 1], axis=0)
    )
    np.testing.assert_array_equal(LAYOUT.segment_mean(LAYOUT.spread(rows_NF)), rows_NF)


def test_one_tensor():
    layout = Layout(("w",), ((4,),))
    values_PF = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(layout.segment_mean(values_PF), [[3.0, 4.0]])
    np.testing.assert_array_equal(layout.spread(np.ones((1, 3))), np.ones((4, 3)))


def test_of_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    layout = Layout.of(model.trainable_variables)
    assert layout.shapes == ((2, 3), (3,))
    assert layout.names[0].endswith("kernel")

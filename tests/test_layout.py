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


def test_segments_keep_leading_dimensions():
    pieces = LAYOUT.segments(np.ones((4, 10)))
    assert [tuple(p.shape) for p in pieces] == [(4, 6), (4, 3), (4, 1)]


def test_segment_mean_by_hand():
    values_FP = np.stack([np.arange(10.0), -2.0 * np.arange(10.0)])
    np.testing.assert_allclose(
        LAYOUT.segment_mean(values_FP), [[2.5, 7.0, 9.0], [-5.0, -14.0, -18.0]]
    )


def test_the_mean_of_nothing_is_zero():
    layout = Layout(("none", "bias"), ((0,), (3,)))
    values_FP = np.array([[1.0, 2.0, 6.0], [2.0, 2.0, 2.0]])
    found = layout.segment_mean(values_FP)
    np.testing.assert_array_equal(found, [[0.0, 3.0], [0.0, 2.0]])


def test_spread_repeats_a_column_for_each_coordinate():
    values_FN = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    np.testing.assert_array_equal(
        LAYOUT.spread(values_FN), np.repeat(values_FN, [6, 3, 1], axis=1)
    )
    again_FN = LAYOUT.segment_mean(LAYOUT.spread(values_FN))
    np.testing.assert_array_equal(again_FN, values_FN)


def test_one_tensor():
    layout = Layout(("w",), ((4,),))
    values_FP = np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(layout.segment_mean(values_FP), [[1.5], [5.5]])
    np.testing.assert_array_equal(layout.spread(np.ones((3, 1))), np.ones((3, 4)))


def test_of_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    layout = Layout.of(model.trainable_variables)
    assert layout.shapes == ((2, 3), (3,))
    assert layout.names[0].endswith("kernel")

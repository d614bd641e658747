"""The coordinates of an optimizee that a student is taught while a teacher leads.

Where an optimizee goes does not depend on the student then, so that a part of its
coordinates will do; a learned rule's step costs more than the network's gradient.
"""

import tensorflow as tf

from tf_amalgam.layout import Layout

SIZE = 4096  # coordinates of a sample
STREAM = 1002  # of random numbers, beside those of meta_step


def sample_of(rule, layout, seed):
    """Returns a `Sample`, or `Everything` for a rule that needs all coordinates.

    Args:
        seed: names the sample; an int32 tensor.
    """
    if layout.size <= SIZE or not rule.coordinatewise or rule.sees_tensors:
        return Everything(layout)
    return Sample(layout, seed)


class Everything:
    """All coordinates."""

    def __init__(self, layout):
        self.layout = layout

    def of(self, values):
        """Returns `[…, P]` as it is."""
        return values

    def into(self, values, mine):
        """Returns `values` with the sample's ones put in their places."""
        return mine


class Sample:
    """Some coordinates S of P, drawn without replacement."""

    def __init__(self, layout, seed):
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(layout.size), seed=tf.stack([seed, STREAM]), alg="philox"
        )
        self._places = tf.sort(shuffled[:SIZE])
        self.layout = Layout(("sample",), ((SIZE,),))

    def of(self, values):
        """Returns the sample's `[…, S]` of (nested) `[…, P]`."""
        return tf.nest.map_structure(
            lambda part: tf.gather(part, self._places, axis=-1), values
        )

    def into(self, values, mine):
        """Returns (nested) `values` with the sample's ones put in their places."""
        return tf.nest.map_structure(self._into, values, mine)

    def _into(self, values, mine):
        others = tuple(range(values.shape.rank - 1))
        first = (len(others), *others)  # the coordinates' dimension before the others
        scattered = tf.tensor_scatter_nd_update(
            tf.transpose(values, first),
            self._places[:, None],
            tf.transpose(mine, first),
        )
        return tf.transpose(scattered, (*(n + 1 for n in others), 0))

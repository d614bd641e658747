"""How the trainable tensors of an optimizee lie in one flat vector.

Shape letters used throughout the package:
  P  coordinates of the optimizee (all its trainable tensors, end to end)
  N  trainable tensors of the optimizee
  H  hidden units of a learned rule
  T  inner steps of one truncation
  K  teachers
  B  examples in a minibatch

Coordinates are the last dimension of all that belongs to them: states are `[H, P]`.
"""

import math
from typing import NamedTuple

import keras
from keras import ops


class Layout(NamedTuple):
    """Names and shapes of an optimizee's trainable tensors, in order.

    A rule sees all of them as one vector `[P]`; the layout tells where each
    tensor lies in it.

    Example:
        >>> layout = Layout(("kernel", "bias"), ((2, 3), (3,)))
        >>> layout.size, layout.sizes, layout.ranks
        (9, (6, 3), (2, 1))
        >>> layout.titles
        ('0 kernel 2x3', '1 bias 3')
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, variables):
        """Returns the layout of a list of (Keras or native) variables."""
        names = tuple(getattr(v, "path", v.name) for v in variables)
        return cls(names, tuple(tuple(int(d) for d in v.shape) for v in variables))

    def only(self, places):
        """Returns the layout of the tensors at these places."""
        return Layout(
            tuple(self.names[i] for i in places), tuple(self.shapes[i] for i in places)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """P, the number of coordinates in all."""
        return sum(self.sizes)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Number of dimensions of each tensor."""
        return tuple(len(shape) for shape in self.shapes)

    @property
    def titles(self) -> tuple[str, ...]:
        """A title for each tensor: its place, last name and shape.

        Keras' full names hold counters that differ from process to process.
        """
        return tuple(
            f"{i} {name.split('/')[-1]} {'x'.join(map(str, shape))}"
            for i, (name, shape) in enumerate(zip(self.names, self.shapes, strict=True))
        )

    def rank_one_hot(self, ranks, dtype):
        """Returns `[R, P]`: which of `ranks` each coordinate's tensor has, if any."""
        has = [[float(rank == r) for rank in self.ranks] for r in ranks]
        return self.spread(ops.convert_to_tensor(has, dtype))

    def segments(self, values_P):
        """Returns `values_P` (shape `[..., P]`) cut into one piece per tensor."""
        if len(self.sizes) == 1:
            return [values_P]
        if keras.backend.backend() == "tensorflow":  # one operation, not a dozen
            import tensorflow as tf

            return tf.split(values_P, self.sizes, axis=-1)
        ends, total = [], 0
        for size in self.sizes[:-1]:
            total += size
            ends.append(total)
        return ops.split(values_P, ends, axis=-1)

    def segment_mean(self, values_FP):
        """Returns means over the coordinates of tensors: `[…, P]` to `[…, N]`."""
        pieces = zip(self.segments(values_FP), self.sizes, strict=True)
        means = [
            ops.mean(piece, axis=-1)
            if size
            else ops.zeros(piece.shape[:-1], piece.dtype)
            for piece, size in pieces
        ]
        return ops.stack(means, axis=-1)

    def spread(self, values_FN):
        """Returns each tensor's numbers at its coordinates: `[…, N]` to `[…, P]`."""
        # Broadcasts, not a gather: a gather's gradient is sparse, or slow to add up.
        width = values_FN.shape[:-1]
        return ops.concatenate(
            [
                ops.broadcast_to(values_FN[..., n : n + 1], (*width, size))
                for n, size in enumerate(self.sizes)
            ],
            axis=-1,
        )

    def split(self, values_P):
        """Returns the tensors, in their own shapes, that `values_P` holds."""
        return [
            ops.reshape(piece, shape)
            for piece, shape in zip(self.segments(values_P), self.shapes, strict=True)
        ]


def concat(tensors):
    """Returns the tensors laid end to end, as one vector `[P]`."""
    return ops.concatenate([ops.reshape(t, (-1,)) for t in tensors], axis=0)

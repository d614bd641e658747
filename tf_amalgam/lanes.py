"""A learned rule's step in meta-training, and back through it, from inside the cache.

RNNProp makes two kilobytes of intermediate numbers of a coordinate, one operation after
another, so that those of a whole network go through the main memory many times. Where
coordinates do not depend on one another they are taken a chunk at a time instead: one
program of XLA's for a step and one for its vector-Jacobian product, which computes the
step again. Both go through the chunks of a lane on one core; there is a lane for each
core, up to a number.
"""

import functools
import logging
import math
import threading
import weakref

import tensorflow as tf

from tf_amalgam import compiled
from tf_amalgam.chunks import MULTIPLE, Chunk, available, cores, flat, in_rows
from tf_amalgam.layout import Layout

SIZE = 512  # coordinates of a chunk at most
LEAST = 4096  # coordinates from which on it is worth while
MOST = 32  # lanes


def way_of(rule, weights, layout):
    """Returns `Lanes` where these are worth while, else `Whole`."""
    usual = (
        not weights
        or not rule.coordinatewise
        or rule.noise_shape(layout) is not None
        or layout.size < LEAST
        or len(_kinds(rule)) != 1  # no state, which is cheap, or parts of several
        or not available()
        or tf.config.functions_run_eagerly()  # chunks are a gain only if compiled
        # A GPU has other caches, and is idle between small chunks.
        or bool(tf.config.list_logical_devices("GPU"))
    )
    return Whole(rule, layout) if usual else Lanes(rule, layout)


def _kinds(rule):
    """Returns the kinds of numbers in a rule's state."""
    return {part.dtype for part in tf.nest.flatten(rule.init_state(Layout((), ())))}


class Whole:
    """All coordinates at once, one operation after the other."""

    def __init__(self, rule, layout):
        self._rule, self._layout = rule, layout

    def cut(self, state):
        """Returns a rule's state as `update` takes it."""
        return state

    def joined(self, state):
        """Returns the state as the rule knows it."""
        return state

    def compile_ahead(self, weights, state, dtype, back):
        """Does nothing: there are no programs of its own."""

    def update(self, weights, grads_P, params_P, state, step, taped=False, **noise):
        """Returns what `Rule.update` returns, `taped` or not."""
        return self._rule.update(
            weights, grads_P, params_P, state, self._layout, step, **noise
        )


class Lanes:
    """Chunks of coordinates; the same results to rounding.

    A state is a tuple of the lanes' ones, each one tensor `[C, F, S]`: all F numbers of
    a coordinate, in C chunks of S coordinates, padded with zeros behind the last one.
    (A tensor for each part of a state would be one more for every loop to carry.)
    """

    def __init__(self, rule, layout):
        self._rule, self._layout = rule, layout
        self._lanes = min(cores(), MOST, -(-layout.size // SIZE))
        self._chunks = -(-layout.size // (self._lanes * SIZE))  # of a lane
        size = -(-layout.size // (self._lanes * self._chunks))
        self._size = -(-size // MULTIPLE) * MULTIPLE
        self._width = self._chunks * self._size  # coordinates of a lane
        self._forth, self._back = _programs(rule, layout, self._chunks, self._size)

    def cut(self, state):
        """Returns a rule's state as `update` takes it."""
        return tuple(self._cut(_packed(state, self._layout.size)))

    def joined(self, lanes):
        """Returns the state as the rule knows it."""
        return _unpacked(self._joined(lanes), self._rule)

    def compile_ahead(self, weights, state, dtype, back):
        """Has XLA compile beside the tracing of what comes, in a thread.

        Only inside a graph: called eagerly, programs are compiled for themselves.

        Args:
            weights, state: as of `update`.
            dtype: of gradients, parameters and steps.
            back: whether the step will be differentiated.
        """
        if not tf.inside_function():
            return
        vector = tf.TensorSpec((self._chunks, self._size), dtype)
        part = _spec(state[0])
        phi = [_spec(tensor) for tensor in weights.values()]
        seen = [list(weights), tf.TensorSpec((), tf.int32), tf.TensorSpec((), dtype)]
        seen.append([*phi, vector, vector, part])
        programs = [self._forth.get_concrete_function(*seen)]
        if back:
            adjoints = [vector, part]
            programs.append(self._back.get_concrete_function(*seen, adjoints))
        device = tf.zeros(()).device
        new = [p for p in programs if device not in _begun.setdefault(p, set())]
        for program in new:
            _begun[program].add(device)
        if new:
            _begin(new, device)

    def update(self, weights, grads_P, params_P, state, step, taped=False):
        """Returns what `Rule.update` returns.

        Under a tape that is to differentiate it, once, it must be `taped`.
        """
        names, phi = list(weights), list(weights.values())
        if not taped:
            pieces = self._pieces(grads_P, params_P, state)
            return self._joined_step(names, phi, pieces, step)

        @tf.custom_gradient
        def stepped(step, phi, grads_P, params_P, *state):
            # A tape that records what is in here would need the loop's every number.
            phi, grads_P, params_P, state = tf.nest.map_structure(
                tf.stop_gradient, (phi, grads_P, params_P, state)
            )
            pieces = self._pieces(grads_P, params_P, state)
            delta_P, after = self._joined_step(names, phi, pieces, step)

            def back(delta_bar_P, *after_bars):
                lanes = zip(self._cut(delta_bar_P), after_bars, strict=True)
                bars = [
                    self._back(names, start, step, [*phi, *piece], list(adjoints))
                    for (start, piece), adjoints in zip(pieces, lanes, strict=True)
                ]
                *shares, grads, params, states = zip(*bars, strict=True)
                return (
                    None,
                    list(map(tf.add_n, shares)),
                    self._joined(grads),
                    self._joined(params),
                    *states,
                )

            return (delta_P, *after), back

        delta_P, *after = stepped(step, phi, grads_P, params_P, *state)
        return delta_P, tuple(after)

    def _joined_step(self, names, phi, pieces, step):
        """Returns the delta `[P]`, and the state of each lane."""
        found = [
            self._forth(names, start, step, [*phi, *piece]) for start, piece in pieces
        ]
        deltas, after = zip(*found, strict=True)
        return self._joined(deltas), after

    def _pieces(self, grads_P, params_P, state):
        """Returns first coordinate, gradients, parameters and state of each lane."""
        cut = zip(self._cut(grads_P), self._cut(params_P), state, strict=True)
        return [(tf.constant(n * self._width), p) for n, p in enumerate(cut)]

    def _cut(self, values):
        """Returns `[…, P]` as the lanes' `[C, …, S]`."""
        *leading, coordinates = values.shape
        behind = self._lanes * self._width - coordinates
        padding = [[0, 0]] * len(leading) + [[0, behind]]
        return tf.split(in_rows(tf.pad(values, padding), self._size), self._lanes)

    def _joined(self, lanes):
        """Returns the lanes' `[C, …, S]` as `[…, P]`."""
        return flat(tf.concat(lanes, axis=0))[..., : self._layout.size]


def _packed(state, size):
    """Returns a rule's state, parts of `[…, P]`, as one tensor `[F, P]`."""
    parts = [tf.reshape(part, (-1, size)) for part in tf.nest.flatten(state)]
    return tf.concat(parts, axis=0)


def _unpacked(state, rule):
    """Returns the state as the rule knows it."""
    form = rule.init_state(Layout((), ()))
    leading = [part.shape[:-1] for part in tf.nest.flatten(form)]
    parts = tf.split(state, [math.prod(shape) for shape in leading])
    shaped = [tf.reshape(p, (*s, -1)) for p, s in zip(parts, leading, strict=True)]
    return tf.nest.pack_sequence_as(form, shaped)


# The devices that a program is compiled for ahead, or about to be.
_begun: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _spec(tensor):
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _begin(programs, device):
    """Compiles them in a thread; whatever fails there fails again where it matters."""

    def work():
        try:
            _compile(programs, device)
        except Exception:
            logging.debug("Nothing was compiled ahead.", exc_info=True)

    try:
        threading.Thread(target=work).start()
    except RuntimeError:  # no thread may be started
        logging.debug("Nothing is compiled ahead.", exc_info=True)


def _compile(programs, device):
    """Has XLA compile these concrete functions for a device, by a call of each."""
    for program in programs:
        specs = tf.nest.flatten(program.structured_input_signature)
        with tf.device(device):
            inputs = [
                tf.zeros(spec.shape, spec.dtype)
                for spec in specs
                if isinstance(spec, tf.TensorSpec)
            ]
            # In a graph, as it will be: by itself it would be compiled for itself.
            tf.function(program, autograph=False)(*inputs)


@functools.lru_cache(maxsize=32)
def _programs(rule, layout, chunks, size):
    """Returns the compiled step of a lane, and its vector-Jacobian product.

    Both take the names of the weights, the lane's first coordinate, the step's number,
    and a list of the weights, gradients, parameters and state; the second one the
    adjoints of what the first returns (deltas and state), too.
    """

    def taken(names, start, step, tensors):
        """Returns the step of one chunk, as a list."""
        count = len(names)
        weights = dict(zip(names, tensors[:count], strict=True))
        grads, params, state = tensors[count:]
        part = Chunk(layout, start, size)
        delta, state = rule.update(
            weights, grads, params, _unpacked(state, rule), part, step
        )
        return [delta, _packed(state, size)]

    def at(i, count, tensors):
        """Returns the weights, and chunk i of what belongs to coordinates."""
        return [*tensors[:count], *(tf.gather(p, i) for p in tensors[count:])]

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def forth(names, start, step, tensors):
        count = len(names)

        def one(i):
            mine = at(i, count, tensors)
            return taken(names, start + i * size, step, mine), []

        return compiled.through(one, tensors[count + 1 :])[0]

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def back(names, start, step, tensors, adjoints):
        count = len(names)

        def one(i):
            mine = at(i, count, tensors)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(mine)
                found = taken(names, start + i * size, step, mine)
            bars = tape.gradient(
                found,
                mine,
                output_gradients=[tf.gather(adjoint, i) for adjoint in adjoints],
                unconnected_gradients="zero",
            )
            return bars[count:], bars[:count]

        phi = tensors[:count]
        zeros = [tf.zeros_like(w) for w in phi]
        bars, total = compiled.through(one, tensors[count:], zeros)
        return [*total, *bars]

    return forth, back

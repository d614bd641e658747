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
import threading
import weakref

import tensorflow as tf

from tf_amalgam import compiled
from tf_amalgam.chunks import MULTIPLE, Chunk, available, cores, flat, in_rows

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
        or not available()
        or tf.config.functions_run_eagerly()  # chunks are a gain only if compiled
        # A GPU has other caches, and is idle between small chunks.
        or bool(tf.config.list_logical_devices("GPU"))
    )
    return Whole(rule, layout) if usual else Lanes(rule, layout)


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

    def update(self, weights, grads_P, params_P, state, step, **noise):
        """Returns what `Rule.update` returns."""
        return self._rule.update(
            weights, grads_P, params_P, state, self._layout, step, **noise
        )


class Lanes:
    """Chunks of coordinates; the same results to rounding.

    A state is a tuple of the lanes' ones, whose parts are `[C, …, S]`: C chunks of S
    coordinates, padded with zeros behind the last one.
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
        cut = [self._cut(part) for part in tf.nest.flatten(state)]
        lanes = [[parts[n] for parts in cut] for n in range(self._lanes)]
        return tuple(tf.nest.pack_sequence_as(state, lane) for lane in lanes)

    def joined(self, lanes):
        """Returns the state as the rule knows it."""
        flat = zip(*map(tf.nest.flatten, lanes), strict=True)
        return tf.nest.pack_sequence_as(lanes[0], list(map(self._joined, flat)))

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
        parts = [_spec(part) for part in tf.nest.flatten(state[0])]
        phi = [_spec(tensor) for tensor in weights.values()]
        seen = [list(weights), tf.TensorSpec((), tf.int32), tf.TensorSpec((), dtype)]
        seen.append([*phi, vector, vector, *parts])
        programs = [self._forth.get_concrete_function(*seen)]
        if back:
            adjoints = [vector, *parts]
            programs.append(self._back.get_concrete_function(*seen, adjoints))
        device = tf.zeros(()).device
        new = [p for p in programs if device not in _begun.setdefault(p, set())]
        for program in new:
            _begun[program].add(device)
        if new:
            _begin(new, device)

    def update(self, weights, grads_P, params_P, state, step):
        """Returns what `Rule.update` returns; differentiable once."""
        names, phi = list(weights), list(weights.values())
        starts = [tf.constant(n * self._width) for n in range(self._lanes)]

        @tf.custom_gradient
        def lanes(step, phi, *pieces):
            # A tape that records what is in here would need the loop's every number.
            fixed, untaped = tf.nest.map_structure(tf.stop_gradient, (phi, pieces))

            def back(*adjoints):
                adjoints = tf.nest.pack_sequence_as(found, adjoints)
                bars = [
                    self._back(names, start, step, [*phi, *piece], adjoint)
                    for start, piece, adjoint in zip(
                        starts, pieces, adjoints, strict=True
                    )
                ]
                shares = zip(*(bar[: len(phi)] for bar in bars), strict=True)
                return (
                    None,
                    list(map(tf.add_n, shares)),
                    *(b[len(phi) :] for b in bars),
                )

            found = [
                self._forth(names, start, step, [*fixed, *piece])
                for start, piece in zip(starts, untaped, strict=True)
            ]
            return found, back

        pieces = zip(self._cut(grads_P), self._cut(params_P), state, strict=True)
        found = lanes(step, phi, *([g, p, *tf.nest.flatten(s)] for g, p, s in pieces))
        after = [tf.nest.pack_sequence_as(state[0], parts) for _, *parts in found]
        return self._joined([delta_CS for delta_CS, *_ in found]), tuple(after)

    def _cut(self, values):
        """Returns `[…, P]` as the lanes' `[C, …, S]`."""
        *leading, coordinates = values.shape
        behind = self._lanes * self._width - coordinates
        padding = [[0, 0]] * len(leading) + [[0, behind]]
        return tf.split(in_rows(tf.pad(values, padding), self._size), self._lanes)

    def _joined(self, lanes):
        """Returns the lanes' `[C, …, S]` as `[…, P]`."""
        return flat(tf.concat(lanes, axis=0))[..., : self._layout.size]


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
    and a list of the weights, gradients, parameters and parts of the state; the second
    one the adjoints of what the first returns (deltas and parts of the state), too.
    """
    nothing = layout.only(())
    structure = tf.nest.map_structure(lambda _: None, rule.init_state(nothing))

    def taken(names, start, step, tensors):
        """Returns the step of one chunk, as a list."""
        count = len(names)
        weights = dict(zip(names, tensors[:count], strict=True))
        grads, params, *state = tensors[count:]
        state = tf.nest.pack_sequence_as(structure, state)
        part = Chunk(layout, start, size)
        delta, state = rule.update(weights, grads, params, state, part, step)
        return [delta, *tf.nest.flatten(state)]

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

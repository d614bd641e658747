"""What the operations of a truncation take, by kind, and what comes before it.

    python benchmarks/where_time_goes.py [--teachers 0 2 6]

As TensorFlow's profiler sees them. Shares are of the time of all operations, which run
two at a time at most; products and convolutions use both cores. Beside them stands what
the convolutions that a step cannot do without take one at a time, with nothing else.
What comes before is that of a truncation of two steps. Segments are as long as in one
of a hundred.
"""

import collections
import pathlib
import statistics
import tempfile

import measuring
from meta_step import BATCH, POOLS

STEPS = 20
FEW_STEPS = 2
# As of a truncation of a hundred steps with these teachers.
SEGMENTS = {0: 2, 2: 3, 6: 3}
KINDS = {
    "convolutions": (
        *("Conv2D", "_FusedConv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    ),
    "products": ("MatMul", "_FusedMatMul", "BatchMatMulV2"),
    "pools": ("MaxPool", "MaxPoolGrad", "AvgPool", "AvgPoolGrad"),
    "activations": ("Tanh", "Sigmoid", "TanhGrad", "SigmoidGrad", "Relu", "ReluGrad"),
    "copies": (
        *("ConcatV2", "Split", "Slice", "StridedSlice", "StridedSliceGrad"),
        *("Transpose", "Tile", "Pack", "Unpack", "GatherV2", "Pad"),
    ),
}
REST = "elementwise, sums and the rest"
# The learned rule, and back through it, are programs of XLA's.
RULE, XLA = "the learned rule (XLA)", "CpuExecutable::ExecuteAsyncOnStream"
# Of XLA's compiler, one after the other: all of a program, and code for what it fused.
COMPILER, FUSIONS = "CpuCompiler::RunBackend", "FusionCompiler::Compile"
# TensorFlow's names of what oneDNN does: _MklNativeConv2D, _MklNativeFusedMatMul, …
ONEDNN, ONEDNN_FUSED = ("_MklNative", "_Mkl"), ("_MklNativeFused", "_Fused")
# Operations that hold others.
OUTER = ("While", "StatelessWhile", "If", "StatelessIf", "PartitionedCall")


def kind_of(operation):
    """Returns which of the kinds an operation's type is of, oneDNN's or not."""
    operation = operation.replace(*ONEDNN_FUSED)
    for prefix in ONEDNN:
        operation = operation.removeprefix(prefix)
    found = (kind for kind, types in KINDS.items() if operation in types)
    return next(found, REST)


def events(folder):
    """Yields (name, picoseconds) of all that a profile's folder tells."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        names = {i: one.name for i, one in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                yield names[event.metadata_id], event.duration_ps


def picoseconds(folder):
    """Returns time by kind in a profile's folder."""
    found: collections.Counter = collections.Counter()
    for name, spent in events(folder):
        # "scope/name:Type" is an operation; there are threads and functions.
        _, colon, operation = name.partition(":")
        if name == XLA:
            found[RULE] += spent
        elif colon and operation.isidentifier() and operation not in OUTER:
            found[kind_of(operation)] += spent
    return found


def measure(teachers):
    """Returns milliseconds of an inner step by kind."""
    from meta_step import Program

    program = Program("ours", teachers, STEPS, segment=SEGMENTS[teachers])

    import tensorflow as tf

    for _ in range(2):
        program.call()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            program.call()
        found = picoseconds(folder)
    return {kind: spent / 1e9 / STEPS for kind, spent in found.items()}


def measure_start(teachers):
    """Returns seconds of what comes before a truncation."""
    from meta_step import Program

    program = Program("ours", teachers, FEW_STEPS, segment=SEGMENTS[teachers])

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            traced, called = program.build(), program.call()
        spent: collections.Counter = collections.Counter()
        for name, picos in events(folder):
            spent[name] += picos / 1e12
    return {
        "tracing": traced,
        "first call": called,
        "second call": program.call(),
        "XLA's compiler, beside both": spent[COMPILER],
        "of it, code for what is fused": spent[FUSIONS],
    }


def measure_convolutions(repeats=50):
    """Returns ms of the Train net's convolutions, one at a time, on all cores.

    `forward`, `gradient` and `product`, with the Hessian, are the sums that a pass, a
    gradient and what a product takes besides have in any order of work: each layer's
    pass and its kernel's gradient, and of the second its input's. The product needs
    them twice, with one factor's derivative or the other's, where a layer's input
    depends on weights.
    """
    from tf_amalgam_launch import processors

    processors.set_up()

    import tensorflow as tf

    def once(operation, *given):
        taken = [measuring.timed(lambda: operation(*given)) for _ in range(repeats)]
        return 1e3 * statistics.median(taken)

    x, pooled = tf.ones((BATCH, 28, 28, 1)), tf.ones((BATCH, 13, 13, 16))
    first, second = tf.ones((3, 3, 1, 16)), tf.ones((5, 5, 16, 32))
    valid = {"strides": 1, "padding": "VALID"}
    forward, kernels = [], []
    for image, weights in ((x, first), (pooled, second)):
        out = tf.nn.conv2d(image, weights, **valid)
        forward.append(once(lambda a, b: tf.nn.conv2d(a, b, **valid), image, weights))
        kernels.append(once(_of_kernel, image, weights, out))
    inputs = once(_of_input, pooled, second, out)
    return {
        "forward": sum(forward),
        "gradient": sum(forward) + sum(kernels) + inputs,
        "product": forward[0] + kernels[0] + 2 * (forward[1] + kernels[1] + inputs),
    }


def needed(alone, teachers):
    """Returns ms of the convolutions that a step of second order cannot do without.

    Everybody's gradient, the student's product and the meta loss where it began.
    """
    return alone["forward"] + (1 + teachers) * alone["gradient"] + alone["product"]


def _of_kernel(image, kernel, gradient):
    import tensorflow as tf

    strides = {"strides": [1, 1, 1, 1], "padding": "VALID"}
    return tf.raw_ops.Conv2DBackpropFilter(
        input=image, filter_sizes=kernel.shape, out_backprop=gradient, **strides
    )


def _of_input(image, kernel, gradient):
    import tensorflow as tf

    strides = {"strides": [1, 1, 1, 1], "padding": "VALID"}
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=image.shape, filter=kernel, out_backprop=gradient, **strides
    )


def report(options):
    """Prints two tables for each pool; it measures no ratio."""
    alone = measuring.child(__file__, "measure_convolutions")
    told = ", ".join(f"{name} {spent:.1f}" for name, spent in alone.items())
    print(f"Convolutions, one at a time, in ms: {told}.\n", flush=True)
    for teachers in options.teachers:
        found = measuring.child(__file__, "measure", teachers)
        whole = sum(found.values())
        print(f"Train net, {teachers} teachers, second order: {whole:.0f} ms a step.")
        least = needed(alone, teachers)
        print(f"Convolutions that it needs, one at a time: {least:.1f} ms.\n")
        print("| operations | ms a step | share |\n|---|---|---|")
        for name, spent in sorted(found.items(), key=lambda pair: -pair[1]):
            print(f"| {name} | {spent:.1f} | {100 * spent / whole:.0f} % |")
        print(f"\nBefore it, {FEW_STEPS} steps:\n\n| what | s |\n|---|---|")
        for name, spent in measuring.child(__file__, "measure_start", teachers).items():
            print(f"| {name} | {spent:.2f} |")
        print(flush=True)
    return []


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument(
        "--teachers", type=int, nargs="+", choices=list(POOLS), default=[0, 2]
    )
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure, measure_start, measure_convolutions)

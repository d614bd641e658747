"""What the operations of a truncation take, by kind, and what comes before it.

    python benchmarks/where_time_goes.py [--teachers 0 2 6]

As TensorFlow's profiler sees them. Shares are of the time of all operations, which run
two at a time at most; products and convolutions use both cores. What comes before is
that of a truncation of two steps. Segments are as long as in one of a hundred.
"""

import collections
import pathlib
import tempfile

import measuring
from meta_step import POOLS

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


def report(options):
    """Prints two tables for each pool; it measures no ratio."""
    for teachers in options.teachers:
        found = measuring.child(__file__, "measure", teachers)
        whole = sum(found.values())
        print(f"Train net, {teachers} teachers, second order: {whole:.0f} ms a step.\n")
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
    measuring.command(parser, report, measure, measure_start)

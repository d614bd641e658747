"""What the operations of a truncation take, by kind.

    python benchmarks/where_time_goes.py [--teachers 0 2 6]

As TensorFlow's profiler sees them. Shares are of the time of all operations, which run
two at a time at most; products and convolutions use both cores.
"""

import collections
import pathlib
import tempfile

import measuring
from meta_step import POOLS

STEPS = 20
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


def picoseconds(folder):
    """Returns time by kind in a profile's folder."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    found: collections.Counter = collections.Counter()
    for plane in space.planes:
        names = {i: one.name for i, one in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # "scope/name:Type" is an operation; there are threads and functions.
                name = names[event.metadata_id]
                _, colon, operation = name.partition(":")
                if name == XLA:
                    found[RULE] += event.duration_ps
                elif colon and operation.isidentifier() and operation not in OUTER:
                    found[kind_of(operation)] += event.duration_ps
    return found


def measure(teachers):
    """Returns milliseconds of an inner step by kind."""
    from meta_step import Program

    program = Program("ours", teachers, STEPS)

    import tensorflow as tf

    for _ in range(2):
        program.call()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            program.call()
        found = picoseconds(folder)
    return {kind: spent / 1e9 / STEPS for kind, spent in found.items()}


def report(options):
    """Prints a table for each pool; it measures no ratio."""
    for teachers in options.teachers:
        found = measuring.child(__file__, "measure", teachers)
        whole = sum(found.values())
        print(f"Train net, {teachers} teachers, second order: {whole:.0f} ms a step.\n")
        print("| operations | ms a step | share |\n|---|---|---|")
        for name, spent in sorted(found.items(), key=lambda pair: -pair[1]):
            print(f"| {name} | {spent:.1f} | {100 * spent / whole:.0f} % |")
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
    measuring.command(parser, report, measure)

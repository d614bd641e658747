"""The devices that share a meta-batch: one, those of a machine, or of several."""

import contextlib
import json
import logging
import os

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multi_worker")
# What TensorFlow raises when another worker has gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# And what it raises of much else, too, told apart by its words: a worker was begun
# again meanwhile, or TensorFlow's own look at the others failed.
_MAY_BE_LOST = (tf.errors.FailedPreconditionError, tf.errors.InternalError)
_OF_OTHERS = ("device incarnation", "Collective ops is aborted by")
_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_joined: list = []  # the strategy of this process, once it has joined


class WorkerLost(RuntimeError):
    """Another worker has ended before the run has."""


def join_cluster():
    """Makes this process one worker of the cluster that `TF_CONFIG` names.

    To be called before TensorFlow does anything else, as its collective operations
    must be set up first; a second call is none. Waits for the other workers.

    Returns:
        A `MultiWorkerMirroredStrategy`.

    Raises:
        ValueError: where `TF_CONFIG` is missing or unreadable, its address cannot be
            had, or TensorFlow has begun.
        WorkerLost: where another worker has gone meanwhile.
    """
    if not _joined:
        check_config(os.environ.get("TF_CONFIG", ""))
        try:
            with telling_of_losses():
                _joined.append(tf.distribute.MultiWorkerMirroredStrategy())
        except WorkerLost:  # a RuntimeError, too
            raise
        except tf.errors.OpError as error:  # a port that is taken, say
            raise ValueError(
                "This worker could not join the cluster of TF_CONFIG: its address must "
                f"be one of this machine, and its port free. ({error.message})"
            ) from error
        except RuntimeError as error:
            raise ValueError(
                "strategy='multi_worker' has to come before TensorFlow does anything "
                "else: call tf_amalgam.join_cluster() first, before an optimizee is "
                f"made, or use the program amalgamate, which does. ({error})"
            ) from error
    return _joined[0]


def check_config(text):
    """Raises ValueError unless `TF_CONFIG` names a cluster and a place in it."""
    try:
        told = json.loads(text)
        kind, index = told["task"]["type"], int(told["task"]["index"])
        if not 0 <= index < len(told["cluster"][kind]):
            raise ValueError(f"no {kind} {index} in the cluster")
    except (ValueError, KeyError, TypeError) as error:
        given = f"it is {text!r} ({error})" if text else "it is not set"
        raise ValueError(
            "strategy='multi_worker' needs TF_CONFIG in the environment of every "
            f"worker; {given}. Expected, of the first of two: {_EXAMPLE}."
        ) from error


@contextlib.contextmanager
def telling_of_losses():
    """Within it the loss of another worker is a `WorkerLost` that says what to do."""
    try:
        yield
    except (*_LOST, *_MAY_BE_LOST) as error:
        if not isinstance(error, _LOST) and not any(
            words in error.message for words in _OF_OTHERS
        ):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = next((line for line in lines if "aborted by" in line), lines[-1])
        raise WorkerLost(
            "Another worker has ended, or cannot be reached any more. What was "
            "computed is kept: start all workers again, or any number of them, with "
            f"the same workdir. ({said.strip()})"
        ) from error


def strategy(name, replicas, meta_batch):
    """Returns the strategy of a name, whose replicas share the meta-batch.

    Args:
        name: `"none"` (one device), `"mirrored"` (those of this machine) or
            `"multi_worker"` (those of all machines of `TF_CONFIG`, see `join_cluster`).
        replicas: how many devices of this machine, an optimizee each at a time; None
            takes the fewest that need no more rounds for the meta-batch than all of
            them would. Of several machines all are taken.
        meta_batch: optimizees.

    Raises:
        ValueError: for an unknown name, or devices that are not there or of no use.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}; received {name!r}."
        )
    if name == "multi_worker":
        found = join_cluster()
        count = found.num_replicas_in_sync
        if replicas not in (None, count):
            raise ValueError(
                f"replicas={replicas}, but the workers of TF_CONFIG have {count} "
                "devices, which strategy='multi_worker' takes all; leave replicas out."
            )
        if count > meta_batch:
            logging.warning(
                "%d of the workers' %d devices have nothing to do: meta_batch=%d.",
                *(count - meta_batch, count, meta_batch),
            )
        return found
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if name == "none":
        if replicas not in (None, 1):
            raise ValueError(
                f"replicas={replicas}, but strategy='none' is one device; use "
                "strategy='mirrored', or leave replicas out."
            )
        return tf.distribute.get_strategy()
    if replicas is None:
        rounds = -(-meta_batch // len(devices))
        replicas = -(-meta_batch // rounds)
    if not 1 <= replicas <= len(devices):
        raise ValueError(
            f"replicas={replicas}, but there are {len(devices)} {kind} devices."
        )
    if replicas > meta_batch:
        raise ValueError(
            f"replicas={replicas}, but meta_batch={meta_batch} optimizees keep no more "
            "devices than that busy; give fewer, or leave replicas out."
        )
    return tf.distribute.MirroredStrategy(devices[:replicas])

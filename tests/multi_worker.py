"""One of several processes that train together: `python -m tests.multi_worker OUT`.

`TF_CONFIG` names the cluster; `OUT` gets the weights of every optimizer. Each worker
takes its share of every minibatch, in a loop of its own, as Keras 3's `fit` does not
run under MultiWorkerMirroredStrategy, whatever the optimizer.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.keras_adam import AdaptedAdam

BATCH = 8
MAKERS = {
    "keras": lambda: keras.optimizers.Adam(0.01),
    "adapted": lambda: AdaptedAdam(0.01),
    "student": lambda: tf_amalgam.load("choice-large", warmup_steps=4),
    "guarded": lambda: tf_amalgam.load("choice-large", warmup_steps=4, guard=True),
}


def fresh_model():
    keras.utils.set_random_seed(0)
    return helpers.tiny_model()


def trained(name, strategy, worker=0, workers=1):
    """Returns the weights after two epochs under a strategy."""
    data = helpers.blobs().train
    loss_fn = keras.losses.SparseCategoricalCrossentropy(True, reduction="sum")
    with strategy.scope():
        net, optimizer = fresh_model(), MAKERS[name]()
        optimizer.build(net.trainable_variables)

    def one(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, net(x, training=True)) / BATCH
        grads = tape.gradient(loss, net.trainable_variables)
        optimizer.apply_gradients(zip(grads, net.trainable_variables, strict=True))

    step = tf.function(lambda x, y: strategy.run(one, args=(x, y)))
    share = BATCH // workers
    for start in list(range(worker * share, len(data.x), BATCH)) * 2:
        here = slice(start, start + share)
        step(tf.constant(data.x[here]), tf.constant(data.y[here]))
    return helpers.flat(net.get_weights())


def main(out):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    workers = len(resolver.cluster_spec().as_dict()["worker"])
    place = resolver.task_id, workers
    np.savez(out, **{name: trained(name, strategy, *place) for name in MAKERS})


if __name__ == "__main__":
    main(sys.argv[1])

"""Train an optimizer for a model of your own, out of Adam and RMSProp.

    python docs/examples/amalgamate_my_model.py

Ctrl-C is safe: the same command goes on where it was.
"""

import keras

import tf_amalgam
from tf_amalgam import records

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# (inner steps of an unroll, periods, weight of the imitation loss)
STAGES = ((100, 4, 0.1), (200, 1, 0.1), (500, 1, 0.05))


def make_model():
    """Returns a fresh, built model: the optimizee."""
    return keras.Sequential(
        [
            keras.Input((64,), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dense(24, activation="tanh"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )


def main(workdir="runs/my_model", stages=STAGES, period=6, epochs=25):
    data = tf_amalgam.load_dataset("digits")  # or (x, y), or a tf.data.Dataset
    task = tf_amalgam.Task.from_keras(make_model, data, loss=LOSS, batch_size=64)
    # Teachers have to be good at your problem first: the best learning rates of a grid.
    tuned = tf_amalgam.grid_search(
        task,
        ["adam", "rmsprop"],
        learning_rates=(0.01, 0.02, 0.05, 0.1),
        epochs=epochs,
        workdir=f"{workdir}/grid",
    )
    amalgam = tf_amalgam.amalgamate(
        task,
        teachers=tuned.teachers,
        scheme="min_max",
        stages=stages,
        period=period,
        scaling=2.0,
        workdir=f"{workdir}/amalgam",
    )
    # Fresh models, which neither student nor teachers have seen.
    student = f"{workdir}/amalgam/student.npz"
    found = tf_amalgam.evaluate(
        {"student": student, **{rule.name: rule for rule in tuned.teachers}},
        task,
        seeds=(10, 11, 12),
        epochs=epochs,
        workdir=f"{workdir}/evaluation",
    )
    print(records.table(found))

    # It is a file of 26 kB now, and an optimizer like any other.
    model = make_model()
    model.compile(optimizer=tf_amalgam.load(student), loss=LOSS, metrics=["accuracy"])
    model.fit(*data.train, batch_size=64, epochs=epochs, verbose=0)
    print(f"test accuracy {model.evaluate(*data.test, verbose=0)[1]:.4f}")
    return amalgam, found


if __name__ == "__main__":
    main()

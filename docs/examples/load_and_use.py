"""Load a trained optimizer, use it, save the model in mid-training, go on.

    python docs/examples/load_and_use.py

On scikit-learn's digits, which come with tf_amalgam; a minute on 2 cores.
"""

import tempfile

import keras

import tf_amalgam


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def train(optimizer, data, epochs):
    """Trains a fresh model; returns it."""
    model = make_model()
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*data.train, batch_size=64, epochs=epochs, verbose=0)
    return model


def main(epochs=10):
    data = tf_amalgam.load_dataset("digits")
    # What there is, and where one comes from:
    print(tf_amalgam.available())
    print(tf_amalgam.card("choice-large"))

    optimizers = {
        "choice-large": tf_amalgam.load("choice-large"),
        # Another optimizer takes over where a learned step goes wrong.
        "choice-large, guarded": tf_amalgam.load("choice-large", guard=True),
        # learning_rate multiplies the learned step, and may be a schedule.
        "choice-large, decaying": tf_amalgam.load(
            "choice-large",
            learning_rate=keras.optimizers.schedules.CosineDecay(1.0, 24 * epochs),
            global_clipnorm=1.0,
        ),
        "Keras' Adam": keras.optimizers.Adam(),
    }
    results = {}
    for name, optimizer in optimizers.items():
        model = train(optimizer, data, epochs)
        loss, accuracy = model.evaluate(*data.validation, verbose=0)
        results[name] = loss
        print(f"{name:24} validation loss {loss:.4f}, accuracy {accuracy:.4f}")

    # A .keras file holds the optimizer and its state: training goes on exactly.
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.keras"
        model = train(tf_amalgam.load("choice-large"), data, epochs)
        model.save(path)
        again = keras.models.load_model(path)
    for each in (model, again):
        each.fit(*data.train, batch_size=64, shuffle=False, verbose=0)
    losses = [m.evaluate(*data.validation, verbose=0)[0] for m in (model, again)]
    print(f"one more epoch: {losses[0]:.6f}; of the loaded model: {losses[1]:.6f}")
    return results, losses


if __name__ == "__main__":
    main()

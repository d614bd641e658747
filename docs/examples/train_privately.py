"""Train a model with differential privacy, with a learned optimizer and with SGD.

    python docs/examples/train_privately.py

The optimizer was amalgamated on public data, the model is trained on private ones,
which scikit-learn's digits stand for here. Needs tensorflow-privacy (Python 3.11).
"""

import keras

import tf_amalgam

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((64,), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dense(32, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )


def main(epochs=10, batch_size=128):
    data = tf_amalgam.load_dataset("digits")
    examples = len(data.train.x)
    results = {}
    # Its warm-up by plain SGD (100 steps) would be most of so short a training.
    optimizers = {
        "min-max-small": tf_amalgam.load("min-max-small", warmup_steps=10),
        "sgd": tf_amalgam.load("sgd"),
        "adam": tf_amalgam.load("adam"),
    }
    for name, optimizer in optimizers.items():
        # Every example's gradient is clipped to this norm, then noise is added; the
        # noise's seed is drawn anew and kept secret.
        model = tf_amalgam.private_model(
            make_model(), l2_norm_clip=1.0, noise_multiplier=1.1, delta=1e-4
        )
        model.compile(optimizer=optimizer, loss=LOSS, metrics=["accuracy"])
        model.fit(*data.train, batch_size=batch_size, epochs=epochs, verbose=0)
        # What was spent, of every noisy gradient the model has made.
        spent = model.privacy_report(batch_size=batch_size, examples=examples)
        loss, accuracy = model.evaluate(*data.validation, verbose=0)
        results[name] = loss, accuracy, spent["epsilon"]
        print(
            f"{name:14} validation loss {loss:.3f}, accuracy {accuracy:.3f}, "
            f"epsilon {spent['epsilon']:.2f} at delta {spent['delta']:g}"
        )
    return results


if __name__ == "__main__":
    main()

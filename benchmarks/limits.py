"""Where shipped optimizers fail: inputs that are not scaled, long training.

    python benchmarks/limits.py [--only choice-large …]

Trains a small network on handwritten digits, without network and in some minutes, by
each shipped optimizer alone, under guard, and by the Adam that a guard falls back on,
and writes `tf_amalgam/zoo/limits.csv`, from which cards tell of failures: the worst
training loss of the last tenth of the epochs is above Adam's by more than a fifth of
what there is to gain, the loss of knowing nothing (log 10 of ten classes).
"""

import argparse
import itertools

import keras
import numpy as np

import tf_amalgam
from tf_amalgam import files, guard, reached, saved

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCH = 64
# Factor of the inputs, and epochs of 18 steps, by what is unlike their meta-training,
# whose unrolls had 500 steps, those of Choice rules with rates 1,000.
SCENARIOS = {
    "inputs 1,000 times too large": (1000.0, 20),
    "5,000 steps": (1.0, 278),
}


def digits(scale):
    """Returns images of digits, `[n, 64]` between 0 and `scale`, and their labels."""
    data = tf_amalgam.load_dataset("digits").train
    return scale * data.x.astype("float32") / 255, data.y


def mlp():
    """Returns a fresh network for them."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def worst(make_net, optimizer, data, epochs, batch_size=BATCH):
    """Returns the highest training loss of the last tenth of the epochs."""
    keras.utils.set_random_seed(0)
    net = make_net()
    net.compile(optimizer=optimizer, loss=LOSS)
    fitted = net.fit(*data, batch_size=batch_size, epochs=epochs, verbose=0)
    return np.max(fitted.history["loss"][-max(1, epochs // 10) :])  # NaN where one is


def fallback():
    """Returns what a guard falls back on, as an optimizer of its own."""
    return tf_amalgam.Adam(guard.ADAM.learning_rate)


def measured(name, scenario, adam):
    """Returns a row of the file.

    Args:
        adam: worst loss of Adam there.
    """
    scale, epochs = SCENARIOS[scenario]
    data = digits(scale)
    return {
        "optimizer": name,
        "weights_sha256": saved.find(name)[2]["sha256"],
        "scenario": scenario,
        "alone": float(worst(mlp, tf_amalgam.load(name), data, epochs)),
        "guarded": float(worst(mlp, tf_amalgam.load(name, guard=True), data, epochs)),
        "adam": adam,
    }


def main():
    """Writes the file; rows of others than `--only` stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = saved.shipped_names()
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    chosen = parser.parse_args().only
    there = files.read_csv(reached.LIMITS) if reached.LIMITS.is_file() else []
    rows = {(row["optimizer"], row["scenario"]): row for row in there}
    for scenario, (scale, epochs) in SCENARIOS.items():
        adam = float(worst(mlp, fallback(), digits(scale), epochs))
        for name in chosen:
            row = rows[name, scenario] = measured(name, scenario, adam)
            print(
                f"{name}, {scenario}: {row['alone']:.4g} alone, {row['guarded']:.4g} "
                f"under guard, Adam {adam:.4g}",
                flush=True,
            )
            known = itertools.product(names, SCENARIOS)
            kept = [rows[key] for key in known if key in rows]
            files.write_text(reached.LIMITS, files.as_csv(kept))
    print(f"{len(kept)} rows: {reached.LIMITS}. Now: python benchmarks/zoo.py --cards")


if __name__ == "__main__":
    main()

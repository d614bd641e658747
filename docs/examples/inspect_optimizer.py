"""See what an optimizer does: how long its steps are, and how a Choice rule mixes.

    python docs/examples/inspect_optimizer.py

Draws `steps.png`, step sizes by optimizer and epoch, and `mixing.png`, the shares that
a learned mixture gives to each member of its pool.
"""

import pathlib

import keras
import matplotlib
import numpy as np

import tf_amalgam

matplotlib.use("Agg")
from matplotlib import pyplot

OPTIMIZERS = ("choice-large", "rnnprop", "adam", "sgd")
MIXTURE = "choice-rule-large"
# Steps by plain SGD first, in which a learned optimizer only observes.
WARMUP_STEPS = 10


class Steps(keras.callbacks.Callback):
    """Keeps |Δθ| of every parameter in one step of each epoch, the epoch's last."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def _flat(self):
        weights = self.model.trainable_variables
        return np.concatenate([np.ravel(w.numpy()) for w in weights])

    def on_train_batch_begin(self, batch, logs=None):
        self.before = self._flat()

    def on_train_batch_end(self, batch, logs=None):
        self.last = np.abs(self._flat() - self.before)

    def on_epoch_end(self, epoch, logs=None):
        self.sizes.append(self.last)


class Shares(keras.callbacks.Callback):
    """Keeps a Choice rule's mean mixing weights of every variable after each step."""

    def __init__(self):
        super().__init__()
        self.shares = []

    def on_train_batch_end(self, batch, logs=None):
        weights = self.model.optimizer.mixing_weights()
        self.shares.append(
            {path: w.reshape(-1, w.shape[-1]).mean(0) for path, w in weights.items()}
        )


def train(optimizer, callback, epochs):
    data = tf_amalgam.load_dataset("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="dense"),
        ]
    )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(
        *data.train, batch_size=64, epochs=epochs, verbose=0, callbacks=[callback]
    )
    return callback


def draw_steps(sizes, path):
    """One panel per optimizer, a histogram of log10 |Δθ| per epoch."""
    figure, axes = pyplot.subplots(
        1, len(sizes), figsize=(3.2 * len(sizes), 3), sharey=True, sharex=True
    )
    bins = np.linspace(-8, 0, 65)
    for axis, (name, epochs) in zip(axes, sizes.items(), strict=True):
        for n, of_epoch in enumerate(epochs):
            moved = of_epoch[of_epoch > 0]
            axis.hist(
                np.log10(moved),
                bins=bins,
                histtype="step",
                color=pyplot.get_cmap("viridis")(n / max(1, len(epochs) - 1)),
                label=f"epoch {n + 1}",
            )
        axis.set(title=name, xlabel="log10 of a parameter's step")
    axes[0].set_ylabel("parameters")
    axes[-1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_mixing(shares, members, path):
    """One panel per variable, the members' shares by step."""
    paths = list(shares[0])
    figure, axes = pyplot.subplots(
        1, len(paths), figsize=(3.2 * len(paths), 3), sharey=True
    )
    for axis, name in zip(axes, paths, strict=True):
        curves = np.array([step[name] for step in shares]).T
        axis.stackplot(range(1, len(shares) + 1), curves, labels=members, alpha=0.8)
        short = "/".join(name.split("/")[-2:])
        axis.set(title=short, xlabel="step", ylim=(0, 1))
        axis.margins(x=0)
    axes[0].set_ylabel("share")
    axes[-1].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(folder="runs/inspection", epochs=8):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {
        name: train(
            tf_amalgam.load(name, warmup_steps=WARMUP_STEPS), Steps(), epochs
        ).sizes
        for name in OPTIMIZERS
    }
    for name, of_epochs in sizes.items():
        medians = [f"{np.median(s):.1e}" for s in (of_epochs[0], of_epochs[-1])]
        print(f"{name:14} median step {medians[0]} in epoch 1, {medians[1]} at the end")
    mixture = tf_amalgam.load(MIXTURE, warmup_steps=WARMUP_STEPS)
    shares = train(mixture, Shares(), epochs).shares
    members = [member.name for member in mixture.rule.pool]
    mean = np.mean(list(shares[-1].values()), axis=0)
    print(MIXTURE, {m: round(float(s), 2) for m, s in zip(members, mean, strict=True)})
    draw_steps(sizes, folder / "steps.png")
    draw_mixing(shares, members, folder / "mixing.png")
    print(f"See {folder}/steps.png and {folder}/mixing.png")
    return sizes, shares


if __name__ == "__main__":
    main()

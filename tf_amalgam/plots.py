"""Figures from numbers that are on disk already; no TensorFlow here."""

import math
import pathlib
import statistics
import tempfile

from tf_amalgam import files

# Okabe & Ito's palette: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
MARKS = ("", "o", "s", "x")
FEW = 8  # optimizers whose curves a panel can name by itself


def meta_training(history, validations, path):
    """Draws meta loss, distances, who is farthest, and validation, by meta-update."""
    figure, axes = canvas(2, 2)
    updates = [row["update"] for row in history]
    _line(axes[0][0], updates, [row["meta_loss"] for row in history], "meta loss", 0)
    axes[0][0].set(title="Meta loss (mean log change of the loss)", ylabel="nats")
    for column, title, axis in (
        ("distance/", "Mean log distance to each teacher", axes[0][1]),
        ("farthest/", "Share of steps on which a teacher is farthest", axes[1][0]),
    ):
        names = [k for k in (history[0] if history else {}) if k.startswith(column)]
        for i, name in enumerate(names):
            label = name.removeprefix(column)
            _line(axis, updates, [row[name] for row in history], label, i)
        axis.set(title=title)
        axis.set_visible(bool(names))  # without teachers there is nothing to show
    scores = [(row["update"], row["score"]) for row in validations]
    finite = [(x, y) for x, y in scores if math.isfinite(y)]
    axes[1][1].plot(
        *zip(*finite, strict=True), "o-", color=COLORS[0]
    ) if finite else None
    axes[1][1].set(title="Validation (log change of held-out loss)", ylabel="nats")
    for axis in (axes[0][0], axes[1][1]):
        _in_nats(axis)
    for row in axes:
        for axis in row:
            axis.set_xlabel("meta-update")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=8)
    write(figure, path)


def validations(curves, path):
    """Draws validation scores by meta-update, one line per run.

    Args:
        curves: dict of label → list of (meta-update, score).
    """
    many = len(curves) > 6  # then the legend has no room inside
    figure, axes = canvas(1, 1, 6.8 if many else 4.8)
    axis = axes[0][0]
    for i, (label, points) in enumerate(curves.items()):
        finite = [(x, y) for x, y in points if math.isfinite(y)]
        x, y = zip(*finite, strict=True) if finite else ((), ())
        axis.plot(x, y, **_look(i) | {"marker": "o", "ms": 3}, label=label)
    axis.set(title="Validation (log change of held-out loss)", xlabel="meta-update")
    axis.set_ylabel("nats")
    _in_nats(axis)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axis.legend(frameon=False, fontsize=8, **(beside if many else {}))
    write(figure, path)


def _in_nats(axis):
    """Makes room for log changes that are drawn already.

    An untrained student may be tens of nats off, where what follows matters. Where none
    is, that scale would lack ticks.
    """
    if max(map(abs, axis.get_ylim())) > 4.0:
        axis.set_yscale("symlog", linthresh=2.0)


def mixing(trace_TNK, tensors, members, path):
    """Draws a Choice rule's mean mixing weights by step, one panel per tensor."""
    columns = min(3, len(tensors))
    figure, axes = canvas(-(-len(tensors) // columns), columns)
    panels = list(axes.flat)
    for n, (axis, name) in enumerate(zip(panels, tensors, strict=False)):
        shares = [[float(v) for v in row] for row in trace_TNK[:, n]]
        axis.stackplot(
            range(1, len(shares) + 1),
            *zip(*shares, strict=True),
            labels=members,
            colors=COLORS[: len(members)],
            alpha=0.8,
        )
        axis.set(title=name, xlabel="inner step", ylabel="share", ylim=(0, 1))
        axis.margins(x=0)
    for axis in panels[len(tensors) :]:
        axis.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    write(figure, path)


def learning_curves(records, path):
    """Draws validation loss by epoch, one panel per optimizee, one line per optimizer.

    Lines are means over seeds, bands the range from worst to best seed. Diverged runs
    are counted in the legend. What lies above three times the usual loss of the first
    epoch is cut off, or one bad optimizer would hide the others. Of many optimizers
    there are no bands, and one legend for all panels. Axes are logarithmic where no
    loss is below 0.
    """
    tasks = list(dict.fromkeys(record["task"] for record in records))
    names = list(dict.fromkeys(record["optimizer"] for record in records))
    many = len(names) > FEW
    rows = -(-len(tasks) // (3 if many else 4))
    columns = -(-len(tasks) // rows)
    figure, axes = canvas(
        rows, columns, height=max(3.4, 0.2 * many * len(names) / rows)
    )
    panels = list(axes.flat)
    for axis, task in zip(panels, tasks, strict=False):
        for i, name in enumerate(names):
            runs = [r for r in records if (r["task"], r["optimizer"]) == (task, name)]
            _one_optimizer(axis, runs, name, i, band=not many)
        axis.set(title=text(task), xlabel="epoch", ylabel="validation loss")
        axis.xaxis.get_major_locator().set_params(integer=True)
        drawn = [line.get_ydata() for line in axis.get_lines()]
        drawn = [curve for curve in drawn if len(curve)]
        if drawn:
            usual = statistics.median_low(curve[0] for curve in drawn)
            values = [value for curve in drawn for value in curve]
            if _framed(axis, values, usual, 3.0, 1.2):
                plain_numbers(axis.yaxis)
        if not many:
            axis.legend(frameon=False, fontsize=8)
    for axis in panels[len(tasks) :]:
        axis.set_visible(False)
    if many:
        _shared_legend(figure, panels[0], records, names)
    write(figure, path)


def _framed(axis, losses, usual, times, room):
    """Shows losses up to so many times the usual one; returns whether by logarithm.

    Where one is below 0, it is so many times as far from the lowest.
    """
    bottom, top = min(losses), max(losses)
    if bottom < 0.0:
        top = min(usual + times * (usual - bottom), top)
        margin = 0.05 * (top - bottom) or 0.05 * abs(top)
        axis.set_ylim(bottom - margin, top + margin)
        return False
    axis.set_yscale("log")
    axis.set_ylim(0.8 * bottom, room * min(times * usual, top))
    return True


def _one_optimizer(axis, runs, name, i, band):
    """Draws the mean of the runs that did not diverge; names it and the others."""
    diverged = sum(r["diverged"] for r in runs)
    whole = [r["curves"]["val_loss"] for r in runs if not r["diverged"]]
    look = _look(i)
    if whole:
        epochs = range(1, len(whole[0]) + 1)
        columns = list(zip(*whole, strict=True))
        mean = [sum(column) / len(column) for column in columns]
        label = text(f"{name} ({diverged} diverged)" if diverged else name)
        axis.plot(epochs, mean, **look, label=label)
        if band:
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, lw=0)
    elif runs:
        axis.plot([], [], **look, label=text(f"{name} (all diverged)"))


def _shared_legend(figure, axis, records, names):
    """Puts one legend beside all panels; diverged runs are those of all optimizees."""
    handles = []
    for i, name in enumerate(names):
        diverged = sum(r["diverged"] for r in records if r["optimizer"] == name)
        label = text(f"{name} ({diverged} diverged)" if diverged else name)
        handles += axis.plot([], [], **_look(i), label=label)
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)


def _look(i):
    return {
        "color": COLORS[i % len(COLORS)],
        "ls": LINES[i // len(COLORS) % len(LINES)],
        "marker": MARKS[i // (len(COLORS) * len(LINES)) % len(MARKS)],
        "ms": 4,
    }


def loss_by_learning_rate(losses, path, title=None):
    """Draws each teacher's loss over its learning rates, log axes, the best ringed.

    Args:
        losses: dict of teacher → {learning rate: loss}; an infinite loss stands for
            a diverged rate, which gets a cross at the upper edge, NaN for none.
        path: of the figure.
        title: above it.

    What lies above ten times the usual loss is cut off, or one bad rate would hide
    the others.
    """
    figure, axes = canvas(1, 1)
    axis = axes[0][0]
    for i, (name, by_rate) in enumerate(losses.items()):
        color = COLORS[i % len(COLORS)]
        whole = {rate: y for rate, y in by_rate.items() if math.isfinite(y)}
        axis.plot(whole.keys(), whole.values(), "o-", ms=3, color=color, label=name)
        if whole:
            best = min(whole, key=whole.__getitem__)
            axis.plot(best, whole[best], "o", ms=9, mfc="none", color=color)
        diverged = [rate for rate, y in by_rate.items() if math.isinf(y)]
        # Teachers below one another, so that no cross hides another.
        height = [1.0 - 0.03 * i] * len(diverged)
        axis.plot(
            diverged, height, "x", color=color, transform=axis.get_xaxis_transform()
        )
    axis.set(xscale="log", title=title or "")
    axis.set(xlabel="learning rate (× diverged)", ylabel="validation loss")
    drawn = [y for v in losses.values() for y in v.values() if math.isfinite(y)]
    if drawn:
        _framed(axis, drawn, statistics.median_low(drawn), 10.0, 1.6)
    axis.legend(frameon=False, fontsize=8)
    write(figure, path)


def samples(images, path):
    """Draws the first 8 images of each data set (the paper's Figure 7).

    Args:
        images: dict of data set → 8-bit images `[N, height, width, channels]`.
        path: of the figure.
    """
    figure, axes = canvas(len(images), 8, 0.9, 1.0)
    for row, (name, several) in zip(axes, images.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, image in zip(row, several, strict=False):
            axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, "gray")
        row[0].set_title(name, fontsize=8, loc="left")
    write(figure, path)


def canvas(rows, columns, width=4.8, height=3.4):
    """Returns a figure and its panels, [rows, columns]; no display is touched."""
    # The object interface, so that no display and no global state is touched.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def text(label):
    """Returns a label as it is: no formula, and not hidden from legends."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def plain_numbers(axis):
    """Writes the ticks of a logarithmic axis as .02, .05, .1, … instead of powers."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _line(axis, x, y, label, color):
    """Draws raw values lightly and their running mean over a tenth on top."""
    axis.plot(x, y, color=COLORS[color % len(COLORS)], alpha=0.25, lw=0.8)
    window = max(1, len(y) // 10)
    smooth = [
        sum(y[max(0, i - window + 1) : i + 1]) / min(window, i + 1)
        for i in range(len(y))
    ]
    axis.plot(x, smooth, color=COLORS[color % len(COLORS)], label=label)


def write(figure, *paths):
    """Writes a figure atomically, in the formats that its paths' endings say."""
    if layout := figure.get_layout_engine():
        # Once for all: each `savefig` would draw everything to lay it out.
        layout.execute(figure)
        figure.set_layout_engine(None)
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            temporary = pathlib.Path(folder) / f"figure{pathlib.Path(path).suffix}"
            figure.savefig(temporary, dpi=100)
            files.write_bytes(path, temporary.read_bytes())

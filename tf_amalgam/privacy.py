"""Differential privacy of a training run: its mechanism's numbers and its epsilon."""

import dataclasses
import importlib
import math
import sys

from tf_amalgam.checks import check_whole


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """What makes a gradient private, and what is claimed about it.

    Attributes:
        l2_norm_clip: C, the norm that each example's gradient is clipped to.
        noise_multiplier: σ; the sum of clipped gradients gets noise of standard
            deviation σ·C per coordinate.
        delta: the δ for which epsilon is reported, below 1/examples; `None` makes no
            claim and reports no epsilon.
    """

    l2_norm_clip: float = 1.0
    noise_multiplier: float = 1.1
    delta: float | None = 1e-5

    def __post_init__(self):
        if not 0 < self.l2_norm_clip < math.inf:
            raise ValueError(
                "l2_norm_clip must be above 0 and finite, received "
                f"{self.l2_norm_clip!r}."
            )
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                "noise_multiplier must be at least 0 and finite, received "
                f"{self.noise_multiplier!r}."
            )
        if self.delta is None:
            return
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be in (0, 1), received {self.delta!r}.")
        if self.noise_multiplier == 0:
            raise ValueError(
                "noise_multiplier=0 gives no privacy (epsilon is infinite), yet delta="
                f"{self.delta!r} claims some. Use noise above 0, or delta=None to clip "
                "without a claim."
            )

    def describe(self) -> dict:
        """Returns the three numbers, ready for JSON."""
        return dataclasses.asdict(self)

    def report(self, steps, batch_size, examples) -> dict:
        """Returns what a record says about a run: the numbers, steps and epsilon.

        Raises:
            ValueError, ImportError: see `epsilon`.
        """
        spent = None
        if self.delta is not None:
            spent = epsilon(
                steps, batch_size, examples, self.noise_multiplier, self.delta
            )
        return {"epsilon": spent, "steps": steps, **self.describe()}


# What private training needs beside TensorFlow.
MODULES = ("dp_accounting", "tensorflow_privacy.privacy.dp_query.gaussian_query")


def epsilon(steps, batch_size, examples, noise_multiplier, delta) -> float:
    """Returns the ε of (ε, δ)-differential privacy after `steps` of DP-SGD.

    From dp_accounting's RDP accountant (what TensorFlow Privacy reports) for a
    Gaussian mechanism on Poisson samples of rate batch_size/examples, neighbours
    being data sets with one example more or less. Like nearly everybody we shuffle
    instead of drawing Poisson samples, so the number follows common practice and is
    no strict bound for these minibatches (Ponomareva et al. 2023, arXiv:2303.00654,
    section 5.6). It covers one training run: not the choice between several runs,
    nor losses and accuracies printed on the private data.

    Raises:
        ValueError: for numbers that no run can have, no noise, or a delta of
            1/examples and more.
        ImportError: without tensorflow-privacy.
    """
    if not 1 <= batch_size <= examples:
        raise ValueError(
            f"batch_size must be from 1 to the {examples} examples, received "
            f"{batch_size!r}."
        )
    check_whole("steps", steps, 0)
    if delta is None:
        raise ValueError("epsilon depends on delta; received None.")
    Mechanism(1.0, noise_multiplier, delta)
    if delta >= 1 / examples:
        raise ValueError(
            f"delta={delta!r} says nothing about {examples} examples: publishing one "
            "of them at random would satisfy it. Use a delta below "
            f"1/{examples} = {1 / examples:.2g}, well below where possible."
        )
    accounting = imported(MODULES[0])
    if steps == 0:
        return 0.0
    accountant = accounting.rdp.RdpAccountant()
    accountant.compose(
        accounting.PoissonSampledDpEvent(
            batch_size / examples, accounting.GaussianDpEvent(noise_multiplier)
        ),
        steps,
    )
    return float(accountant.get_epsilon(delta))


def imported(name):
    """Returns a module of tensorflow-privacy or dp_accounting, loaded when needed.

    Raises:
        ImportError: saying what is missing and what to do.
    """
    # The package's own switch: its top level needs tf.estimator, gone since TF 2.16.
    switch = "skip_tf_privacy_import"
    added = not hasattr(sys, switch)
    if added:
        setattr(sys, switch, True)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Private training needs tensorflow-privacy 0.9.0, and {name} could not be "
            f"imported ({error}). It needs Python below 3.12 (this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}); there, run `pip install "
            "tensorflow-privacy==0.9.0`. Everything else works without it."
        ) from error
    finally:
        if added:
            delattr(sys, switch)

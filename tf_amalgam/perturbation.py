"""Noise on a student's weights and inputs while it is meta-trained (paper, 4.2).

A student trained at perturbed weights φ̃ = φ + ψ is less sensitive to where
meta-training happens to end. The meta-gradient taken at φ̃ is applied to φ; ψ itself
counts as constant. In validation and in use there is no noise.
"""

import dataclasses

import tensorflow as tf

from tf_amalgam.checks import check_number, check_whole, unknown

GAUSSIAN = ("gaussian", "gaussian_relative")
ADVERSARIAL = ("normalized", "clipped", "fgsm", "pgd_l2", "pgd_linf")
KINDS = (*GAUSSIAN, *ADVERSARIAL)
# Which one of them is meant is the preset's choice.
ADVERSARY = "adversarial"
REDRAWN = ("meta_step", "inner_step")


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """How φ is perturbed, tensor by tensor (w one tensor of φ, ∇ its meta-gradient).

    ==================== ====================================================
    `gaussian`           ψ ~ N(0, r²)
    `gaussian_relative`  ψ ~ N(0, r²‖w‖²/|w|), |w| the number of entries
                         (Eq. 5; the paper's best r is 1e-3)
    `normalized`         ψ ← ψ + r‖w‖·∇/‖∇‖ (Eq. 6)
    `clipped`            ψ ← ψ + ∇, each step cut to length r‖w‖ (released code)
    `adversarial`        the one of these two that the preset means
    `fgsm`               ψ ← ψ + r·sign ∇ (Goodfellow et al. 2015)
    `pgd_l2`, `pgd_linf` steepest steps of `step_size`, back into the ball of
                         radius r of that norm (Madry et al. 2018)
    ==================== ====================================================

    Attributes:
        kind: one of the above; from `normalized` on they ascend the loss.
            Outside `amalgamate`, which knows the preset, `adversarial` is `normalized`.
        radius: r; 0 perturbs nothing.
        steps: attack steps A (Algorithm 2); each costs one more truncation. Gaussian
            noise has none.
        step_size: of PGD; by default r for one step and 2.5·r/A for more.
        redrawn: Gaussian noise is drawn every `"meta_step"` (paper) or every
            `"inner_step"` (released code); None is the preset's choice.
    """

    kind: str = "gaussian_relative"
    radius: float = 1e-3
    steps: int = 1
    step_size: float | None = None
    redrawn: str | None = None

    def __post_init__(self):
        if self.kind not in (*KINDS, ADVERSARY):
            raise ValueError(unknown("perturbation", self.kind, (*KINDS, ADVERSARY)))
        if self.redrawn is not None and self.redrawn not in REDRAWN:
            raise ValueError(unknown("redrawn", self.redrawn, REDRAWN))
        check_number("Perturbation: radius", self.radius)
        check_whole("Perturbation: steps", self.steps, 1)
        size = "Perturbation: step_size"
        check_number(size, self.step_size, above=True, or_none=True)
        if self.kind in GAUSSIAN and (self.steps > 1 or self.step_size is not None):
            raise ValueError(
                f"Perturbation: {self.kind} noise is drawn, it takes no steps; "
                f"received steps={self.steps}, step_size={self.step_size}. Leave them "
                "out."
            )
        if not self.kind.startswith("pgd") and self.step_size is not None:
            raise ValueError(
                f"Perturbation: a step of {self.kind} is as long as its radius; "
                f"step_size={self.step_size!r} goes with pgd_l2 and pgd_linf only."
            )
        if self.kind not in GAUSSIAN and self.redrawn == "inner_step":
            raise ValueError(
                f"Perturbation: {self.kind} is found once for a truncation; "
                "redrawn='inner_step' goes with Gaussian noise only."
            )

    def under(self, adversarial: str, redrawn: str) -> "Perturbation":
        """Returns this perturbation with what it leaves to the preset filled in."""
        if self.kind in GAUSSIAN:
            return dataclasses.replace(self, redrawn=self.redrawn or redrawn)
        kind = adversarial if self.kind == ADVERSARY else self.kind
        return dataclasses.replace(self, kind=kind, redrawn="meta_step")

    @property
    def attack_steps(self) -> int:
        """Meta-gradients that are taken only to find ψ."""
        return self.steps if self.kind not in GAUSSIAN and self.radius else 0

    def draws(self, when: str) -> bool:
        """Whether Gaussian noise is drawn every `when`."""
        redrawn = self.redrawn or "meta_step"
        return self.kind in GAUSSIAN and self.radius > 0 and redrawn == when


def add_noise(perturbation, weights, seed):
    """Returns φ̃ = φ + Gaussian ψ.

    Args:
        weights: dict of tensors φ.
        seed: two whole numbers `[2]`.
    """
    noisy = {}
    for i, (name, w) in enumerate(sorted(weights.items())):
        deviation = tf.cast(perturbation.radius, w.dtype)
        if perturbation.kind == "gaussian_relative":
            entries = tf.cast(tf.size(w), w.dtype)
            deviation *= tf.stop_gradient(tf.norm(w)) / tf.sqrt(entries)
        noisy[name] = w + deviation * normal(w.shape, seed, i, w.dtype)
    return {name: noisy[name] for name in weights}


def ascend(perturbation, psi, gradient, weights):
    """Returns ψ after one attack step up the loss of meta-training (L_a, Algorithm 2).

    Args:
        psi, gradient, weights: dicts of tensors of the same names.
    """
    return {
        name: _ascended(perturbation, psi[name], gradient[name], weights[name])
        for name in weights
    }


def _ascended(perturbation, psi, gradient, w):
    radius = tf.cast(perturbation.radius, w.dtype)
    step_size = perturbation.step_size
    if step_size is None:
        share = 1.0 if perturbation.steps == 1 else 2.5 / perturbation.steps
        step_size = share * perturbation.radius
    step_size = tf.cast(step_size, w.dtype)
    if perturbation.kind in ("normalized", ADVERSARY):
        return psi + radius * tf.norm(w) * _unit(gradient)
    if perturbation.kind == "clipped":
        return psi + _shortened(gradient, radius * tf.norm(w))
    if perturbation.kind == "fgsm":
        return psi + radius * tf.sign(gradient)
    if perturbation.kind == "pgd_l2":
        return _shortened(psi + step_size * _unit(gradient), radius)
    return tf.clip_by_value(psi + step_size * tf.sign(gradient), -radius, radius)


def _unit(gradient):
    """Returns ∇/‖∇‖, and 0 for ∇ = 0."""
    scaled, _ = _scaled(gradient)
    return tf.math.divide_no_nan(scaled, tf.norm(scaled))


def _shortened(value, length):
    """Returns the value, cut to at most this length."""
    scaled, largest = _scaled(value)
    norm = tf.norm(scaled)
    cut = scaled * tf.math.divide_no_nan(length, norm)
    return tf.where(largest * norm > length, cut, value)


def _scaled(value):
    """Returns (value/max, max): numbers whose squares do not overflow."""
    largest = tf.reduce_max(tf.abs(value))
    return tf.math.divide_no_nan(value, largest), largest


def normal(shape, seed, stream, dtype):
    """Returns normal numbers that depend on `seed` (`[2]`) and `stream` alone."""
    return tf.random.stateless_normal(
        shape, _stream(seed, stream), dtype=dtype, alg="philox"
    )


def uniform(shape, seed, stream, dtype):
    """Returns uniform numbers in (0, 1), 0 excluded."""
    tiny = {"float32": 1e-7, "float64": 1e-15}.get(tf.as_dtype(dtype).name, 1e-3)
    return tf.random.stateless_uniform(
        shape, _stream(seed, stream), tiny, 1.0, dtype=dtype, alg="philox"
    )


def _stream(seed, stream):
    # A large odd number apart, so that the streams of two seeds do not meet.
    return seed + tf.constant([0, 1_000_003 * (stream + 1)], seed.dtype)

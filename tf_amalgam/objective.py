"""What a truncation minimizes, and under which noise."""

import dataclasses

from tf_amalgam import amalgamation
from tf_amalgam.checks import check_number, check_whole, unknown
from tf_amalgam.perturbation import Perturbation

META_LOSS_STARTS = ("unroll", "truncation")
# Why a loss is refused.
ABOVE_ZERO = (
    "Meta-training takes its logarithm, so it must stay above 0: add a constant, or "
    "use another loss."
)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a truncation minimizes: meta loss + α·imitation (Huang et al. 2022, 3.2).

    Attributes:
        scheme: `"mean"` or `"min_max"` over the teachers; `"choice"` has one.
        alpha: weight of the imitation loss.
        distance: `"paper"` or `"released"` (see `amalgamation.log_distance`).
        meta_loss_start: what θ₀ in log M(xᵢ, θᵢ) − log M(xᵢ, θ₀) is: the start of
            the whole `"unroll"` (paper) or of this `"truncation"` (released). It
            moves the value, never the gradient.
        huber_delta: makes the released distance a Huber loss.
        second_order: whether the meta-gradient goes through the optimizee's own
            gradient; False is the faster first-order approximation.
        segment: steps between two kept rule states, those between are computed
            again; `None` keeps as many as fit into 320 MiB (224 MiB beside teachers),
            and at least √T. The meta-gradient is the same to rounding.
        perturbation: of the student's weights, or None.
        input_noise: σ of noise on the gradient that the student sees,
            g + N(0, σ²) (Eq. 11).
        teacher_forcing: a teacher moves the optimizee, and α·imitation of single steps
            is the whole loss (Williams and Zipser 1989; see `Stage`).
    """

    scheme: str = "min_max"
    alpha: float = 0.1
    distance: str = "paper"
    meta_loss_start: str = "unroll"
    huber_delta: float | None = None
    second_order: bool = True
    segment: int | None = None
    perturbation: Perturbation | None = None
    input_noise: float = 0.0
    teacher_forcing: bool = False

    def alike(self):
        """Returns what stands for all that differ in α alone: 1 for any but 0."""
        return dataclasses.replace(self, alpha=float(self.alpha > 0))

    def __post_init__(self):
        amalgamation.check_scheme(self.scheme)
        amalgamation.check_distance(self.distance)
        if self.meta_loss_start not in META_LOSS_STARTS:
            raise ValueError(
                unknown("meta_loss_start", self.meta_loss_start, META_LOSS_STARTS)
            )
        check_number("alpha", self.alpha)
        check_number("input_noise", self.input_noise)
        if self.teacher_forcing and not self.alpha:
            raise ValueError(
                "teacher_forcing needs teachers and an alpha above 0, since imitation "
                f"is the whole loss; received alpha={self.alpha!r}."
            )
        check_whole("segment", self.segment, 1, or_none=True)
        check_number("huber_delta", self.huber_delta, above=True, or_none=True)
        if self.huber_delta is not None and self.distance != "released":
            raise ValueError(
                "huber_delta goes with distance='released'; received "
                f"{self.huber_delta!r} with {self.distance!r}."
            )

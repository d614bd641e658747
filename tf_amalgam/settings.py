"""What a meta-training run is: every choice that changes its result."""

import dataclasses
from typing import Any

from tf_amalgam.amalgamation import check_scheme
from tf_amalgam.checks import check_number, check_whole, unknown
from tf_amalgam.curriculum import Curriculum
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import Perturbation

# Where the paper as printed and the authors' released code differ.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "distance": "paper",
        "meta_loss_start": "unroll",
        "warmup_learning_rate": 0.01,
        "warmup_scaled": False,
        "adaptive_clip": 0.0,
        "reduction": "mean",
    },
    "released": {
        "distance": "released",
        "meta_loss_start": "truncation",
        "warmup_learning_rate": 0.05,
        "warmup_scaled": True,
        "adaptive_clip": 0.1,
        "reduction": "sum",
    },
}
# What a perturbation leaves to the preset (see `Perturbation.under`).
PERTURBED = {
    "paper": {"adversarial": "normalized", "redrawn": "meta_step"},
    "released": {"adversarial": "clipped", "redrawn": "inner_step"},
}
REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All numbers of a meta-training run; see `amalgamate` for their meaning."""

    scheme: str
    alpha: float
    distance: str
    meta_loss_start: str
    huber_delta: float | None
    second_order: bool
    segment: int | None
    perturbation: Perturbation | None
    input_noise: float
    truncation_steps: int
    curriculum: Curriculum
    period: int
    meta_batch: int
    meta_learning_rate: float
    adaptive_clip: float
    reduction: str
    scaling: float
    warmup_steps: int
    warmup_learning_rate: float
    warmup_scaled: bool
    validation_optimizees: int
    validation_steps: int | None
    max_skipped: int
    seed: int
    # Of the optimizees of validations, the same for all replicates; None is `seed`.
    validation_seed: int | None = None

    def __post_init__(self):
        for field in (
            "truncation_steps",
            "meta_batch",
            "period",
            "validation_optimizees",
            "validation_steps",
            "max_skipped",
        ):
            some = field == "validation_steps"  # else as many as the stage's unroll
            check_whole(field, getattr(self, field), 1, or_none=some)
        for field in ("meta_learning_rate", "warmup_learning_rate"):
            check_number(field, getattr(self, field), above=True)
        for field in ("adaptive_clip", "scaling"):
            check_number(field, getattr(self, field))
        check_whole("warmup_steps", self.warmup_steps, 0)
        check_scheme(self.scheme)  # stages of teacher forcing have another
        if self.reduction not in REDUCTIONS:
            raise ValueError(unknown("reduction", self.reduction, REDUCTIONS))
        for stage in self.curriculum.stages:
            if stage.unroll % self.truncation_steps:
                raise ValueError(
                    f"A Stage has an unroll of {stage.unroll} inner steps, which "
                    f"truncations of {self.truncation_steps} do not divide. Use a "
                    "multiple, or another truncation_steps."
                )
        for number in range(len(self.curriculum.stages)):
            self.objective(number)

    def objective(self, stage: int) -> Objective:
        """Returns what a truncation of this stage minimizes."""
        alpha = self.curriculum.stages[stage].alpha
        forced = self.curriculum.stages[stage].teacher_forcing
        return Objective(
            # The mean of logarithms draws to the teacher whose steps the student can
            # take; their maximum to the one whose steps it cannot.
            scheme="mean" if forced else self.scheme,
            alpha=self.alpha if alpha is None else alpha,
            distance=self.distance,
            meta_loss_start=self.meta_loss_start,
            huber_delta=self.huber_delta,
            second_order=self.second_order,
            segment=self.segment,
            perturbation=self.perturbation,
            input_noise=self.input_noise,
            teacher_forcing=forced,
        )

    def scaling_of(self, stage: int) -> float:
        """Returns the exponent of a stage's random scaling."""
        forced = self.curriculum.stages[stage].teacher_forcing
        return 0.0 if forced else self.scaling

    def meta_learning_rate_of(self, stage: int) -> float:
        """Returns the learning rate of a stage's meta-updates."""
        given = self.curriculum.stages[stage].meta_learning_rate
        return self.meta_learning_rate if given is None else given

    def truncations(self, stage: int) -> int:
        """Truncations (and so meta-updates) of one unroll of this stage."""
        return self.curriculum.stages[stage].unroll // self.truncation_steps

    def validated_steps(self, stage: int) -> int:
        """Inner steps of a validation after a period of this stage."""
        return self.validation_steps or self.curriculum.validation_unroll(stage)

    @property
    def meta_updates(self) -> int:
        """Meta-updates of the run, without further chances and repeats."""
        return sum(
            self.truncations(i) * stage.periods * self.period
            for i, stage in enumerate(self.curriculum.stages)
        )

    def describe(self) -> dict:
        """Returns the settings ready for JSON.

        Without the seed of validations: it follows from the root seed. Nor with a rate
        of a stage that has none: earlier versions did not know of it.
        """
        found = dataclasses.asdict(self)
        del found["validation_seed"]
        for stage in found["curriculum"]["stages"]:
            if stage["meta_learning_rate"] is None:
                del stage["meta_learning_rate"]
        return found

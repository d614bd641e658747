"""What a meta-training run is: every choice that changes its result."""

import dataclasses
from typing import Any

from tf_amalgam.meta_step import Objective
from tf_amalgam.rules.registry import unknown

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
REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Meta-epochs of one unroll length.

    Attributes:
        truncations: truncations (and so meta-updates) of one unroll.
        meta_epochs: how many times a fresh set of optimizees is unrolled.
        alpha: weight of the imitation loss; `None` takes the run's.
    """

    truncations: int
    meta_epochs: int
    alpha: float | None = None

    def __post_init__(self):
        for field in ("truncations", "meta_epochs"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"Stage: {field} must be a whole number from 1, received {value!r}."
                )
        if self.alpha is not None and not self.alpha >= 0:
            raise ValueError(
                f"Stage: alpha must be at least 0, received {self.alpha!r}."
            )


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
    truncation_steps: int
    stages: tuple[Stage, ...]
    meta_batch: int
    meta_learning_rate: float
    adaptive_clip: float
    reduction: str
    scaling: float
    warmup_steps: int
    warmup_learning_rate: float
    warmup_scaled: bool
    validation_period: int
    validation_optimizees: int
    validation_steps: int
    max_skipped: int
    seed: int

    def __post_init__(self):
        for field in (
            "truncation_steps",
            "meta_batch",
            "validation_period",
            "validation_optimizees",
            "validation_steps",
            "max_skipped",
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{field} must be a whole number from 1, received {value!r}."
                )
        for field in ("meta_learning_rate", "warmup_learning_rate"):
            value = getattr(self, field)
            if not value > 0:
                raise ValueError(f"{field} must be above 0, received {value!r}.")
        for field in ("adaptive_clip", "scaling", "warmup_steps"):
            value = getattr(self, field)
            if not value >= 0:
                raise ValueError(f"{field} must be at least 0, received {value!r}.")
        if self.reduction not in REDUCTIONS:
            raise ValueError(unknown("reduction", self.reduction, REDUCTIONS))
        if not self.stages:
            raise ValueError("A run needs at least one Stage; received none.")
        self.objective(self.stages[0])

    def objective(self, stage: Stage) -> Objective:
        """Returns what a truncation of this stage minimizes."""
        return Objective(
            scheme=self.scheme,
            alpha=self.alpha if stage.alpha is None else stage.alpha,
            distance=self.distance,
            meta_loss_start=self.meta_loss_start,
            huber_delta=self.huber_delta,
            second_order=self.second_order,
            segment=self.segment,
        )

    @property
    def meta_updates(self) -> int:
        """Meta-updates of the whole run."""
        return sum(stage.truncations * stage.meta_epochs for stage in self.stages)

    @property
    def meta_epochs(self) -> int:
        """Meta-epochs of the whole run."""
        return sum(stage.meta_epochs for stage in self.stages)

    def stage_of(self, meta_epoch: int) -> Stage:
        """Returns the stage that a meta-epoch (from 0, over all stages) belongs to."""
        for stage in self.stages:
            if meta_epoch < stage.meta_epochs:
                return stage
            meta_epoch -= stage.meta_epochs
        raise ValueError(f"The run has {self.meta_epochs} meta-epochs only.")

    def describe(self) -> dict:
        """Returns the settings ready for JSON."""
        return dataclasses.asdict(self)

"""How the distances to several teachers become one loss (Huang et al. 2022, 3.3)."""

from keras import ops

from tf_amalgam import numerics
from tf_amalgam.checks import unknown

SCHEMES = ("mean", "min_max", "choice")
DISTANCES = ("paper", "released")


def check_scheme(scheme):
    """Raises ValueError, listing the known schemes, for one that does not exist."""
    if scheme not in SCHEMES:
        raise ValueError(unknown("amalgamation scheme", scheme, SCHEMES))


def check_distance(distance):
    """Raises ValueError, listing the known distances, for one that does not exist."""
    if distance not in DISTANCES:
        raise ValueError(unknown("distance", distance, DISTANCES))


def log_distance(student_P, teacher_P, scale_P, distance="paper", huber_delta=None):
    """Returns d(student, teacher), safe where they coincide.

    `teacher_P` may be one teacher `[P]` or all of them `[K, P]`, which gives `[K]`.

    `paper`: log‖θ − θᵀ‖₂ (Eq. 2 to 4). `released`: log(½ΣΔ² + 1e-10) − log P in
    randomly scaled coordinates, Δ = (θ − θᵀ)/s.
    """
    if distance == "paper":
        return numerics.log_norm(student_P - teacher_P)
    return numerics.log_half_squares((student_P - teacher_P) / scale_P, huber_delta)


def combine(distances_K, scheme):
    """Returns the amalgamation loss of one step, or `[T]` of several, `[T, K]`.

    `mean`: Σ dₖ / K (Eq. 2, additive). `min_max`: max dₖ (Eq. 3): the student is
    drawn to the teacher it is farthest from. `choice` (Eq. 4): there is one teacher,
    a trained Choice rule.
    """
    if scheme == "min_max":
        return ops.max(distances_K, axis=-1)
    return ops.mean(distances_K, axis=-1)

"""Statistics of evaluated optimizers (Huang et al. 2022, App. D); no TensorFlow here.

Letters: a replicates (students trained alike), n evaluations of each, N = Σn runs.
"""

import functools
import math
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy import stats as distributions

CONFIDENCE = 0.95
ENDS = (0.5 + CONFIDENCE / 2, 0.5 - CONFIDENCE / 2)  # of an interval, as shares
# Below this share of the noise, the spread of replicates is taken for none.
SINGULAR = 1e-6


class Fit(NamedTuple):
    """What `mixed_model` found; `low` and `high` are ends of 95 % intervals.

    A figure that the data cannot tell is NaN, and `note` says why.
    """

    mean: float  # μ
    mean_low: float
    mean_high: float
    meta: float  # σ_α, meta-stability: between replicates
    meta_low: float
    meta_high: float
    evaluation: float  # σ_ε, evaluation stability: within a replicate
    evaluation_low: float
    evaluation_high: float
    replicates: int  # a, with at least one finite value
    runs: int  # N, with a finite value or not
    diverged: int  # of them diverged; counted, not in the figures
    unmeasured: int  # of them without a value, though they did not diverge; neither
    note: str


def mixed_model(
    frame, value="value", replicate="replicate", diverged="diverged"
) -> Fit:
    """Returns the linear mixed model of one optimizer's runs (App. D.1, Eq. 9).

    Y_ij = μ + α_i + ε_ij with α_i ~ N(0, σ_α²) for replicate i and ε_ij ~ N(0, σ_ε²)
    for its evaluation j, fitted by restricted maximum likelihood: in closed form where
    all replicates have as many evaluations, else by statsmodels.

    Intervals: μ by Student's t with a − 1 degrees of freedom, exact for balanced
    data; σ_ε by χ² with N − a, exact; σ_α by Williams (1962) and Tukey (1951), with
    the harmonic mean of n where data are not balanced (Thomas and Hultquist 1978).

    Args:
        frame: one row per run.
        value, replicate: its columns.
        diverged: column that says of each run whether it diverged; its value, if it
            has one, is left out. A value that is not finite is then one that was not
            measured. Where there is no such column, it is a diverged run.

    Raises:
        ValueError: for a column that is not there, or no rows.
    """
    _check(frame, value, replicate)
    if frame[replicate].isna().any():
        raise ValueError(f"A run has no {replicate}; every row needs one.")
    numbers = pd.to_numeric(frame[value], errors="coerce").to_numpy(float)
    finite = np.isfinite(numbers)
    bad = frame[diverged].to_numpy(bool) if diverged in frame else ~finite
    kept = finite & ~bad
    y, labels = numbers[kept], frame[replicate].to_numpy()[kept]
    groups = [y[labels == label] for label in pd.unique(labels)]
    facts = {"replicates": len(groups), "runs": len(frame)}
    facts |= {"diverged": int(bad.sum()), "unmeasured": int((~finite & ~bad).sum())}
    notes = _losses(frame[replicate].to_numpy(), kept, bad)
    if len(groups) == 0:
        return _fit(facts, notes)
    if len(groups) == 1:
        return _one_replicate(groups[0], facts, notes)
    if all(len(group) == 1 for group in groups):
        notes.append("one evaluation of each replicate: both spreads are one")
        low, high = _mean_interval(y.mean(), y.std(ddof=1) / len(y) ** 0.5, len(y) - 1)
        return _fit(facts, notes, mean=y.mean(), mean_low=low, mean_high=high)
    return _several(y, labels, groups, facts, notes)


def _losses(replicates, kept, diverged):
    """Returns what is missing, in words."""
    if diverged.all():
        return ["all runs diverged"]
    notes, unmeasured = [], int((~kept & ~diverged).sum())
    if unmeasured:
        notes.append(f"{unmeasured} of {len(kept)} runs were not measured")
    if gone := sum(diverged[replicates == r].all() for r in pd.unique(replicates)):
        notes.append(f"all runs of {gone} replicates diverged")
    return notes


def _one_replicate(y, facts, notes):
    """One replicate, an analytic optimizer say: μ and σ_ε, nothing of σ_α."""
    found = {"mean": y.mean()}
    if len(y) == 1:
        return _fit(facts, [*notes, "a single run has no interval"], **found)
    sd = y.std(ddof=1)
    low, high = _mean_interval(y.mean(), sd / len(y) ** 0.5, len(y) - 1)
    found |= {"mean_low": low, "mean_high": high, "evaluation": sd}
    found |= _deviation_interval(sd**2, len(y) - 1)
    return _fit(facts, [*notes, "one replicate"], **found)


def _several(y, labels, groups, facts, notes):
    a = len(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    freedom = len(y) - a
    # Evaluations without noise leave the means of replicates. (Not `within == 0`: a
    # mean of equal numbers may differ from them by a rounding.)
    if all(np.ptp(group) == 0.0 for group in groups):
        means = np.array([group.mean() for group in groups])
        notes = [*notes, "evaluations of a replicate are equal"]
        sd = means.std(ddof=1)
        low, high = _mean_interval(means.mean(), sd / a**0.5, a - 1)
        between = _deviation_interval(sd**2, a - 1, "meta")
        found = {"mean": means.mean(), "mean_low": low, "mean_high": high, "meta": sd}
        return _fit(facts, notes, **found, **between, evaluation=0.0)
    if len({len(group) for group in groups}) == 1:
        mean, error, meta, evaluation = _balanced(y, groups, within / freedom)
    else:
        start = (_between(groups) / (within / freedom) - 1.0) / _size(groups)
        mean, error, meta, evaluation = _reml(tuple(y), tuple(labels), start)
    if meta == 0.0:
        notes = [*notes, "replicates differ no more than evaluations do (singular fit)"]
    low, high = _mean_interval(mean, error, a - 1)
    return _fit(
        facts,
        notes,
        mean=mean,
        mean_low=low,
        mean_high=high,
        meta=meta,
        evaluation=evaluation,
        **_meta_interval(groups, within / freedom, freedom),
        **_deviation_interval(within / freedom, freedom),
    )


def _balanced(y, groups, within):
    """Returns what `_reml` would, of as many evaluations of each replicate.

    Then restricted maximum likelihood needs no search: its variances are those of the
    mean squares (Corbeil and Searle 1976), `within` and what is left between.
    """
    between = (_between(groups) - within) / _size(groups)
    if between < SINGULAR * within:
        return _one_spread(y)
    error = math.sqrt(_between(groups) / len(y))
    return y.mean(), error, math.sqrt(between), math.sqrt(within)


def _one_spread(y):
    """Returns what a fit is where replicates differ no more than evaluations do."""
    deviation = y.std(ddof=1)
    return y.mean(), deviation / math.sqrt(len(y)), 0.0, deviation


@functools.lru_cache(4096)  # figures and tables of a report ask for the same ones
def _reml(y, labels, start):
    """Returns μ, its standard error, σ_α and σ_ε; `start` guesses (σ_α / σ_ε)²."""
    from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

    y, labels = np.array(y), np.array(labels)
    # In units of their spread: the optimizer's tolerances are absolute.
    center, scale = y.mean(), y.std()
    model = MixedLM((y - center) / scale, np.ones((len(y), 1)), groups=labels)
    guess = MixedLMParams.from_components(np.zeros(1), np.array([[max(start, 1e-3)]]))
    with warnings.catch_warnings():
        # A singular fit warns; what it found is judged and said by ourselves.
        warnings.simplefilter("ignore")
        found = model.fit(guess, reml=True, method=["lbfgs", "powell"])
    noise, between = float(found.scale), float(np.asarray(found.cov_re)[0, 0])
    if between < SINGULAR * noise:
        return _one_spread(y)
    weights = np.array(
        [1.0 / (between + noise / (labels == label).sum()) for label in set(labels)]
    )
    mean = center + scale * float(np.asarray(found.fe_params)[0])
    error = scale / math.sqrt(weights.sum())
    return mean, error, scale * math.sqrt(between), scale * math.sqrt(noise)


@functools.lru_cache(4096)  # a report asks for few, thousands of times
def _quantile(name, share, *freedom):
    """Returns a quantile of a distribution of SciPy's: "t", "chi2" or "f"."""
    return float(getattr(distributions, name).ppf(share, *freedom))


def _mean_interval(mean, error, freedom):
    half = _quantile("t", ENDS[0], freedom) * error
    return mean - half, mean + half


def _deviation_interval(variance, freedom, name="evaluation"):
    """Returns the χ² interval of a standard deviation."""
    ends = [_quantile("chi2", share, freedom) for share in ENDS]
    low, high = (math.sqrt(freedom * variance / end) for end in ends)
    return {f"{name}_low": low, f"{name}_high": high}


def _meta_interval(groups, within, freedom):
    """Returns the interval of σ_α by Williams and Tukey.

    With MSB and MSW, the mean squares between and within replicates, the ends of σ_α²
    are (MSB − MSW·F) (a − 1) / (n χ²), with the quantiles of F and χ² of that end.
    """
    a, n, between = len(groups), _size(groups), _between(groups)
    ends = []
    for share in ENDS:
        ratio = _quantile("f", share, a - 1, freedom)
        chi2 = _quantile("chi2", share, a - 1)
        ends.append(max(0.0, (between - within * ratio) * (a - 1) / (n * chi2)))
    return {"meta_low": math.sqrt(ends[0]), "meta_high": math.sqrt(ends[1])}


def _size(groups):
    """Returns the harmonic mean of n."""
    return len(groups) / sum(1.0 / len(group) for group in groups)


def _between(groups):
    """Returns MSB."""
    return _size(groups) * np.var([group.mean() for group in groups], ddof=1)


def _fit(facts, notes, **found):
    figures = dict.fromkeys(Fit._fields[:9], math.nan)
    found = {key: float(number) for key, number in found.items()}
    return Fit(**{**figures, **found, **facts, "note": "; ".join(notes)})


def summary(frame, value, by=("task", "optimizer"), replicate="replicate"):
    """Returns one row per group of a data frame: its `Fit`, as columns.

    Args:
        frame: one row per run.
        value: column of the figure.
        by: columns whose values tell the groups apart.
        replicate: column of the replicate.
    """
    by = [by] if isinstance(by, str) else list(by)
    _check(frame, value, replicate, *by)
    rows = []
    for key, runs in frame.groupby(by, sort=False, dropna=False):
        fit = mixed_model(runs, value, replicate)
        rows.append({**dict(zip(by, key, strict=True)), **fit._asdict()})
    return pd.DataFrame(rows)


# Standard deviation of the Gaussian filter, epochs (App. D.2).
FILTER = 2.0


def optimization_stability(losses, kind="raw", corrected=False) -> float:
    """Returns σ_η of one evaluation: how much validation loss jumps between epochs.

    The standard deviation over epochs t of L(t) − β(t), where β is L smoothed by a
    Gaussian filter of 2 epochs, edge mode "nearest" (App. D.2). NaN for a curve that
    is not finite, or of fewer than 3 epochs.

    Args:
        losses: validation loss, one value per epoch.
        kind: "raw" (App. D.2), or "log", of log L(t) − log β(t) (released code), which
            does not shrink as losses do.
        corrected: whether to divide by what the filter leaves of noise without a
            trend (.86 of it in the middle of a curve); the paper does not.

    Raises:
        ValueError: for an unknown kind, or losses not above 0 with "log".
    """
    if kind not in ("raw", "log"):
        raise ValueError(f"kind must be 'raw' or 'log', received {kind!r}.")
    curve = np.asarray(losses, float)
    if curve.ndim != 1:
        raise ValueError(f"losses must be one curve; received shape {curve.shape}.")
    if len(curve) < 3 or not np.isfinite(curve).all():
        return math.nan
    if kind == "log" and not (curve > 0).all():
        raise ValueError(
            "A logarithm needs losses above 0; received a least one of "
            f"{curve.min()}. Use kind='raw'."
        )
    left = _left(len(curve))
    jumps = left @ curve
    if kind == "log":
        jumps = np.log(curve) - np.log(curve - jumps)
    deviation = float(jumps.std())
    if not corrected:
        return deviation
    return (
        deviation * math.sqrt(len(curve)) / float(np.linalg.norm(left - left.mean(0)))
    )


@functools.lru_cache(16)  # curves of a report are as long as one another
def _left(epochs):
    """Returns the matrix that takes a curve of so many epochs to what β leaves."""
    whole = np.eye(epochs)
    return whole - ndimage.gaussian_filter1d(whole, FILTER, axis=0, mode="nearest")


def effect_size(first, second) -> float:
    """Returns Hedges' g: how many standard deviations `first` lies above `second`.

    The difference of means over the pooled standard deviation, corrected for small
    samples by 1 − 3 / (4 (n₁ + n₂) − 9) (Hedges 1981). Values that are not finite are
    left out; NaN where a side has fewer than 2.
    """
    sides = [np.asarray(side, float) for side in (first, second)]
    sides = [side[np.isfinite(side)] for side in sides]
    n = [len(side) for side in sides]
    if min(n) < 2:
        return math.nan
    squares = sum(((side - side.mean()) ** 2).sum() for side in sides)
    pooled = math.sqrt(squares / (sum(n) - 2))
    difference = float(sides[0].mean() - sides[1].mean())
    if pooled == 0.0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return (1.0 - 3.0 / (4.0 * sum(n) - 9.0)) * difference / pooled


def difference(first, second) -> dict:
    """Returns how much `first` differs: difference, 95 % interval, verdict, pairs.

    Where at least two labels (seeds, say, that fix data and initial weights of both)
    have a value in both series, these are paired: difference and interval (Student's)
    are of the paired differences, and values without a partner are left out. Else they
    are of the two means (Welch's, of samples whose spreads may differ); where a side
    has one value only, and that has a partner, the difference is that of the two.
    `pairs` is how many were paired, 0 where none were, `of` how many labels there are
    in all. The verdict, for figures of which less is better, is "better" or "worse"
    where the interval leaves out 0, else "level"; "unknown" where a side has fewer than
    2 values.

    Args:
        first, second: pandas series; a value that is not finite is one that is missing.
    """
    of = len({*first.index, *second.index})
    first, second = (side[np.isfinite(side.astype(float))] for side in (first, second))
    found: dict = {"difference": math.nan, "low": math.nan, "high": math.nan}
    found |= {"pairs": 0, "of": of, "verdict": "unknown"}
    if len(first) and len(second):
        found["difference"] = float(first.mean() - second.mean())
    apart = _paired(first, second)
    if min(len(first), len(second)) < 2:
        if len(apart):
            found |= {"difference": float(apart[0]), "pairs": 1}
        return found
    if len(apart) > 1:
        found |= {"difference": float(apart.mean()), "pairs": len(apart)}
        error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
        low, high = _mean_interval(found["difference"], error, len(apart) - 1)
    elif first.std() == second.std() == 0.0:
        low = high = found["difference"]
    else:
        test = distributions.ttest_ind(first, second, equal_var=False)
        low, high = map(float, test.confidence_interval(CONFIDENCE))
    verdict = "better" if high < 0.0 else "worse" if low > 0.0 else "level"
    return {**found, "low": float(low), "high": float(high), "verdict": verdict}


def _paired(first, second):
    """Returns the differences of equal labels; none where a label stands twice."""
    if not (first.index.is_unique and second.index.is_unique):
        return np.zeros(0)
    others = dict(zip(second.index, second, strict=True))
    pairs = zip(first.index, first, strict=True)
    return np.array(
        [value - others[label] for label, value in pairs if label in others]
    )


def _check(frame, *columns):
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(
            f"The data frame has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, frame.columns))}."
        )
    if not len(frame):
        raise ValueError("The data frame has no rows.")

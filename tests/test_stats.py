"""Statistics of evaluations: planted truth, closed forms, data with holes."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from tf_amalgam import stats

MU, META, EVALUATION = 3.0, 0.4, 0.2


def drawn(seed, a=8, n=10, meta=META, evaluation=EVALUATION):
    """Returns runs of a replicates with known spreads (App. D.1, Eq. 9)."""
    generator = np.random.default_rng(seed)
    alpha = meta * generator.normal(size=(a, 1))
    value = MU + alpha + evaluation * generator.normal(size=(a, n))
    return pd.DataFrame(
        {"replicate": np.repeat(np.arange(a), n), "value": value.ravel()}
    )


def mean_squares(frame, n):
    """Returns MSB and MSW of balanced data."""
    groups = frame["value"].to_numpy().reshape(-1, n)
    within = ((groups - groups.mean(1, keepdims=True)) ** 2).sum()
    return n * groups.mean(1).var(ddof=1), within / (groups.size - len(groups))


@pytest.mark.parametrize("meta", [META, 0.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_what_statsmodels_finds(seed, meta):
    frame = drawn(seed, meta=meta)
    fit = stats.mixed_model(frame)
    between, within = mean_squares(frame, 10)
    start = (between / within - 1.0) / 10  # from farther off it may stop too early
    mean, error, *spreads = stats._reml(
        tuple(frame["value"]), tuple(frame["replicate"]), start
    )
    assert fit.mean == pytest.approx(mean)
    half = distributions.t.ppf(0.975, 7) * error
    assert fit.mean_high - fit.mean == pytest.approx(half, rel=1e-4)
    assert [fit.meta, fit.evaluation] == pytest.approx(spreads, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_data_have_a_closed_form(seed):
    frame = drawn(seed)
    fit = stats.mixed_model(frame)
    between, within = mean_squares(frame, 10)
    assert fit.mean == pytest.approx(frame["value"].mean())
    assert fit.evaluation == pytest.approx(math.sqrt(within), rel=1e-4)
    assert fit.meta == pytest.approx(math.sqrt((between - within) / 10), rel=1e-4)
    half = distributions.t.ppf(0.975, 7) * math.sqrt(between / 80)
    assert fit.mean_high - fit.mean == pytest.approx(half, rel=1e-4)
    assert fit.mean - fit.mean_low == pytest.approx(half, rel=1e-4)
    assert (fit.replicates, fit.runs, fit.diverged, fit.note) == (8, 80, 0, "")
    # Williams and Tukey: (MSB − F·MSW) (a − 1) / (n χ²) at either end.
    for end, share in ((fit.meta_low, 0.975), (fit.meta_high, 0.025)):
        chi2 = distributions.chi2.ppf(share, 7)
        ratio = distributions.f.ppf(share, 7, 72)
        expected = (between - ratio * within) * 7 / (10 * chi2)
        assert end == pytest.approx(math.sqrt(expected), rel=1e-9)


def test_a_singular_fit_says_so():
    """Where MSB < MSW, restricted likelihood is greatest at no spread of replicates."""
    frame = next(
        frame
        for frame in (drawn(seed, meta=0.0) for seed in range(50))
        if np.subtract(*mean_squares(frame, 10)) < -0.01
    )
    fit = stats.mixed_model(frame)
    assert fit.meta == 0.0
    assert fit.meta_low == 0.0 < fit.meta_high
    assert fit.evaluation == pytest.approx(frame["value"].std(ddof=1))
    assert "singular" in fit.note
    # As if all evaluations were of one replicate, but for the degrees of freedom.
    half = distributions.t.ppf(0.975, 7) * frame["value"].std(ddof=1) / math.sqrt(80)
    assert fit.mean_high - fit.mean == pytest.approx(half, rel=1e-9)


def share_inside(fits, name, truth):
    """Returns the share of intervals of a figure that hold the truth."""
    inside = [
        getattr(fit, f"{name}_low") <= truth <= getattr(fit, f"{name}_high")
        for fit in fits
    ]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("meta", [META, 0.05, 0.0])
def test_intervals_hold_planted_spreads_in_19_of_20_draws(meta):
    """Of 200 draws 95 % ± 4 %, 2.6 standard errors of a share of 200."""
    fits = [stats.mixed_model(drawn(seed, meta=meta)) for seed in range(200)]
    assert share_inside(fits, "evaluation", EVALUATION) == pytest.approx(0.95, abs=0.04)
    # Truncated at zero (Williams 1962): wider than 95 % where the truth is near it.
    low = 0.91 if meta else 0.95
    assert low <= share_inside(fits, "meta", meta) <= (0.99 if meta == META else 1.0)
    # A variance that cannot be below zero makes the mean's interval wider.
    assert 0.91 <= share_inside(fits, "mean", MU) <= (0.99 if meta == META else 1.0)
    means = [fit.mean for fit in fits]
    expected = math.sqrt((meta**2 + EVALUATION**2 / 10) / 8)
    assert np.std(means) == pytest.approx(expected, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("meta", [META, 0.05])
def test_intervals_of_unbalanced_data_in_2000_draws(meta):
    """Of 2,000 draws 95 % ± 1.5 %, three standard errors; a tenth of runs missing."""
    fits = []
    for seed in range(2000):
        frame = drawn(seed, meta=meta)
        kept = np.random.default_rng(seed + 10**6).random(len(frame)) > 0.1
        fits.append(stats.mixed_model(frame[kept]))
    shares = {
        name: share_inside(fits, name, truth)
        for name, truth in (("mean", MU), ("meta", meta), ("evaluation", EVALUATION))
    }
    print(shares)
    assert all(share > 0.935 for share in shares.values())
    assert shares["evaluation"] < 0.965
    if meta == META:
        assert max(shares.values()) < 0.965


def test_unbalanced_data_go_by_likelihood():
    """σ's are where the restricted likelihood is greatest, by a search of our own."""
    frame = drawn(3).drop(index=[0, 1, 2, 3, 4, 25, 26, 60])
    fit = stats.mixed_model(frame)
    y = frame["value"].to_numpy()
    same = frame["replicate"].to_numpy()[:, None] == frame["replicate"].to_numpy()

    def criterion(meta, evaluation):
        inverse = np.linalg.inv(meta**2 * same + evaluation**2 * np.eye(len(y)))
        weight = inverse.sum()
        rest = y - inverse.sum(0) @ y / weight
        determinant = np.linalg.slogdet(inverse)[1]
        return determinant - math.log(weight) - rest @ inverse @ rest

    best = criterion(fit.meta, fit.evaluation)
    for change in (0.97, 1.03):
        assert criterion(change * fit.meta, fit.evaluation) < best
        assert criterion(fit.meta, change * fit.evaluation) < best
    inverse = np.linalg.inv(fit.meta**2 * same + fit.evaluation**2 * np.eye(len(y)))
    assert fit.mean == pytest.approx(inverse.sum(0) @ y / inverse.sum(), rel=1e-6)
    half = distributions.t.ppf(0.975, 7) / math.sqrt(inverse.sum())
    assert fit.mean_high - fit.mean == pytest.approx(half, rel=1e-6)
    # Williams and Tukey's interval, with the harmonic mean of evaluations.
    groups = frame.groupby("replicate")["value"]
    size = 8 / (1.0 / groups.size()).sum()
    between, freedom = size * groups.mean().var(ddof=1), len(y) - 8
    within = ((y - groups.transform("mean")) ** 2).sum() / freedom
    for end, share in ((fit.meta_low, 0.975), (fit.meta_high, 0.025)):
        above = between - within * distributions.f.ppf(share, 7, freedom)
        square = above * 7 / (size * distributions.chi2.ppf(share, 7))
        assert end == pytest.approx(math.sqrt(square), rel=1e-9)


def test_the_unit_does_not_matter():
    frame = drawn(1).drop(index=0)  # not balanced: by statsmodels
    fit = stats.mixed_model(frame)
    small = stats.mixed_model(frame.assign(value=1e-6 * frame["value"]))
    np.testing.assert_allclose(small[:9], 1e-6 * np.array(fit[:9]), rtol=1e-6)


def test_diverged_runs_are_counted_and_do_not_move_the_others():
    frame = drawn(0, a=4, n=5)
    with_holes = frame.copy()
    with_holes.loc[[0, 7], "value"] = [math.inf, math.nan]
    fit = stats.mixed_model(with_holes)
    assert (fit.runs, fit.diverged, fit.replicates) == (20, 2, 4)
    assert fit[:9] == stats.mixed_model(frame.drop(index=[0, 7]))[:9]
    with_holes.loc[with_holes["replicate"] == 2, "value"] = math.inf
    fit = stats.mixed_model(with_holes)
    assert (fit.replicates, fit.diverged) == (3, 7)
    assert "all runs of 1 replicates diverged" in fit.note
    fit = stats.mixed_model(frame.assign(value=math.nan))
    assert math.isnan(fit.mean)
    assert fit.diverged == 20
    assert fit.note == "all runs diverged"


def test_what_was_not_measured_did_not_diverge():
    """A figure that runs of two epochs have not, say; the frame knows who diverged."""
    frame = drawn(0, a=4, n=5).assign(diverged=False)
    frame.loc[[0, 7, 8], "value"] = [math.inf, math.nan, math.nan]
    frame.loc[[7, 12], "diverged"] = True  # of which the second has a value
    fit = stats.mixed_model(frame)
    assert (fit.runs, fit.diverged, fit.unmeasured) == (20, 2, 2)
    assert fit.note == "2 of 20 runs were not measured"
    others = frame.drop(index=[0, 7, 8, 12])
    assert fit[:9] == stats.mixed_model(others)[:9]
    assert stats.mixed_model(others).unmeasured == 0
    # The same of every figure of a group, as `summary` has it.
    frame = frame.assign(task="Train", optimizer="ours", other=math.nan)
    row = stats.summary(frame, "other").iloc[0]
    assert math.isnan(row["mean"])
    assert (row["replicates"], row["diverged"], row["unmeasured"]) == (0, 2, 18)
    assert row["note"] == "18 of 20 runs were not measured"


def test_replicates_of_which_nothing_is_left_are_told_apart():
    frame = drawn(0, a=4, n=5).assign(diverged=False)
    frame.loc[frame["replicate"] == 1, ["value", "diverged"]] = [math.nan, True]
    frame.loc[frame["replicate"] == 2, "value"] = math.nan
    fit = stats.mixed_model(frame)
    assert (fit.replicates, fit.diverged, fit.unmeasured) == (2, 5, 5)
    told = "5 of 20 runs were not measured; all runs of 1 replicates diverged"
    assert fit.note.startswith(told)
    frame["diverged"] = True
    fit = stats.mixed_model(frame)
    assert (fit.note, fit.unmeasured) == ("all runs diverged", 0)
    assert math.isnan(fit.mean)


def test_without_a_column_of_diverged_runs_what_is_not_finite_is_one():
    frame = drawn(0, a=2, n=3).rename(columns={"value": "loss"})
    frame.loc[[0, 1], "loss"] = [math.inf, math.nan]
    fit = stats.mixed_model(frame, "loss")
    assert (fit.diverged, fit.unmeasured, fit.note) == (2, 0, "")
    named = frame.assign(lost=[True] + 5 * [False])
    fit = stats.mixed_model(named, "loss", diverged="lost")
    assert (fit.diverged, fit.unmeasured) == (1, 1)


def test_one_replicate_tells_nothing_of_meta_stability():
    fit = stats.mixed_model(pd.DataFrame({"replicate": 0, "value": [1.0, 2.0, 6.0]}))
    assert fit.mean == pytest.approx(3.0)
    assert fit.evaluation == pytest.approx(math.sqrt(7.0))
    # t of 2 degrees is 4.3027; χ² of 2 degrees 0.0506 and 7.3778.
    assert fit.mean_high == pytest.approx(3.0 + 4.3027 * math.sqrt(7 / 3), rel=1e-4)
    assert fit.evaluation_low == pytest.approx(math.sqrt(14 / 7.3778), rel=1e-4)
    assert fit.evaluation_high == pytest.approx(math.sqrt(14 / 0.050636), rel=1e-4)
    assert math.isnan(fit.meta)
    assert fit.note == "one replicate"


def test_one_run_has_no_interval():
    fit = stats.mixed_model(pd.DataFrame({"replicate": [0], "value": [1.5]}))
    assert fit.mean == 1.5
    assert all(math.isnan(figure) for figure in fit[1:9])
    assert "single run" in fit.note


def test_one_evaluation_of_each_replicate():
    frame = pd.DataFrame({"replicate": [0, 1, 2], "value": [1.0, 2.0, 6.0]})
    fit = stats.mixed_model(frame)
    assert fit.mean_high == pytest.approx(3.0 + 4.3027 * math.sqrt(7 / 3), rel=1e-4)
    assert math.isnan(fit.meta)
    assert math.isnan(fit.evaluation)
    assert "both spreads are one" in fit.note


def test_evaluations_without_noise():
    frame = pd.DataFrame(
        {"replicate": [0, 0, 1, 1, 2, 2], "value": [1.0, 1, 2, 2, 6, 6]}
    )
    fit = stats.mixed_model(frame)
    assert (fit.evaluation, fit.meta) == (0.0, pytest.approx(math.sqrt(7.0)))
    assert fit.mean_high == pytest.approx(3.0 + 4.3027 * math.sqrt(7 / 3), rel=1e-4)


def test_summary_has_a_row_per_group():
    frame = pd.concat(
        [
            drawn(0).assign(task="Train", optimizer="ours"),
            drawn(1, a=1).assign(task="Train", optimizer="adam"),
        ]
    )
    table = stats.summary(frame, "value")
    assert list(table["optimizer"]) == ["ours", "adam"]
    assert tuple(table.iloc[0][list(stats.Fit._fields)]) == stats.mixed_model(drawn(0))


@pytest.mark.parametrize("kind", ["raw", "log"])
def test_optimization_stability_recovers_planted_noise(kind):
    """Over 25 epochs; a mean over 400 curves is known to about 1 %."""
    generator = np.random.default_rng(0)
    epochs = np.arange(25)
    found = []
    for _ in range(400):
        noise = 0.05 * generator.normal(size=25)
        curve = (
            1.0 - 0.01 * epochs + noise
            if kind == "raw"
            else np.exp(-0.02 * epochs + noise)
        )
        found.append(stats.optimization_stability(curve, kind, corrected=True))
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.05, rel=0.03)


def test_optimization_stability_by_hand():
    """Three epochs: the filter's weights are written out."""
    curve = np.array([1.0, 3.0, 2.0])
    weights = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    weights /= weights.sum()
    padded = np.concatenate([np.full(8, 1.0), curve, np.full(8, 2.0)])
    smooth = [weights @ padded[t : t + 17] for t in range(3)]
    expected = np.std(curve - smooth)
    assert stats.optimization_stability(curve) == pytest.approx(expected)
    # Of the losses, not of their logarithms, the smooth curve is (released code).
    logarithm = stats.optimization_stability(curve, "log")
    assert logarithm == pytest.approx(np.std(np.log(curve) - np.log(smooth)))


def test_optimization_stability_of_what_has_none():
    assert stats.optimization_stability([2.0] * 10) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(stats.optimization_stability([1.0, math.inf, 2.0, 3.0]))
    assert math.isnan(stats.optimization_stability([1.0, 2.0]))


def test_effect_size_by_hand():
    # Means 4 and 2, both variances 1: d = 2, corrected by 1 - 3 / 15.
    assert stats.effect_size([3.0, 4, 5], [1.0, 2, 3]) == pytest.approx(2 * 0.8)
    assert stats.effect_size([1.0, 2, 3], [3.0, 4, 5]) == pytest.approx(-2 * 0.8)
    assert stats.effect_size([3.0, 4, 5, math.inf], [1.0, 2, 3]) == pytest.approx(1.6)
    assert math.isnan(stats.effect_size([3.0], [1.0, 2, 3]))
    assert stats.effect_size([1.0, 1], [1.0, 1]) == 0.0
    assert stats.effect_size([1.0, 1], [2.0, 2]) == -math.inf


def series(values, index=None):
    return pd.Series(values, index=index, dtype=float)


def test_evaluations_that_are_equal_leave_the_replicates():
    """Also where the mean of equal numbers is not that number (three of .95)."""
    frame = pd.DataFrame({"replicate": [0, 0, 0, 1, 1, 1], "value": 0.95})
    fit = stats.mixed_model(frame)
    assert fit.mean == pytest.approx(0.95)
    assert (fit.meta, fit.evaluation) == (pytest.approx(0.0, abs=1e-12), 0.0)
    assert fit.note == "evaluations of a replicate are equal"
    frame.loc[frame["replicate"] == 1, "value"] = 1.05
    fit = stats.mixed_model(frame)
    assert fit.meta == pytest.approx(0.1 / 2**0.5)
    assert fit.evaluation == 0.0


def test_equal_seeds_are_paired():
    """t of 2 degrees is 4.3027; differences −1, −1.5, −2 have sd .5."""
    ours, other = series([1.0, 2.5, 5.0]), series([2.0, 4.0, 7.0])
    found = stats.difference(ours, other)
    half = 4.3027 * 0.5 / math.sqrt(3)
    assert found["difference"] == pytest.approx(-1.5)
    assert found["low"] == pytest.approx(-1.5 - half, rel=1e-4)
    assert found["high"] == pytest.approx(-1.5 + half, rel=1e-4)
    assert found["verdict"] == "better"
    assert stats.difference(other, ours)["verdict"] == "worse"
    # The same numbers of other seeds are two samples, and level (Welch).
    apart = stats.difference(ours, series([2.0, 4.0, 7.0], [7, 8, 9]))
    test = distributions.ttest_ind(ours, other, equal_var=False)
    low, high = test.confidence_interval()
    assert (apart["low"], apart["high"]) == (pytest.approx(low), pytest.approx(high))
    assert apart["verdict"] == "level"


def test_a_missing_seed_costs_its_pair_alone():
    """Four of five seeds: what the fifth says of one side only is left out."""
    other = series([2.0, 40.0, 7.0, 9.0, 500.0], [3, 1, 4, 2, 0])
    ours = other[:4] - series([1.0, 1.5, 2.0, 1.5], [3, 1, 4, 2])
    half = distributions.t.ppf(0.975, 3) * math.sqrt(0.5 / 3) / 2
    for first in (ours, ours[::-1], pd.concat([ours, series([math.nan], [0])])):
        found = stats.difference(first, other)
        assert found["difference"] == pytest.approx(-1.5)
        assert found["low"] == pytest.approx(-1.5 - half)
        assert found["high"] == pytest.approx(-1.5 + half)
        assert (found["pairs"], found["of"], found["verdict"]) == (4, 5, "better")
        turned = stats.difference(other, first)
        assert (turned["pairs"], turned["of"], turned["verdict"]) == (4, 5, "worse")
    assert stats.difference(other - 1, other)["pairs"] == 5
    # One that only one side has, and without a value, was run too.
    lost = pd.concat([ours, series([math.inf, math.nan], [0, 9])])
    for found in (stats.difference(lost, other), stats.difference(other, lost)):
        assert (found["pairs"], found["of"]) == (4, 6)
        assert abs(found["difference"]) == pytest.approx(1.5)
    # One common seed is no pair to go by, and neither are seeds that stand twice.
    for index in ([3, 7, 8, 9], [3, 3, 1, 4]):
        found = stats.difference(ours.set_axis(index), other)
        test = distributions.ttest_ind(ours, other, equal_var=False)
        assert found["pairs"] == 0
        assert found["low"] == pytest.approx(test.confidence_interval().low)
    assert stats.difference(ours.set_axis([3, 7, 8, 9]), other)["of"] == 8
    two = stats.difference(ours.set_axis([3, 1, 8, 9]), other)
    assert (two["pairs"], two["difference"]) == (2, pytest.approx(-1.25))


def test_what_cannot_be_compared_is_unknown():
    found = stats.difference(series([1.0], [7]), series([2.0, 3.0]))
    assert (found["difference"], found["verdict"]) == (-1.5, "unknown")
    assert (found["pairs"], found["of"]) == (0, 3)
    # The one value has a partner: more than that the others are of other seeds.
    found = stats.difference(series([1.0], [1]), series([2.0, 3.0]))
    assert (found["difference"], found["verdict"]) == (-2.0, "unknown")
    assert (found["pairs"], found["of"]) == (1, 2)
    assert math.isnan(stats.difference(series([]), series([1.0]))["difference"])
    same = stats.difference(series([1.0, 1.0]), series([2.0, 2.0], [5, 6]))
    assert (same["low"], same["high"], same["verdict"]) == (-1.0, -1.0, "better")


def test_a_missing_group_is_a_group():
    frame = drawn(0).assign(task="Train", scheme=None)
    table = stats.summary(frame, "value", ["task", "scheme"])
    assert len(table) == 1
    assert len(stats.summary(frame, "value", "task")) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.summary(drawn(0), "value", ["task"]), "no column 'task'"),
        (
            lambda: stats.mixed_model(drawn(0).assign(replicate=math.nan)),
            "has no replicate",
        ),
        (lambda: stats.mixed_model(drawn(0), "loss"), "no column 'loss'; it has"),
        (lambda: stats.mixed_model(drawn(0)[:0]), "no rows"),
        (lambda: stats.optimization_stability([1.0], "both"), "'raw' or 'log'"),
        (lambda: stats.optimization_stability([[1.0]]), "one curve"),
        (lambda: stats.optimization_stability([1.0, 0, 2], "log"), "above 0"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()

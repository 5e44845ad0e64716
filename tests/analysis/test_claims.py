"""Claims against results of which it is known whether they hold, and which trial speaks most against them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test

from orchestrator.analysis.claims import verify
from orchestrator.analysis.results import Results
from orchestrator.analysis.statistics import attainable, difference, typical
from orchestrator.errors import UsageError
from orchestrator.grid.claims import CLAIMS
from tests.analysis.made import results
from workloads.amounts import amount


def check(made, **claim):
    """The verdict on one claim."""
    return verify({"c": CLAIMS[claim["kind"]].model_validate(claim)}, made)[0]


def decaying(trial):
    """A loss that falls and a norm that grows as 1/sqrt(loss), times the trial's factor."""
    loss = np.geomspace(1, 1e-4, 9)
    return {"loss": loss, "norm": trial["factor"] / np.sqrt(loss), "det": np.linspace(1, trial.get("end", 0.5), 9)}


GROWING = [{"factor": 1.0, "seed": 0}, {"factor": 2.0, "seed": 1}, {"factor": 1.5, "seed": 2}]


def test_bound_at_every_step():
    made = results(GROWING, decaying)
    verdict = check(made, kind="bound", that="norm >= 1 / sqrt(loss)")
    assert verdict.holds
    assert (verdict.trials, verdict.found) == (3, "in 3 of 3 trials")
    assert verdict.worst.trial_id == "trial0"
    broken = check(made, kind="bound", that="norm >= 1.2 / sqrt(loss)")
    assert not broken.holds
    assert broken.broken
    assert (broken.found, broken.worst.trial_id, broken.worst.run_id) == ("in 2 of 3 trials", "trial0", "run0")


def test_the_worst_offender_has_its_step():
    def bump(trial):
        return {"loss": np.where(np.arange(6) == trial["at"], 5.0, 1.0)}

    verdict = check(results([{"at": 2}, {"at": 9}], bump), kind="bound", that="loss < 2")
    assert not verdict.holds
    assert (verdict.worst.trial_id, verdict.worst.step) == ("trial0", 2)
    assert check(results([{"at": 2}, {"at": 9}], bump), kind="bound", that="loss < 2", when="step != 2").holds


def test_bound_at_the_end_and_share():
    made = results(GROWING, decaying)
    assert check(made, kind="bound", that="norm > 120", at="end", where="seed > 0").holds
    verdict = check(made, kind="bound", that="norm > 120", at="end")
    assert (verdict.holds, verdict.worst.step, verdict.worst.trial_id) == (False, None, "trial0")
    assert check(made, kind="bound", that="norm > 120", at="end", share=0.6).holds
    assert not check(made, kind="bound", that="norm > 120", at="end", share=0.7).holds


def test_keys_of_the_spec_stand_beside_measures_of_the_trace():
    made = results(GROWING, decaying)
    assert check(made, kind="bound", that="norm * sqrt(loss) <= factor * 1.000001").holds
    assert not check(made, kind="bound", that="norm * sqrt(loss) <= factor * 0.9").holds


def test_a_claim_about_nobody_does_not_hold():
    made = results(GROWING, decaying)
    for claim in ({"where": "seed > 9"}, {"when": "loss > 9"}):
        verdict = check(made, kind="bound", that="norm > 0", **claim)
        assert (verdict.holds, verdict.trials, verdict.found) == (False, 0, "no trial is concerned")


def test_what_is_not_required_is_not_broken():
    verdict = check(results(GROWING, decaying), kind="bound", that="norm < 0", required=False)
    assert not verdict.holds
    assert not verdict.broken


def test_trials_without_an_outcome_are_left_out():
    made = results([*GROWING, {"factor": -1.0, "outcome": None}], decaying)
    assert check(made, kind="bound", that="norm > 0").trials == 3


def test_a_diverged_trial_breaks_a_bound_and_an_undefined_measure_does_not():
    def trace(trial):
        return {"loss": [1.0, np.nan], "cp_rank": [np.nan, trial["rank"]]}

    made = results([{"rank": 1.0}, {"rank": 2.0}], trace)
    assert check(made, kind="bound", that="cp_rank <= 2").trials == 2
    assert check(made, kind="bound", that="loss < 2").holds
    # Of what has no value nothing holds, and not the opposite either.
    for that in ("cp_rank != 3", "not cp_rank == 3", "cp_rank not in [3, 4]"):
        assert check(made, kind="bound", that=that, when="step < 1").holds is False, that
        assert check(made, kind="bound", that=that).found == "in 2 of 2 trials"
    made.runs.loc[1, "outcome"] = "diverged"
    verdict = check(made, kind="bound", that="loss < 2")
    assert (verdict.holds, verdict.worst.trial_id, verdict.worst.step) == (False, "trial1", 1)


def test_a_verdict_is_withheld_if_what_it_needs_was_deleted():
    made = results([*GROWING, {"factor": 1.0, "seed": 3}], decaying)
    made.runs.loc[3, "outcome"] = "deleted"
    made.runs.loc[3, ["loss", "norm", "det"]] = np.nan
    verdict = check(made, kind="bound", that="norm > 0")
    assert (verdict.holds, verdict.word, verdict.gone, verdict.trials) == (None, "withheld", 1, 3)
    assert verdict.found == "1 of the trials that it may be about were deleted; without them: in 3 of 3 trials"
    assert not verdict.broken
    assert not verdict.sound
    assert check(made, kind="bound", that="norm > 0", required=False).sound
    assert verdict.as_json()["verdict"] == "withheld"
    # Of a deleted trial its spec is known, and nothing else.
    for where, holds in (("seed < 3", True), ("seed >= 3", None), ("norm > 0", None), ("seed < 3 and norm > 0", True)):
        assert check(made, kind="bound", that="norm > 0", where=where).holds is holds, where
    assert check(made, kind="bound", that="norm > 0", where="not (seed >= 3 or norm > 0)").holds is False
    sides = {"kind": "contrast", "of": "norm", "direction": "higher", "interval": False}
    assert check(made, **sides, group="seed == 1", against="seed == 0").holds is True
    assert check(made, **sides, group="seed == 1", against="seed in [0, 3]").holds is None


def test_a_verdict_is_withheld_if_all_was_deleted():
    made = results([{"seed": 0, "outcome": "deleted"}])
    verdict = check(made, kind="within", of="error", range=[0, 1], where="error < 2")
    assert (verdict.holds, verdict.trials) == (None, 0)
    assert verdict.found == "1 of the trials that it may be about were deleted; without them: no trial is left"


def test_a_verdict_about_traces_is_withheld_if_those_were_deleted():
    made = results(GROWING, decaying)
    rest = made.history[made.history["trial_id"] != "trial1"]
    made = Results(made.runs, lambda: rest)
    assert check(made, kind="bound", that="norm > 0").holds is None
    assert check(made, kind="bound", that="highest(norm) > 0", at="end").holds is None
    assert check(made, kind="monotone", of="norm", direction="rising").holds is None
    assert check(made, kind="bound", that="norm > 0", where="seed != 1").holds is True
    assert check(made, kind="bound", that="norm > 0", at="end").holds is True


@pytest.mark.parametrize("end", [np.inf, -np.inf, np.nan, 1e200])
def test_a_diverged_trial_counts_as_infinite_whatever_it_measured_at_last(end):
    """It is an accident of floating point whether that is infinite, huge, or not a number."""
    trials = [{"seed": s, "outcome": "diverged" if s else "converged"} for s in range(3)]
    made = results(trials, lambda trial: {"loss": [1.0, 2.0, end if trial["seed"] else 3.0]})
    for claim in (
        {"kind": "bound", "that": "loss > 0"},
        {"kind": "bound", "that": "loss > 0", "at": "end"},
        {"kind": "bound", "that": "abs(loss) + 1 > 0 or loss < 0"},
        {"kind": "keeps_sign", "of": "loss"},
        {"kind": "monotone", "of": "loss", "direction": "rising"},
    ):
        verdict = check(made, **claim)
        assert (verdict.holds, verdict.found) == (False, "in 1 of 3 trials"), claim
        assert (verdict.worst.shows, verdict.worst.trial_id) == ("it diverged", "trial1")
        assert verdict.worst.step == (None if claim.get("at") else 2)
    assert check(made, kind="bound", that="loss > 0", when="step < 2").holds
    assert check(made, kind="bound", that="steps > 0", at="end").holds
    verdict = check(made, kind="within", of="loss", range=[1, None])
    assert (verdict.holds, verdict.found) == (False, "it is infinite (2 of 3 diverged)")
    assert check(made, kind="within", of="1 / loss - loss / loss", range=[-9, 9]).found == "it is infinite (2 of 3 diverged)"
    assert check(made, kind="within", of="loss", range=[1, None], where="loss < inf").holds


def test_monotone_along_a_key_with_what_is_infinite():
    def made(*diverged):
        return results(
            [{"problem.observed": n, "error": 1 / n, "outcome": "diverged" if n in diverged else "converged"} for n in (1, 2, 3, 4)]
        )

    claim = {"kind": "monotone", "of": "error", "along": "problem.observed", "direction": "falling"}
    assert check(made(1), **claim).holds
    assert check(made(1, 2), **claim).holds
    # The step that is smallest; before the first there is nothing.
    assert check(made(), **claim).worst.shows == "error = 0.25 at problem.observed 4 after 0.333"
    verdict = check(made(3), **claim)
    assert not verdict.holds
    assert verdict.worst.shows == "error = infinite (1 of 1 diverged) at problem.observed 3 after 0.5"


def test_a_contrast_says_plainly_what_is_infinite():
    def made(*diverged):
        """Twenty seeds of each side, of which so many have diverged."""
        return results(
            [
                {"init.scale": side, "seed": s, "error": side + 0.012 * s, "outcome": "diverged" if s < n else "converged"}
                for side, n in zip((1.0, 2.0), diverged, strict=True)
                for s in range(20)
            ]
        )

    claim = {"kind": "contrast", "of": "error", "group": "init.scale == 1", "against": "init.scale == 2", "direction": "lower"}
    verdict = check(made(0, 15), **claim)
    assert (verdict.holds, verdict.found) == (True, "median 1.11 against infinite (15 of 20 diverged)")
    verdict = check(made(15, 0), **claim)
    assert (verdict.holds, verdict.found) == (False, "median infinite (15 of 20 diverged) against 2.11")
    assert not check(made(15, 15), **claim).holds
    assert not check(made(15, 15), **{**claim, "direction": "higher"}).holds
    # Some diverged: the interval is that of resampling all the same, and reaches as far as it may.
    verdict = check(made(7, 0), **claim)
    assert verdict.found == "median 1.2 (7 of 20 diverged) against 2.11, difference -0.916 [-0.982, infinite]"
    assert (verdict.holds, check(made(1, 0), **claim).holds) == (False, True)
    assert not any("inf " in text or "inf," in text or "inf]" in text for text in (verdict.found, verdict.worst.shows))


def test_trials_on_both_sides_are_told_of():
    made = results([{"init.scale": n % 2, "seed": n, "error": n} for n in range(20)])
    claim = {"kind": "contrast", "of": "error", "group": "init.scale == 1", "against": "seed >= 0", "direction": "lower"}
    assert check(made, **claim).found.endswith("; 10 trials are on both sides")
    assert "both" not in check(made, **claim | {"against": "init.scale == 0"}).found


def test_groups_with_trials_on_one_side_only_are_counted():
    made = results([{"init.scale": side, "seed": s, "error": side} for side, seeds in ((1, 5), (2, 1)) for s in range(seeds)])
    claim = {"kind": "contrast", "of": "error", "group": "init.scale == 1", "against": "init.scale == 2", "direction": "lower"}
    few = "; an interval of 1 against 1 trial carries 0% at most"
    assert check(made, **claim, by="seed").found == f"median 1 against 2, difference -1 [-1, -1]; 4 more have trials on one side only{few}"


@pytest.mark.parametrize(("share", "total", "said"), [(0.56, 100, "56%"), (0.14, 50, "14%"), (0.475, 40, "47.5%")])
def test_a_share_is_met_by_just_so_many(share, total, said):
    """0.56 * 100 is 56.00000000000001."""
    met = round(share * total)
    made = results([{"seed": n, "error": float(n >= met)} for n in range(total)])
    verdict = check(made, kind="bound", that="error < 0.5", at="end", share=share)
    assert (verdict.holds, verdict.found) == (True, f"in {met} of {total} trials, {said} are asked for")
    assert not check(made, kind="bound", that="error < 0.5", at="end", share=share, where="seed > 0").holds


def test_keeps_sign():
    made = results([{"factor": 1.0, "end": 0.5}, {"factor": 1.0, "end": -0.2}, {"factor": 1.0, "end": 0.01}], decaying)
    verdict = check(made, kind="keeps_sign", of="det")
    assert (verdict.holds, verdict.found) == (False, "in 2 of 3 trials")
    assert (verdict.worst.trial_id, verdict.worst.step) == ("trial1", 8)
    assert check(made, kind="keeps_sign", of="det", where="end > 0").holds
    assert check(made, kind="keeps_sign", of="-det", where="end > 0").holds
    assert check(made, kind="keeps_sign", of="det", share=0.6).holds


@pytest.mark.parametrize("other", [0.0, -1e-300])
def test_zero_is_no_sign(other):
    """And a sign is one however small beside the largest: the determinant of a small start is."""
    made = results([{}], lambda _: {"det": [1.0, other, 1e30]})
    assert not check(made, kind="keeps_sign", of="det").holds
    assert check(made, kind="keeps_sign", of="abs(det) + 1e-300").holds


def test_monotone_along_the_trace():
    made = results(GROWING, decaying)
    assert check(made, kind="monotone", of="norm", direction="rising").holds
    assert check(made, kind="monotone", of="loss", direction="falling").holds
    assert not check(made, kind="monotone", of="norm", direction="falling").holds
    wavy = results([{}], lambda _: {"loss": [4.0, 2.0, 2.1, 1.0]})
    verdict = check(wavy, kind="monotone", of="loss", direction="falling")
    assert (verdict.holds, verdict.worst.step) == (False, 2)
    assert check(wavy, kind="monotone", of="loss", direction="falling", tolerance=0.06).holds
    assert not check(wavy, kind="monotone", of="loss", direction="falling", tolerance=0.04).holds


def settings(error, **more):
    """Three seeds of each of three numbers of observations and two scales, with an error."""
    return [
        {"problem.observed": n, "init.scale": scale, "seed": seed, "error": error(n, scale, seed), **more}
        for n in (50, 100, 200)
        for scale in (1e-3, 1e-2)
        for seed in range(3)
    ]


def test_monotone_along_a_key_over_seeds():
    made = results(settings(lambda n, scale, seed: scale * (1 + 0.1 * seed) / n))
    verdict = check(made, kind="monotone", of="error", along="problem.observed", direction="falling")
    assert (verdict.holds, verdict.trials, verdict.found) == (True, 18, "in 2 of 2 groups of trials")
    up = results(settings(lambda n, scale, _: n if scale == 1e-2 else 1 / n))
    verdict = check(up, kind="monotone", of="error", along="problem.observed", direction="falling")
    assert (verdict.holds, verdict.found) == (False, "in 1 of 2 groups of trials")
    assert up.runs.set_index("trial_id").loc[verdict.worst.trial_id, "init.scale"] == 1e-2


def test_the_median_not_each_seed_is_within():
    made = results(settings(lambda _, scale, seed: 5.0 if seed == 2 else scale))
    assert check(made, kind="within", of="error", range=[None, 1e-2]).holds
    verdict = check(made, kind="within", of="error", range=[None, 5e-3])
    assert (verdict.holds, verdict.found) == (False, "in 3 of 6 groups of trials, from 0.001 to 0.01")
    assert made.runs.set_index("trial_id").loc[verdict.worst.trial_id, "init.scale"] == 1e-2
    assert not check(made, kind="within", of="error", range=[None, 1e-2], statistic="max").holds
    assert check(made, kind="within", of="error", range=[1e-3, None], statistic="min").holds
    assert check(made, kind="within", of="error", range=[0.9, 2], statistic="mean", by="seed", where="seed == 0").holds is False


def test_keys_that_follow_from_others_make_no_groups():
    made = results([{"factorization.depth": d, "factorization.widths": "[2]" * d, "seed": s, "error": s} for d in (2, 3) for s in range(3)])
    verdict = check(made, kind="within", of="error", range=[1, 1])
    assert verdict.holds
    assert "widths" not in verdict.worst.shows
    assert check(made, kind="monotone", of="error", along="factorization.depth", direction="falling").trials == 6


def test_groups_are_named_by_the_loss_and_not_by_its_step_size():
    losses = (("half_sse", 3e-3, None), ("huber", 1e-2, 0.1), ("absolute", 1e-3, None))
    trials = results([{"optimizer.lr": lr, "loss.delta": delta, "spec.loss": loss, "error": lr} for loss, lr, delta in losses])
    verdict = check(trials, kind="within", of="error", range=[None, 5e-3])
    assert not verdict.holds
    assert verdict.worst.shows.endswith("(spec.loss huber)")


def test_contrast_with_a_bootstrap_interval():
    rng = np.random.default_rng(0)
    trials = [
        {"factorization.kind": kind, "problem.observed": n, "seed": s, "error": level + 0.1 * rng.standard_normal()}
        for kind, level in (("cp", 1.0), ("linear", 1.5))
        for n in (50, 100)
        for s in range(20)
    ]
    made = results(trials)
    claim = {"kind": "contrast", "of": "error", "group": "factorization.kind == 'cp'", "against": "factorization.kind == 'linear'"}
    verdict = check(made, **claim, direction="lower", by="problem.observed")
    assert (verdict.holds, verdict.trials, verdict.found) == (True, 80, "in 2 of 2 groups of trials")
    assert not check(made, **claim, direction="higher").holds
    close = results([{**t, "error": t["error"] - 0.49 * (t["factorization.kind"] == "linear")} for t in trials])
    assert not check(close, **claim, direction="lower").holds
    assert check(made, **claim, direction="lower", where="seed == 0", interval=False).holds
    verdict = check(made, **claim, direction="lower", where="problem.observed == 50 and factorization.kind == 'cp'")
    assert (verdict.holds, verdict.found) == (False, "there are no trials of both groups to compare")


@pytest.mark.parametrize(("few", "many", "most"), [(3, 3, 90), (5, 1, 93.8), (4, 4, None), (6, 1, None), (2, 8, None)])
def test_contrasts_of_few_trials_say_what_their_intervals_carry(few, many, most):
    """The chance with which equal groups come apart, as scipy's permutation test of them has it."""
    sides = np.arange(float(few)), 10.0 + np.arange(many)
    made = results([{"group.name": side, "error": value} for side in (0, 1) for value in sides[side]])
    claim = {"kind": "contrast", "of": "error", "group": "group.name == 0", "against": "group.name == 1", "direction": "lower"}
    said = check(made, **claim).found.partition("; ")[2]
    assert said == ("" if most is None else f"an interval of {few} against {amount(many, 'trial')} carries {most}% at most")
    assert not check(made, **claim, interval=False).found.partition("; ")[2]
    if many > 1:
        test = permutation_test(sides, lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
        assert attainable(few, many) == pytest.approx(1 - test.pvalue)


def test_intervals_cover_what_is_known():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        one, other = rng.normal(1.0, 1, 30), rng.normal(0.4, 1, 40)
        estimate = difference(one, other, "mean", 0.95)
        assert estimate.low <= estimate.value <= estimate.high
        inside += estimate.low <= 0.6 <= estimate.high
    assert 50 <= inside <= 60
    # The mean's interval has a closed form for many samples.
    many = rng.normal(2.0, 1, 2000)
    estimate = typical(many, "mean", 0.95)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * many.std() / np.sqrt(2000), rel=0.15)
    assert difference(np.array([2.0]), np.array([1.0]), "median", 0.95).low == 1.0


def test_one_baseline_is_enough_for_an_interval():
    """It is as it is; what is resampled are the seeds of the others."""
    errors = np.random.default_rng(2).normal(1.0, 0.5, 12)
    trials = [{"factorization.kind": "cp", "seed": s, "error": e} for s, e in enumerate(errors)]
    claim = {"kind": "contrast", "of": "error", "group": "factorization.kind == 'cp'", "against": "factorization.kind == 'linear'"}
    for level in (errors.mean() + 0.05, errors.mean() + 1):
        several, one = (
            results([*trials, *({"factorization.kind": "linear", "seed": s, "error": level} for s in range(n))]) for n in (5, 1)
        )
        verdicts = [check(made, **claim, statistic="mean", direction="lower") for made in (several, one)]
        assert [verdict.holds for verdict in verdicts] == [level > errors.mean() + 0.5] * 2
        assert verdicts[1].found == verdicts[0].found
    estimate = difference(errors, np.array([1.0]), "mean", 0.95)
    assert estimate.low < estimate.value < estimate.high


def test_a_column_that_is_not_there_is_the_users_to_mend():
    with pytest.raises(UsageError, match="the runs have no eror; did you mean error"):
        check(results(settings(lambda *_: 1.0)), kind="within", of="eror", range=[0, 1])


@pytest.mark.parametrize(
    "claim",
    [
        {"kind": "monotone", "of": "loss", "along": "group.name", "direction": "rising"},
        {"kind": "monotone", "of": "group.name", "direction": "rising"},
        {"kind": "keeps_sign", "of": "group.name"},
    ],
)
def test_text_has_no_direction_and_no_sign(claim):
    with pytest.raises(UsageError, match=r"group\.name is text, such as cp, where numbers are needed"):
        check(results([{"group.name": "cp"}, {"group.name": "linear"}], lambda _: {"loss": [2.0, 1.0]}), **claim)

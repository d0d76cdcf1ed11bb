"""What limits promise is kept: by simulation over draws of cases from a population whose true shares are known."""

import numpy as np
import pytest

from cxr_edge.calibration import LabelledCases, Promise, fit_budget, fit_threshold, one_per_patient, threshold_rules
from cxr_edge.calibration.conformal import rank_of_limit, set_limit
from cxr_edge.calibration.decisions import decided
from cxr_edge.calibration.risk import GRID, lowest_limit
from cxr_edge.errors import InputError
from cxr_edge.ops.binomial import at_most
from cxr_edge.ops.combine import abstention, decide, prediction_set
from cxr_edge.specs.combination import Decision
from tests.calibration.populations import LABELS, draw

PLAIN = Decision(thresholds={}, uncertain_below=0.0)
FIRST = Decision(thresholds={"covid-19": 0.3}, uncertain_below=0.0, first=("covid-19",))
DRAWS = 200


def most_failures(delta: float) -> int:
    """Return the number of failed draws that an exact bound exceeds with a probability of 1 in 10,000."""
    return next(k for k in range(DRAWS) if at_most(k, DRAWS, delta) > 0.9999)


def answers(cases, decision, budget, label):
    """Return the share of wrong answers of a label; None without answers."""
    limits, k = budget.labels[label], cases.labels.index(label)
    if limits.answer_from is None:
        return None
    rows = (cases.decided(decision) == k) & (cases.probabilities[:, k] >= np.float32(limits.answer_from))
    return float((cases.true[rows] != k).mean()) if rows.any() else None


def fitted(cases, decision, promise=None, **options):
    return fit_budget(cases, decision, promise or Promise(), fitted_on="drawn cases", seed=1, **options)


def test_the_grid_goes_down_to_zero():
    assert list(GRID) == sorted(set(GRID), reverse=True)
    assert (GRID[0], GRID[-1]) == (0.9999, 0.0)


@pytest.mark.parametrize("ties", [False, True])
def test_each_labels_sets_cover_it(ties):
    """Mean coverage over draws is at least the promise, and not much more: 0.95 with 60 cases is between 0.95 and 0.967."""
    rng, population = np.random.default_rng(3), draw(100_000, np.random.default_rng(4), ties=ties)
    own = population.probabilities[population.true == 2, 2]
    coverage = [(own >= np.float32(set_limit(rng.choice(own, 60), 0.95))).mean() for _ in range(DRAWS)]
    error = np.std(coverage) / np.sqrt(DRAWS)
    assert np.mean(coverage) >= 0.95 - 3 * error
    assert ties or np.mean(coverage) <= 0.95 + 1 / 61 + 3 * error


@pytest.mark.parametrize(("cases", "rank"), [(0, 0), (18, 0), (19, 1), (38, 1), (39, 2), (199, 10)])
def test_the_limit_is_the_kth_smallest(cases, rank):
    assert rank_of_limit(cases, 0.95) == rank
    values = np.linspace(0.2, 0.9, cases, dtype=np.float32)
    limit = set_limit(values, 0.95)
    assert limit == pytest.approx(float(values[rank - 1]) if rank else 0.0, abs=2e-6)
    assert (values >= np.float32(limit)).sum() == (cases if rank == 0 else cases - rank + 1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [120, 400])
def test_answers_keep_the_budget_in_all_but_one_of_ten_draws(n, ties):
    rng, population = np.random.default_rng(5), draw(30_000, np.random.default_rng(6), ties=ties)
    failures, answered = dict.fromkeys(LABELS, 0), dict.fromkeys(LABELS, 0)
    for _ in range(DRAWS):
        budget = fitted(population.only(rng.choice(len(population.true), n, replace=False)), PLAIN)
        for label in LABELS:
            wrong = answers(population, PLAIN, budget, label)
            answered[label] += wrong is not None
            failures[label] += wrong is not None and wrong > 0.05
    assert answered["normal"] > (5 if n == 120 else 150)
    assert all(count <= most_failures(0.1) for count in failures.values()), failures


def test_threshold_and_answers_from_the_same_cases_keep_both_promises():
    rng, population = np.random.default_rng(7), draw(30_000, np.random.default_rng(8), strength=2.5)
    rules, calls, failures, found = threshold_rules(FIRST), 0, dict.fromkeys(LABELS, 0), 0
    for _ in range(DRAWS // 4):
        cases = population.only(rng.choice(len(population.true), 300, replace=False))
        decision = fit_threshold(cases, FIRST, Promise(), seed=1)
        found += decision is not None
        decision = decision or FIRST
        others = population.true != 2
        calls += decision is not FIRST and (population.decided(decision)[others] == 2).mean() > 0.05
        budget = fitted(cases, decision, rules=rules)
        for label in LABELS:
            wrong = answers(population, decision, budget, label)
            failures[label] += wrong is not None and wrong > 0.05
    most = next(k for k in range(DRAWS) if at_most(k, DRAWS // 4, 0.1) > 0.9999)
    assert found == DRAWS // 4
    assert calls <= most
    assert all(count <= most for count in failures.values()), failures


def test_rules_that_could_have_been_chosen_raise_the_limits_of_other_labels():
    """At a threshold of 0.99, COVID-19 is decided normal where normal is more probable: such a limit must hold there, too."""
    cases = draw(400, np.random.default_rng(8), strength=2.5)
    alone = fitted(cases, FIRST, Promise(max_wrong=0.1)).labels
    chosen = fitted(cases, FIRST, Promise(max_wrong=0.1), rules=threshold_rules(FIRST)).labels
    assert chosen["normal"].answer_from > alone["normal"].answer_from
    assert chosen["covid-19"].answer_from is not None


def test_false_calls_have_a_share_of_their_own():
    cases = draw(400, np.random.default_rng(8), strength=2.5)
    strict, loose = (fit_threshold(cases, FIRST, Promise(max_called=share), seed=1) for share in (0.02, 0.2))
    assert strict.thresholds["covid-19"] > loose.thresholds["covid-19"]


def test_few_cases_promise_nothing():
    budget = fitted(draw(18, np.random.default_rng(1)), PLAIN)
    assert all(limits.set_from == 0 and limits.answer_from is None for limits in budget.labels.values())
    assert fit_threshold(draw(18, np.random.default_rng(1)), FIRST, Promise(), seed=1) is None


def test_a_label_without_cases_is_in_every_set_and_never_answered():
    budget = fitted(draw(400, np.random.default_rng(1), shares=(0.6, 0.0, 0.4), strength=3), PLAIN)
    limits = budget.labels["bacterial"]
    assert (limits.cases, limits.set_from, limits.answer_from, limits.answered) == (0, 0.0, None, 0)
    assert budget.labels["normal"].answer_from is not None


def test_a_patient_counts_once():
    cases = draw(400, np.random.default_rng(1))
    twice = LabelledCases(
        labels=LABELS,
        probabilities=np.concatenate([cases.probabilities] * 2),
        winners=np.concatenate([cases.winners] * 2),
        true=np.concatenate([cases.true] * 2),
        patients=np.concatenate([cases.patients] * 2),
    )
    assert fitted(twice, PLAIN).labels == fitted(cases, PLAIN).labels
    chosen = one_per_patient(np.array(["a", "b", "a", "a"]), seed=2)
    assert sorted(np.array(["a", "b", "a", "a"])[chosen]) == ["a", "b"]
    assert len({tuple(one_per_patient(np.array(["a", "b", "a", "a"]), seed=s)) for s in range(20)}) == 3


def test_the_row_ends_at_the_first_limit_that_fails():
    answered, wrong = np.array([10, 60, 100, 200]), np.array([0, 0, 9, 9])
    assert lowest_limit(answered, wrong, max_wrong=0.05, confidence=0.9) == 1
    assert lowest_limit(answered[:1], wrong[:1], max_wrong=0.05, confidence=0.9) is None


def test_the_row_starts_at_a_quarter_of_the_decisions():
    """One wrong case among the first 50 would end the row; with 400 decisions the first limit that counts has 100 answers."""
    answered, wrong = np.array([50, 100, 150, 400]), np.array([1, 1, 3, 40])
    assert lowest_limit(answered, wrong, max_wrong=0.05, confidence=0.9) == 2
    answered[-1], wrong[-1] = 200, 20
    assert lowest_limit(answered, wrong, max_wrong=0.05, confidence=0.9) is None


def test_a_limit_holds_with_every_rule():
    answered, wrong = np.array([[60, 100], [60, 100]]), np.array([[0, 1], [0, 9]])
    assert lowest_limit(answered, wrong, max_wrong=0.05, confidence=0.9) == 0
    assert lowest_limit(answered[:1], wrong[:1], max_wrong=0.05, confidence=0.9) == 1


def test_the_counts_are_those_of_the_runtime():
    """The limits, applied image by image by the device's functions, answer as many cases as the budget states."""
    cases = draw(400, np.random.default_rng(9))
    decision = fit_threshold(cases, FIRST, Promise(), seed=1)
    budget = fitted(cases, decision, rules=threshold_rules(FIRST))
    answered, wrong, covered = dict.fromkeys(LABELS, 0), dict.fromkeys(LABELS, 0), dict.fromkeys(LABELS, 0)
    for p, winner, true in zip(cases.probabilities, cases.winners, cases.true, strict=True):
        label, _ = decide(p, int(winner), LABELS, decision)
        covered[LABELS[true]] += LABELS[true] in prediction_set(p, LABELS, budget)
        if abstention(p, label, LABELS, budget) is None:
            answered[label] += 1
            wrong[label] += label != LABELS[true]
    assert sum(answered.values()) > 50
    for label, limits in budget.labels.items():
        assert (answered[label], wrong[label]) == (limits.answered, limits.wrong)
        assert covered[label] >= 0.95 * limits.cases


@pytest.mark.parametrize(
    "decision", [PLAIN, FIRST, Decision(thresholds={"normal": 0.8, "bacterial": 0.7}, uncertain_below=0)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_decisions_are_those_of_the_runtime(decision, ties):
    cases = draw(300, np.random.default_rng(2), ties=ties)
    winners = np.random.default_rng(3).integers(0, 3, 300) if ties else cases.winners
    expected = [decide(p, int(w), LABELS, decision)[0] for p, w in zip(cases.probabilities, winners, strict=True)]
    found = decided(cases.probabilities, winners, LABELS, decision)
    assert [LABELS[k] for k in found] == expected


@pytest.mark.parametrize("name", ["max_wrong", "confidence", "coverage", "max_called"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 5.0])
def test_a_promise_is_of_shares(name, value):
    with pytest.raises(InputError, match=f"{name} is a share above 0 and below 1"):
        Promise(**{name: value})


def test_arrays_must_match():
    cases = draw(5, np.random.default_rng(1))
    with pytest.raises(ValueError, match="5 cases of 3 labels"):
        LabelledCases(
            labels=LABELS,
            probabilities=cases.probabilities[:, :2],
            winners=cases.winners,
            true=cases.true,
            patients=cases.patients,
        )

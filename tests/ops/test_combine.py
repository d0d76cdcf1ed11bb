"""Native combination compared with the NumPy reference, for every strategy."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_edge._core as _core
from cxr_edge.errors import BundleError
from cxr_edge.ops.combine import Combiner, decide, member_probabilities, softmax
from cxr_edge.specs.combination import STRATEGIES, Combination, Decision, parameter_shapes
from tests.ops import reference
from tests.tolerances import PROBABILITY


def combination(strategy, members=3, labels=4, seed=0, temperature=1.0, member_temperatures=None, activation="softmax"):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(strategy, members=members, labels=labels)
    parameters = {name: rng.normal(size=[9 if n is None else n for n in shape]) for name, shape in shapes.items()}
    if strategy == "weighted-average":
        weights = np.abs(parameters["weights"]) + 0.01
        parameters["weights"] = weights / weights.sum()
    if strategy == "flannel":
        parameters["module_weight"] /= members * labels
    return Combination(
        strategy=strategy,
        member_temperatures=tuple(member_temperatures or (1.0,) * members),
        temperature=temperature,
        parameters={name: values.tolist() for name, values in parameters.items()},
        activation=activation,
        label_temperatures=tuple(rng.uniform(0.3, 3, labels).tolist()) if activation == "sigmoid" else (),
    )


@given(
    strategy=st.sampled_from(STRATEGIES),
    members=st.integers(1, 5),
    labels=st.integers(2, 5),
    seed=st.integers(0, 2**16),
    temperature=st.floats(0.2, 5.0),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_reference(strategy, members, labels, seed, temperature):
    rng = np.random.default_rng(seed)
    c = combination(strategy, members, labels, seed, temperature, tuple(rng.uniform(0.5, 3, members)))
    logits = (rng.normal(size=(7, members, labels)) * 4).astype(np.float32)
    probabilities, winners = Combiner(c, labels=labels).run(logits)
    for i in range(7):
        expected, winner = reference.combine(logits[i], c)
        np.testing.assert_allclose(probabilities[i], expected, atol=PROBABILITY)
        assert winners[i] == winner


@given(
    strategy=st.sampled_from(STRATEGIES),
    members=st.integers(1, 5),
    labels=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    temperature=st.floats(0.2, 5.0),
)
@settings(max_examples=150, deadline=None)
def test_findings_equal_the_reference(strategy, members, labels, seed, temperature):
    rng = np.random.default_rng(seed)
    c = combination(strategy, members, labels, seed, temperature, tuple(rng.uniform(0.5, 3, members)), "sigmoid")
    logits = (rng.normal(size=(7, members, labels)) * 4).astype(np.float32)
    probabilities, winners = Combiner(c, labels=labels).run(logits)
    for i in range(7):
        expected, winner = reference.combine(logits[i], c)
        np.testing.assert_allclose(probabilities[i], expected, atol=PROBABILITY)
        assert winners[i] == winner


def test_a_network_by_itself_keeps_its_findings():
    """The average of one member, without temperatures: the sigmoid of each of its logits."""
    logits = np.array([[[-3.0, 0.0, 8.0]]], np.float32)
    probabilities, winners = Combiner(findings("average"), labels=3).run(logits)
    np.testing.assert_allclose(probabilities, [[0.047425873, 0.5, 0.99966465]], atol=PROBABILITY)
    assert winners.tolist() == [2]


def test_votes_for_a_finding_are_independent_of_the_others():
    logits = np.array([[[1, 0, -1], [2, -1, -2], [-1, 3, -3]]], np.float32)
    probabilities, winners = Combiner(findings("voting", members=3), labels=3).run(logits)
    np.testing.assert_allclose(probabilities, [[2 / 3, 2 / 3, 0]])  # a logit of 0, P = 0.5, is a vote
    assert winners.tolist() == [0], "the first of equal ones"


def test_a_label_has_its_own_temperature():
    c = findings("average", temperature=2.0, label_temperatures=(1.0, 0.5, 4.0))
    probabilities, _ = Combiner(c, labels=3).run(np.full((1, 1, 3), 2.0, np.float32))
    np.testing.assert_allclose(probabilities[0], reference.sigmoid(np.array([1.0, 2.0, 0.25])), atol=PROBABILITY)


def test_extreme_logits_of_findings_stay_finite():
    logits = np.array([[[1e4, -1e4, 0]]], np.float32)
    for strategy in STRATEGIES:
        c = combination(strategy, members=1, labels=3, temperature=4.0, activation="sigmoid")
        assert np.isfinite(Combiner(c, labels=3).run(logits)[0]).all()
    probabilities, _ = Combiner(findings("average", temperature=4.0), labels=3).run(logits)
    np.testing.assert_allclose(probabilities[0], [0.999, 0.001, 0.5], atol=1e-12 ** (1 / 4))


def findings(strategy, members=1, **fields):
    c = {"member_temperatures": (1.0,) * members, "temperature": 1.0, "parameters": {}, "activation": "sigmoid"}
    return Combination(strategy=strategy, **{**c, **fields})


def test_a_combination_of_findings_is_stored_with_its_activation():
    c = findings("average", label_temperatures=(1.0, 2.0))
    stored = json.loads(json.dumps(c.as_json()))
    assert (stored["activation"], stored["label_temperatures"]) == ("sigmoid", [1.0, 2.0])
    assert Combination.from_json(stored) == c
    single = combination("average")
    assert {"activation", "label_temperatures"}.isdisjoint(single.as_json())
    assert Combination.from_json(json.loads(json.dumps(single.as_json()))) == single


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "tanh"}, r'activation must be one of softmax, sigmoid, got "tanh"'),
        ({"label_temperatures": (1.0, 0.0)}, r"label_temperatures\[1\] must be a number above 0, got 0.0"),
        ({"activation": "softmax", "label_temperatures": (1.0,)}, "none with the activation softmax"),
    ],
)
def test_a_wrong_activation_is_rejected(changes, message):
    with pytest.raises(BundleError, match=message):
        findings("average", **changes)


def test_sizes_of_a_combination_of_findings():
    findings("average").check_sizes(members=1, labels=1)
    with pytest.raises(BundleError, match="label_temperatures must be 3 numbers, one per label, or none"):
        findings("average", label_temperatures=(1.0, 2.0)).check_sizes(members=1, labels=3)


def test_flannel_module_has_2005_parameters_for_five_members_and_four_labels():
    p = combination("flannel", members=5, labels=4).parameters
    assert np.size(p["module_weight"]) + np.size(p["module_bias"]) == 2005


def test_flannel_probability_is_bounded_without_temperature():
    """|w| < 1 bounds the top probability by e^5 / (e^5 + 3) = 0.9802."""
    c = combination("flannel", members=5, labels=4)
    c.parameters["module_weight"] = np.zeros((5, 400)).tolist()
    c.parameters["module_bias"] = [100.0] * 5
    certain = np.tile(np.array([60.0, 0, 0, 0], np.float32), (1, 5, 1))
    assert Combiner(c, labels=4).run(certain)[0][0, 0] == pytest.approx(np.exp(5) / (np.exp(5) + 3), abs=PROBABILITY)


def test_a_tied_vote_goes_to_the_higher_mean_probability():
    logits = np.log(np.array([[[0.6, 0.4, 1e-9], [0.05, 0.95, 1e-9]]], dtype=np.float32))
    probabilities, winners = Combiner(combination("voting", 2, 3), labels=3).run(logits)
    np.testing.assert_allclose(probabilities[0], [0.5, 0.5, 0.0])
    assert winners[0] == 1
    decision, _ = decide(probabilities[0], 1, ("a", "b", "c"), Decision(thresholds={}, uncertain_below=0.0))
    assert decision == "b"


def test_a_vote_tied_in_every_way_goes_to_the_first_label():
    logits = np.array([[[0, 1, 0], [0, 0, 1]]], dtype=np.float32)
    assert Combiner(combination("voting", 2, 3), labels=3).run(logits)[1][0] == 1


def test_extreme_logits_stay_finite():
    logits = np.array([[[1e4, -1e4, 0, 0]] * 3], dtype=np.float32)
    for strategy in STRATEGIES:
        probabilities, _ = Combiner(combination(strategy), labels=4).run(logits)
        assert np.isfinite(probabilities).all()
        assert probabilities.sum() == pytest.approx(1.0)


def test_shapes_of_parameters():
    assert parameter_shapes("average", members=3, labels=4) == {}
    assert parameter_shapes("stacking", members=3, labels=4) == {
        "hidden_weight": (None, 12), "hidden_bias": (None,), "output_weight": (4, None), "output_bias": (4,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {}}, "weights is missing"),
        ({"parameters": {"weights": np.ones(3), "more": np.ones(3)}}, "parameters that are not those of weighted-average"),
        ({"parameters": {"weights": np.ones((3, 1, 2))}}, "weights must hold 3 numbers, got 6"),
        ({"strategy": "stacking", "parameters": {}}, "hidden_weight is missing"),
        ({"strategy": "best"}, "unknown strategy best"),
        ({"labels": 1}, "at least 1 member and 2 labels"),
        ({"labels": 0, "activation": "sigmoid"}, "at least 1 member and 1 labels"),
        ({"activation": "tanh"}, "unknown activation tanh"),
        ({"label_temperatures": (1.0,) * 4}, "label_temperatures are for sigmoid only"),
        ({"activation": "sigmoid", "label_temperatures": (1.0,) * 3}, "label_temperatures must hold 4 numbers, got 3"),
        ({"activation": "sigmoid", "label_temperatures": (1.0, 1.0, -1.0, 1.0)}, "label_temperatures must be above 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"member_temperatures": (1.0, float("nan"), 1.0)}, "member_temperatures must be above 0"),
        ({"strategy": "stacking", "parameters": {"hidden_weight": np.ones((2, 12)), "hidden_bias": np.ones(3),
          "output_weight": np.ones((4, 3)), "output_bias": np.ones(4)}}, "hidden_weight must hold 36 numbers, got 24"),
    ],
)  # fmt: skip
def test_the_native_combiner_checks_its_arguments(changes, message):
    valid = {"strategy": "weighted-average", "labels": 4, "member_temperatures": (1.0,) * 3, "temperature": 1.0,
             "parameters": {"weights": np.full(3, 1 / 3)}}  # fmt: skip
    _core.Combiner(**valid)
    with pytest.raises(ValueError, match=message):
        _core.Combiner(**{**valid, **changes})


def test_parameters_of_a_wrong_size_are_rejected():
    c = combination("weighted-average")
    with pytest.raises(BundleError, match=r"weights must hold 3 numbers, got 2"):
        Combiner(
            Combination(strategy=c.strategy, member_temperatures=c.member_temperatures, temperature=1.0,
                        parameters={"weights": [0.5, 0.5]}),
            labels=4,
        )  # fmt: skip


def test_parameters_that_are_not_finite_are_named():
    c = combination("weighted-average")
    assert (Combiner(c, labels=4).combination, Combiner(c, labels=4).labels) == (c, 4)
    c.parameters["weights"][1] = float("nan")
    with pytest.raises(BundleError, match=r"^combination\.parameters\.weights holds numbers that are not finite$"):
        Combiner(c, labels=4)


def test_the_probabilities_of_members_are_the_references():
    """As in reports: softmax of each member's logits divided by its own temperature, however large they are."""
    c = combination("average", members=3, labels=4, member_temperatures=(0.5, 1.0, 3.0))
    logits = (np.random.default_rng(0).normal(size=(5, 3, 4)) * 2).astype(np.float32)
    logits[0, 0] = 3e38, -3e38, 0, 0  # its quotient by 0.5 fits float64 only
    expected = reference.softmax(logits.astype(np.float64) / np.array([[0.5], [1.0], [3.0]]))
    np.testing.assert_allclose(member_probabilities(logits, c), expected, atol=PROBABILITY)
    np.testing.assert_allclose(softmax(logits[:, 1]), expected[:, 1], atol=PROBABILITY)
    of_findings = member_probabilities(logits, dataclasses.replace(c, activation="sigmoid"))
    expected = reference.sigmoid(logits.astype(np.float64) / np.array([[0.5], [1.0], [3.0]]))
    np.testing.assert_allclose(of_findings, expected, atol=PROBABILITY)


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "decision", "codes"),
    [
        ((0.1, 0.2, 0.7), {}, "c", ()),
        ((0.5, 0.25, 0.25), {"a": 0.5}, "a", ()),  # a threshold is reached by its own value, as is `uncertain_below`
        ((0.25, 0.25, 0.5), {"c": 0.75, "b": 0.25, "a": 0.5}, "b", ("uncertain",)),
        ((0.0, 0.0, 1.0), {"c": 1.0, "b": 1.0}, "c", ()),
        ((0.45, 0.25, 0.3), {"a": 0.45}, "a", ()),
        ((0.1, 0.4, 0.5), {"c": 0.6}, "b", ("uncertain",)),
        ((0.3, 0.3, 0.4), {"a": 0.5, "b": 0.5, "c": 0.5}, "c", ("below_threshold", "uncertain")),
    ],
)
def test_decision_rule(probabilities, thresholds, decision, codes):
    p = np.array(probabilities, np.float32)
    actual, flags = decide(p, int(p.argmax()), ("a", "b", "c"), Decision(thresholds=thresholds, uncertain_below=0.45))
    assert actual == decision
    assert tuple(f.code for f in flags) == codes


@pytest.mark.parametrize(
    ("probabilities", "first", "decision", "codes"),
    [
        ((0.3, 0.6, 0.1), ("a",), "a", ("threshold_first",)),  # reached: decided before the more probable one
        ((0.2, 0.7, 0.1), ("a",), "b", ()),  # not reached
        ((0.3, 0.5, 0.2), ("a", "c"), "a", ("threshold_first",)),  # of two that are reached, the more probable
        ((0.26, 0.0, 0.74), (), "c", ()),
        ((0.15, 0.45, 0.4), ("c",), "c", ("threshold_first",)),
        ((0.2, 0.7, 0.1), ("c",), "b", ()),
    ],
)
def test_a_first_label_is_decided_when_it_reaches_its_threshold(probabilities, first, decision, codes):
    rule = Decision(thresholds={"a": 0.25, "c": 0.2}, uncertain_below=0.2, first=first)
    p = np.array(probabilities, np.float32)
    actual, flags = decide(p, int(p.argmax()), ("a", "b", "c"), rule)
    assert actual == decision
    assert tuple(f.code for f in flags) == codes


def test_a_label_decided_by_its_threshold_says_so():
    rule = Decision(thresholds={"a": 0.25}, uncertain_below=0.0, first=("a",))
    _, flags = decide(np.array([0.3, 0.6, 0.1], np.float32), 1, ("a", "b", "c"), rule)
    assert [f.message for f in flags] == [
        "a is decided because it reaches its threshold (0.25), although b is more probable (0.60)."
    ]
    equal = np.array([0.5, 0.5, 0.0], np.float32)
    assert decide(equal, 1, ("a", "b", "c"), rule) == ("a", ()), "of equal probabilities none is more probable"


def test_without_a_threshold_reached_a_first_label_has_no_advantage():
    rule = Decision(thresholds={"a": 0.9, "b": 0.9, "c": 0.9}, uncertain_below=0.0, first=("a",))
    assert decide(np.array([0.1, 0.8, 0.1], np.float32), 1, ("a", "b", "c"), rule)[0] == "b"


def test_first_labels_have_a_threshold_and_are_stored_only_if_there_are_any():
    with pytest.raises(BundleError, match=r"first .*of labels with a threshold"):
        Decision(thresholds={"a": 0.5}, uncertain_below=0.5, first=("b",))
    with pytest.raises(BundleError, match=r"first .*a list of labels"):
        Decision(thresholds={"a": 0.5}, uncertain_below=0.5, first="a")
    with_first = Decision(thresholds={"a": 0.5}, uncertain_below=0.5, first=("a",))
    assert Decision.from_json(json.loads(json.dumps(with_first.as_json()))) == with_first
    assert "first" not in Decision(thresholds={"a": 0.5}, uncertain_below=0.5).as_json()


def test_flags_say_what_was_found_and_what_to_do():
    p = np.array([0.3, 0.25, 0.45], np.float32)
    decision = Decision(thresholds={"a": 0.5, "b": 0.5, "c": 0.5}, uncertain_below=0.6)
    _, flags = decide(p, 2, ("a", "b", "c"), decision)
    assert [f.message for f in flags] == [
        "No label reached its threshold; the most probable one is shown.",
        "The decided label has a probability of only 0.45 (below 0.60); have the image read by a person.",
    ]


def test_equal_probabilities_without_a_winner_among_them_go_by_order():
    p = np.array([0.2, 0.4, 0.4], np.float32)
    assert decide(p, 0, ("a", "b", "c"), Decision(thresholds={}, uncertain_below=0.0))[0] == "b"
    assert decide(p, 2, ("a", "b", "c"), Decision(thresholds={}, uncertain_below=0.0))[0] == "c"

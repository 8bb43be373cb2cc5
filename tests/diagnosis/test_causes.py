"""What follows from a cause goes under it, and the cause comes first."""

import pytest

from keras_initlab.diagnosis import Finding
from keras_initlab.diagnosis.causes import CAUSES, LATENT, ORDER, folded, follows_from

pytestmark = pytest.mark.once


def finding(code, severity="warning", layer="dense"):
    return Finding(code, severity, layer, "Evidence.", "Remedy.")


def told(findings, **options):
    """Return codes of causes, each with those of its consequences."""
    return {
        cause.code: [follow.code for follow in cause.consequences]
        for cause in folded(findings, **options)
    }


def test_a_consequence_goes_under_its_cause_and_makes_it_as_severe():
    cause, follow = finding("input-scale"), finding("saturated-units", "error")
    [together] = folded([follow, cause])
    assert (together.code, together.severity) == ("input-scale", "error")
    assert together.consequences == (follow,)
    assert str(together).endswith("Remedy. And so: saturated-units in dense.")


def test_consequences_of_consequences_go_under_the_first_cause():
    codes = ("vanishing-gradient", "vanishing-signal", "constant-kernel")
    assert told(map(finding, codes)) == {
        "constant-kernel": ["vanishing-signal", "vanishing-gradient"]
    }


def test_the_likeliest_of_several_causes_is_chosen():
    codes = ("vanishing-signal", "initializer-mismatch", "input-scale")
    assert told(map(finding, codes)) == {
        "input-scale": [],
        "initializer-mismatch": ["vanishing-signal"],
    }


def test_faults_that_have_nothing_to_do_with_each_other_stay_apart_errors_first():
    found = [finding("shared-draw"), finding("vanishing-signal", "error")]
    assert [*told(found)] == ["vanishing-signal", "shared-draw"]


def test_what_is_only_worth_knowing_causes_nothing():
    found = [finding("initializer-mismatch", "info"), finding("vanishing-signal")]
    assert told(found) == {"vanishing-signal": [], "initializer-mismatch": []}


def test_large_biases_are_told_where_they_do_harm_and_only_there():
    biases = finding("large-biases", "info")
    assert told([biases]) == {}
    assert told([biases, finding("dead-units")]) == {"large-biases": ["dead-units"]}


def test_while_training_steps_are_the_cause_of_what_they_broke():
    found = [finding("exploding-signal"), finding("update-too-large")]
    assert told(found) == {"exploding-signal": ["update-too-large"]}
    assert told(found, training=True) == {"update-too-large": ["exploding-signal"]}


def test_what_is_found_in_the_data_comes_first_and_has_no_cause():
    found = [finding("update-too-large", "error"), finding("nonfinite", "error", "x")]
    assert [*told(found, inputs=["x"])] == ["nonfinite", "update-too-large"]
    assert told(found) == {"update-too-large": ["nonfinite"]}


def test_a_code_of_ones_own_stands_for_itself():
    assert told([finding("own"), finding("input-scale")]) == {
        "input-scale": [],
        "own": [],
    }


def test_causes_come_before_what_follows_from_them():
    for code, causes in CAUSES.items():
        assert {code, *causes} <= set(ORDER)
        for cause in causes:
            assert follows_from(finding(code), finding(cause))
    assert set(LATENT) <= set(ORDER)

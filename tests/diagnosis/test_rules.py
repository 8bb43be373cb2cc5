"""Each rule on facts made by hand: at its thresholds, and where it must be silent."""

from dataclasses import replace

import pytest

import keras_initlab as il
from keras_initlab.diagnosis import (
    SEVERITIES,
    Facts,
    HeadFacts,
    InputFacts,
    findings_of,
)
from keras_initlab.stats import LayerStats
from tests.diagnosis.byhand import (
    NAN,
    alike,
    chain,
    data,
    head,
    kernel,
    kernels,
    many,
    steps,
    targets,
)

pytestmark = pytest.mark.once

CODES = {
    *("symmetric-units", "constant-kernel", "shared-draw", "large-biases"),
    *("initializer-mismatch", "wrong-fans"),
    *("vanishing-signal", "exploding-signal", "collapsed-inputs"),
    *("no-gradient", "vanishing-gradient", "exploding-gradient"),
    *("dead-units", "saturated-units"),
    *("nonfinite", "input-scale", "target-scale"),
    *("head-loss-mismatch", "saturated-head"),
    *("update-too-large", "update-too-small"),
}


# A row: the facts, the code, its severity, the layer, and what the evidence holds.
FIRES = {
    # Kernels of one value
    "all zeros": (
        kernels({"constant": 0.0}),
        ("constant-kernel", "error", "dense_0"),
        ("its kernel are 0:", "no gradient passes it"),
    ),
    "one kernel of a constant": (
        kernels({}, {"constant": 0.25}),
        ("constant-kernel", "warning", "dense_1"),
        ("0.25", "all its units compute the same"),
    ),
    "two kernels of a constant": (
        kernels({}, {"constant": 0.25}, {}, {"constant": 0.5}),
        ("constant-kernel", "error", "dense_1"),
        ("0.25", "and 1 more layer)"),
    ),
    "a branch that ends in a constant": (
        kernels({"constant": 0.25, "branch_end": True}),
        ("constant-kernel", "warning", "dense_0"),
        ("0.25",),
    ),
    # Twins
    "half of the units twice": (
        kernels({"twins": 4}),
        ("symmetric-units", "warning", "dense_0"),
        ("4 of its 8 units",),
    ),
    "more than half": (
        kernels({"twins": 5}),
        ("symmetric-units", "error", "dense_0"),
        ("5 of its 8 units",),
    ),
    "only those that are read alike": (
        kernels({"twins": 7, "read_alike": 3}),
        ("symmetric-units", "warning", "dense_0"),
        ("3 of its 8 units", "read the same by what follows"),
    ),
    "the layer with the most twins": (
        kernels({"twins": 5, "units": 50}, {"twins": 4}),
        ("symmetric-units", "warning", "dense_1"),
        ("4 of its 8 units", "and 1 more layer)"),
    ),
    # Drawn twice
    "drawn alike": (
        kernels({"digest": "b"}, {"digest": "a"}, {"digest": "b"}),
        ("shared-draw", "warning", "dense_0"),
        ("dense_0, dense_2 are",),
    ),
    "nine drawn alike": (
        many(9, digest="a"),
        ("shared-draw", "warning", "dense_0"),
        ("dense_7, dense_8 are",),
    ),
    # Initializers
    "one kernel a little small": (
        kernels({}, {"scale": 0.6}),
        ("initializer-mismatch", "info", "dense_1"),
        ("glorot", "0.6 times", "relu", "shrinks 1.7 times"),
    ),
    "four decades lost": (
        many(14, scale=0.5),
        ("initializer-mismatch", "warning", "dense_0"),
        ("0.5 times", "and 13 more layers", "shrinks 16,000 times"),
    ),
    "not yet four": (
        many(13, scale=0.5),
        ("initializer-mismatch", "info", "dense_0"),
        ("shrinks 8,200 times",),
    ),
    "nine decades won": (
        many(9, scale=10.0),
        ("initializer-mismatch", "error", "dense_0"),
        ("10 times", "grows 10⁹ times"),
    ),
    "not more than eight": (
        many(7, scale=10.0),
        ("initializer-mismatch", "warning", "dense_0"),
        ("grows 10⁷ times",),
    ),
    "won and lost again": (
        kernels(*[{"scale": 10.0}] * 4, *[{"scale": 0.1}] * 4),
        ("initializer-mismatch", "warning", "dense_0"),
        ("grows 10,000 times", "and 3 more layers"),
    ),
    "the count starts anew at a normalisation": (
        kernels(*[{"scale": 0.5}] * 6, {"normalised": True}, *[{"scale": 0.5}] * 7),
        ("initializer-mismatch", "info", "dense_7"),
        ("shrinks 130 times", "and 6 more layers"),
    ),
    "the count starts anew where a branch ends": (
        kernels(*[{"scale": 0.5}] * 8, {"branch_end": True}, *[{"scale": 0.5}] * 7),
        ("initializer-mismatch", "info", "dense_0"),
        ("shrinks 260 times", "and 7 more layers"),
    ),
    # Fans
    "a quarter of the variance": (
        kernels({"by_wrong_fans": 0.25}),
        ("wrong-fans", "warning", "dense_0"),
        ("glorot", "0.25 times"),
    ),
    "four times the variance": (
        kernels({"by_wrong_fans": 1.4}, {"by_wrong_fans": 4.0}),
        ("wrong-fans", "warning", "dense_1"),
        ("4 times",),
    ),
    "twice the variance": (
        kernels({"by_wrong_fans": 2.0}),
        ("wrong-fans", "info", "dense_0"),
        ("2 times",),
    ),
    "wrong fans before a normalisation": (
        kernels({"by_wrong_fans": 0.01, "normalised": True}),
        ("wrong-fans", "info", "dense_0"),
        ("0.01 times",),
    ),
    # Signals
    "nothing is left": (
        chain("batch_variance", [1, 1, 0.0, 0.0]),
        ("vanishing-signal", "error", "dense_2"),
        ("all inputs have the same output",),
    ),
    "less than 1e-4 is left": (
        chain("batch_variance", [1, 0.1, 9e-5, 2e-6]),
        ("vanishing-signal", "warning", "dense_2"),
        ("9·10⁻⁵ times what went in", "2·10⁻⁶ times before the output layer"),
    ),
    "lost little by little": (
        chain("batch_variance", [1, 1e-3, 1e-6, 1e-9]),
        ("vanishing-signal", "error", "dense_2"),
        ("10⁻⁶ times what went in", "10⁻⁹ times before the output layer"),
    ),
    "gone for good from the last time on": (
        chain("batch_variance", [1, 1e-6, 1, 1e-9, 1e-9]),
        ("vanishing-signal", "error", "dense_3"),
        ("10⁻⁹",),
    ),
    "against what went in": (
        chain(
            "batch_variance",
            [9e-5, 9e-5],
            inputs=(InputFacts("x", mean=3.0, deviation=1.0),),
        ),
        ("vanishing-signal", "warning", "dense_0"),
        ("9·10⁻⁵",),
    ),
    "after a normalisation": (
        chain("batch_variance", [1, 50, 1e-3], kinds={1: {"normalises": True}}),
        ("vanishing-signal", "warning", "dense_2"),
        ("2·10⁻⁵",),
    ),
    "a normalisation of nothing": (
        chain("batch_variance", [1, 1, 0.0], kinds={2: {"normalises": True}}),
        ("vanishing-signal", "error", "dense_2"),
        ("all inputs have the same output",),
    ),
    "grown by more than 1e4": (
        chain("second_moment", [1, 2e4, 3e5]),
        ("exploding-signal", "warning", "dense_1"),
        ("20,000", "300,000"),
    ),
    "grown by more than 1e8": (
        chain("second_moment", [0.1, 2e4, 3e8, 1]),
        ("exploding-signal", "error", "dense_1"),
        ("200,000", "3·10⁹"),
    ),
    "all inputs the same": (
        alike(0.5, 0.9, 0.99995),
        ("collapsed-inputs", "error", "dense_2"),
        ("is 5·10⁻⁵ before the output layer", "was 0.5 in the first"),
    ),
    "nearly the same after twenty layers": (
        alike(*[0.5] * 18, 0.94, 0.96),
        ("collapsed-inputs", "warning", "dense_18"),
        ("is 0.04 before",),
    ),
    "nearly the same from early on": (
        alike(0.5, 0.7, 0.8, *[0.98] * 57),
        ("collapsed-inputs", "warning", "dense_3"),
        ("is 0.02 before", "was 0.3 in the first"),
    ),
    # Gradients
    "no gradient comes back": (
        chain("gradient_second_moment", [0, 0, 0, 1, 1]),
        ("vanishing-gradient", "error", "dense_2"),
        ("no gradient arrives",),
    ),
    "less than 1e-4 comes back": (
        chain("gradient_second_moment", [1e-6, 9e-5, 1, 1]),
        ("vanishing-gradient", "warning", "dense_1"),
        ("9·10⁻⁵",),
    ),
    "the gradient grows by more than 1e4": (
        chain("gradient_second_moment", [1, 3e4, 2e4, 1]),
        ("exploding-gradient", "warning", "dense_2"),
        ("30,000",),
    ),
    "the gradient grows by more than 1e8": (
        chain("gradient_second_moment", [2e8, 2e4, 1]),
        ("exploding-gradient", "error", "dense_0"),
        ("2·10⁸",),
    ),
    "the gradient grows steadily": (
        chain("gradient_second_moment", [2.0**i for i in range(14)][::-1]),
        ("exploding-gradient", "warning", "dense_2"),
        ("4,100",),
    ),
    # Units
    "most are dead": (
        chain("dead_fraction", [0.7, 0.8, 0.9], units=64),
        ("dead-units", "warning", "dense_2"),
        ("90 %", "and 1 more layer)"),
    ),
    "nearly all are dead": (
        chain("dead_fraction", [0.95]),
        ("dead-units", "error", "dense_0"),
        ("95 %",),
    ),
    "more have died than were dead at first": (
        chain(
            "dead_fraction",
            [0.7],
            first=chain("dead_fraction", [0.1]).stats,
        ),
        ("dead-units", "warning", "dense_0"),
        ("70 %",),
    ),
    "many are saturated": (
        chain("saturated_fraction", [0.41, 0.1]),
        ("saturated-units", "warning", "dense_0"),
        ("41 %",),
    ),
    "most are saturated": (
        chain("saturated_fraction", [0.41, 0.75]),
        ("saturated-units", "error", "dense_1"),
        ("75 %", "and 1 more layer)"),
    ),
    # NaN and data
    "NaN in the data": (
        data(nonfinite=3),
        ("nonfinite", "error", "x"),
        ("3 of the input's values",),
    ),
    "NaN in a kernel": (
        kernels({}, {"nonfinite": 2}),
        ("nonfinite", "error", "dense_1"),
        ("2 entries of its kernel",),
    ),
    "NaN in an output": (
        chain("nonfinite", [0, 5, 7]),
        ("nonfinite", "error", "dense_1"),
        ("5 elements",),
    ),
    "large data": (
        data(deviation=31.0),
        ("input-scale", "warning", "x"),
        ("mean 0", "deviation 31"),
    ),
    "small data": (
        data(deviation=0.0099),
        ("input-scale", "warning", "x"),
        ("0.0099",),
    ),
    "data with an offset": (
        data(mean=-11.0),
        ("input-scale", "warning", "x"),
        ("mean -11", "deviation 1", "offset"),
    ),
    "a feature that drowns others": (
        data(spread=301.0, largest=4, deviation=90.0),
        ("input-scale", "warning", "x"),
        ("Feature 4", "300 times"),
    ),
    # Outputs
    "a softmax over one unit": (
        head(activation="softmax", units=1),
        ("head-loss-mismatch", "error", "head"),
        ("1 for every input",),
    ),
    "targets in the millions": (
        head(loss="mean_squared_error", targets=targets(mean=1e8, deviation=3e7)),
        ("target-scale", "warning", "head"),
        ("mean 10⁸",),
    ),
    "sure before it has learned": (
        chain(
            "second_moment",
            [1.0],
            last=0.098,
            heads=(HeadFacts("head", 10, "softmax"),),
        ),
        ("saturated-head", "warning", "head"),
        ("add up to 0.98", "10 classes that are equally likely give 0.1"),
    ),
    # Steps
    "a wild step": (
        steps(0.1, 0.41),
        ("update-too-large", "warning", "dense_1"),
        ("41 %",),
    ),
    "large steps in two windows": (
        steps(0.31, 0.1, before=[(0.35, 0.1)]),
        ("update-too-large", "warning", "dense_0"),
        ("31 %",),
    ),
    "no step has moved weights": (
        steps(1e-7, 3e-8, 0.0, before=[(1e-8, 0.0, 0.0)], updates=True),
        ("update-too-small", "warning", "dense_0"),
        ("3·10⁻⁸ times",),
    ),
    "steps of exactly 0": (
        steps(0.0, 0.0, updates=True),
        ("update-too-small", "warning", "dense_0"),
        ("No step has changed any weight",),
    ),
    "the loss stands still": (
        steps(1e-5, 9e-5, losses=(2.392, 2.391, 2.389), steps=100),
        ("update-too-small", "warning", "dense_0"),
        ("100 steps", "at most 0.9 %", "from 2.392 to 2.389"),
    ),
    "no gradient anywhere": (
        steps(0.0, 0.0, gradient=0.0),
        ("no-gradient", "error", "dense_1"),
        ("exactly 0",),
    ),
    # NaN in training
    "the loss makes NaN": (
        steps(NAN, NAN, gradient=NAN, nonfinite=0),
        ("nonfinite", "error", "dense_1"),
        ("All outputs are finite, and the gradients are NaN",),
    ),
    "the loss is NaN": (
        chain("nonfinite", [0], losses=(NAN,)),
        ("nonfinite", "error", "head"),
        ("the loss is nan",),
    ),
    "NaN after sound steps": (
        chain("nonfinite", [0, 5], at_start=frozenset()),
        ("nonfinite", "error", "dense_1"),
        ("5 elements", "at the first step all were finite"),
    ),
    "saturated by biases": (
        chain("saturated_fraction", [0.8], biased=(("dense_0", 6.0),)),
        ("large-biases", "error", "dense_0"),
        ("biases is 6",),
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_it_fires(name):
    facts, (code, severity, layer), says = FIRES[name]
    [found] = findings_of(facts)
    assert (found.code, found.severity, found.layer) == (code, severity, layer)
    assert all(part in found.evidence for part in says), found.evidence
    assert found.evidence.endswith(".")
    assert found.remedy.endswith(".")


def test_every_code_of_the_list_has_a_rule_and_no_rule_another():
    assert {code for _, (code, *_), _ in FIRES.values()} == CODES
    told = il.diagnose.__doc__.split("The codes:")[1].split("Args:")[0]
    assert {part for part in told.split("`") if "-" in part or part in CODES} == CODES


FIGURES = (
    "variance batch_variance second_moment input_cosine dead_fraction "
    "saturated_fraction gradient_second_moment update_ratio"
).split()


@pytest.mark.parametrize("value", [None, NAN])
@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_not_known_says_nothing(figure, value):
    assert findings_of(chain(figure, [value] * 12)) == []
    assert findings_of(chain(figure, [value] * 12, kinds={0: {"starts": True}})) == []


@pytest.mark.parametrize("value", [None, NAN])
@pytest.mark.parametrize(
    ("figure", "values", "code"),
    [
        ("batch_variance", [1, 1e-6], "vanishing-signal"),
        ("second_moment", [1, 1e6], "exploding-signal"),
        ("input_cosine", [0.5, 0.99999], "collapsed-inputs"),
        ("gradient_second_moment", [1e-6, 1], "vanishing-gradient"),
        ("gradient_second_moment", [1e6, 1], "exploding-gradient"),
        ("dead_fraction", [0.99], "dead-units"),
        ("saturated_fraction", [0.6], "saturated-units"),
        ("update_ratio", [0.6], "update-too-large"),
    ],
)
def test_what_is_not_known_hides_nothing(figure, values, code, value):
    gaps = [part for one in values for part in (value, one)]
    for some in ([*gaps, value], gaps):
        assert [one.code for one in findings_of(chain(figure, some))] == [code]


def test_the_first_place_with_nan_stands_for_all():
    stats = chain("nonfinite", [4]).stats
    facts = Facts(
        stats, kernels=(kernel(nonfinite=2),), inputs=data(nonfinite=1).inputs
    )
    for place in ("x", "dense", "dense_0"):
        [found] = findings_of(facts)
        assert found.layer == place
        facts = replace(facts, **{"inputs": ()} if facts.inputs else {"kernels": ()})


def test_serious_and_slight_wrong_fans_are_told_apart():
    facts = kernels({"by_wrong_fans": 9.0}, {"by_wrong_fans": 9.0, "guarded": True})
    found = [(one.severity, one.layer) for one in findings_of(facts)]
    assert found == [("warning", "dense_0"), ("info", "dense_1")]


def test_errors_come_first():
    facts = Facts(
        kernels=(
            kernel("a", by_wrong_fans=2.0),
            kernel("b", digest="d"),
            kernel("c", digest="d", nonfinite=1),
            kernel("d", twins=2, read_alike=2),
        ),
    )
    found = findings_of(facts)
    assert [one.code for one in found] == [
        *("nonfinite", "symmetric-units", "shared-draw", "wrong-fans")
    ]
    ranks = [SEVERITIES.index(one.severity) for one in found]
    assert ranks == [0, 1, 1, 2]


def test_stats_alone_are_diagnosed():
    stats = chain("batch_variance", [1, 1, 1e-9]).stats
    [found] = il.diagnose(list(stats))
    assert (found.code, found.layer) == ("vanishing-signal", "dense_2")
    assert il.diagnose(stats) == [found]
    assert il.diagnose([]) == []
    one = LayerStats("dense", "kernel", saturated_fraction=0.9, source="measured")
    assert il.diagnose(replace(one, nonfinite=1))[0].code == "nonfinite"


def test_calls_of_a_shared_layer_are_known_by_their_path():
    facts = chain("dead_fraction", [1.0], kinds={0: {"bends": False}})
    calls = tuple(replace(facts.stats[0], layer=f"dense_0#{i}") for i in range(2))
    assert findings_of(replace(facts, stats=calls)) == []

"""Where the rules must say nothing: near their thresholds, and of what is no fault."""

import pytest

from keras_initlab.diagnosis import Facts, InputFacts, findings_of
from tests.diagnosis.byhand import NAN, alike, chain, data, kernel, kernels, many, steps

pytestmark = pytest.mark.once

BESIDE = {"bypassed": True}

# Facts of which nothing must be said.
SILENT = {
    "nothing is known": Facts(),
    # Kernels
    "nothing known of a kernel": Facts(kernels=(kernel(units=0),)),
    "a head of zeros": kernels({"constant": 0.0, "head": True}),
    "a branch that ends in zeros": kernels({"constant": 0.0, "branch_end": True}),
    "zeros that the network can do without": kernels({"constant": 0.0, "spared": True}),
    "one unit": kernels({"constant": 0.25, "units": 1}),
    "twins that are read apart": kernels({"twins": 4, "read_alike": 0}),
    "twins in a head": kernels({"twins": 4, "head": True}),
    "drawn apart": kernels({"digest": "a"}, {"digest": "b"}, {}, {}),
    # Initializers
    "a scale near enough": many(50, scale=1.5),
    "no scale is known": many(50, scale=None),
    **{
        f"a scale that matters less: {role}": many(50, **{"scale": 0.01, role: True})
        for role in ("head", "guarded", "normalised", "branch_end", "bypassed")
    },
    "wrong fans, and signals that are sound": Facts(
        chain("batch_variance", [1, 1]).stats, kernels=(kernel(by_wrong_fans=2.0),)
    ),
    "a small share, and signals that are known": Facts(
        chain("batch_variance", [1, 1e-2]).stats, kernels=(kernel(scale=0.01),)
    ),
    "fans near enough": kernels({"by_wrong_fans": 1.5}, {"by_wrong_fans": 1 / 1.49}),
    "fans that are right": kernels({"by_wrong_fans": 1.0}, {"by_wrong_fans": None}),
    # Signals
    "just enough is left": chain("batch_variance", [1, 1.1e-4, 1e-3]),
    "it comes back": chain("batch_variance", [1, 1e-9, 0.1]),
    "gone in the head alone": chain(
        "batch_variance", [1, 1e-9], kinds={1: {"ends": 1}}
    ),
    "a normalisation brings it back": chain(
        "batch_variance", [1, 1e-3, 1, 1e-3], kinds={2: {"normalises": True}}
    ),
    "a normalisation may lower it": chain(
        "batch_variance", [1, 1e-9, 1e-9], kinds={1: {"normalises": True}}
    ),
    "small data, scaled by the model": chain(
        "batch_variance",
        [1, 1],
        inputs=(InputFacts("x", mean=0.0, deviation=1e6, scaled=True),),
    ),
    "before the first kernel": chain(
        "batch_variance", [1e6, 1, 1], kinds={1: {"starts": True}}
    ),
    "grown just enough": chain("second_moment", [1, 1e4]),
    "a normalisation starts anew": chain(
        "second_moment", [1, 1e3, 1e3, 1e6], kinds={2: {"normalises": True}}
    ),
    "inputs told apart": alike(0.5, 0.9, 0.9998),
    "few layers": alike(*[0.5] * 18, 0.96),
    "not so near": alike(*[0.5] * 19, 0.94),
    "the same to begin with": alike(1 - 9e-5, 1.0, 1.0),
    "alike from the beginning": alike(*[0.9999] * 9, 0.99995),
    # Gradients
    "enough comes back": chain("gradient_second_moment", [1.1e-4, 1.1e-4, 1, 1]),
    "some comes back in the end": chain("gradient_second_moment", [1, 0, 0, 1]),
    "the gradient grows just enough": chain("gradient_second_moment", [1e4, 1]),
    "by accident, not steadily": chain("gradient_second_moment", [5e3, 1, 1, 1, 1]),
    "one layer": chain("gradient_second_moment", [1.0]),
    "gradients that are left when all is learned": chain(
        "gradient_second_moment", [1e9, 1], losses=(1.0, 1e-4)
    ),
    "no gradient in a branch": chain(
        "gradient_second_moment", [0, 0, 1, 1], kinds={0: BESIDE, 1: BESIDE}
    ),
    "a branch comes first on the way back": chain(
        "gradient_second_moment", [1, 1e-12, 1], kinds={1: BESIDE}
    ),
    "no gradient behind zeros": chain(
        "gradient_second_moment", [0, 0, 1, 1], from_zero={"dense_1"}
    ),
    # Units
    "half are dead": chain("dead_fraction", [0.75, 0.75], units=64),
    "of few units, by chance": chain("dead_fraction", [0.9]),
    "as many were dead at first": chain(
        "dead_fraction", [0.6], first=chain("dead_fraction", [0.3]).stats
    ),
    "many have died, and the loss has fallen": chain(
        "dead_fraction",
        [0.78],
        first=chain("dead_fraction", [0.1]).stats,
        losses=(3.0, 0.3),
    ),
    "biases that do no harm": Facts(biased=(("dense", 5.0),)),
    "saturated by learning": chain("saturated_fraction", [0.9], losses=(1.0, 0.1)),
    "saturated by training": chain("saturated_fraction", [0.9], trained=True),
    "dead in the head": chain("dead_fraction", [1.0], kinds={0: {"ends": True}}),
    "zeros that are no units": chain(
        "dead_fraction", [1.0], kinds={0: {"bends": False}}
    ),
    "some are saturated": chain("saturated_fraction", [0.4, 0.4]),
    # Data
    "data near enough": data(deviation=30.0),
    "small data near enough": data(deviation=0.01),
    "an offset near enough": data(mean=10.0),
    "features near enough": data(spread=300.0),
    "data that the model scales": data(mean=9e5, spread=1e4, scaled=True),
    # Steps
    "a large step": steps(0.4),
    "a large step for once": steps(0.35, before=[(0.35,), (0.3,)]),
    "a large step in another layer": steps(0.35, 0.1, before=[(0.1, 0.35)]),
    "weights have moved": steps(0.0, 0.0, before=[(0.0, 2e-7)], updates=True),
    "one layer moves": steps(0.0, 2e-7, updates=True),
    "not measured": steps(None, None),
    "steps of NaN": steps(NAN, NAN, updates=True, gradient=NAN),
    "one step of NaN": steps(NAN, 2e-7, updates=True),
    "nothing left to learn": steps(
        0.0, 0.0, updates=True, gradient=0.0, losses=(1.0, 0.0)
    ),
    "weights that began at 0": steps(9.0, 0.1, from_zero={"dense_0"}),
    "slow steps that learn": steps(1e-5, losses=(1.0, 0.9, 0.8), steps=100),
    "few windows": steps(1e-5, losses=(1.0, 1.0), steps=100),
    "no gradient known": steps(0.0, 0.0, updates=True, gradient=None),
}


@pytest.mark.parametrize("name", SILENT)
def test_it_is_silent(name):
    assert findings_of(SILENT[name]) == []

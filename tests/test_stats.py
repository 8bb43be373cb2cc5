import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from keras_initlab.stats import LayerStats, possible

pytestmark = pytest.mark.once


def test_what_is_not_known_is_none():
    stats = LayerStats("dense", source="measured")
    known = {f.name for f in fields(stats) if getattr(stats, f.name) is not None}
    assert known == {"layer", "source"}


def test_fields_stand_in_the_order_of_the_design():
    names = [field.name for field in fields(LayerStats)]
    assert (
        names
        == (
            "layer weight shape mean variance second_moment batch_variance "
            "input_cosine zero_fraction dead_fraction saturated_fraction nonfinite "
            "gradient_second_moment weight_gradient_second_moment update_ratio source"
        ).split()
    )


def test_is_frozen_and_says_where_it_comes_from():
    stats = LayerStats("dense", source="predicted")
    with pytest.raises(FrozenInstanceError):
        stats.variance = 1.0
    with pytest.raises(TypeError, match="source"):
        LayerStats("dense")


POSSIBLE = [
    {},
    {"mean": -3.0, "variance": 0.0, "second_moment": 9.0, "input_cosine": -1.0},
    # Beyond the square of the mean by rounding alone, in float32.
    {"mean": 1000.0, "variance": 0.0, "second_moment": 1e6 - 0.5},
    {"second_moment": math.inf, "mean": math.inf, "variance": math.nan},
    {"mean": math.nan, "second_moment": math.nan, "zero_fraction": math.nan},
    {"zero_fraction": 1.0, "dead_fraction": 0.0, "saturated_fraction": 0.5},
    {"gradient_second_moment": 0.0, "update_ratio": math.inf, "nonfinite": 3},
]
# Figures, and which of them are left out: of the moments none can be trusted.
MOMENTS = "mean variance second_moment batch_variance input_cosine".split()
IMPOSSIBLE = [
    ({"second_moment": -2.21, "mean": 0.0, "variance": 0.0}, MOMENTS),
    ({"second_moment": 0.5, "mean": 1.0, "gradient_second_moment": 1.0}, MOMENTS),
    ({"variance": -0.1, "mean": 1.0, "second_moment": 0.9}, MOMENTS),
    ({"batch_variance": -1.0, "mean": 0.0, "second_moment": 1.0}, MOMENTS),
    ({"input_cosine": 1.1, "second_moment": 1.0}, MOMENTS),
    ({"second_moment": -math.inf}, MOMENTS),
    ({"gradient_second_moment": -0.07, "variance": 1.0}, ["gradient_second_moment"]),
    (
        {"weight_gradient_second_moment": -2.68, "weight": "kernel", "mean": 1.0},
        ["weight_gradient_second_moment"],
    ),
    ({"zero_fraction": 1.5, "dead_fraction": 0.5}, ["zero_fraction"]),
    ({"dead_fraction": -0.5, "nonfinite": 0}, ["dead_fraction"]),
    ({"saturated_fraction": math.inf}, ["saturated_fraction"]),
    ({"update_ratio": -1.0, "nonfinite": -1}, ["update_ratio", "nonfinite"]),
]


@pytest.mark.parametrize("figures", POSSIBLE)
def test_what_can_be_stays_as_it_is(figures):
    stats = LayerStats("dense", source="predicted", **figures)
    assert possible(stats) is stats


@pytest.mark.parametrize(("figures", "left_out"), IMPOSSIBLE)
def test_what_cannot_be_is_not_known(figures, left_out):
    stats = LayerStats("dense", source="predicted", **figures)
    with pytest.warns(RuntimeWarning, match=r"'dense'.*no signal can have") as caught:
        found = possible(stats)
    wrong = next(name for name in figures if name in left_out and name != "mean")
    assert f"{wrong}=" in str(caught[0].message)
    assert found == replace(stats, **dict.fromkeys(left_out))


def test_rounding_errors_are_taken_to_the_end():
    stats = LayerStats(
        "dense",
        variance=-1e-17,
        second_moment=1.0,
        input_cosine=1 + 1.1e-6,
        zero_fraction=-1e-9,
        gradient_second_moment=-1e-15,
        source="measured",
    )
    found = possible(stats)
    assert (found.variance, found.input_cosine, found.zero_fraction) == (0.0, 1.0, 0.0)
    assert found.gradient_second_moment == 0.0
    assert found.second_moment == 1.0

from dataclasses import FrozenInstanceError, fields

import pytest

from keras_initlab.stats import LayerStats

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

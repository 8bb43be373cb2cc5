import numpy as np
import pytest

from keras_initlab.plots.sample import Sample, edges_for, smallest_size

pytestmark = pytest.mark.once

NORMAL = np.random.default_rng(0).normal(size=2000)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([1.0, 3.0], "mean 2, sd 1"),
        ([0.0, 4.0], "mean 2, sd 2\n50% zeros"),
        ([0.0, 4.0, np.nan, np.inf], "mean 2, sd 2\n25% zeros, 50% not finite"),
        ([1.0, 3.0, -np.inf, np.nan], "mean 2, sd 1\n50% not finite"),
        ([0.0, 0.0], "all 0"),
        ([0.0, -0.0, np.nan, np.nan], "all 0\n50% not finite"),
        ([0.5, 0.5], "all 0.5"),
        ([np.nan, np.inf], "nothing finite"),
        ([], "no values"),
        (None, "no values"),
        ([0.0] + [1.0] * 200, "mean 1, sd 0.07\n<1% zeros"),
        ([0.0] * 200 + [1.0], "mean 0.005, sd 0.07\n>99% zeros"),
    ],
)
def test_notes(values, note):
    assert Sample.of(values).note == note


def test_zeros_and_what_is_not_finite_are_counted_apart():
    sample = Sample.of(np.array([[0.0, 1.0], [np.nan, 2.0]], dtype="float32"))
    assert sample.values.tolist() == [1, 2]
    assert (sample.mean, sample.zeros, sample.nonfinite) == (1, 0.25, 0.25)
    assert Sample.of([0.0, 0.0]).values.tolist() == [0, 0]


def test_shares_are_of_the_fullest_bin():
    sample = Sample.of([0.5, 1.5, 1.5, 1.5, 1.5])
    np.testing.assert_allclose(sample.shares(np.arange(4.0)), [0.25, 1, 0])
    assert Sample.of([]).shares(np.arange(3.0)).tolist() == [0, 0]


def test_layers_far_apart_are_told_by_the_smallest():
    near, far = Sample.of(NORMAL), Sample.of(NORMAL / 1000)
    assert smallest_size([near, Sample.of(NORMAL / 3)]) is None
    assert smallest_size([near, far]) == pytest.approx(1.64e-3, rel=0.1)
    # Dead layers say nothing of a scale.
    assert smallest_size([near, Sample.of([0.0]), Sample.of([np.nan])]) is None
    assert smallest_size([]) is None


def test_edges_hold_saturated_values_and_leave_outliers_out():
    clipped = np.clip(NORMAL, -1, 1)
    edges = edges_for([Sample.of(clipped)], 50)
    assert (edges[0], edges[-1]) == (-1, 1)
    assert np.histogram(clipped, edges)[0].sum() == len(clipped)
    assert edges_for([Sample.of([*NORMAL, 1e9])], 50)[-1] < 10


def test_edges_reach_to_the_zeros_of_a_relu():
    edges = edges_for([Sample.of(np.maximum(NORMAL + 1, 0))], 50)
    assert edges[0] == 0


@pytest.mark.parametrize(
    ("values", "ends"),
    [([0.0, 0.0], (-0.5, 0.5)), ([4.0, 4.0], (2, 6)), ([np.nan], (-1, 1))],
)
def test_edges_around_one_value_or_none(values, ends):
    edges = edges_for([Sample.of(values)], 50)
    assert (edges[0], edges[-1]) == ends
    assert (np.diff(edges) > 0).all()


def test_more_values_have_more_bins():
    counts = [len(edges_for([Sample.of(NORMAL[:n])], 50)) for n in (20, 400, 2000)]
    assert counts == [16, 31, 51]


def test_edges_around_zero_reach_to_the_sides_on_which_values_are():
    ends = {
        name: Sample.of(values).around_zero(4)[[0, -1]].tolist()
        for name, values in {
            "both": [-1.0, 3.0],
            "positive": [0.0, 1.0, 2.0],
            "negative": [-2.0, -1.0],
            "zeros": [0.0, 0.0],
            "nothing": None,
        }.items()
    }
    assert ends == {
        "both": [-3, 3],
        "positive": [0, 2],
        "negative": [-2, 0],
        "zeros": [0, 1],
        "nothing": [0, 1],
    }

"""What the examples that teach say is so: each is run in its quick form.

They run in this process, on PyTorch alone: they are ordinary Keras, whose backends the
other tests compare, and starting Python takes longer than most of them.
"""

import importlib
import sys

import numpy as np
import pytest

from tests.helpers import ROOT

TAUGHT = (
    "biases",
    "custom_architecture",
    "debug_unstable_training",
    "deep_plain_network",
    "keras_tuner_search",
    "save_and_load",
    "symmetry",
    "tensorboard_live",
    "vanishing_exploding",
    "xavier_vs_he",
)

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.fixture
def taught(request, tmp_path, monkeypatch, capsys):
    """Return a function that runs an example and returns what its main returns."""
    monkeypatch.syspath_prepend(ROOT / "examples")

    def run(name):
        example = importlib.import_module(name)
        results = example.main(["--quick", "--out", str(tmp_path)])
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
        assert len(capsys.readouterr().out.splitlines()) > 4
        return results

    return run


def test_units_that_start_alike_stay_alike(taught):
    results = taught("symmetry")
    for name in ("zeros", "constant 0.1"):
        # As floats: sums over the batch may differ in their last places.
        assert results[name]["after"] < 1e-4, name
        assert "constant-kernel" in results[name]["faults_before"]
        assert results[name]["faults_after"]
    assert results["zeros"]["accuracy"] < 0.2
    for name in ("0.1 + N(0, 0.01²)", "initlab>auto"):
        one = results[name]
        assert one["after"] > 0.1, name
        assert one["accuracy"] > results["constant 0.1"]["accuracy"] + 0.2, name
        assert one["faults_after"] == [], name
    # What training broke up, from nearly equal units.
    near = results["0.1 + N(0, 0.01²)"]
    assert near["after"] > 3 * near["before"]


def test_small_weights_vanish_and_large_ones_explode_or_saturate(taught):
    results = taught("vanishing_exploding")

    def factors(activation, start):
        first, *_, last = results[activation][start]
        return (
            last.variance / first.variance,
            first.gradient_second_moment / last.gradient_second_moment,
        )

    for activation in ("relu", "tanh"):
        assert max(factors(activation, "0.01·N(0, 1)")) < 1e-10
        assert all(0.1 < one < 10 for one in factors(activation, "initlab>auto"))
    assert min(factors("relu", "N(0, 1)")) > 1e8
    # A half of it in each of seven layers; one draw is within a factor of three.
    for factor in factors("relu", "Glorot (Xavier)"):
        assert 1 / 3 < factor * 2**7 < 3
    assert all(0.2 < one < 5 for one in factors("relu", "He"))
    tanh = results["tanh"]
    assert tanh["N(0, 1)"][-1].saturated_fraction > 0.5
    assert factors("tanh", "N(0, 1)")[1] > 1e3
    assert tanh["Glorot (Xavier)"][-1].saturated_fraction < 0.05
    assert factors("tanh", "He")[1] > factors("tanh", "Glorot (Xavier)")[1]


def test_each_activation_has_its_start(taught):
    results = taught("xavier_vs_he")

    def of(activation, start):
        return results[activation][start]

    relu = results["relu"]
    for key in ("signal", "gradient"):
        assert relu["He normal"][key] == pytest.approx(1, rel=0.05)
        assert relu["Xavier normal"][key] == pytest.approx(2**-7, rel=0.05)
        assert 0.05 < of("tanh", "Xavier normal")[key] < 1
        assert of("selu", "Xavier normal")[key] < 2  # as LeCun's, where fans agree
        assert of("selu", "He normal")[key] > 5
    assert of("tanh", "He normal")["gradient"] > 1
    assert of("sigmoid", "Xavier normal")["gradient"] < 1e-7
    assert of("sigmoid", "He normal")["gradient"] < 1e-5

    def last(activation, start):
        return of(activation, start)["accuracy"][-1]

    assert last("relu", "He normal") > last("relu", "Xavier normal") + 0.1
    assert last("tanh", "Xavier normal") > 0.8
    assert last("sigmoid", "isometric") > 0.6 > last("sigmoid", "Xavier normal") + 0.3
    # Normal or uniform: the same variance, the same prediction.
    for activation in ("relu", "tanh"):
        normal, uniform = of(activation, "He normal"), of(activation, "He uniform")
        for key in ("signal", "gradient"):
            assert uniform[key] == pytest.approx(normal[key], rel=0.01)


def test_biases_are_zero_or_small(taught):
    results = taught("biases")
    zero, small = results["0"], results["0.01"]
    assert abs(zero["accuracy"][-1] - small["accuracy"][-1]) < 0.05
    assert zero["cosine"] < results["1"]["cosine"] < results["10"]["cosine"]
    assert results["10"]["cosine"] > 0.98
    assert results["10"]["accuracy"][-1] < zero["accuracy"][-1] - 0.2
    assert results["-1"]["dead"] > 0.9
    assert results["-1"]["accuracy"][-1] < 0.2
    losses = results["losses"]
    # The entropy of one in ten, and that of a coin.
    assert losses["class prior"][0] == pytest.approx(0.33, abs=0.05)
    assert losses["zeros"][0] == pytest.approx(np.log(2), abs=0.1)


def test_depth_is_no_obstacle(taught):
    default, isometric = taught("deep_plain_network").values()
    assert default["signal"] < 1e-6
    assert default["accuracy"] < 0.2
    assert isometric["signal"] == pytest.approx(1, rel=0.2)
    assert isometric["gradient"] == pytest.approx(1, rel=0.2)
    assert isometric["accuracy"] > 0.7


def test_layers_of_ones_own_are_found_and_watched(taught):
    results = taught("custom_architecture")
    assert ("gated_2", "u") in results["rewritten"]
    assert ("gated_2", "v") in results["rewritten"]
    # One draw of narrow layers, and inputs that are correlated: within a factor of 2.5.
    for when in ("before", "after"):
        for layer, (predicted, measured) in results[when].items():
            assert 0.4 < measured / predicted < 2.5, (when, layer)
    first, last = results["before"]["gated_1"][1], results["before"]["gated_3"][1]
    assert last < first / 5
    first, last = results["after"]["gated_1"][1], results["after"]["gated_3"][1]
    assert first / 3 < last < 3 * first
    assert {"gated_1", "sorted_3", "head"} <= results["history"].keys()
    assert results["accuracy"]["rewritten"] > 0.85


def test_faults_are_found_and_mended_one_by_one(taught):
    sick, scaled, drawn, mended = taught("debug_unstable_training").values()
    assert {
        "head-loss-mismatch",
        "input-scale",
        "initializer-mismatch",
        "shared-draw",
    } == {*sick["codes"]}
    assert "input-scale" not in scaled["codes"]
    assert drawn["codes"] == ["head-loss-mismatch"]
    assert mended["codes"] == []
    assert sick["accuracy"] < 0.6
    assert mended["accuracy"] > 0.9
    assert mended["loss"][-1] < 0.2 < drawn["loss"][-1]


def test_a_rewrite_is_saved_with_the_model(taught):
    results = taught("save_and_load")
    assert results["difference"] < 1e-5
    drawn = results["drawn"]
    relu, gelu, selu, tanh, _ = np.array([*drawn.values()]).T
    # 30·128 entries and more: the variance is within 12 % (5σ).
    np.testing.assert_allclose(relu[:-1], 2.0, rtol=0.12)
    np.testing.assert_allclose(gelu[:-1], 1.5335**2, rtol=0.06)
    np.testing.assert_allclose([selu[:-1], tanh[:-1]], 1.0, rtol=0.06)
    assert relu[-1] < 0.5
    assert gelu[-1] < 1.1


def test_tensorboard_shows_what_the_monitor_measured(taught):
    pytest.importorskip("tensorboard")
    results = taught("tensorboard_live")
    for layer, values in results["history"].items():
        np.testing.assert_allclose(results["read"][layer], values, rtol=1e-6)
    assert "update_ratio/hidden_1" in results["tags"]["scalars"]
    assert "outputs/hidden_1" in results["tags"]["tensors"]


def test_a_tuner_chooses_the_initialisation(taught):
    pytest.importorskip("keras_tuner")
    scores = taught("keras_tuner_search")
    best = max(scores, key=scores.get)
    assert best[0] == "isometric"
    assert scores[best] > min(scores.values()) + 0.3


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("keras_tuner_search", "keras_tuner", "pip install keras-tuner"),
        ("tensorboard_live", "tensorboard", "pip install tensorboard"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    name, package, command, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.delitem(sys.modules, name, raising=False)
    for module in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=command):
        importlib.import_module(name)

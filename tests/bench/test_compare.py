import functools

import keras
import numpy as np
import pytest

import keras_initlab as il
from keras_initlab.bench import training
from keras_initlab.bench.candidates import candidates_of
from keras_initlab.bench.data import Shuffled
from tests.bench import networks

X, Y = networks.data()
compare = functools.partial(
    il.compare, networks.small, x=X, y=Y, epochs=2, seeds=2, verbose=0
)


@pytest.fixture(scope="module")
def comparison():
    return compare(
        candidates=[None, "zeros", "isometric", networks.bigger_head],
        learning_rates=[0.01, 0.5],
        target=0.8,
    )


def test_every_candidate_has_its_runs(comparison):
    keys = [(run.candidate, run.learning_rate, run.seed) for run in comparison.runs]
    labels = ["as built", "zeros", "isometric", "bigger_head"]
    rates = (0.01, 0.5)
    assert keys == [(a, b, c) for a in labels for b in rates for c in (0, 1)]
    assert all(len(run.history["val_accuracy"]) == 2 for run in comparison.runs)
    assert comparison.metric == "accuracy"
    assert comparison.direction == "max"


def test_the_learning_rate_is_chosen_on_the_validation_data(comparison):
    for result in comparison.results:
        tried = {
            rate: np.mean(
                [
                    run.history["val_accuracy"][-1]
                    for run in comparison.runs
                    if (run.candidate, run.learning_rate) == (result.candidate, rate)
                ]
            )
            for rate in (0.01, 0.5)
        }
        assert tried[result.learning_rate] == max(tried.values())
        assert result.final_metric.mean == pytest.approx(max(tried.values()))


def test_the_best_is_the_one_with_the_best_mean(comparison):
    means = {one.candidate: one.final_metric.mean for one in comparison.results}
    assert means[comparison.best] == max(means.values())
    assert means["zeros"] < max(means.values())


def test_signals_and_findings_are_of_the_first_seed(comparison):
    zeros = comparison["zeros"]
    assert [one.layer for one in zeros.start] == ["a", "b", "head"]
    assert all(one.variance == 0 for one in zeros.start)
    assert "constant-kernel" in {one.code for one in zeros.findings}
    assert not any(run.start for run in comparison.runs if run.seed == 1)
    grown = comparison["bigger_head"].start[-1].variance
    assert grown > comparison["as built"].start[-1].variance


def test_a_comparison_is_repeatable():
    first, second = (compare(candidates=["he_normal"]).runs for _ in range(2))
    assert [run.history for run in first] == [run.history for run in second]
    assert first[0].history != first[1].history


def test_one_compiled_model_serves_all_runs_and_tells_none_of_another():
    given = {"epochs": 2, "seeds": 2, "learning_rates": [0.1, 0.3], "verbose": 0}
    names = ["variance", "calibrate"]
    build, steps = networks.with_state, []
    together = il.compare(build, names, X, Y, **given)
    for name in names:
        alone = {**given, "seeds": [1], "learning_rates": [0.3]}
        steps += il.compare(build, [name], X, Y, **alone).runs
    same = [run for run in together.runs if (run.seed, run.learning_rate) == (1, 0.3)]
    assert [run.history for run in same] == [run.history for run in steps]


def test_kernels_of_one_initializer_differ_and_go_by_the_seed():
    def drawn(seed):
        candidate = candidates_of("he_normal")[0]
        return training.prepared(networks.small, candidate, seed, None, X)

    model, again, other = drawn(0), drawn(0), drawn(1)
    kernels = [keras.ops.convert_to_numpy(m.layers[1].kernel) for m in (model, again)]
    assert (kernels[0] == kernels[1]).all()
    assert (kernels[0] != keras.ops.convert_to_numpy(other.layers[1].kernel)).any()


def test_every_candidate_sees_the_data_in_one_order(monkeypatch):
    seen = []

    class Noted(Shuffled):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append(batch[0].tobytes())
            return batch

    monkeypatch.setattr("keras_initlab.bench.data.Shuffled", Noted)
    compare(candidates=["he_normal"], seeds=[3])
    plain, seen[:] = list(seen), []
    il.compare(networks.drawing, ["zeros"], X, Y, epochs=2, seeds=[3], verbose=0)
    assert seen == plain
    assert len(set(plain)) >= 4  # no two epochs alike


def test_a_run_that_diverges_is_a_result():
    given = {"epochs": 3, "seeds": 2, "verbose": 0}
    found = il.compare(
        networks.regression, "he_normal", X, Y, learning_rates=[0.01, 1e30], **given
    )
    wild = [run for run in found.runs if run.learning_rate == 1e30]
    assert all(run.diverged for run in wild)
    # The rest of the budget would be spent on NaN.
    assert all(len(run.history["loss"]) < 3 for run in wild)
    assert found["he_normal"].learning_rate == 0.01
    assert (found.metric, found.direction) == ("loss", "min")
    alone = il.compare(
        networks.regression, ["he_normal", "zeros"], X, Y, learning_rates=1e30, **given
    )
    assert alone["he_normal"].diverged == 2
    assert "he_normal diverged in 2 of 2 runs." in alone.verdict
    assert "2 of 2" in str(alone)
    assert alone.plot()


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    out = tmp_path / "deep" / "runs.jsonl"
    first = compare(candidates=["zeros"], out=out)
    assert len(out.read_text().splitlines()) == 2
    trained = []
    monkeypatch.setattr(
        "keras_initlab.bench.execution.run",
        lambda task: (trained.append(task.candidate.label), training.run(task))[1],
    )
    second = compare(candidates=["zeros", "he_normal"], out=out)
    assert trained == ["he_normal", "he_normal"]
    assert second["zeros"].runs == first["zeros"].runs


def test_a_torn_line_is_done_again(tmp_path):
    out = tmp_path / "runs.jsonl"
    whole = compare(candidates=["zeros"], out=out)
    text = out.read_text()
    out.write_text(text[: len(text) - 100])
    again = compare(candidates=["zeros"], out=out)
    assert [run.history for run in again.runs] == [run.history for run in whole.runs]
    third = compare(candidates=["zeros"], out=out)
    assert third.runs == again.runs
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"epochs": 3}, "epochs: 2, not 3"), ({"x": X + 1}, "training data")],
)
def test_runs_of_another_comparison_are_not_mixed_in(changed, what, tmp_path):
    out = tmp_path / "runs.jsonl"
    compare(candidates=["zeros"], out=out)
    with pytest.raises(ValueError, match=what):
        compare(candidates=["zeros"], out=out, **changed)
    other = tmp_path / "notes.txt"
    other.write_text("mine\n")
    with pytest.raises(ValueError, match="line 1 holds something else"):
        compare(candidates=["zeros"], out=other)
    assert other.read_text() == "mine\n"


def test_ctrl_c_keeps_what_is_done(tmp_path, monkeypatch):
    done = []

    def interrupted(task):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(training.run(task))
        return done[-1]

    monkeypatch.setattr("keras_initlab.bench.execution.run", interrupted)
    out = tmp_path / "runs.jsonl"
    found = compare(candidates=["zeros", "he_normal"], out=out)
    assert list(found.runs) == sorted(
        done, key=lambda run: (run.candidate == "he_normal", run.seed)
    )
    assert "Interrupted: 1 of 4 runs are missing." in found.verdict
    assert len(out.read_text().splitlines()) == 3


def test_nothing_done_is_an_interrupt(monkeypatch):
    def interrupted(task):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_initlab.bench.execution.run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(candidates=["zeros"])


@pytest.mark.parametrize(
    ("name", "label", "kind"),
    [
        ("variance", "variance", "scheme"),
        ("variance_scaling", "variance_scaling", "initializer"),
        ("initlab>auto", "initlab>auto", "initializer"),
        (il.Variance(target=2.0), "Variance(target=2.0)", "scheme"),
        (keras.initializers.HeNormal, "HeNormal()", "initializer"),
        (il.Scaled(0.5), None, "initializer"),
        (None, "as built", "as built"),
        (networks.bigger_head, "bigger_head", "function"),
    ],
)
def test_candidates(name, label, kind):
    (candidate,) = candidates_of([name])
    assert candidate.kind == kind
    if label is not None:
        assert candidate.label == label


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("varience", "variance"),
        ("he_norml", "he_normal"),
        ("initlab>aut", "initlab>auto"),
        ("auot", "auto"),
        ("glorot", "glorot_"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(name, close):
    with pytest.raises(ValueError, match="Did you mean") as error:
        candidates_of([name])
    assert close in str(error.value)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"candidates": []}, ValueError, "at least one"),
        ({"candidates": ["zeros", "zeros"]}, ValueError, "label of its own"),
        ({"candidates": [3]}, TypeError, "Received: 3"),
        ({"seeds": 0}, ValueError, "`seeds`"),
        ({"epochs": 0}, ValueError, "`epochs`"),
        ({"learning_rates": [-1]}, ValueError, "`learning_rates`"),
        ({"metric": "recall"}, ValueError, "'accuracy'"),
        ({"y": Y[:-1]}, ValueError, "lengths 79, 80"),
        ({"x": iter([X])}, ValueError, "drawn from once"),
        ({"executor": 3}, TypeError, "`executor`"),
    ],
)
def test_bad_arguments(changed, error, match):
    with pytest.raises(error, match=match):
        compare(**{"candidates": ["zeros"], "epochs": 1, "seeds": 1, **changed})


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
            ValueError,
        ),
        (lambda: 3, TypeError),
        (networks.small(), TypeError),
    ],
)
def test_what_is_built_must_be_compiled(build, error):
    with pytest.raises(error, match="compiled"):
        il.compare(build, ["zeros"], X, Y, verbose=0)

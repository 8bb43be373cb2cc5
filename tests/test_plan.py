import keras
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.plan import describe
from tests.report.test_html import ALLOWED, Page


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8, name="[bold]one"),
            layers.Activation("gelu"),
            layers.Dense(8, activation="relu", name="two"),
            layers.Dense(3, activation="softmax", name="head"),
        ],
        name="net",
    )


def test_print_shows_a_row_a_kernel(model):
    text = str(il.rewrite_initializers(model, seed=0, skip="two"))
    lines = text.splitlines()
    assert lines[0] == "net: 2 of 3 kernels rewritten"
    assert len(lines) == 3 + 3
    assert "[bold]one" in lines[3]
    assert "initlab>auto(activation=gelu)" in lines[3]
    assert "(left alone)" in lines[4]
    assert lines[4].endswith("named in skip")
    assert max(map(len, lines)) < 160


def test_notes_have_a_column_only_where_there_are_some(model):
    assert " note" not in str(il.rewrite_initializers(model)).splitlines()[1]


def test_a_notebook_shows_the_same_table(model):
    plan = il.rewrite_initializers(model, scheme="variance", seed=0, skip="two")
    page = Page(plan._repr_html_())
    assert set(page.tags) <= ALLOWED
    assert page.tags.count("tr") == 1 + len(plan)
    for line in str(plan).splitlines():
        for word in line.replace("─", "").split():
            assert word in page.text


def test_a_dry_run_says_so(model):
    assert "to rewrite (dry run)" in str(il.rewrite_initializers(model, dry_run=True))


def test_a_plan_is_a_sequence(model):
    plan = il.rewrite_initializers(model)
    assert len(plan) == 3
    assert plan[-1].layer == "head"
    assert [row.layer for row in plan[1:]] == ["two", "head"]
    assert plan[1] in plan


def test_records_are_flat(model):
    records = il.rewrite_initializers(model, seed=0).records
    assert records[1]["layer"] == "two"
    assert records[1]["before"] == "GlorotUniform"
    assert all(
        isinstance(value, (str, float, int, type(None)))
        for record in records
        for value in record.values()
    )


@pytest.mark.parametrize(
    ("initializer", "text"),
    [
        (keras.initializers.GlorotUniform(), "GlorotUniform"),
        (keras.initializers.HeNormal(seed=3), "HeNormal(seed=3)"),
        (il.Auto("relu", seed=1), "initlab>auto(activation=relu, seed=1)"),
        (il.Scaled(layers.LeakyReLU(0.2)), "initlab>scaled(gain=LeakyReLU)"),
        (max, "max"),
        (None, "-"),
    ],
)
def test_describe(initializer, text):
    assert describe(initializer) == text

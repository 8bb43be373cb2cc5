import json
import math
from dataclasses import fields
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from keras_initlab.diagnosis import Finding
from keras_initlab.report import InspectedLayer, Inspection
from keras_initlab.stats import LayerStats
from tests.report import inspections
from tests.report.inspections import dense, finding, inspection

pytestmark = pytest.mark.once

SCHEMA = json.loads(
    (files("keras_initlab.report") / "inspection.schema.json").read_text("utf-8")
)


def odd():
    """Return an inspection with figures that JSON has no number for, or NumPy's."""
    stats = LayerStats(
        "a",
        shape=(None, np.int64(3)),
        mean=float("nan"),
        variance=float("inf"),
        second_moment=-math.inf,
        batch_variance=np.float32(0.5),
        nonfinite=np.int64(7),
        source="measured",
    )
    return inspection(
        InspectedLayer("a", "Dense", fan_in=np.float64(4), measured=stats)
    )


CASES = {
    "small": inspections.small,
    "deep": inspections.deep,
    "named": inspections.named,
    "odd": odd,
    "empty": lambda: inspection(data=None),
}


def strict(text):
    def fail(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=fail)


@pytest.mark.parametrize("case", CASES)
def test_json_is_strict_and_fits_the_schema(case):
    found = strict(CASES[case]().json())
    assert found == CASES[case]().to_dict()
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one.update(schema=2),
        lambda one: one.update(more=1),
        lambda one: one.pop("notes"),
        lambda one: one["layers"][1].update(fan_in="64"),
        lambda one: one["layers"][1]["measured"].update(source="guessed"),
        lambda one: one["layers"][1]["measured"].pop("mean"),
        lambda one: one["findings"][0].update(severity="fatal"),
    ],
)
def test_the_schema_refuses_other_forms(spoil):
    found = inspections.small().to_dict()
    spoil(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    ("record", "where"),
    [
        (LayerStats, SCHEMA["$defs"]["stats"]),
        (InspectedLayer, SCHEMA["$defs"]["layer"]),
        (Finding, SCHEMA["$defs"]["finding"]),
    ],
)
def test_the_schema_names_every_field(record, where):
    names = [one.name for one in fields(record)]
    assert list(where["properties"]) == names
    assert where["required"] == names


def test_the_schema_names_every_part():
    names = {one.name for one in fields(Inspection)} | {"schema"}
    assert set(SCHEMA["properties"]) == names == set(SCHEMA["required"])
    assert SCHEMA["properties"]["schema"]["const"] == odd().to_dict()["schema"]


def test_what_json_cannot_write_is_named():
    measured = odd().to_dict()["layers"][0]["measured"]
    assert measured["mean"] == "NaN"
    assert measured["variance"] == "Infinity"
    assert measured["second_moment"] == "-Infinity"
    assert measured["update_ratio"] is None
    assert measured["batch_variance"] == 0.5
    assert type(measured["nonfinite"]) is int
    assert measured["shape"] == [None, 3]


def test_one_line():
    assert "\n" not in inspections.small().json(indent=None)
    assert (
        strict(inspections.small().json(indent=None)) == inspections.small().to_dict()
    )


def test_what_is_no_data_is_refused():
    one = inspection(InspectedLayer("a", "Dense", fan_in={1}))
    with pytest.raises(TypeError, match=r"Received: \{1\} of type set"):
        one.json()


def test_records_are_flat_and_alike():
    records = inspections.small().records
    assert [one["layer"] for one in records] == [
        one.layer for one in inspections.small().layers
    ]
    assert len({tuple(one) for one in records}) == 1
    assert all(
        isinstance(value, str | float | int | None)
        for one in records
        for value in one.values()
    )
    row = records[2]
    assert row["output_shape"] == "(None, 64)"
    assert row["kernel_shape"] == "(64, 64)"
    assert row["predicted_variance"] == pytest.approx(0.81)
    assert row["measured_gradient_second_moment"] == pytest.approx(1.2**-2)
    assert row["findings"] == "wrong-fans"
    assert records[0]["measured_variance"] is None


def test_records_name_all_findings_of_a_layer():
    both = [finding("a", "nonfinite"), finding("a", "dead-units")]
    assert inspection(dense("a"), findings=both).records[0]["findings"] == (
        "nonfinite, dead-units"
    )

"""An inspection as plain data: nested for JSON, flat for tables."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from keras_initlab.diagnosis import Finding
from keras_initlab.report.columns import output_shape, shape
from keras_initlab.report.findings import with_consequences
from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import InspectedLayer, Inspection

# Increased whenever readers of the old form would misread the new one. The form is
# described in inspection.schema.json.
SCHEMA = 1

_FIGURES = [
    field.name
    for field in fields(LayerStats)
    if field.name not in ("layer", "weight", "shape", "source")
]


def as_dict(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as dicts, lists, strings and finite numbers."""
    return {
        "schema": SCHEMA,
        "model": inspection.model,
        "data": inspection.data,
        "layers": [_plain(vars(layer)) for layer in inspection.layers],
        "findings": _plain(inspection.findings),
        "notes": list(inspection.notes),
    }


def as_json(inspection: Inspection, indent: int | None = 2) -> str:
    """Return `as_dict` as strict JSON."""
    return json.dumps(
        as_dict(inspection), indent=indent, allow_nan=False, ensure_ascii=False
    )


def records(inspection: Inspection) -> list[dict[str, Any]]:
    """Return one flat dict for each layer, all with the same keys."""
    codes: dict[str, list[str]] = {}
    for finding in with_consequences(inspection.findings):
        codes.setdefault(finding.layer, []).append(finding.code)
    return [_record(layer, codes.get(layer.layer, [])) for layer in inspection.layers]


def _record(layer: InspectedLayer, codes: list[str]) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "kind": layer.kind,
        "output_shape": output_shape(layer),
        "weight": layer.weight,
        "kernel_shape": shape(layer.kernel_shape),
        "fan_in": layer.fan_in,
        "fan_out": layer.fan_out,
        "nonlinearity": layer.nonlinearity,
        "initializer": layer.initializer,
        **{
            f"{source}_{name}": getattr(getattr(layer, source), name, None)
            for source in ("predicted", "measured")
            for name in _FIGURES
        },
        "findings": ", ".join(codes) or None,
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; NumPy's numbers become Python's."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, LayerStats | Finding):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _number(float(value))
    raise TypeError(
        "An inspection holds texts, numbers, shapes and LayerStats. "
        f"Received: {value!r} of type {type(value).__name__}."
    )


def _number(value: float) -> float | str:
    """Return a number, or the name of one that JSON cannot write."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"

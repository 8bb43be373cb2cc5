"""An inspection as plain data: nested for JSON, flat for tables."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import InspectedLayer, Inspection

# Raised whenever a reader of the old form would misread the new one. The form stands
# in inspection.schema.json.
SCHEMA = 1

_FIGURES = [
    one.name
    for one in fields(LayerStats)
    if one.name not in ("layer", "weight", "shape", "source")
]


def as_dict(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as dicts, lists, strings and finite numbers."""
    return {
        "schema": SCHEMA,
        "model": inspection.model,
        "data": inspection.data,
        "layers": [_plain(vars(one)) for one in inspection.layers],
        "findings": [_plain(vars(one)) for one in inspection.findings],
        "notes": list(inspection.notes),
    }


def as_json(inspection: Inspection, indent: int | None = 2) -> str:
    """Return `as_dict` as strict JSON."""
    return json.dumps(
        as_dict(inspection), indent=indent, allow_nan=False, ensure_ascii=False
    )


def records(inspection: Inspection) -> list[dict[str, Any]]:
    """Return one flat dict for each layer, all with the same keys."""
    found: dict[str, list[str]] = {}
    for finding in inspection.findings:
        found.setdefault(finding.layer, []).append(finding.code)
    return [_record(one, found.get(one.layer, [])) for one in inspection.layers]


def _record(layer: InspectedLayer, codes: list[str]) -> dict[str, Any]:
    stats = [one for one in (layer.measured, layer.predicted) if one is not None]
    shape = next((one.shape for one in stats if one.shape is not None), None)
    return {
        "layer": layer.layer,
        "kind": layer.kind,
        "output_shape": _text(shape),
        "weight": layer.weight,
        "kernel_shape": _text(layer.kernel_shape),
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


def _text(shape: tuple[int | None, ...] | None) -> str | None:
    return None if shape is None else str(tuple(shape))


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; NumPy's numbers are Python's."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, LayerStats):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
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

"""Which layers of a model are tapped: see `keras_initlab.model.layers`."""

from keras_initlab.model.layers import (
    Place,
    call_keys,
    children,
    inside,
    is_closed,
    main_weight,
    places,
    rematerialized,
)

__all__ = [
    "Place",
    "call_keys",
    "children",
    "inside",
    "is_closed",
    "main_weight",
    "places",
    "rematerialized",
]

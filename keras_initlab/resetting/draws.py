"""Draws the new values of a model's weights, before one of them is set."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.keras_internals import (
    own_variables,
    seed_generators,
    variables_made_trainable,
)
from keras_initlab.model.kernels import is_quantised
from keras_initlab.model.layers import Place
from keras_initlab.model.origins import (
    Draw,
    origins_of,
    recurrent_states,
)
from keras_initlab.model.own_weights import held_weights
from keras_initlab.plan import describe
from keras_initlab.resetting.record import ResetRow
from keras_initlab.resetting.seeds import SeedFolding


class Draws:
    """The new values of a model's weights, drawn before one of them is set.

    `unadapted` are the layers that forget the data they were adapted to.
    """

    def __init__(
        self,
        places: list[Place],
        named: dict[int, bool] | None,
        seed: int | None,
    ) -> None:
        self._named = named
        self._seeds = SeedFolding(seed)
        self.unadapted: list[keras.layers.Normalization] = []
        # By the variables' ids: a wrapper may hold a weight of the layer inside it.
        self._rows: dict[int, ResetRow] = {}
        self._values: dict[int, tuple[Any, Any]] = {}
        unknown: dict[int, str] = {}
        for number, place in enumerate(places):
            held = held_weights(place.layer) if own_variables(place.layer) else {}
            weights = {n: v for n, v in held.items() if id(v) not in self._values}
            reason = self._reason_to_leave(place)
            if reason is not None:
                self._leave(place, weights, reason)
                continue
            if weights:
                for name, variable in self._draw(place, number, weights).items():
                    unknown.setdefault(id(variable), f"{place.path}/{name}")
            self._restart_streams(place, number)
        names = [name for key, name in unknown.items() if key not in self._rows]
        if names:
            raise _unknown_initializers(names)

    @property
    def rows(self) -> list[ResetRow]:
        """A row for each weight."""
        return list(self._rows.values())

    @property
    def values(self) -> list[tuple[Any, Any]]:
        """Each variable with its new value."""
        return list(self._values.values())

    def _reason_to_leave(self, place: Place) -> str | None:
        """Return why a layer's weights stay as they are, None if they do not.

        Raises:
            ValueError: the layer cannot be reset, and is named in `layers`.
        """
        layer, named = place.layer, self._named
        if named is not None and id(layer) not in named:
            return "not in `layers`"
        itself = named is not None and named[id(layer)]
        fixed = None
        if getattr(layer, "lora_enabled", False):
            fixed = "LoRA"
        elif is_quantised(layer):
            fixed = "quantised"
        if fixed and itself:
            raise ValueError(
                "`layers` must name layers whose weights can be drawn again. Received: "
                f"{place.path!r}, with {fixed} weights, which stand for what was "
                "learned before. Leave it out."
            )
        if fixed:
            return fixed
        if isinstance(layer, keras.layers.Normalization):
            if not itself:
                return "adapted to data"
            self.unadapted.append(layer)
        if named is None and not layer.trainable:
            return "frozen"
        return None

    def _leave(self, place: Place, weights: dict[str, Any], reason: str) -> None:
        for name, variable in weights.items():
            shape = tuple(variable.shape)
            row = ResetRow(place.path, name, shape, None, reason)
            self._rows.setdefault(id(variable), row)

    def _draw(
        self, place: Place, number: int, weights: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw weights of a layer; return those whose initializer does not show."""
        layer = place.layer

        def reseed(initializer: Any, key: str) -> Any:
            return self._seeds.reseeded(initializer, (number, key))

        with self._seeds.repeatable((number,), unless=_is_known(type(layer))):
            origins = origins_of(layer, reseed)
        switched = {id(variable) for variable in variables_made_trainable(layer)}
        itself = self._named is not None and self._named[id(layer)]
        unknown = {}
        for name, variable in weights.items():
            frozen = id(variable) in switched and not variable.trainable
            if frozen and layer.trainable and not itself:
                self._leave(place, {name: variable}, "frozen")
                continue
            draw = origins.get(id(variable))
            if draw is None:
                unknown[name] = variable
                continue
            row = ResetRow(place.path, name, tuple(variable.shape), draw)
            value = self._value(draw, row, place, variable.dtype, (number, name))
            self._values[id(variable)] = (variable, value)
            self._rows[id(variable)] = row
        return unknown

    def _value(
        self,
        draw: Draw,
        row: ResetRow,
        place: Place,
        dtype: str,
        position: tuple[int, str],
    ) -> Any:
        where = Construction(place.layer, row.weight, place.parents, position)
        seeding = self._seeds.repeatable(position, unless=_is_known(type(draw)))
        wanted = (
            f"The initializer of {row.layer}/{row.weight} must draw a tensor of shape "
            f"{row.shape}. Received:"
        )
        try:
            with constructing(where), seeding:
                value = draw(row.shape, dtype=dtype)
        except Exception as error:
            raise ValueError(
                f"{wanted} {type(error).__name__} from {describe(draw)}: {error} "
                "Nothing was changed."
            ) from error
        if tuple(np.shape(value)) != row.shape:
            raise ValueError(
                f"{wanted} shape={np.shape(value)} from {describe(draw)}. Nothing was "
                "changed."
            )
        return value

    def _restart_streams(self, place: Place, number: int) -> None:
        for index, generator in enumerate(seed_generators(place.layer)):
            state = generator.state
            if id(state) not in self._values:
                configured = generator.get_config()["seed"]
                seed = self._seeds.at((number, "stream", index), configured)
                first = np.array([seed, 0], dtype=state.dtype)
                self._values[id(state)] = (state, first)
        for state in recurrent_states(place.layer):
            self._values[id(state)] = (state, keras.ops.zeros_like(state.value))


def _is_known(kind: type) -> bool:
    """Whether a class is Keras's or this package's: it uses no global generator."""
    return kind.__module__.partition(".")[0] in ("keras", "keras_initlab")


def _unknown_initializers(weights: list[str]) -> ValueError:
    return ValueError(
        "The initializer of each weight must show in its layer: in `build`, which "
        "calls `add_weight(initializer=...)`, or as an attribute such as "
        f"`kernel_initializer`. Received: {len(weights)} that do not show, "
        f"{', '.join(weights)}. Make these weights in `build`, or name in `layers` the "
        "layers to reset."
    )

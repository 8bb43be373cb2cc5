"""reset_weights: draw a model's weights again, in place."""

from __future__ import annotations

import contextlib
import copy
import difflib
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import keras
import numpy as np

from keras_initlab.initializers.base import checked_seed
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.keras_internals import (
    global_seed_generator,
    inner_optimizer,
    optimized_variables,
    own_variables,
    variables_made_trainable,
)
from keras_initlab.model.kernels import is_quantised
from keras_initlab.model.layers import Place, every_place
from keras_initlab.model.origins import (
    Draw,
    origins_of,
    recurrent_states,
    seed_generators,
)
from keras_initlab.model.own_weights import held_weights
from keras_initlab.plan import describe
from keras_initlab.tables import render_table

__all__ = ["Reset", "ResetRow", "reset_weights"]

# How many weights that were left for one reason are named in print.
_SHOWN = 5


@dataclass(frozen=True)
class ResetRow:
    """What became of one weight.

    Attributes:
        layer: the path of the layer that holds it.
        weight: its name in the layer.
        shape: its shape.
        initializer: what drew it, None if it was left as it is.
        note: why it was left.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    initializer: Draw | None
    note: str = ""

    @property
    def reset(self) -> bool:
        """Whether the weight was drawn again."""
        return self.initializer is not None


class Reset(Sequence[ResetRow]):
    """What `reset_weights` did, weight by weight, in the order of the model's layers.

    `print(reset)` shows it as a table, `reset.records` as a list of flat dicts.
    """

    def __init__(self, rows: Sequence[ResetRow], *, model: str) -> None:
        self.rows = tuple(rows)
        self.model = model

    @overload
    def __getitem__(self, index: int) -> ResetRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ResetRow, ...]: ...
    def __getitem__(self, index: int | slice) -> ResetRow | tuple[ResetRow, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as flat dicts, the initializers as text."""
        return [
            {
                "layer": row.layer,
                "weight": row.weight,
                "shape": row.shape,
                "initializer": describe(row.initializer) if row.reset else None,
                "reset": row.reset,
                "note": row.note,
            }
            for row in self.rows
        ]

    def __str__(self) -> str:
        drawn = [row for row in self.rows if row.reset]
        title = f"{self.model}: {len(drawn)} of {len(self.rows)} weights drawn again"
        table = render_table(
            title,
            [
                ("layer", "left"),
                ("weight", "left"),
                ("shape", "left"),
                ("initializer", "left"),
            ],
            [
                [
                    row.layer,
                    row.weight,
                    str(row.shape),
                    describe(row.initializer, without="seed"),
                ]
                for row in drawn
            ],
        )
        return "\n".join([table, *self._left()])

    def _left(self) -> list[str]:
        """Return a line for each reason to have left weights as they are."""
        by_reason: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.reset:
                names = by_reason.setdefault(row.note, [])
                names.append(f"{row.layer}/{row.weight}")
        lines = []
        for reason, names in by_reason.items():
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"left as it is: {', '.join(names[:_SHOWN])}{rest} ({reason})")
        return lines

    def __repr__(self) -> str:
        return f"<Reset of {len(self.rows)} weights of {self.model!r}; print it>"


def reset_weights(
    model: keras.Model,
    seed: int | None = None,
    layers: str | keras.layers.Layer | Iterable[Any] | None = None,
    optimizer: bool = False,
) -> Reset:
    """Draw every weight of `model` again from its own initializer, in place.

    The variables stay the same objects, and a compiled model stays compiled: nothing
    is traced again. Moving statistics start anew, too, and so do the random streams of
    dropout and augmentation; under PyTorch, a Dropout without a seed draws from
    PyTorch's own stream, which stays. It is what a loop over seeds or folds needs,
    without the time and memory of a new model for each.

    Left as they are, and named in what is returned:

    - frozen layers (`trainable=False`), unless `layers` names them;
    - quantised layers, and those with LoRA: they hold what was learned before;
    - the moments that a `Normalization` was adapted to, unless `layers` names it.

    Args:
        model: a built Keras model, of any kind.
        seed: an int gives every weight a repeatable draw of its own, whatever seed its
            initializer was given. With None weights are drawn as in a new model of the
            same config: afresh, but for initializers with a seed of their own, which
            repeat their draw.
        layers: what to reset instead of everything: a layer, its name or path
            ("encoder/dense"), or several of these. A name stands for every layer
            inside that one as well.
        optimizer: whether the slots of the model's optimizers (moments, velocities)
            and their step count start anew as well, and the metrics. The learning rate
            stays what it is.

    Returns:
        A `Reset` with a row for each weight; print it.

    Raises:
        TypeError: `model` is no Keras model, `seed` no int, `layers` names something
            else.
        ValueError: the model is not built; a name in `layers` that no layer has; a
            named layer that cannot be reset; a weight whose initializer does not show;
            an initializer that fails. The model is then as it was.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> _ = reset_weights(model, seed=0)
    >>> first = model.get_weights()
    >>> model.set_weights([10 + weight for weight in first])
    >>> reset = reset_weights(model, seed=0)
    >>> bool((model.get_weights()[0] == first[0]).all())
    True
    >>> [(row.weight, type(row.initializer).__name__) for row in reset]
    [('kernel', 'GlorotUniform'), ('bias', 'Zeros')]
    """
    _check_model(model)
    seed = checked_seed(seed)
    if optimizer not in (True, False):
        raise TypeError(
            "`optimizer` must be True or False. Received: "
            f"optimizer={optimizer!r} of type {type(optimizer).__name__}. The model's "
            "own optimizers are meant."
        )
    places = _places_of(model)
    named = None if layers is None else _named(model, places, layers)
    draws = _Draws(places, named, seed)
    slots = _slots(model) if optimizer else []
    for variable, value in (*draws.values, *slots):
        variable.assign(value)
    for layer in draws.unadapted:
        layer.finalize_state()
    if optimizer:
        model.reset_metrics()
    return Reset(draws.rows, model=model.name)


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a Keras model (Sequential, functional or subclassed). "
            f"Received: {model!r} of type {type(model).__name__}. "
            "Wrap a layer as keras.Sequential([keras.Input(shape), layer])."
        )
    if not model.built or not model.variables:
        unbuilt = [place.path for place in every_place(model) if not place.layer.built]
        if not model.built or unbuilt:
            raise ValueError(
                "`model` must be built, so that it has weights to draw. Received: "
                f"{type(model).__name__} {model.name!r}, not built. Call it on a "
                "batch, or model.build(input_shape), first."
            )


def _places_of(model: Any) -> list[Place]:
    """Return the places of the model itself, under its name, and of all its layers."""
    return [Place(model, model.name, False, ()), *every_place(model)]


def _named(model: Any, places: list[Place], layers: Any) -> dict[int, bool]:
    """Return the ids of the layers to reset; the value says that one is named itself.

    Layers inside a named one are in it with False; of those that are frozen, only what
    a frozen named one holds.
    """
    single = isinstance(layers, str) or not isinstance(layers, Iterable)
    entries = [layers] if single else list(layers)
    named: dict[int, bool] = {}
    if not entries:
        raise ValueError(
            f"`layers` must name a layer or more. Received: layers={layers!r}. Leave "
            "it out to reset all."
        )
    for entry in entries:
        owners = [place for place in places if _is_meant(entry, place)]
        if not owners:
            raise _no_layer(model, places, entry)
        if not all(owner.layer.built for owner in owners):
            raise ValueError(
                "`layers` must name layers that are built, so that they have weights. "
                f"Received: {entry!r}, which was never called. Leave it out: its first "
                "call draws its weights."
            )
        for owner in owners:
            named[id(owner.layer)] = True
            for place in places:
                if any(owner.layer is around for around in place.parents):
                    frozen = not owner.layer.trainable
                    if frozen or place.layer.trainable:
                        named.setdefault(id(place.layer), False)
    return named


def _is_meant(entry: Any, place: Place) -> bool:
    if not isinstance(entry, str):
        return entry is place.layer
    return entry.partition("#")[0] in (place.layer.name, place.path)


def _no_layer(model: Any, places: list[Place], entry: Any) -> Exception:
    names = list(dict.fromkeys(place.path for place in places[1:]))
    if not isinstance(entry, str | keras.layers.Layer):
        return TypeError(
            "`layers` must name layers of the model: their names or paths, or the "
            f"layers themselves. Received: {entry!r} of type {type(entry).__name__}. "
            f"Pass for example layers={names[:1]}."
        )
    name = entry if isinstance(entry, str) else entry.name
    short = {path.rpartition("/")[2]: path for path in names}
    near = difflib.get_close_matches(name, names, 3, 0.4) or [
        short[one] for one in difflib.get_close_matches(name, list(short), 3, 0.4)
    ]
    listed = ", ".join(map(repr, near or names[:8])) or "none"
    what = "The nearest names" if near else "Its layers"
    return ValueError(
        f"`layers` must name layers of {model.name!r}. Received: {entry!r}. {what}: "
        f"{listed}."
    )


class _Draws:
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
        self._seeds = _SeedFolding(seed)
        self.unadapted: list[keras.layers.Normalization] = []
        # By the variables' ids: a wrapper may hold a weight of the layer inside it.
        self._rows: dict[int, ResetRow] = {}
        self._values: dict[int, tuple[Any, Any]] = {}
        unknown: dict[int, str] = {}
        for number, place in enumerate(places):
            own = held_weights(place.layer) if own_variables(place.layer) else {}
            weights = {n: v for n, v in own.items() if id(v) not in self._values}
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
        made = {id(variable) for variable in variables_made_trainable(layer)}
        itself = self._named is not None and self._named[id(layer)]
        unknown = {}
        for name, variable in weights.items():
            frozen = id(variable) in made and not variable.trainable
            if frozen and layer.trainable and not itself:
                self._leave(place, {name: variable}, "frozen")
                continue
            draw = origins.get(id(variable))
            if draw is None:
                unknown[name] = variable
                continue
            value = self._drawn(draw, place, name, variable, number)
            self._values[id(variable)] = (variable, value)
            shape = tuple(variable.shape)
            self._rows[id(variable)] = ResetRow(place.path, name, shape, draw)
        return unknown

    def _drawn(
        self, draw: Draw, place: Place, name: str, variable: Any, number: int
    ) -> Any:
        position = (number, name)
        where = Construction(place.layer, name, place.parents, position)
        seeding = self._seeds.repeatable(position, unless=_is_known(type(draw)))
        try:
            with constructing(where), seeding:
                value = draw(tuple(variable.shape), dtype=variable.dtype)
        except Exception as error:
            raise ValueError(
                f"The initializer of {place.path}/{name} must draw a tensor of shape "
                f"{tuple(variable.shape)}. Received: {type(error).__name__} from "
                f"{describe(draw)}: {error} Nothing was changed."
            ) from error
        if tuple(getattr(value, "shape", np.shape(value))) != tuple(variable.shape):
            raise ValueError(
                f"The initializer of {place.path}/{name} must draw a tensor of shape "
                f"{tuple(variable.shape)}. Received: shape={np.shape(value)} from "
                f"{describe(draw)}. Nothing was changed."
            )
        return value

    def _restart_streams(self, place: Place, number: int) -> None:
        for index, generator in enumerate(seed_generators(place.layer)):
            state = generator.state
            if id(state) not in self._values:
                own = generator.get_config()["seed"]
                seed = self._seeds.at((number, "stream", index), own)
                first = np.array([seed, 0], dtype=state.dtype)
                self._values[id(state)] = (state, first)
        for state in recurrent_states(place.layer):
            self._values[id(state)] = (state, keras.ops.zeros_like(state.value))


class _SeedFolding:
    """An int seed for each weight, told apart by its place in the model."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        # Python's generator, as Keras draws by: set_random_seed makes it repeatable.
        self._fresh = random.getrandbits(64) if seed is None else 0

    def at(self, place: tuple[Any, ...], own: Any) -> Any:
        """Return the seed at a place, for what was given the seed `own` by itself."""
        if self._seed is None and own is not None:
            return own
        entropy = (self._seed, self._fresh, place)
        digest = hashlib.blake2b(repr(entropy).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") % 2**31

    def reseeded(self, initializer: Any, place: tuple[Any, ...]) -> Any:
        """Return an initializer with another seed, and those that it holds."""
        if not isinstance(initializer, keras.initializers.Initializer):
            return initializer
        held = vars(initializer)
        inner = {
            name: self.reseeded(value, (*place, name))
            for name, value in held.items()
            if isinstance(value, keras.initializers.Initializer)
        }
        if "seed" not in held and not inner:
            return initializer
        copied = copy.copy(initializer)
        vars(copied).update(inner)
        if "seed" in held:
            own = _seed_of(initializer) if self._seed is None else None
            copied.seed = self.at(place, own)
        return copied

    @contextlib.contextmanager
    def repeatable(self, place: tuple[Any, ...], *, unless: bool) -> Iterator[None]:
        """Let global generators start from the seed at `place`, in this block.

        Those of Python, NumPy and Keras; they go on from where they were behind it.
        With `unless` nothing is done.
        """
        if unless or self._seed is None:
            yield
            return
        seed = self.at(place, None)
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        state = global_seed_generator().state
        keras_state = keras.ops.convert_to_numpy(state)
        state.assign(np.array([seed, 0], dtype=state.dtype))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            state.assign(keras_state)


def _seed_of(initializer: Any) -> Any:
    """Return the seed that an initializer was given; None if it made one up."""
    try:
        return initializer.get_config()["seed"]
    except (KeyError, NotImplementedError, TypeError):
        return initializer.seed


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


def _slots(model: Any) -> list[tuple[Any, Any]]:
    """Return the variables of a model's optimizers, with the values they start from."""
    held = vars(model).values()
    kind = keras.optimizers.Optimizer
    optimizers = {id(one): one for one in held if isinstance(one, kind)}
    pairs: list[tuple[Any, Any]] = []
    for optimizer in optimizers.values():
        if not inner_optimizer(optimizer).built:
            continue
        twin = type(optimizer).from_config(optimizer.get_config())
        twin.build(optimized_variables(optimizer))
        for variable, first in zip(optimizer.variables, twin.variables, strict=True):
            pairs.append((variable, first.value))
    return pairs

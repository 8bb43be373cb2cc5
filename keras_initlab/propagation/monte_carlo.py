"""Layers without a rule are run on a sample of the predicted moments, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import Operation
from keras.layers import Layer
from numpy.typing import NDArray

from keras_initlab.model.keras_internals import takes_training
from keras_initlab.model.own_weights import without_views
from keras_initlab.propagation.algebra import sampling
from keras_initlab.propagation.arguments import signals_in
from keras_initlab.propagation.context import Arguments
from keras_initlab.propagation.recorded_sizes import with_sizes_of
from keras_initlab.propagation.signal import (
    Gradient,
    Pull,
    Shape,
    Signal,
    Signals,
    packed,
)

# Of a sample's deviation: small for what bends, large for what float32 rounds.
_STEP = 1e-2
# So many deviations below the uppermost quarter, values were set there by a mask.
_FAR = 20.0

# How many operations back samples are computed from other samples.
_DEPTH = 12


class AsOperation:
    """A function in the place of an operation."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.call = function


@dataclass(frozen=True, eq=False)
class Recipe:
    """The call that made a signal, and the signal's place among its outputs."""

    operation: Layer | Operation | AsOperation
    arguments: Arguments
    place: int


@dataclass(eq=False)
class Trial:
    """One call of an operation on samples.

    Attributes:
        operation: a layer, a bare operation or `AsOperation`.
        arguments: of the call, with signals in place of tensors.
        training: passed on to a layer that takes it.
        dtypes: of the tensors that are not floats, by their signal's serial number.
        shapes: of the outputs, from the graph; None without a graph.
        recipes: how signals were computed without weights or chance, by serial
            number: their samples are made so, too.
        scales: what variables of a layer are multiplied by, by their ids.
        open_size: the size of the axes that are open.
    """

    operation: Layer | Operation | AsOperation
    arguments: Arguments
    training: bool = False
    dtypes: dict[int, str] = field(default_factory=dict)
    shapes: list[Shape] | None = None
    recipes: dict[int, Recipe] = field(default_factory=dict)
    scales: dict[int, float] = field(default_factory=dict)
    open_size: int = sampling.OPEN_SIZES[0]
    _remade: set[int] = field(default_factory=set)

    def outputs(self, inputs: tuple[Signal, ...]) -> list[Signal]:
        """Return the measured signals, whose gradients are found when asked for."""
        shapes = [signal.shape for signal in self._sources(inputs)]
        arrays = sampling.samples(
            inputs,
            np.random.default_rng(0),
            [*shapes, *(self.shapes or ())],
            self._recomputed,
            self.open_size,
        )
        values = self.run(arrays)
        like = max(inputs, key=lambda signal: len(signal.shape))
        outputs = []
        for index, value in enumerate(values):
            value, shape = self._with_batch(value, index, inputs)
            result = sampling.signal_of(value, shape, like)
            parents = tuple(
                (signal, self._pull(arrays, signal, index))
                for signal in dict.fromkeys(inputs)
            )
            outputs.append(result.evolve(parents=parents))
        return outputs

    def _sources(self, inputs: tuple[Signal, ...]) -> list[Signal]:
        """Return the inputs and the signals that their samples are computed from."""
        sources = dict.fromkeys(inputs)
        level = list(sources)
        for _ in range(_DEPTH):
            self._remade |= {signal.serial for signal in level}
            below = [
                parent
                for signal in level
                if signal.serial in self.recipes
                for parent in signals_in(self.recipes[signal.serial].arguments)
            ]
            level = [signal for signal in dict.fromkeys(below) if signal not in sources]
            sources.update(dict.fromkeys(level))
        return list(sources)

    def _recomputed(self, signal: Signal, draw: sampling.Draw) -> NDArray[Any] | None:
        recipe = self.recipes.get(signal.serial)
        if recipe is None or signal.serial not in self._remade:
            return None
        again = Trial(recipe.operation, recipe.arguments, self.training, self.dtypes)
        below = signals_in(recipe.arguments)
        return again.run(
            {signal_below.serial: draw(signal_below) for signal_below in below}
        )[recipe.place]

    def _with_batch(
        self, value: NDArray[Any], index: int, inputs: tuple[Signal, ...]
    ) -> tuple[NDArray[Any], Shape]:
        """Return a value and its shape with a batch axis in front.

        What all inputs of a batch share (a mean over them) has none of its own: it is
        then of size 1, and two inputs see the same.
        """
        shape = self.shapes[index] if self.shapes else None
        if not any(None in signal.shape for signal in inputs):
            # Keras may leave sizes open that follow from what is known.
            shape = value.shape
        elif shape is None or len(shape) != value.ndim:
            shape = (None, *value.shape[1:])
        # With a size in place of the batch's, its axis cannot be told from others.
        batches = {signal.shape[0] for signal in inputs if signal.shape}
        batched = None in batches and batches <= {None, 1}
        if shape and (None in shape or shape[0] == 1 or not batched):
            return value, shape
        return value[None], (1, *shape)

    def run(self, arrays: dict[int, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs for samples of the inputs, by serial number."""

        def fill(argument: Any) -> Any:
            if not isinstance(argument, Signal):
                return argument
            dtype = self.dtypes.get(argument.serial)
            return keras.ops.convert_to_tensor(_as(arrays[argument.serial], dtype))

        arguments = without_views(self.arguments)
        args, kwargs = keras.tree.map_structure(fill, arguments)
        operation = self.operation
        if isinstance(operation, keras.layers.Layer):
            if takes_training(operation):
                kwargs = {**kwargs, "training": self.training}
            outputs, _ = operation.stateless_call(
                [self._value(v) for v in operation.trainable_variables],
                [self._value(v) for v in operation.non_trainable_variables],
                *args,
                **kwargs,
            )
        else:
            operation = with_sizes_of(operation, self.arguments, arrays)
            outputs = operation.call(*args, **kwargs)
        return [
            keras.ops.convert_to_numpy(output)
            for output in keras.tree.flatten(outputs)
            if output is not None
        ]

    def _value(self, variable: keras.Variable) -> Any:
        scale = self.scales.get(id(variable), 1.0)
        return variable.value if scale == 1.0 else variable.value * scale

    def _pull(
        self, arrays: dict[int, NDArray[Any]], signal: Signal, index: int
    ) -> Pull:
        """Return the gradient's way back through what was measured, by a small step.

        Σ (∂y/∂x)² over all pairs is the mean of |J v|² for random v, both ways.
        """
        state: dict[str, float] = {}

        def factor() -> float:
            if signal.serial in self.dtypes:
                return 0.0
            values = arrays[signal.serial]
            step = _STEP * float(np.std(_unmasked(values))) or _STEP
            away = np.random.default_rng(1).standard_normal(values.shape)
            nudged = {**arrays, signal.serial: values + (step * away).astype("float32")}
            before, after = self.run(arrays)[index], self.run(nudged)[index]
            if before.dtype.kind not in "fV":  # counts, places: no gradient passes
                return 0.0
            change = (np.asarray(after, float) - np.asarray(before, float)) / step
            return float((change**2).sum()) / max(values.size, 1)

        def pull(gradient: Gradient) -> Gradient:
            if "factor" not in state:
                state["factor"] = factor()
            return Gradient(gradient.second * state["factor"])

        return pull


def _unmasked(values: NDArray[Any]) -> NDArray[Any]:
    """Return the values but for those that a mask has set far below the others."""
    top = values[values >= np.quantile(values, 0.75)].astype(float)
    floor = top.mean() - _FAR * top.std()
    return values[values > floor] if top.std() > 0 else values


def _as(values: NDArray[Any], dtype: str | None) -> NDArray[Any]:
    """Return a sample in its tensor's dtype: tokens and counts are not negative."""
    if dtype is None:
        return values
    if dtype == "bool":
        return values > 0.5
    whole: NDArray[Any] = np.abs(np.rint(values)).astype(dtype)
    return whole


# Operations and layers that keep all the values of their one tensor.
_KEEPING = frozenset(
    "Transpose Swapaxes Moveaxis Reshape ExpandDims Squeeze Permute Flatten Identity "
    "Negative Add Subtract Multiply Divide TrueDivide Cast Copy StopGradient".split()
)


class Sampler:
    """Measures what no rule predicts, and remembers which signals were measured.

    A sample of a signal is computed as the signal was, from samples of its inputs, as
    long as no weights or random draws are involved.
    """

    def __init__(self, training: bool) -> None:
        self._training = training
        self._dtypes: dict[int, str] = {}
        self._recipes: dict[int, Recipe] = {}
        self._measured: set[int] = set()

    def measure(
        self,
        operation: Layer | Operation | AsOperation,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        shapes: list[Shape] | None = None,
        scales: dict[int, float] | None = None,
    ) -> Signals:
        """Return the outputs of a call on a Gaussian sample of its inputs."""
        trial = Trial(
            operation,
            arguments,
            self._training,
            self._dtypes,
            shapes,
            self._recipes,
            scales or {},
        )
        outputs = self._outputs(trial, inputs)
        self._measured.update(signal.serial for signal in outputs)
        return packed(outputs)

    def _outputs(self, trial: Trial, inputs: tuple[Signal, ...]) -> list[Signal]:
        """Return a trial's outputs, with short open axes if it fails on long ones."""
        try:
            return trial.outputs(inputs)
        except Exception:
            if not any(None in signal.shape[1:] for signal in inputs):
                raise
            for size in sampling.OPEN_SIZES[1:]:
                with suppress(Exception):
                    return replace(trial, open_size=size, _remade=set()).outputs(inputs)
            raise

    @property
    def count(self) -> int:
        """How many signals were measured so far."""
        return len(self._measured)

    def is_measured(self, outputs: Sequence[Signal], *, also: bool) -> bool:
        """Say whether any output was measured; `also` says so of all of them."""
        serials = {signal.serial for signal in outputs}
        if also:
            self._measured |= serials
        return not serials.isdisjoint(self._measured)

    def note_dtypes(
        self, symbols: Sequence[keras.KerasTensor], signals: Sequence[Signal]
    ) -> None:
        """Keep which tensors are no floats."""
        for symbol, signal in zip(symbols, signals, strict=True):
            if "float" not in symbol.dtype:
                self._dtypes[signal.serial] = symbol.dtype

    def remember(
        self,
        operation: Layer | Operation,
        arguments: Arguments,
        inputs: Sequence[Signal],
        outputs: Sequence[Signal],
    ) -> None:
        """Keep how signals were computed, for their samples to be made so, too."""
        if isinstance(operation, Layer) and operation.variables:
            return
        for place, signal in enumerate(outputs):
            if signal not in inputs:
                recipe = Recipe(operation, arguments, place)
                self._recipes.setdefault(signal.serial, recipe)

    def remember_values(self, signal: Signal, values: Any) -> None:
        """Keep the values that a signal always has: its sample is not drawn."""
        self._recipes[signal.serial] = Recipe(AsOperation(lambda: values), ((), {}), 0)

    def note_sizes(self, before: Signal, after: Signal) -> None:
        """Keep that `after` is `before` with sizes put in, or left open again."""
        recipe = self._recipes.get(before.serial)
        sizes = (sampling.concrete((None, *x.shape[1:]), 1) for x in (before, after))
        if recipe is not None and len(set(sizes)) == 1:
            self._recipes[after.serial] = recipe

    def origin(self, signal: Signal) -> Signal:
        """Return the signal whose values, moved or rescaled, `signal` has."""
        while signal.serial in self._recipes:
            recipe = self._recipes[signal.serial]
            inputs = signals_in(recipe.arguments)
            if type(recipe.operation).__name__ not in _KEEPING or len(inputs) != 1:
                break
            signal = inputs[0]
        return signal

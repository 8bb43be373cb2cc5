"""The forward pass that scales each kernel as its layer is called."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initlab.calibration import products
from keras_initlab.calibration.moments import Moments, Statistic, moments_of, pooled
from keras_initlab.calibration.scaling import CLOSE, Scaling
from keras_initlab.model.graph import Call as GraphCall
from keras_initlab.model.keras_internals import calls_forgotten, is_shape_inference
from keras_initlab.model.layers import LOOPS, Place, every_place, rematerialized
from keras_initlab.model.own_kernels import own_graph_of, uses_of
from keras_initlab.model.own_weights import held_weights
from keras_initlab.taps import backends
from keras_initlab.taps.patches import Patches

WHO = "calibrate"

# How often a model with shared kernels, or a recurrent layer, is run at most.
ROUNDS = 12

Call = Callable[..., Any]


class NotFinite(ArithmeticError):
    """A kernel's output is infinite or not a number."""


@dataclass(eq=False)
class _Frame:
    """A run of the model, or of a layer that is run several times within it.

    Attributes:
        scope: holds the values that kernels have in it.
        calls: the moments of kernels' outputs, by their index, call and gate.
        untold: kernels that were scaled in it, but whose new values the remaining
            layers do not see yet.
    """

    scope: keras.StatelessScope
    calls: dict[int, list[list[Moments]]] = field(default_factory=dict)
    untold: set[int] = field(default_factory=set)


class Calibrator:
    """Runs a model on a batch, and scales kernels on the way.

    Args:
        model: a built model.
        scalings: of the kernels to scale or measure.
        statistic: "second_moment" or "variance".

    Attributes:
        unseen: paths of layers that ran where nothing can be measured.
        rounds: how often the model was run.
        not_finite: the path of the layer that made what is not finite.
    """

    def __init__(
        self, model: Any, scalings: Sequence[Scaling], statistic: Statistic
    ) -> None:
        self.unseen: set[str] = set()
        self.rounds = 0
        self.not_finite = ""
        self._model, self._statistic = model, statistic
        self._scalings = list(scalings)
        self._backend = backends.load(WHO)
        self._within = self._backend.trace()
        self._frames: list[_Frame] = []
        self._index = {id(scaling): i for i, scaling in enumerate(self._scalings)}
        # Kernels that are only measured for now, by their index.
        self._held: set[int] = set()
        self._muted = False
        self._numbers = itertools.count()
        self._patches = Patches()
        self._add_patches()

    def run(self, x: Any) -> None:
        """Find the factors; the model stays as it is.

        Raises:
            NotFinite: a kernel's output is not finite.
        """
        left = {i for i, s in enumerate(self._scalings) if s.leave is not None}
        shared: set[int] = set()
        with calls_forgotten(self._model), self._patches.applied():
            for _ in range(ROUNDS):
                self.rounds += 1
                self._held = left | shared
                # Dropout is the same in each round: the generator is reset after it.
                with self._backend.isolated(self._model, False):
                    calls = self._round(lambda: self._model(x, training=True))
                shared |= {i for i, parts in calls.items() if len(parts) > 1} - left
                if self._fit(calls, shared) <= CLOSE:
                    break
            self._fit(calls, left)

    def _round(self, call: Callable[[], Any]) -> dict[int, list[list[Moments]]]:
        """Call a function with the current kernels; return their outputs' moments."""
        mapping = [pair for scaling in self._scalings for pair in scaling.mapping]
        with keras.StatelessScope(mapping) as scope:
            self._frames.append(_Frame(scope))
            try:
                call()
            finally:
                frame = self._frames.pop()
        return frame.calls

    def _fit(self, calls: dict[int, list[list[Moments]]], indices: set[int]) -> float:
        """Fit kernels to all their calls; return how far they were off."""
        return max(
            (
                self._scalings[index].fit(calls[index], self._statistic)
                for index in indices & set(calls)
            ),
            default=0.0,
        )

    def _listens(self, path: str) -> bool:
        """Whether a call is part of the pass, and can be measured."""
        if self._muted or not self._frames or is_shape_inference():
            return False
        if self._backend.trace() != self._within:
            self.unseen.add(path)
            return False
        return True

    def _observe(self, scaling: Scaling, parts: Sequence[Any]) -> list[float]:
        """Measure a kernel's output, by gate; return the factors to apply to it."""
        index = self._index[id(scaling)]
        moments = [
            self._measured(scaling, part).times(1 / factor)
            for part, factor in zip(parts, scaling.factors, strict=True)
        ]
        scaling.order = min(scaling.order, next(self._numbers))
        self._frames[-1].calls.setdefault(index, []).append(moments)
        if index in self._held:
            return [1.0] * scaling.gates
        self._held.add(index)
        before = scaling.factors
        scaling.fit_once(moments, self._statistic)
        self._frames[-1].untold.add(index)
        return [new / old for new, old in zip(scaling.factors, before, strict=True)]

    def _measured(self, scaling: Scaling, part: Any) -> Moments:
        shape = None
        if scaling.bias_start is not None:
            shape = scaling.bias_start.shape
        moments = moments_of(part, self._backend.passes, shape, self._statistic)
        if not moments.is_finite:
            # Keras changes the message of an error raised in a call.
            self.not_finite = scaling.kernel.path
            raise NotFinite
        return moments

    def _tell(self, scaling: Scaling) -> None:
        """Let the layers that are still to run see a kernel's new value."""
        frame, index = self._frames[-1], self._index[id(scaling)]
        if index in frame.untold:
            frame.untold.remove(index)
            for pair in scaling.mapping:
                frame.scope.add_update(pair)

    def _repeated(self, indices: set[int], call: Callable[[], Any]) -> Any:
        """Run part of the model until kernels in it fit; return its outputs."""
        free = indices - self._held
        outputs: list[Any] = []

        def run() -> None:
            outputs[:] = [call()]

        self._held |= free
        for _ in range(ROUNDS):
            calls = self._round(run)
            if self._fit(calls, free) <= CLOSE:
                break
        for index, repeats in calls.items():
            gates = range(self._scalings[index].gates)
            whole = [pooled([moments[gate] for moments in repeats]) for gate in gates]
            self._frames[-1].calls.setdefault(index, []).append(whole)
            self._frames[-1].untold.add(index)
            self._tell(self._scalings[index])
        return outputs[0]

    # The patches.

    def _add_patches(self) -> None:
        by_layer: dict[int, list[Scaling]] = {}
        for scaling in self._scalings:
            by_layer.setdefault(id(scaling.kernel.layer), []).append(scaling)
        for held in by_layer.values():
            layer = held[0].kernel.layer
            wrap = self._wrap_for(layer, held)
            if wrap is not None:
                self._patches.add(layer, "call", wrap)
        for place in every_place(self._model):
            layer = place.layer
            if rematerialized(layer):
                self._patches.add(layer, "rematerialized_call", _called_plainly)
            if isinstance(layer, LOOPS) and self._inside(layer):
                self._patches.add(layer, "call", self._wrap_for_loop(place))

    def _inside(self, layer: Any) -> set[int]:
        """Return the kernels inside a layer, by their index."""
        return {
            self._index[id(scaling)]
            for scaling in self._scalings
            if any(layer is around for around in scaling.kernel.parents)
        }

    def _wrap_for_loop(self, place: Place) -> Any:
        layer = place.layer
        alone = [s for s in self._scalings if s.kernel.layer is vars(layer).get("cell")]
        if alone and products.is_cell(alone[0].kernel.layer):
            return functools.partial(self._around_sequence, scaling=alone[0])
        return functools.partial(self._around_loop, layer=layer, path=place.path)

    def _wrap_for(self, layer: Any, held: list[Scaling]) -> Any:
        if products.is_linear(layer):
            return functools.partial(self._around_linear, scaling=held[0])
        if products.is_separable(layer):
            return functools.partial(self._around_separable, held=held)
        if products.is_cell(layer):
            return functools.partial(self._around_cell, scaling=held[0])
        return functools.partial(self._around_own, held=held)

    def _around_linear(self, call: Call, scaling: Scaling) -> Call:
        layer, path = scaling.kernel.layer, scaling.kernel.path

        @functools.wraps(call)
        def calibrated(*args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(*args, **kwargs)
            self._tell(scaling)
            product = products.product(layer, call, args, kwargs)
            (factor,) = self._observe(scaling, [product])
            if scaling.centre:
                self._tell(scaling)
            return products.finished(layer, product * factor)

        return calibrated

    def _around_separable(self, call: Call, held: list[Scaling]) -> Call:
        layer, path = held[0].kernel.layer, held[0].kernel.path
        by_weight = {scaling.kernel.weight: scaling for scaling in held}

        @functools.wraps(call)
        def calibrated(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(inputs, *args, **kwargs)
            for scaling in held:
                self._tell(scaling)
            product = products.depthwise_product(layer, inputs)
            (factor,) = self._observe(by_weight["depthwise_kernel"], [product])
            product = products.pointwise_product(layer, product * factor)
            (factor,) = self._observe(by_weight["pointwise_kernel"], [product])
            self._tell(by_weight["pointwise_kernel"])
            return products.finished(layer, product * factor)

        return calibrated

    def _around_cell(self, call: Call, scaling: Scaling) -> Call:
        cell, path = scaling.kernel.layer, scaling.kernel.path

        @functools.wraps(call)
        def calibrated(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._listens(path):
                self._tell(scaling)
                self._observe(scaling, products.gates(cell, inputs, scaling.gates))
                self._tell(scaling)
            return call(inputs, *args, **kwargs)

        return calibrated

    def _around_sequence(self, call: Call, scaling: Scaling) -> Call:
        """Wrap a recurrent layer: the product of its kernel with all steps at once.

        It does not depend on the states, so that it is exact without running the steps.
        """
        cell, path = scaling.kernel.layer, scaling.kernel.path

        @functools.wraps(call)
        def calibrated(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(inputs, *args, **kwargs)
            self._tell(scaling)
            self._observe(scaling, products.gates(cell, inputs, scaling.gates))
            self._tell(scaling)
            with self._mute():
                return call(inputs, *args, **kwargs)

        return calibrated

    def _around_loop(self, call: Call, layer: Any, path: str) -> Call:
        """Wrap a layer that calls others step by step; run it in Python."""
        indices = self._inside(layer)

        @functools.wraps(call)
        def calibrated(*args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(*args, **kwargs)
            with products.attributes(layer, unroll=True, use_cudnn=False):
                return self._repeated(indices, lambda: call(*args, **kwargs))

        return calibrated

    def _around_own(self, call: Call, held: list[Scaling]) -> Call:
        layer, path = held[0].kernel.layer, held[0].kernel.path
        by_product = _by_product_in(layer, held)

        @functools.wraps(call)
        def calibrated(*args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(*args, **kwargs)
            for scaling in held:
                self._tell(scaling)
            if by_product and self._follow(layer, by_product, args, kwargs):
                for scaling in held:
                    self._tell(scaling)
                with self._mute():
                    return call(*args, **kwargs)
            return self._by_output(held, lambda: call(*args, **kwargs))

        return calibrated

    def _by_output(self, held: list[Scaling], call: Callable[[], Any]) -> Any:
        """Scale kernels whose products cannot be traced, by their layer's output."""
        for scaling in held:
            scaling.by_output = True

        def run() -> Any:
            outputs = call()
            first = next(filter(self._is_float, keras.tree.flatten(outputs)), None)
            for scaling in held if first is not None else ():
                self._observe(scaling, [first])
            return outputs

        return self._repeated({self._index[id(scaling)] for scaling in held}, run)

    def _is_float(self, x: Any) -> bool:
        if not self._backend.is_tensor(x):
            return False
        dtype = keras.backend.standardize_dtype(x.dtype)
        return bool(keras.backend.is_float_dtype(dtype))

    def _follow(
        self, layer: Any, by_product: dict[int, Scaling], args: Any, kwargs: Any
    ) -> bool:
        """Run an own layer's call as a graph, and scale its kernels on the way.

        Returns:
            Whether that could be done.
        """
        seen = own_graph_of(layer)
        leaves = keras.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if self._backend.is_tensor(leaf)]
        if seen is None or len(tensors) != len(seen.graph.inputs):
            return False
        weights = held_weights(layer)
        values = dict(zip(seen.graph.inputs, tensors, strict=True))
        numbered = seen.weights.items()
        values |= {n: _as_read(layer, weights[name]) for n, name in numbered}
        # If this fails half way, the layer's output is measured instead.
        held, frame = set(self._held), self._frames[-1].calls
        before = {index: len(calls) for index, calls in frame.items()}
        try:
            for call in seen.graph.calls:
                self._follow_one(call, values, by_product)
        except NotFinite:
            raise
        except Exception:
            self._held = held
            for index in list(frame):
                del frame[index][before.get(index, 0) :]
                if not frame[index]:
                    del frame[index]
            return False
        return True

    def _follow_one(
        self, call: GraphCall, values: dict[int, Any], by_product: dict[int, Scaling]
    ) -> None:
        symbols = zip(call.node.input_tensors, call.inputs, strict=True)
        filled = {id(symbol): values[number] for symbol, number in symbols}
        args, kwargs = call.filled(filled)
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        for number, output in zip(call.outputs, outputs, strict=True):
            values[number] = output
            if number in by_product:
                (factor,) = self._observe(by_product[number], [output])
                values[number] = output * factor

    @contextmanager
    def _mute(self) -> Iterator[None]:
        self._muted = True
        try:
            yield
        finally:
            self._muted = False


def _by_product_in(layer: Any, held: list[Scaling]) -> dict[int, Scaling]:
    """Return the kernels of a user's layer, by the tensors that are their products.

    Empty if the product of one of them cannot be traced.
    """
    uses = uses_of(layer)
    by_product: dict[int, Scaling] = {}
    for scaling in held:
        use = uses.get(scaling.kernel.weight)
        if use is None or not use.products:
            return {}
        by_product |= dict.fromkeys(use.products, scaling)
    return by_product


def _as_read(layer: Any, variable: Any) -> Any:
    """Return a weight's value as the layer's call reads it."""
    return keras.ops.cast(variable.value, layer.compute_dtype)


def _called_plainly(wrap: Call) -> Call:
    """Return a `rematerialized_call` that keeps what it computes."""

    @functools.wraps(wrap)
    def plain(call: Call, *args: Any, **kwargs: Any) -> Call:
        return call

    return plain

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
from keras_initlab.model.layers import LOOPS, every_place, rematerialized
from keras_initlab.model.own_kernels import own_graph_of, uses_of
from keras_initlab.model.own_weights import held_weights
from keras_initlab.taps import backends
from keras_initlab.taps.patches import Patches

WHO = "calibrate"

# How often a model with shared kernels, or a recurrent layer, is run at most.
ROUNDS = 12

Call = Callable[..., Any]


class NotFinite(ValueError):
    """What a kernel makes is infinite or not a number; names its layer."""


@dataclass(eq=False)
class _Frame:
    """A run of the model, or of a layer that is run several times within it.

    Attributes:
        scope: holds the values that kernels have in it.
        calls: the moments of what kernels made, by their index, call and gate.
    """

    scope: keras.StatelessScope
    calls: dict[int, list[list[Moments]]] = field(default_factory=dict)


class Calibrator:
    """Runs a model on a batch, and scales kernels on the way.

    Args:
        model: a built model.
        scalings: of the kernels to scale or measure.
        statistic: "second_moment" or "variance".

    Attributes:
        unseen: paths of layers that ran where nothing can be measured.
        rounds: how often the model was run.
    """

    def __init__(
        self, model: Any, scalings: Sequence[Scaling], statistic: Statistic
    ) -> None:
        self.unseen: set[str] = set()
        self.rounds = 0
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
            NotFinite: what a kernel makes is not.
        """
        left = {i for i, one in enumerate(self._scalings) if one.leave is not None}
        shared: set[int] = set()
        with (
            calls_forgotten(self._model),
            self._backend.isolated(self._model, False),
            self._patches.applied(),
        ):
            for _ in range(ROUNDS):
                self.rounds += 1
                self._held = left | shared
                calls = self._round(lambda: self._model(x, training=True))
                shared |= {i for i, one in calls.items() if len(one) > 1} - left
                if self._fit(calls, shared) <= CLOSE:
                    break
            self._fit(calls, left)

    def _round(self, call: Callable[[], Any]) -> dict[int, list[list[Moments]]]:
        """Call something with the kernels as they are now; return what they made."""
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
        """Measure what a kernel made, by gate; return what to multiply that by."""
        index = self._index[id(scaling)]
        made = [
            self._measured(scaling, part).times(1 / factor)
            for part, factor in zip(parts, scaling.factors, strict=True)
        ]
        scaling.order = min(scaling.order, next(self._numbers))
        self._frames[-1].calls.setdefault(index, []).append(made)
        if index in self._held:
            return [1.0] * scaling.gates
        self._held.add(index)
        before = scaling.factors
        scaling.fit_once(made, self._statistic)
        self._tell(scaling)
        return [new / old for new, old in zip(scaling.factors, before, strict=True)]

    def _measured(self, scaling: Scaling, part: Any) -> Moments:
        shape = None
        if scaling.bias_start is not None:
            shape = scaling.bias_start.shape
        found = moments_of(part, self._backend.passes, shape, self._statistic)
        if not found.is_finite:
            raise NotFinite(scaling.kernel.path)
        return found

    def _tell(self, scaling: Scaling) -> None:
        """Let what is still to run see the kernel as it is now."""
        for pair in scaling.mapping:
            self._frames[-1].scope.add_update(pair)

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
        for index, made in calls.items():
            gates = range(self._scalings[index].gates)
            whole = [pooled([one[gate] for one in made]) for gate in gates]
            self._frames[-1].calls.setdefault(index, []).append(whole)
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
            if isinstance(layer, LOOPS):
                inside = {
                    self._index[id(one)]
                    for one in self._scalings
                    if any(layer is around for around in one.kernel.parents)
                }
                if inside:
                    wrap = functools.partial(
                        self._around_loop, layer=layer, indices=inside, path=place.path
                    )
                    self._patches.add(layer, "call", wrap)

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
            made = products.product(layer, call, args, kwargs)
            (factor,) = self._observe(scaling, [made])
            return products.finished(layer, made if factor == 1 else made * factor)

        return calibrated

    def _around_separable(self, call: Call, held: list[Scaling]) -> Call:
        layer, path = held[0].kernel.layer, held[0].kernel.path
        by_weight = {scaling.kernel.weight: scaling for scaling in held}

        @functools.wraps(call)
        def calibrated(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(inputs, *args, **kwargs)
            made = products.depthwise_product(layer, inputs)
            (factor,) = self._observe(by_weight["depthwise_kernel"], [made])
            made = products.pointwise_product(layer, made * factor)
            (factor,) = self._observe(by_weight["pointwise_kernel"], [made])
            return products.finished(layer, made * factor)

        return calibrated

    def _around_cell(self, call: Call, scaling: Scaling) -> Call:
        cell, path = scaling.kernel.layer, scaling.kernel.path

        @functools.wraps(call)
        def calibrated(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._listens(path):
                made = products.gate_products(cell, inputs, scaling.gates)
                self._observe(scaling, made)
            return call(inputs, *args, **kwargs)

        return calibrated

    def _around_loop(
        self, call: Call, layer: Any, indices: set[int], path: str
    ) -> Call:
        @functools.wraps(call)
        def calibrated(*args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(*args, **kwargs)
            # Step by step in Python, where what a cell makes can be seen.
            with products.attributes(layer, unroll=True, use_cudnn=False):
                return self._repeated(indices, lambda: call(*args, **kwargs))

        return calibrated

    def _around_own(self, call: Call, held: list[Scaling]) -> Call:
        layer, path = held[0].kernel.layer, held[0].kernel.path
        made = _made_in(layer, held)

        @functools.wraps(call)
        def calibrated(*args: Any, **kwargs: Any) -> Any:
            if not self._listens(path):
                return call(*args, **kwargs)
            if made and self._follow(layer, made, args, kwargs):
                with self._mute():
                    return call(*args, **kwargs)
            return self._by_output(held, lambda: call(*args, **kwargs))

        return calibrated

    def _by_output(self, held: list[Scaling], call: Callable[[], Any]) -> Any:
        """Scale kernels whose products are unseen by their layer's output."""
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
        self, layer: Any, made: dict[int, Scaling], args: Any, kwargs: Any
    ) -> bool:
        """Run an own layer's call as a graph, and scale its kernels on the way.

        Returns:
            Whether that could be done.
        """
        own = own_graph_of(layer)
        leaves = keras.tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if self._backend.is_tensor(leaf)]
        if own is None or len(tensors) != len(own.graph.inputs):
            return False
        weights = held_weights(layer)
        values = dict(zip(own.graph.inputs, tensors, strict=True))
        values |= {n: _as_read(layer, weights[name]) for n, name in own.weights.items()}
        # What fails half way is measured in another way.
        held, frame = set(self._held), self._frames[-1].calls
        before = {index: len(calls) for index, calls in frame.items()}
        try:
            for call in own.graph.calls:
                self._follow_one(call, values, made)
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
        self, call: GraphCall, values: dict[int, Any], made: dict[int, Scaling]
    ) -> None:
        symbols = zip(call.node.input_tensors, call.inputs, strict=True)
        filled = {id(symbol): values[number] for symbol, number in symbols}
        args, kwargs = call.node.arguments.fill_in(filled)
        outputs = keras.tree.flatten(call.operation(*args, **kwargs))
        for number, output in zip(call.outputs, outputs, strict=True):
            values[number] = output
            if number in made:
                (factor,) = self._observe(made[number], [output])
                values[number] = output * factor

    @contextmanager
    def _mute(self) -> Iterator[None]:
        self._muted = True
        try:
            yield
        finally:
            self._muted = False


def _made_in(layer: Any, held: list[Scaling]) -> dict[int, Scaling]:
    """Return the kernels that tensors in an own layer's graph are made with.

    Empty where the product of one of them does not show.
    """
    uses = uses_of(layer)
    made: dict[int, Scaling] = {}
    for scaling in held:
        use = uses.get(scaling.kernel.weight)
        if use is None or not use.made:
            return {}
        made |= dict.fromkeys(use.made, scaling)
    return made


def _as_read(layer: Any, variable: Any) -> Any:
    """Return a weight's value as the layer's call reads it."""
    return keras.ops.cast(variable.value, layer.compute_dtype)


def _called_plainly(wrap: Call) -> Call:
    """Return a `rematerialized_call` that keeps what it computes."""

    @functools.wraps(wrap)
    def plain(call: Call, *args: Any, **kwargs: Any) -> Call:
        return call

    return plain

"""The walk: signals through a model's graph, call by call.

`Propagation` walks and calls rules, for which it is the `RuleContext`. Other classes do
the rest: `WeightBook` looks up and chooses weights, `Sampler` measures what no rule
predicts, `Repeats` finds equal calls, and `FlatGraph` builds the flat graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import keras
from keras import Operation
from keras.layers import Layer

from keras_initlab.model import graph
from keras_initlab.model.keras_internals import sublayers
from keras_initlab.model.nonlinearity import own_function
from keras_initlab.model.own_kernels import uses_of
from keras_initlab.model.own_weights import (
    READ_AS_VIEWS,
    OwnGraph,
    computed,
    without_views,
)
from keras_initlab.model.preprocessing import Output
from keras_initlab.propagation.algebra.elementwise import NotDefinedEverywhere, apply
from keras_initlab.propagation.algebra.random_linear import RandomKernel
from keras_initlab.propagation.arguments import (
    as_function_of,
    is_alone,
    shared,
    with_constants,
)
from keras_initlab.propagation.assumed_sizes import AssumedSizes
from keras_initlab.propagation.context import ActivationLike, Arguments, UnknownLayer
from keras_initlab.propagation.dispatch import operation_rule_of, output_moments
from keras_initlab.propagation.flat_graph import FlatGraph
from keras_initlab.propagation.given import Stand
from keras_initlab.propagation.index import Key, ModelIndex, index_of
from keras_initlab.propagation.mirrors import with_mirror
from keras_initlab.propagation.monte_carlo import AsOperation, Sampler
from keras_initlab.propagation.own_layers import (
    kernel_in,
    multiplied,
    operands_of,
    scales_of,
    seen_inside,
)
from keras_initlab.propagation.record import (
    OperationError,
    PropagationError,
    Record,
    failure,
    fits,
    operation_failure,
)
from keras_initlab.propagation.repeats import Repeats
from keras_initlab.propagation.rules.activation import activate
from keras_initlab.propagation.signal import Shape, Signal, Signals
from keras_initlab.propagation.weights.book import Designer, WeightBook
from keras_initlab.propagation.weights.moments import WeightMoments


class Propagation:
    """One walk of signals through a model; the `RuleContext` of its rules.

    Attributes:
        model: the model.
        training: whether dropout and batch statistics count.
        weights: the weights' moments, and the designer that may choose kernels.
        records: the layer calls so far.
        refusals: why composite layers were run on a sample as a whole, and not opened,
            by their paths.
        assumed: those whose calls need sizes that are not known: what for, by paths.
        index: of the model, for further walks.
        signals: of the tensors of the flat graph, by their numbers.
    """

    def __init__(
        self,
        model: keras.Model,
        training: bool = True,
        *,
        from_values: bool = False,
        redrawn: Collection[Key] = (),
        designer: Designer | None = None,
        standing: Mapping[Output, Stand] | None = None,
        index: ModelIndex | None = None,
    ) -> None:
        """Prepare a walk.

        Args:
            model: a built model.
            training: see above.
            from_values: whether the weights' values count, not their initializers.
            redrawn: the weights whose initializers count even so.
            designer: chooses kernels' moments anew; None leaves them.
            standing: what stands for the signals of outputs of preprocessing.
            index: what an earlier walk through the model has read of it.
        """
        self.model = model
        self.training = training
        self.index = index or index_of(model)
        self.weights = WeightBook(
            self.index, from_values=from_values, redrawn=redrawn, designer=designer
        )
        self.records: list[Record] = []
        self.refusals: dict[str, str] = {}
        self.signals: dict[int, Signal] = {}
        self.assumed: dict[str, int] = {}
        self._standing = standing or {}
        self._flat = FlatGraph()
        self._repeats = Repeats(self.index.configs)
        self._sampler = Sampler(training)
        self._recording = True
        self._arguments: list[Arguments] = []
        self._open: list[Record] = []
        self._walked: set[int] = set()
        self._assumed: dict[int, Signal] = {}

    def run(self, inputs: list[Signal]) -> list[Signal]:
        """Return the signals at the model's outputs, its inputs' being given."""
        numbers = self._flat.fresh(len(inputs))
        self.signals.update(zip(numbers, inputs, strict=True))
        with self._flat.reading(numbers):
            if self.index.graph is not None:
                outputs: Signals = tuple(self._walk(self.index.graph, inputs, ""))
            else:
                arguments = graph.built_arguments(self.model, inputs)
                outputs = self._call(self.model, tuple(inputs), arguments)
        self._flat.end(numbers)
        return list(keras.tree.flatten(outputs))

    @property
    def flat_graph(self) -> graph.Graph:
        """The flat graph of the calls, from the model's inputs to its outputs."""
        return self._flat.graph

    @property
    def kernel_outputs(self) -> dict[tuple[int, str], list[float]]:
        """The second moments that kernels made, by id of the layer and weight."""
        return self.weights.kernel_outputs

    # What rules ask for; see `RuleContext`.

    @property
    def from_values(self) -> bool:
        """Whether the weights of the layer that is called count as they are now."""
        layer = self._open[-1].layer if self._open else self.model
        return self.weights.values_count(layer)

    @property
    def arguments(self) -> Arguments:
        """Positional and named arguments of the call, with signals for tensors."""
        return self._arguments[-1]

    def weight(self, layer: Layer, weight: str) -> WeightMoments:
        """Return the moments of a weight of `layer`."""
        return self.weights.weight(layer, weight)

    def optional_weight(self, layer: Layer, weight: str) -> WeightMoments | None:
        """Return the moments of a weight that `layer` may go without."""
        return self.weights.optional_weight(layer, weight)

    def structure(self, layer: Layer, weight: str, x: Signal) -> WeightMoments:
        """Return a kernel's moments as far as its scale does not matter."""
        return self.weights.structure(layer, weight, x)

    def kernel(self, layer: Layer, weight: str) -> RandomKernel:
        """Return a kernel whose moments are chosen when its input is known."""
        return self.weights.kernel(layer, weight)

    def call(self, layer: Layer, *inputs: Signal) -> Signal:
        """Return the (first) output of an inner layer."""
        return self.outputs(layer, *inputs)[0]

    def outputs(self, layer: Layer, *inputs: Signal) -> tuple[Signal, ...]:
        """Return all outputs of an inner layer."""
        with self._flat.reading(self._flat.fresh(len(inputs))):
            outputs = self._call(layer, inputs, (inputs, {}))
        return tuple(keras.tree.flatten(outputs))

    def activate(self, x: Signal, activation: ActivationLike) -> Signal:
        """Return the signal after a layer's activation, measured if it is unknown."""
        try:
            output = with_mirror(None, (x,), activate(x, activation), self)
        except UnknownLayer:
            operation = AsOperation(keras.activations.get(activation))
            output = self._sampler.measure(operation, (x,), ((x,), {}))
            if self._open:
                self._open[-1].measured = True
        assert isinstance(output, Signal)
        return output

    def note(self, layer: Layer, output: Signal) -> None:
        """Record a call of an inner layer, whose output a rule has found itself."""
        self._record(Record(layer, self.index.path(layer), output))

    def origin(self, x: Signal) -> Signal:
        """Return the signal whose values, moved or rescaled, `x` has."""
        return self._sampler.origin(x)

    @contextmanager
    def scope(
        self,
        *,
        record: bool = True,
        design: bool = True,
        fixed: Mapping[tuple[Layer, str], WeightMoments] | None = None,
    ) -> Iterator[None]:
        """Change what inner calls do while the scope is open."""
        recording = self._recording
        self._recording = recording and record
        try:
            with ExitStack() as stack:
                stack.enter_context(
                    self.weights.scope(design=design, fixed=fixed or {})
                )
                if not design:
                    stack.enter_context(self._flat.forgotten())
                yield
        finally:
            self._recording = recording

    def _walk(
        self,
        walked: graph.Graph,
        inputs: list[Signal],
        prefix: str,
        weights: Mapping[int, Any] | None = None,
        owner: Layer | None = None,
    ) -> list[Signal]:
        signals = dict(zip(walked.inputs, inputs, strict=True))
        numbers = dict(zip(walked.inputs, self._flat.read, strict=True))
        # Weights, and what is computed of weights alone.
        held: dict[int, Any] = {**walked.constants, **(weights or {})}
        for number, call in enumerate(walked.calls):
            if owner is not None:
                call = replace(call, owner=owner)
            symbols = dict(zip(call.inputs, call.node.input_tensors, strict=True))
            values = {tensor: signals.get(tensor) for tensor in call.inputs}
            by_symbol = {
                id(symbol): held[tensor] if values[tensor] is None else values[tensor]
                for tensor, symbol in symbols.items()
            }
            arguments = call.filled(by_symbol)
            read = tuple(x for n in call.inputs if (x := values[n]) is not None)
            if not read:
                results = computed(call.operation, arguments)
                held.update(zip(call.outputs, results, strict=True))
                continue
            if type(call.operation).__name__ in READ_AS_VIEWS:
                call = replace(call, kernel=kernel_in(arguments))
            else:
                arguments = without_views(arguments)
            read_symbols = [symbols[n] for n in call.inputs if n in signals]
            self._sampler.note_dtypes(read_symbols, read)
            places = tuple(numbers[n] for n in call.inputs if n in numbers)
            with self._flat.reading(places):
                self._flat.opened = None
                outputs = self._step(call, read, arguments, prefix)
                # Bare operations are named anew each time that a layer is opened.
                key = f"{prefix}#{number}"
                numbers_made = self._flat.outputs_of(call, prefix, key)
            flat = keras.tree.flatten(outputs)
            if call.kernel is None:  # what weights make is not made again of them
                self._sampler.remember(call.operation, arguments, read, flat)
            flat = [self._as_assumed(x, (key, place)) for place, x in enumerate(flat)]
            signals.update(zip(call.outputs, flat, strict=False))
            numbers.update(zip(call.outputs, numbers_made, strict=True))
            self.signals.update(zip(numbers_made, flat, strict=False))
        for number in set(walked.outputs).difference(signals):
            signals[number] = shared(held[number])
            (numbers[number],) = self._flat.fresh(1)
            self._sampler.remember_values(signals[number], held[number])
        self._flat.opened = tuple(numbers[number] for number in walked.outputs)
        return [signals[number] for number in walked.outputs]

    def _as_assumed(self, signal: Signal, output: Output) -> Signal:
        """Return a signal, or the one that is to stand for it.

        Whose gradient goes on to it.
        """
        stand = self._standing.get(output)
        if stand is None:
            return signal
        if signal.serial not in self._assumed:
            assumed = stand(signal)
            back = ((signal, lambda gradient: gradient),)
            self._assumed[signal.serial] = assumed.amend(parents=back)
        assumed = self._assumed[signal.serial]
        for record in self.records:
            if record.signal is signal:
                record.signal = assumed
        return assumed

    def _step(
        self,
        call: graph.Call,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        prefix: str,
    ) -> Signals:
        """Return the outputs of one call of a graph."""
        shapes = [tuple(symbol.shape) for symbol in call.node.outputs]
        if not call.is_layer:
            return self._operate(call, inputs, arguments, shapes)
        path = f"{prefix}/{call.path}" if prefix else call.path
        self.index.paths.setdefault(id(call.operation), path)
        return self._call(call.operation, inputs, arguments, shapes)

    def _call(
        self,
        layer: Layer,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        shapes: list[Shape] | None = None,
    ) -> Signals:
        """Return the outputs of a layer, and record the call."""
        record = Record(layer, self.index.path(layer), None)
        inputs, arguments = with_constants(layer, inputs, arguments)
        self._arguments.append(arguments)
        self._open.append(record)
        try:
            key = self._repeats.key(layer, inputs, arguments)
            outputs = self._repeats.get(key, layer)
            if outputs is None:
                outputs = self._predict(layer, inputs, arguments, record.path, shapes)
        except PropagationError:
            raise
        except Exception as error:
            refusal = self.refusals.get(record.path)
            raise failure(layer, record.path, error, refusal) from error
        finally:
            self._arguments.pop()
            self._open.pop()
        self._repeats.put(key, layer, outputs)
        flat = keras.tree.flatten(outputs)
        record.signal = flat[0]
        record.measured = self._sampler.is_measured(flat, also=record.measured)
        # A model that is walked into is itself no layer call of its own.
        if not (isinstance(layer, keras.Model) and id(layer) in self._walked):
            self._record(record)
        return outputs

    def _record(self, record: Record) -> None:
        if self._recording:
            self.records.append(record)

    def _predict(
        self,
        layer: Layer,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        path: str,
        shapes: list[Shape] | None,
    ) -> Signals:
        """Return a layer's outputs: by its rule, by walking into it, or measured."""
        try:
            outputs = output_moments(layer, *inputs, context=self)
            outputs = with_mirror(layer, inputs, outputs, self)
            self._flat.opened = None  # what a rule opened is inside this call
            return outputs
        except UnknownLayer:
            function = own_function(layer) if is_alone(inputs, arguments) else None
        if function is not None and function.function is not None:
            with suppress(NotDefinedEverywhere):
                return with_mirror(None, inputs, apply(inputs[0], function), self)
        own_graph = seen_inside(layer, arguments, self.training)
        if own_graph is not None:
            try:
                with self._whole_or_none(layer):
                    return self._walk_own(layer, own_graph, inputs, path, shapes)
            except PropagationError as error:
                # An operation inside fails on a sample: so may the layer, by name.
                if sublayers(layer) and not isinstance(error, OperationError):
                    raise
                self.refusals[path] = str(error)
        try:
            inner = graph.opened(layer, arguments, self.training)
        except graph.NoGraph as refusal:
            self.refusals[path] = str(refusal)
            inner = None
        if inner is not None:
            try:
                with self._whole_or_none(layer):
                    return self._walk_inner(layer, inner, inputs, path, shapes)
            except OperationError as error:
                self.refusals[path] = str(error)
        return self._sampler.measure(
            layer, inputs, arguments, shapes, scales_of(layer, self.weights)
        )

    @contextmanager
    def _whole_or_none(self, layer: Layer) -> Iterator[None]:
        """Drop the calls inside a layer, and their records, if one of them fails."""
        records, assumed = len(self.records), dict(self.assumed)
        try:
            with self._flat.whole_or_none():
                yield
        except PropagationError:
            del self.records[records:]
            self.assumed = assumed
            self._walked.discard(id(layer))
            raise

    def _walk_own(
        self,
        layer: Layer,
        own: OwnGraph,
        inputs: tuple[Signal, ...],
        path: str,
        shapes: list[Shape] | None,
    ) -> Signals:
        weights = operands_of(layer, own, self.weights)
        measured = self._sampler.count
        kernels = [use for use in uses_of(layer).values() if use.multiplies]
        # Of a single kernel, and no layers inside, the layer is one call.
        is_one = not sublayers(layer) and len(kernels) < 2
        with self._flat.forgotten() if is_one else nullcontext():
            outputs = self._walk_inner(layer, own.graph, inputs, path, shapes, weights)
        if is_one:
            self._flat.opened = None
        self._open[-1].measured |= self._sampler.count > measured
        return outputs

    def _walk_inner(
        self,
        layer: Layer,
        inner: graph.Graph,
        inputs: tuple[Signal, ...],
        path: str,
        shapes: list[Shape] | None,
        weights: Mapping[int, Any] | None = None,
    ) -> Signals:
        """Walk the graph of a layer; `weights` of its own if they are in the graph."""
        self._walked.add(id(layer))
        owner = layer if weights is not None else None
        if not inner.assumed:
            return tuple(self._walk(inner, list(inputs), path, weights, owner))
        first = len(self.records)
        sizes = AssumedSizes(inputs, inner.assumed, self._sampler.note_sizes)
        self.assumed[path] = sizes.size
        outputs = self._walk(inner, sizes.inputs, path, weights, owner)
        for record in self.records[first:]:
            record.signal = sizes.record(record.signal)
        return sizes.outputs(outputs, shapes)

    def _operate(
        self,
        call: graph.Call,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        shapes: list[Shape],
    ) -> Signals:
        """Return the outputs of a bare operation."""
        operation, weights = call.operation, self.weights
        self._arguments.append(arguments)
        try:
            try:
                return self._by_rule(call, inputs, shapes)
            except UnknownLayer:
                if call.kernel is not None:
                    return multiplied(
                        operation, inputs, arguments, shapes, self._sampler, weights
                    )
                return self._sampler.measure(operation, inputs, arguments, shapes)
        except Exception as error:
            raise operation_failure(call, error) from error
        finally:
            self._arguments.pop()

    def _by_rule(
        self, call: graph.Call, inputs: tuple[Signal, ...], shapes: list[Shape]
    ) -> Signals:
        """Return what a bare operation makes, by its rule or as a function φ(x).

        Raises:
            UnknownLayer: it has no rule, and is no function of one tensor.
        """
        operation: Operation | None = call.operation
        try:
            rule = operation_rule_of(operation)
        except UnknownLayer:
            if len(inputs) != 1 or not fits(inputs[0].shape, shapes):
                raise
            try:
                function = as_function_of(inputs[0], call.operation, self.arguments)
                outputs: Signals = apply(inputs[0], function)
            except (TypeError, ValueError):
                raise UnknownLayer(call.path) from None
            return with_mirror(None, inputs, outputs, self)
        outputs = rule(operation, *inputs, context=self)
        return with_mirror(operation, inputs, outputs, self)

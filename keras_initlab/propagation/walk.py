"""The prediction: signals walked through a model's graph, and their gradients back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from keras_initlab.model import graph
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.layers import call_keys, every_place
from keras_initlab.propagation.algebra.elementwise import apply
from keras_initlab.propagation.algebra.random_linear import Draw
from keras_initlab.propagation.arguments import others, with_constants
from keras_initlab.propagation.dispatch import (
    UnknownLayer,
    operation_rule_of,
    output_moments,
)
from keras_initlab.propagation.monte_carlo import (
    Arguments,
    Bare,
    Recipe,
    Trial,
    signals_in,
)
from keras_initlab.propagation.signal import Shape, Signal
from keras_initlab.propagation.weights import WeightMoments, weight_moments

# Operations and layers that keep all the values of their one tensor.
_KEEPING = frozenset(
    "Transpose Swapaxes Moveaxis Reshape ExpandDims Squeeze Permute Flatten Identity "
    "Negative Add Subtract Multiply Divide TrueDivide Cast Copy StopGradient".split()
)

Designer = Callable[[Any, str, float, WeightMoments], WeightMoments]


@dataclass(eq=False)
class Record:
    """One call of a layer, and the signal that it returned first.

    `measured` says that the layer had no rule, or its activation none.
    """

    layer: Any
    path: str
    signal: Signal | None
    measured: bool = False


class PropagationError(ValueError):
    """A layer's signal could not be predicted; the message names the layer."""


@dataclass(eq=False)
class Known:
    """What several walks through one model have in common."""

    paths: dict[int, str] = field(default_factory=dict)
    parents: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    moments: dict[tuple[int, str], WeightMoments] = field(default_factory=dict)
    kinds: dict[int, Any] = field(default_factory=dict)
    walked: graph.Graph | None = None


def known_of(model: Any) -> Known:
    """Return what walks through `model` share, as yet without weights."""
    known = Known(walked=graph.graph_of(model) if graph.has_graph(model) else None)
    for place in every_place(model):
        known.parents[id(place.layer)] = place.parents
        if not place.enclosed:
            known.paths[id(place.layer)] = place.path
    return known


@dataclass(eq=False)
class Propagation:
    """One walk of signals through a model; the `context` that rules are given.

    Attributes:
        model: the model.
        training: whether dropout and batch statistics count.
        from_values: whether the weights' values count, not their initializers.
        designer: chooses a kernel's moments anew, given the second moment that an
            output has for entries of second moment 1; None leaves them.
        records: the layer calls so far.
        kernel_outputs: the second moments that each kernel made, before any
            activation, by the id of its layer and its name.
        calls: the calls so far, composite layers opened: one flat graph.
        known: what an earlier walk through the model found, to be used again.
        refusals: why composite layers were run on a sample as a whole, and not opened,
            by their paths.
        standard: ids of layers whose output is taken to have mean 0, and the variance
            `standard_variance`.
    """

    model: Any
    training: bool = True
    from_values: bool = False
    designer: Designer | None = None
    records: list[Record] = field(default_factory=list)
    kernel_outputs: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    calls: list[graph.Call] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    standard: frozenset[int] = frozenset()
    standard_variance: float = 1.0
    known: Known = field(default_factory=Known)
    _moments: dict[tuple[int, str], WeightMoments] = field(default_factory=dict)
    _results: dict[Any, Any] = field(default_factory=dict)
    _arguments: list[Arguments] = field(default_factory=list)
    _open: list[Record] = field(default_factory=list)
    _dtypes: dict[int, str] = field(default_factory=dict)
    _sampled: set[int] = field(default_factory=set)
    _inside: set[int] = field(default_factory=set)
    _recipes: dict[int, Recipe] = field(default_factory=dict)
    # Numbers of the flat graph's tensors: of the inputs and outputs of the call that
    # is being opened, and the next one.
    _read: list[tuple[int, ...]] = field(default_factory=list)
    _made: tuple[int, ...] | None = None
    _ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    _next: int = 0

    def __post_init__(self) -> None:
        if not self.known.paths:
            self.known = known_of(self.model)

    @property
    def arguments(self) -> Arguments:
        """Positional and named arguments of the call, with signals for tensors."""
        return self._arguments[-1]

    def draw(self, layer: Any, weight: str) -> Draw:
        """Return where a kernel's moments come from, for `mix`."""

        def moments(response: float) -> WeightMoments:
            known = self.weight(layer, weight)
            if self.designer is None:
                return known
            key = (id(layer), weight)
            self._moments[key] = self.designer(layer, weight, response, known)
            return self._moments[key]

        made = self.kernel_outputs.setdefault((id(layer), weight), [])
        return Draw(layer, weight, moments, made.append)

    def weight(self, layer: Any, weight: str) -> WeightMoments:
        """Return the moments of a weight of `layer`."""
        key = (id(layer), weight)
        if key in self._moments:
            return self._moments[key]
        if key not in self.known.moments:
            # `initlab>auto` looks at the layers around its own.
            self.known.moments[key] = weight_moments(
                layer,
                weight,
                from_values=self.from_values,
                parents=self.known.parents.get(id(layer), ()),
            )
        return self.known.moments[key]

    def structure(self, layer: Any, weight: str, signal: Signal) -> WeightMoments:
        """Return what is known of a kernel that `signal` meets but its scale.

        A designer that chooses more than the scale says it in `structure`.
        """
        known = self.weight(layer, weight)
        choose = getattr(self.designer, "structure", None)
        if choose is None:
            return known
        made: WeightMoments = choose(layer, weight, signal, known)
        return made

    def optional_weight(self, layer: Any, weight: str) -> WeightMoments | None:
        """Return the moments of a weight that `layer` may go without."""
        if any(one.name == weight for one in own_variables(layer)):
            return self.weight(layer, weight)
        return None

    def run(self, inputs: list[Signal]) -> list[Signal]:
        """Return the signals at the model's outputs, its inputs' being given."""
        self._read.append(self._numbers(len(inputs)))
        if self.known.walked is not None:
            made = self._walk(self.known.walked, inputs, "")
        else:
            arguments = graph.built_arguments(self.model, inputs)
            made = self._call(self.model, tuple(inputs), arguments, True)
        self._ends = (self._read.pop(), self._made or ())
        return list(keras.tree.flatten(made))

    @property
    def flat_graph(self) -> graph.Graph:
        """The flat graph of the calls, from the model's inputs to its outputs."""
        return graph.Graph(tuple(self.calls), *self._ends)

    def _flattened(
        self, call: graph.Call, read: tuple[int, ...], made: tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """Return the flat graph's numbers of what a call made, which it may open."""
        if made is not None and len(made) == len(call.outputs):
            return made
        fresh = self._numbers(len(call.outputs))
        self.calls.append(replace(call, inputs=read, outputs=fresh))
        return fresh

    def _numbers(self, count: int) -> tuple[int, ...]:
        first, self._next = self._next, self._next + count
        return tuple(range(first, self._next))

    def activate(self, signal: Signal, function: Any) -> Signal:
        """Return the signal behind a layer's activation, measured if it is unknown."""
        from keras_initlab.propagation.rules.activation import activate

        try:
            made = self._carried(None, (signal,), activate(signal, function))
        except UnknownLayer:
            made = self._measured(Bare(function), (signal,), ((signal,), {}))
            if self._open:
                self._open[-1].measured = True
        assert isinstance(made, Signal)
        return made

    def _carried(self, operation: Any, inputs: tuple[Any, ...], made: Any) -> Any:
        """Return what an operation made, with its pairs where the inputs have some."""
        from keras_initlab.propagation.mirrors import carried

        for one in inputs:
            # Of parts each may be pairs, and the whole not.
            if isinstance(one, Signal) and (one.mirror or one.parts):
                return carried(operation, inputs, made, self)
        return made

    def call(
        self, layer: Any, *inputs: Signal, record: bool = True, **named: Any
    ) -> Any:
        """Return what `layer` makes of `inputs`: a signal, or a tuple of them."""
        self._read.append(self._numbers(len(inputs)))
        try:
            return self._call(layer, inputs, (inputs, named), record)
        finally:
            self._read.pop()

    def note(self, layer: Any, signal: Signal) -> None:
        """Record a call of an inner layer, whose signal a rule has found itself."""
        path = self.known.paths.setdefault(id(layer), layer.name)
        self.records.append(Record(layer, path, signal))

    def _walk(
        self, walked: graph.Graph, inputs: list[Signal], prefix: str
    ) -> list[Signal]:
        signals = dict(zip(walked.inputs, inputs, strict=True))
        numbers = dict(zip(walked.inputs, self._read[-1], strict=True))
        for call in walked.calls:
            read = [signals[number] for number in call.inputs]
            by_symbol = {
                id(symbol): signal
                for symbol, signal in zip(call.node.input_tensors, read, strict=True)
            }
            arguments = call.node.arguments.fill_in(by_symbol)
            for symbol, signal in zip(call.node.input_tensors, read, strict=True):
                if "float" not in symbol.dtype:
                    self._dtypes[signal.serial] = symbol.dtype
            self._read.append(tuple(numbers[number] for number in call.inputs))
            self._made = None
            if call.is_layer:
                path = f"{prefix}/{call.path}" if prefix else call.path
                self.known.paths.setdefault(id(call.operation), path)
                shapes = [tuple(one.shape) for one in call.node.outputs]
                made = self._call(call.operation, tuple(read), arguments, True, shapes)
            else:
                made = self._operate(call, tuple(read), arguments)
            flat = keras.tree.flatten(made)
            for number, signal in zip(call.outputs, flat, strict=False):
                signals[number] = signal
            self._remember(call.operation, arguments, read, flat)
            outer = self._flattened(call, self._read.pop(), self._made)
            numbers.update(zip(call.outputs, outer, strict=True))
        self._made = tuple(numbers[number] for number in walked.outputs)
        return [signals[number] for number in walked.outputs]

    def origin(self, signal: Signal) -> Signal:
        """Return the signal whose values, moved or rescaled, `signal` has."""
        while signal.serial in self._recipes:
            recipe = self._recipes[signal.serial]
            below = signals_in(recipe.arguments)
            if type(recipe.operation).__name__ not in _KEEPING or len(below) != 1:
                break
            signal = below[0]
        return signal

    def _remember(
        self, operation: Any, arguments: Arguments, read: list[Signal], flat: Any
    ) -> None:
        """Keep how signals were made, for a sample of them to be made so, too."""
        if isinstance(operation, keras.layers.Layer) and operation.variables:
            return
        for place, signal in enumerate(flat):
            if signal not in read:
                recipe = Recipe(operation, arguments, place)
                self._recipes.setdefault(signal.serial, recipe)

    def _call(
        self,
        layer: Any,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        record: bool,
        shapes: list[Shape] | None = None,
    ) -> Any:
        path = self.known.paths.setdefault(id(layer), layer.name)
        entry = Record(layer, path, None)
        inputs, arguments = with_constants(inputs, arguments)
        self._arguments.append(arguments)
        self._open.append(entry)
        key = self._same_call(layer, inputs, arguments)
        try:
            if key is not None and key in self._results:
                made = self._results[key]
            else:
                made = self._predict(layer, inputs, arguments, path, shapes)
        except PropagationError:
            raise
        except Exception as error:
            refusal = self.refusals.get(path)
            why = f" It was run as a whole: {refusal}." if refusal else ""
            raise PropagationError(
                f"The signal through layer {path!r} ({type(layer).__name__}) could not "
                f"be predicted. Received: {type(error).__name__}: {error}.{why} If the "
                "rule is your own, mend it; see "
                "keras_initlab.propagation.output_moments."
            ) from error
        finally:
            self._arguments.pop()
            self._open.pop()
        if key is not None:
            self._results[key] = made
        flat = keras.tree.flatten(made)
        entry.signal = flat[0]
        serials = {one.serial for one in flat}
        if entry.measured:
            self._sampled |= serials
        entry.measured = not serials.isdisjoint(self._sampled)
        # A model that is walked into is itself no layer call of its own.
        walked = isinstance(layer, keras.Model) and id(layer) in self._inside
        if record and not walked:
            self.records.append(entry)
        return made

    def _same_call(
        self, layer: Any, inputs: tuple[Signal, ...], arguments: Arguments
    ) -> Any:
        """Return what two calls that give the very same tensor share, or None.

        A shared layer on one input, or two layers without weights or chance and of
        one config, give one result: what is made of both knows that.
        """
        kinds = self.known.kinds
        if id(layer) not in kinds:
            kinds[id(layer)] = _kind_of(layer)
        kind = kinds[id(layer)]
        if kind is None or any(hasattr(one, "shape") for one in others(arguments)):
            return None  # two arrays may differ and be called the same
        named = {k: v for k, v in arguments[1].items() if not isinstance(v, Signal)}
        serials = tuple(one.serial for one in inputs)
        return (kind, serials, repr(named) if named else "")

    def _predict(
        self,
        layer: Any,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        path: str,
        shapes: list[Shape] | None,
    ) -> Any:
        if id(layer) in self.standard:
            return Signal.independent(inputs[0].shape, 0.0, self.standard_variance)
        try:
            made = output_moments(layer, *inputs, context=self)
            made = self._carried(layer, inputs, made)
            self._made = None  # what a rule opened on its way is inside this call
            return made
        except UnknownLayer:
            pass
        try:
            opened = graph.opened(layer, arguments, self.training)
        except graph.NoGraph as refusal:
            self.refusals[path] = str(refusal)
            opened = None
        if opened is not None:
            self._inside.add(id(layer))
            return tuple(self._walk(opened, list(inputs), path))
        return self._measured(layer, inputs, arguments, shapes)

    def _operate(
        self, call: graph.Call, inputs: tuple[Signal, ...], arguments: Arguments
    ) -> Any:
        operation = call.operation
        self._arguments.append(arguments)
        try:
            shapes = [tuple(one.shape) for one in call.node.outputs]
            with suppress(UnknownLayer):
                return self._by_rule(call, inputs, shapes)
            return self._measured(operation, inputs, arguments, shapes)
        except Exception as error:
            raise PropagationError(
                f"The signal through the operation {call.path!r} "
                f"({type(operation).__name__}) could not be predicted. Received: "
                f"{type(error).__name__}: {error}. Put the operation into a layer, and "
                "give that a rule; see keras_initlab.propagation.output_moments."
            ) from error
        finally:
            self._arguments.pop()

    def _by_rule(
        self, call: graph.Call, inputs: tuple[Signal, ...], shapes: list[Shape]
    ) -> Any:
        """Return what a bare operation makes, by its rule or as a function φ(x).

        Raises:
            UnknownLayer: it has no rule, and is no function of one tensor.
        """
        try:
            rule = operation_rule_of(call.operation)
        except UnknownLayer:
            if [one.shape for one in inputs] != shapes:
                raise
            try:
                made = apply(inputs[0], graph.as_function(call))
            except (TypeError, ValueError):
                raise UnknownLayer(call.path) from None
            return self._carried(None, inputs, made)
        made = rule(call.operation, *inputs, context=self)
        return self._carried(call.operation, inputs, made)

    def _measured(
        self,
        operation: Any,
        inputs: tuple[Signal, ...],
        arguments: Arguments,
        shapes: list[Shape] | None = None,
    ) -> Any:
        """Run what no rule knows on a Gaussian sample, and measure."""
        trial = Trial(
            operation, arguments, self.training, self._dtypes, shapes, self._recipes
        )
        made = trial.outputs(inputs)
        self._sampled.update(one.serial for one in made)
        return made[0] if len(made) == 1 else tuple(made)


def _kind_of(layer: Any) -> Any:
    """Return what two layers that compute the same have in common; None for chance."""
    if getattr(layer, "seed_generator", None) is not None:
        return None  # each call draws anew
    if layer.weights:
        return id(layer)
    try:
        config = {k: v for k, v in layer.get_config().items() if k != "name"}
        return (type(layer), repr(config))
    except NotImplementedError:
        return id(layer)


def stats_keys(records: list[Record]) -> list[str]:
    """Return the key of each record, calls of a shared layer numbered."""
    return call_keys([record.path for record in records])

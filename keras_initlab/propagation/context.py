"""What a rule is given besides a layer and the signals of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from keras.layers import Layer

from keras_initlab.propagation.algebra.random_linear import RandomKernel
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights.moments import WeightMoments

# Positional and named arguments of a call, with signals in place of tensors.
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
# What Keras takes for an activation.
ActivationLike: TypeAlias = str | Callable[..., Any] | Layer


class UnknownLayer(LookupError):
    """No rule predicts a layer's output; it is then measured on a sample."""


class RuleContext(Protocol):
    """The prediction, as a rule sees it.

    A rule is a function `rule(layer, *inputs, context)` that returns a signal, or a
    tuple of them if the layer has several outputs. It holds the mathematics of its
    layer, and asks its context for what it needs from the model:

    - which mode the model is in: `training`, `from_values`;
    - how the layer was called: `arguments`;
    - the layer's weights: `weight`, `optional_weight`, and `kernel` for one that
      multiplies a signal and that a scheme may choose;
    - the outputs of layers inside it: `call`, `outputs`, `activate`, `note`, `scope`.
    """

    @property
    def training(self) -> bool:
        """Whether dropout drops and batches are normalized by their own statistics."""

    @property
    def from_values(self) -> bool:
        """Whether the layer's weights count as they are, not as they would be drawn."""

    @property
    def arguments(self) -> Arguments:
        """Positional and named arguments of the call, with signals for tensors."""

    def weight(self, layer: Layer, weight: str) -> WeightMoments:
        """Return the moments of a weight of `layer`, by the weight's name."""

    def optional_weight(self, layer: Layer, weight: str) -> WeightMoments | None:
        """Return the moments of a weight, None where the layer has no such weight."""

    def structure(self, layer: Layer, weight: str, x: Signal) -> WeightMoments:
        """Return a kernel's moments as far as its scale does not matter.

        They say whether all weight lies on the centre tap and whether units come in
        pairs. A scheme that chooses this is told what the kernel multiplies, `x`.
        """

    def kernel(self, layer: Layer, weight: str) -> RandomKernel:
        """Return a kernel whose scale is chosen when its input is known."""

    def call(self, layer: Layer, *inputs: Signal) -> Signal:
        """Return the (first) output of an inner layer."""

    def outputs(self, layer: Layer, *inputs: Signal) -> tuple[Signal, ...]:
        """Return all outputs of an inner layer."""

    def activate(self, x: Signal, activation: ActivationLike) -> Signal:
        """Return the signal after an activation; an unknown one is measured."""

    def note(self, layer: Layer, output: Signal) -> None:
        """Record a call of an inner layer whose output the rule has found itself."""

    def origin(self, x: Signal) -> Signal:
        """Return the signal whose values, moved or rescaled, `x` has."""

    def scope(
        self,
        *,
        record: bool = True,
        design: bool = True,
        fixed: Mapping[tuple[Layer, str], WeightMoments] | None = None,
    ) -> AbstractContextManager[None]:
        """Change what inner calls do while the scope is open; scopes may be nested.

        Args:
            record: whether inner calls count as calls of the model. False for a layer
                that is called once to stand for many calls, as at each step.
            design: whether schemes choose kernels inside, and are told what these
                make. False where a call is repeated with other moments.
            fixed: moments of weights that count inside, whoever asks for them, by
                layer and name.
        """

"""The moments of a model's weights during one prediction: looked up, fixed, chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from keras.layers import Layer

from keras_initlab.model.keras_internals import all_layers, own_variables
from keras_initlab.propagation.algebra.random_linear import RandomKernel
from keras_initlab.propagation.index import Key, ModelIndex
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights.layer import weight_moments
from keras_initlab.propagation.weights.moments import WeightMoments

# Chooses the moments of a kernel, by its layer and name, from the second moment that an
# output would have for entries of second moment 1, and from the moments as they are.
Designer = Callable[[Layer, str, float, WeightMoments], WeightMoments]


class WeightBook:
    """Looks up a weight's moments, and lets a designer choose kernels.

    Attributes:
        from_values: whether the weights' values count, not their initializers.
        redrawn: the weights whose initializers count even so: they will be drawn anew.
        designer: chooses kernels when their input is known; None leaves them.
        kernel_outputs: the second moments that each kernel made, before any
            activation.
    """

    def __init__(
        self,
        index: ModelIndex,
        *,
        from_values: bool,
        designer: Designer | None,
        redrawn: Collection[Key] = (),
    ) -> None:
        self.from_values = from_values
        self.redrawn = redrawn
        self.designer = designer
        self.kernel_outputs: dict[Key, list[float]] = {}
        self._index = index
        self._chosen: dict[Key, WeightMoments] = {}
        self._fixed: dict[Key, WeightMoments] = {}

    def weight(self, layer: Layer, weight: str) -> WeightMoments:
        """Return the moments of a weight of `layer`."""
        key = (id(layer), weight)
        for moments in (self._fixed, self._chosen, self._index.moments):
            if key in moments:
                return moments[key]
        # `initlab>auto` looks at the layers around its own.
        self._index.moments[key] = weight_moments(
            layer,
            weight,
            from_values=self.from_values and key not in self.redrawn,
            parents=self._index.parents.get(id(layer), ()),
        )
        return self._index.moments[key]

    def scale(self, layer: Layer, weight: str) -> float:
        """Return the factor that gives a weight's values the moments it will have.

        That is 1 unless they are prescribed, because a scheme will draw it with them.
        """
        moments = self._index.prescribed.get((id(layer), weight))
        if moments is None:
            return 1.0
        values = weight_moments(layer, weight, from_values=True).second_moment
        return math.sqrt(moments.second_moment / values) if values > 0 else 1.0

    def values_count(self, layer: Layer) -> bool:
        """Say whether the values of all weights in `layer` and inside it count."""
        if not self.from_values:
            return False
        owners = {owner for owner, _ in self.redrawn}
        return not owners or owners.isdisjoint(map(id, all_layers(layer)))

    def optional_weight(self, layer: Layer, weight: str) -> WeightMoments | None:
        """Return the moments of a weight that `layer` may go without."""
        if any(variable.name == weight for variable in own_variables(layer)):
            return self.weight(layer, weight)
        return None

    def structure(self, layer: Layer, weight: str, x: Signal) -> WeightMoments:
        """Return a kernel's moments as far as its scale does not matter.

        A designer that chooses more than the scale has a method `structure`.
        """
        moments = self.weight(layer, weight)
        choose: Callable[[Layer, str, Signal, WeightMoments], WeightMoments] | None
        choose = getattr(self.designer, "structure", None)
        return moments if choose is None else choose(layer, weight, x, moments)

    def kernel(self, layer: Layer, weight: str) -> RandomKernel:
        """Return a kernel that the designer may choose, for `random_linear`."""
        key = (id(layer), weight)

        def moments(response: float) -> WeightMoments:
            current = self.weight(layer, weight)
            if self.designer is None or key in self._fixed:
                return current
            self._chosen[key] = self.designer(layer, weight, response, current)
            return self._chosen[key]

        outputs = self.kernel_outputs.setdefault(key, [])
        return RandomKernel(layer, weight, moments, outputs.append)

    @contextmanager
    def scope(
        self, *, design: bool, fixed: Mapping[tuple[Layer, str], WeightMoments]
    ) -> Iterator[None]:
        """Fix some weights, and without `design` choose none and note no outputs."""
        before = self._fixed, self.designer, self.kernel_outputs
        by_key = {
            (id(layer), name): moments for (layer, name), moments in fixed.items()
        }
        self._fixed = {**self._fixed, **by_key}
        if not design:
            self.designer, self.kernel_outputs = None, {}
        try:
            yield
        finally:
            self._fixed, self.designer, self.kernel_outputs = before

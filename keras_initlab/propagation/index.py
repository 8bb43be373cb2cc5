"""What several predictions of one model share, so that it is read once."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
from keras.layers import Layer

from keras_initlab.model import graph
from keras_initlab.model.layers import every_place
from keras_initlab.model.preprocessing import Output
from keras_initlab.propagation.weights.moments import WeightMoments

# A weight, by the id of its layer and its name there.
Key = tuple[int, str]


@dataclass(eq=False)
class ModelIndex:
    """A model's layers and weights, by the ids of layers.

    Attributes:
        paths: of layers inside the model.
        parents: the layers around each, outermost first.
        moments: of the weights that were asked for.
        prescribed: of weights that a scheme will draw with them.
        configs: of layers without weights, as text; None where there is none.
        graph: the model's, None where it has none.
        standard: the outputs of its preprocessing that are assumed to be standardised,
            with the paths of what makes them; None while that is not known.
    """

    paths: dict[int, str] = field(default_factory=dict)
    parents: dict[int, tuple[Layer, ...]] = field(default_factory=dict)
    moments: dict[Key, WeightMoments] = field(default_factory=dict)
    prescribed: dict[Key, WeightMoments] = field(default_factory=dict)
    configs: dict[int, str | None] = field(default_factory=dict)
    graph: graph.Graph | None = None
    standard: dict[Output, str] | None = None

    def path(self, layer: Layer) -> str:
        """Return a layer's path; of one that the model does not hold, its name."""
        return self.paths.setdefault(id(layer), layer.name)


def index_of(model: keras.Model) -> ModelIndex:
    """Return a model's index, as yet without weights."""
    index = ModelIndex(graph=graph.graph_of(model) if graph.has_graph(model) else None)
    for place in every_place(model):
        index.parents[id(place.layer)] = place.parents
        if not place.enclosed:
            index.paths[id(place.layer)] = place.path
    return index

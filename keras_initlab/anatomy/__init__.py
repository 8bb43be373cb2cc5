"""Facts about a Keras model, other than its signals, for `diagnose`."""

from keras_initlab.anatomy.head import head_facts
from keras_initlab.anatomy.inputs import input_facts
from keras_initlab.anatomy.model import Anatomy, anatomy_of
from keras_initlab.anatomy.values import kernel_facts
from keras_initlab.anatomy.weights import (
    biased_layers,
    broken_weights,
    frozen_model,
    has_half_weights,
    hidden_ones,
    large_biases,
    zero_layers,
)

__all__ = [
    "Anatomy",
    "anatomy_of",
    "biased_layers",
    "broken_weights",
    "frozen_model",
    "has_half_weights",
    "head_facts",
    "hidden_ones",
    "input_facts",
    "kernel_facts",
    "large_biases",
    "zero_layers",
]

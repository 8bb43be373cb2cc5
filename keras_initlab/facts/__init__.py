"""What a diagnosis may know of a Keras model besides its signals."""

from keras_initlab.facts.inputs import input_facts
from keras_initlab.facts.model import Anatomy, anatomy_of
from keras_initlab.facts.others import biased_layers, broken_weights
from keras_initlab.facts.values import kernel_facts

__all__ = [
    "Anatomy",
    "anatomy_of",
    "biased_layers",
    "broken_weights",
    "input_facts",
    "kernel_facts",
]

"""How signals travel through a model's graph, predicted without data.

`propagate` walks the graph; `output_moments` returns the signal at a layer's output
from those at its inputs; the rules are in `rules/`, one file for each family.
"""

from keras_initlab.propagation import rules as rules
from keras_initlab.propagation.algebra.elementwise import affine, apply
from keras_initlab.propagation.algebra.sums import add, concatenate, multiply
from keras_initlab.propagation.context import UnknownLayer
from keras_initlab.propagation.dispatch import output_moments
from keras_initlab.propagation.propagate import propagate
from keras_initlab.propagation.record import PropagationError
from keras_initlab.propagation.signal import Signal

__all__ = [
    "PropagationError",
    "Signal",
    "UnknownLayer",
    "add",
    "affine",
    "apply",
    "concatenate",
    "multiply",
    "output_moments",
    "propagate",
]

"""How signals travel through a model's graph, predicted without data.

`propagate` walks the graph; `output_moments` says what a layer makes of its inputs'
signals; the rules stand in `rules/`, one file a family.
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

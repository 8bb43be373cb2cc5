"""The schemes of `rewrite_initializers`, one file each, and their contract.

For a scheme of your own see `Scheme`: a class with one method, `choose`.
"""

from keras_initlab.schemes.activation import Activation
from keras_initlab.schemes.auto import AutoScheme
from keras_initlab.schemes.base import Choice, Scheme, SchemeContext, Selection
from keras_initlab.schemes.isometric import Isometric
from keras_initlab.schemes.variance import Variance

__all__ = [
    "Activation",
    "AutoScheme",
    "Choice",
    "Isometric",
    "Scheme",
    "SchemeContext",
    "Selection",
    "Variance",
]

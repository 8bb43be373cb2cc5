"""Initializers that know their layer, each registered with Keras as `initlab>name`."""

from keras_initlab.initializers.auto import Auto
from keras_initlab.initializers.bias import ClassPriorBias, ConstantBias, ForgetGateBias
from keras_initlab.initializers.classic import (
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
)
from keras_initlab.initializers.identity import Identity
from keras_initlab.initializers.mirrored import Mirrored
from keras_initlab.initializers.misspelled import refuse
from keras_initlab.initializers.orthogonal import DeltaOrthogonal, Orthogonal
from keras_initlab.initializers.scaled import Scaled
from keras_initlab.initializers.sparse import Sparse

__all__ = [
    "Auto",
    "ClassPriorBias",
    "ConstantBias",
    "DeltaOrthogonal",
    "ForgetGateBias",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "LecunNormal",
    "LecunUniform",
    "Mirrored",
    "Orthogonal",
    "Scaled",
    "Sparse",
]

refuse([globals()[name] for name in __all__])

"""Initializers that know their layer, each registered with Keras as `initlab>name`."""

from keras_initlab.initializers.auto import Auto
from keras_initlab.initializers.scaled import Scaled

__all__ = ["Auto", "Scaled"]

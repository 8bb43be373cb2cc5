"""Moments of weights: from their initializers, without a draw, or from their values."""

from keras_initlab.propagation.weights.current import current_moments
from keras_initlab.propagation.weights.initial import initializer_moments
from keras_initlab.propagation.weights.layer import initial_moments, weight_moments
from keras_initlab.propagation.weights.moments import WeightMoments

__all__ = [
    "WeightMoments",
    "current_moments",
    "initial_moments",
    "initializer_moments",
    "weight_moments",
]

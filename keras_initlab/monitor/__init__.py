"""Watching a model while it is trained."""

from keras_initlab.monitor.callback import VarianceMonitor

__all__ = ["VarianceMonitor"]

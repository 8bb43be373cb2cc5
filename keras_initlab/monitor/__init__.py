"""Watching a model while it is trained."""

from keras_initlab.monitor.callback import FindingError, VarianceMonitor
from keras_initlab.monitor.sinks import CSV, JSONLines, TensorBoard

__all__ = ["CSV", "FindingError", "JSONLines", "TensorBoard", "VarianceMonitor"]

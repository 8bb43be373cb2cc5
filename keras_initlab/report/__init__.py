"""Reports of a model: as text, as a page of HTML, as JSON."""

from keras_initlab.report.record import InspectedLayer, Inspection

__all__ = ["InspectedLayer", "Inspection"]

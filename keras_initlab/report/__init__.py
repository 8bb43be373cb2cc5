"""Reports of a model: as text, as a page of HTML, as Markdown, as JSON."""

from keras_initlab.report.cards import Findings
from keras_initlab.report.record import InspectedLayer, Inspection, Origin

__all__ = ["Findings", "InspectedLayer", "Inspection", "Origin"]

"""Taps on layers' outputs in the training step, per backend.

A watched model has two compiled steps. Keras's own is called unchanged. In a second
one, for the steps that are measured, every layer's output goes through a tap; its
figures leave it beside the logs and are merged in NumPy.

    tap = attach(model, Request(...), Schedule(every=10))     # on_train_begin
    tap.begin_epoch()                                         # on_epoch_begin
    windows = tap.read()                                      # on_epoch_end
    tap.detach()                                              # on_train_end
"""

from keras_initlab.taps.request import Request, Schedule
from keras_initlab.taps.tap import Row, Tap, Window, attach

__all__ = ["Request", "Row", "Schedule", "Tap", "Window", "attach"]

"""Taps on layers' outputs in the training step, per backend.

A model that is watched has two compiled steps: Keras's own, which is called as it is,
and a second one, in which every layer's output goes through a tap, for the steps that
are measured. Its figures leave it beside the logs, and are merged in NumPy.

    tap = attach(model, Request(...), Schedule(every=10))     # on_train_begin
    tap.begin_epoch()                                         # on_epoch_begin
    windows = tap.read()                                      # on_epoch_end
    tap.detach()                                              # on_train_end
"""

from keras_initlab.taps.request import Request, Schedule
from keras_initlab.taps.tap import Row, Tap, Window, attach

__all__ = ["Request", "Row", "Schedule", "Tap", "Window", "attach"]

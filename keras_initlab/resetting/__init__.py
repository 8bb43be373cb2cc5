"""Every weight drawn again, in place: `reset_weights`, and what it returns."""

from __future__ import annotations

from keras_initlab.resetting.record import Reset, ResetRow
from keras_initlab.resetting.reset import reset_weights

__all__ = ["Reset", "ResetRow", "reset_weights"]

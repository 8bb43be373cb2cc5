"""calibrate: scale a model's kernels from data, in one forward pass."""

from keras_initlab.calibration.calibrate import calibrate
from keras_initlab.calibration.report import CalibrationReport

__all__ = ["CalibrationReport", "calibrate"]

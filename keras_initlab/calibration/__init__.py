"""calibrate: scale a model's kernels from data, in one forward pass."""

from keras_initlab.calibration.report import CalibrationReport
from keras_initlab.calibration.whole_model import calibrate

__all__ = ["CalibrationReport", "calibrate"]

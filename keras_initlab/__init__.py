"""Weight initialisation for Keras 3 that fits the layer, and a monitor of its signals.

Importing this package registers every `initlab>` name with Keras, so that
`kernel_initializer="initlab>auto"` works and saved models load.

Initialise   `Auto` ("initlab>auto"), `Scaled` ("initlab>scaled"); the classics with
             true fans (`GlorotUniform`, `HeNormal`, ...); `Orthogonal`,
             `DeltaOrthogonal`, `Mirrored`, `Identity`, `Sparse`; biases
             (`ConstantBias`, `ClassPriorBias`, `ForgetGateBias`)
Fans         `kernel_fans`; `kernel_layout.register` for layers of your own
Rewrite      `rewrite_initializers(model)` -> `Plan`, by a scheme: `Activation()`,
             `Variance()`, `Isometric()`, `AutoScheme()`; `keras_initlab.schemes` for
             your own
Calibrate    `calibrate(model, x)` -> `CalibrationReport`: kernels scaled from data
Reset        `reset_weights(model)`, every weight drawn again in place
Compare      `compare(build, candidates, x, y)` -> `Comparison`: which initialisation
             trains a model better, and faster
Predict      `propagate(model)`, without data; `keras_initlab.propagation` for rules of
             your own
Watch        `VarianceMonitor()` in `callbacks=`; its figures are `LayerStats`
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from keras_initlab._version import __version__
from keras_initlab.words import did_you_mean

if TYPE_CHECKING:
    from keras_initlab.bench import Comparison, compare
    from keras_initlab.calibration import CalibrationReport, calibrate
    from keras_initlab.diagnosis import Finding
    from keras_initlab.initializers import (
        Auto,
        ClassPriorBias,
        ConstantBias,
        DeltaOrthogonal,
        ForgetGateBias,
        GlorotNormal,
        GlorotUniform,
        HeNormal,
        HeUniform,
        Identity,
        LecunNormal,
        LecunUniform,
        Mirrored,
        Orthogonal,
        Scaled,
        Sparse,
    )
    from keras_initlab.inspection import diagnose, inspect
    from keras_initlab.measurement import measure
    from keras_initlab.model.fans import Fans, KernelLayout, kernel_fans, kernel_layout
    from keras_initlab.monitor import VarianceMonitor
    from keras_initlab.plan import Plan
    from keras_initlab.propagation.propagate import propagate
    from keras_initlab.report import Inspection
    from keras_initlab.resetting import reset_weights
    from keras_initlab.rewrite import rewrite_initializers
    from keras_initlab.schemes import Activation, AutoScheme, Isometric, Variance
    from keras_initlab.stats import LayerStats

# Where the names are: imported when first asked for, so that `import keras_initlab`
# costs little.
_LATER = {
    **dict.fromkeys(
        (
            "Auto",
            "ClassPriorBias",
            "ConstantBias",
            "DeltaOrthogonal",
            "ForgetGateBias",
            "GlorotNormal",
            "GlorotUniform",
            "HeNormal",
            "HeUniform",
            "Identity",
            "LecunNormal",
            "LecunUniform",
            "Mirrored",
            "Orthogonal",
            "Scaled",
            "Sparse",
        ),
        "initializers",
    ),
    **dict.fromkeys(
        ("Fans", "KernelLayout", "kernel_fans", "kernel_layout"), "model.fans"
    ),
    "Activation": "schemes",
    "AutoScheme": "schemes",
    "CalibrationReport": "calibration",
    "Comparison": "bench",
    "Finding": "diagnosis",
    "Inspection": "report",
    "Isometric": "schemes",
    "LayerStats": "stats",
    "Plan": "plan",
    "Variance": "schemes",
    "VarianceMonitor": "monitor",
    "calibrate": "calibration",
    "compare": "bench",
    "diagnose": "inspection",
    "inspect": "inspection",
    "measure": "measurement",
    "propagate": "propagation",
    "reset_weights": "resetting",
    "rewrite_initializers": "rewrite",
}

__all__ = [
    "Activation",
    "Auto",
    "AutoScheme",
    "CalibrationReport",
    "ClassPriorBias",
    "Comparison",
    "ConstantBias",
    "DeltaOrthogonal",
    "Fans",
    "Finding",
    "ForgetGateBias",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Inspection",
    "Isometric",
    "KernelLayout",
    "LayerStats",
    "LecunNormal",
    "LecunUniform",
    "Mirrored",
    "Orthogonal",
    "Plan",
    "Scaled",
    "Sparse",
    "Variance",
    "VarianceMonitor",
    "__version__",
    "calibrate",
    "compare",
    "diagnose",
    "inspect",
    "kernel_fans",
    "kernel_layout",
    "measure",
    "propagate",
    "reset_weights",
    "rewrite_initializers",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        hint = did_you_mean(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command() -> bool:
    """Whether the process is `keras-initlab`, or `python -m keras_initlab`."""
    if pathlib.Path(sys.argv[0] if sys.argv else "").stem == "keras-initlab":
        return True
    return ("-m", __name__) in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)


# Registers the names with Keras. The command does it when it needs Keras, which takes
# seconds to import: --help does not.
if not _is_command():
    importlib.import_module(f"{__name__}.initializers")

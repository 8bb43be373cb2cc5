"""Weight initialisation for Keras 3 that fits the layer, and a monitor of its signals.

Importing this package registers every `initlab>` name with Keras, so that
`kernel_initializer="initlab>auto"` works and saved models load.

Initialise   `Auto` ("initlab>auto"), `Scaled` ("initlab>scaled")
Rewrite      `rewrite_initializers(model)` -> `Plan`
Watch        `VarianceMonitor()` in `callbacks=`; its figures are `LayerStats`
"""

from keras_initlab._version import __version__
from keras_initlab.initializers import Auto, Scaled
from keras_initlab.monitor import VarianceMonitor
from keras_initlab.plan import Plan
from keras_initlab.rewrite import rewrite_initializers
from keras_initlab.stats import LayerStats

__all__ = [
    "Auto",
    "LayerStats",
    "Plan",
    "Scaled",
    "VarianceMonitor",
    "__version__",
    "rewrite_initializers",
]

"""The six classic initializers of Keras, with the layer's true fans."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_initlab.initializers import base


class Classic(base.VarianceScaled):
    """Draw Var(w) = gain² / fan by a rule that the class fixes.

    Args:
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        TypeError: a seed that is not an int.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = base.checked_seed(seed)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="glorot_uniform")
class GlorotUniform(Classic):
    """Draw uniformly within ±√(6 / (fan_in + fan_out)).

    >>> weights = GlorotUniform(seed=0)((100, 50))
    >>> float(keras.ops.max(keras.ops.abs(weights))) <= (6 / 150) ** 0.5
    True

    Source: Glorot & Bengio 2010, equation 16.
    """

    _gain, mode, distribution = 1.0, "fan_avg", "uniform"


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="glorot_normal")
class GlorotNormal(Classic):
    """Draw from a normal, cut off at two sigma, of variance 2 / (fan_in + fan_out).

    Source: Glorot & Bengio 2010, equation 12.
    """

    _gain, mode, distribution = 1.0, "fan_avg", "truncated_normal"


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="he_uniform")
class HeUniform(Classic):
    """Draw uniformly within ±√(6 / fan_in).

    Source: He et al. 2015, equation 10.
    """

    _gain, mode, distribution = math.sqrt(2), "fan_in", "uniform"


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="he_normal")
class HeNormal(Classic):
    """Draw from a normal, cut off at two sigma, of variance 2 / fan_in.

    Source: He et al. 2015, equation 10.
    """

    _gain, mode, distribution = math.sqrt(2), "fan_in", "truncated_normal"


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="lecun_uniform")
class LecunUniform(Classic):
    """Draw uniformly within ±√(3 / fan_in).

    Source: LeCun et al. 1998, section 4.6.
    """

    _gain, mode, distribution = 1.0, "fan_in", "uniform"


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="lecun_normal")
class LecunNormal(Classic):
    """Draw from a normal, cut off at two sigma, of variance 1 / fan_in.

    Source: LeCun et al. 1998, section 4.6; Klambauer et al. 2017 for SELU.
    """

    _gain, mode, distribution = 1.0, "fan_in", "truncated_normal"

"""`initlab>scaled`: a gain of your own, over the right fans."""

from __future__ import annotations

from typing import Any

import keras

from keras_initlab.initializers import base, draws
from keras_initlab.model import fans


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="scaled")
class Scaled(base.VarianceScaled):
    """Draw Var(w) = gain² / fan, with the fans of the layer that asks.

    Args:
        gain: a positive number, or an activation (name, layer, config or callable)
            whose gain 1 / sqrt(E[φ(z)²]), z ~ N(0, 1), is meant.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "truncated_normal", "normal" or "uniform".
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: a gain that is not positive and finite, an unknown activation,
            mode or distribution.
        TypeError: a seed that is not an int, a gain that is none of the above.

    >>> weights = Scaled(gain="relu", mode="fan_in", seed=0)((200, 64))
    >>> round(float(keras.ops.std(weights)), 2)
    0.1

    Source: He et al. 2015, equation 10, for any gain.
    """

    def __init__(
        self,
        gain: Any = 1.0,
        mode: fans.Mode = "fan_in",
        distribution: draws.Distribution = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        self._gain = base.checked_gain(gain)
        self.gain = gain
        self.mode = base.checked_choice("mode", mode, fans.MODES)
        self.distribution = base.checked_choice(
            "distribution", distribution, draws.DISTRIBUTIONS
        )
        self.seed = base.checked_seed(seed)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {
            "gain": base.gain_config(self.gain),
            "mode": self.mode,
            "distribution": self.distribution,
            "seed": self.seed,
        }

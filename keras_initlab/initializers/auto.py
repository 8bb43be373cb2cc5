"""`initlab>auto`: the variance that fits the layer's own nonlinearity."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import keras

from keras_initlab import activations
from keras_initlab.initializers import base, draws
from keras_initlab.model import fans
from keras_initlab.model.construction import (
    Construction,
    nonlinearity_ahead,
    reads_inputs,
)


@dataclass(frozen=True)
class Rule:
    """Var(w) = gain² / fan, under the name that the field gives it.

    It is `spread` / fan_in² where that is more.
    """

    name: str
    gain: float
    mode: fans.Mode
    spread: float = 0.0

    def variance(self, kernel_fans: fans.Fans, mode: fans.Mode | None = None) -> float:
        """Return Var(w) for a kernel's fans; by another fan where `mode` is given."""
        usual = self.gain**2 / kernel_fans.over(mode or self.mode)
        return max(usual, self.spread / kernel_fans.fan_in**2)


# Of the uniform distribution between -1 and 1 over fan_in.
_COORDINATES = 1 / 3
# The deviation of an embedding: Keras's own, uniform in ±0.05. Rows grow in training; a
# step is small beside rows that start larger. At variance 1, one of two text tasks was
# learned far less well (`examples/benchmarks/architectures.py --parts text`).
_EMBEDDING = 0.05 / math.sqrt(3)
# A variance, in periods, that is practically infinite.
_FAR = 1e6


def rule_for(activation: Any, *, reads_inputs: bool = False) -> Rule:
    """Return the rule for a kernel whose output meets `activation`.

    ReLU and its leaky forms: He, 2 / ((1 + slope²) fan_in). tanh, sigmoid, softmax,
    their hard forms and linear: Glorot, 2 / (fan_in + fan_out). SELU: LeCun,
    1 / fan_in. sin(ωx) and other sines: Sitzmann, 2 / (ω² fan_in), and at least
    1 / (3 fan_in²) for a kernel that reads the model's inputs (`reads_inputs`), which
    there are coordinates. Every other: g² / fan_in with g = 1 / sqrt(E[φ(z)²]),
    z ~ N(0, 1), by quadrature.

    >>> rule_for("relu").name, round(rule_for("relu").gain, 4)
    ('He', 1.4142)
    >>> round(rule_for("gelu").gain, 4)
    1.5335

    Sources: He et al. 2015, equation 10; Glorot & Bengio 2010, equation 16; Klambauer
    et al. 2017, section 2; LeCun et al. 1998, section 4.6; Sitzmann et al. 2020,
    section 3.2.
    """
    resolved = activations.resolve(activation)
    if resolved.family == "relu":
        gain = math.sqrt(2 / (1 + resolved.negative_slope**2))
        return Rule("He", gain, "fan_in")
    if resolved.family == "selu":
        return Rule("LeCun", 1.0, "fan_in")
    if resolved.family in ("linear", "saturating"):
        return Rule("Glorot", 1.0, "fan_avg")
    if resolved.family == "periodic":
        # Of a signal that is spread over many periods.
        far = activations.moments(resolved, variance=_FAR / resolved.frequency**2)
        gain = 1 / (resolved.frequency * math.sqrt(far.second_moment))
        spread = _COORDINATES if reads_inputs else 0.0
        return Rule("Sitzmann", gain, "fan_in", spread)
    return Rule("exact", activations.gain(resolved), "fan_in")


def _rule_at(construction: Construction | None, activation: Any) -> Rule:
    """Return the rule for a weight under construction before this activation."""
    rule = rule_for(activation)
    if rule.name == "Sitzmann" and construction is not None:
        return rule_for(activation, reads_inputs=reads_inputs(construction))
    return rule


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="auto")
class Auto(base.VarianceScaled):
    """Draw Var(w) = gain² / fan, with the gain and the fans that fit the layer.

    The gain follows the nonlinearity that the layer's output meets: `activation` if
    given, else the layer's own, else (in a `Sequential` that already holds them) the
    one that comes next through normalisation, dropout, pooling and reshaping, else
    linear. See `rule_for` for the rule. A bias is zero; an embedding starts as small
    as Keras's own, with variance 0.05² / 3, and grows.

    Args:
        activation: None to look at the layer, or a Keras activation by name, layer,
            config or callable. A callable of your own has to be registered with Keras
            before the initializer can be saved.
        distribution: "truncated_normal" (at two sigma, its variance corrected),
            "normal" or "uniform". All have the same variance.
        mode: None for the rule's own, or "fan_in", "fan_out", "fan_avg".
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: an unknown activation, distribution or mode.
        TypeError: a seed that is not an int, an activation that is none of the above.

    >>> layer = keras.layers.Dense(64, "relu", kernel_initializer=Auto(seed=0))
    >>> layer.build((None, 200))
    >>> round(float(keras.ops.std(layer.kernel)), 2)  # He: sqrt(2 / 200)
    0.1
    """

    def __init__(
        self,
        activation: Any = None,
        distribution: draws.Distribution = "truncated_normal",
        mode: fans.Mode | None = None,
        seed: int | None = None,
    ) -> None:
        if activation is not None:
            rule_for(activation)  # refuses an unknown one here, not at the build
        self.activation = activation
        self.distribution = base.checked_choice(
            "distribution", distribution, draws.DISTRIBUTIONS
        )
        self.mode = (
            None if mode is None else base.checked_choice("mode", mode, fans.MODES)
        )
        self.seed = base.checked_seed(seed)

    def variance(
        self, shape: tuple[int, ...], construction: Construction | None
    ) -> float:
        """Return the Var(w) that one weight is drawn with; 0 for a bias."""
        if construction is not None and construction.weight == "bias":
            return 0.0
        rule = self.rule(construction)
        layout = base.layout_of(shape, construction)
        return rule.variance(layout.fans(shape), self.mode)

    def rule(self, construction: Construction | None) -> Rule:
        """Return the rule for one weight."""
        if self.activation is not None:
            return _rule_at(construction, self.activation)
        if construction is None:
            return rule_for(None)
        if isinstance(construction.layer, keras.layers.Embedding):
            return Rule("small start", _EMBEDDING, "fan_in")
        ahead = nonlinearity_ahead(construction)
        try:
            return _rule_at(construction, ahead)
        except (TypeError, ValueError) as error:
            warnings.warn(
                f"initlab>auto cannot tell the gain of the activation {ahead!r} of "
                f"layer {construction.layer.name!r} and takes it for linear: {error} "
                "Name the nearest known activation, Auto(activation=...), or use "
                "Scaled(gain=...).",
                stacklevel=2,
            )
            return rule_for(None)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {
            "activation": base.activation_config(self.activation),
            "distribution": self.distribution,
            "mode": self.mode,
            "seed": self.seed,
        }

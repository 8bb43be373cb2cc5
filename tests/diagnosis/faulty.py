"""Networks with a fault planted, and the code of its cause, which is to come first.

`allowed` are what truly follows from the fault: a kernel of zeros lets nothing
through, saturated units let no gradient back.
"""

from __future__ import annotations

from typing import Any

import keras

from tests.diagnosis import cases, planted
from tests.diagnosis.cases import (
    Case,
    constant,
    normal,
    orthogonal,
    plain,
    scaled,
    seeded,
)

# What follows where signals or gradients do not arrive, or are too many.
GONE = (
    "vanishing-signal",
    "vanishing-gradient",
    "collapsed-inputs",
    "initializer-mismatch",
    "update-too-small",
    "no-gradient",
)
# The same with ReLU: where all inputs look alike, a unit is 0 for all or for none.
DARK = (*GONE, "dead-units")
TOO_LARGE = (
    "exploding-signal",
    "exploding-gradient",
    "saturated-units",
    "initializer-mismatch",
    "update-too-large",
    "nonfinite",
    "no-gradient",
    "saturated-head",
)
# Where the initializers are not to blame, anything else may follow.
WILD = tuple(sorted({*TOO_LARGE, *DARK} - {"initializer-mismatch"}))
SAME = ("symmetric-units", "constant-kernel")


def of(
    name: str, build: Any, *codes: str, data: Any = cases.digits, **rest: Any
) -> Any:
    """Return a case; by default of digits, before training."""
    return Case(name, build, data, codes=codes, **rest)


def _symmetry() -> tuple[Case, ...]:
    def constants(value: float, **options: Any) -> Any:
        kernel = constant(value)
        return seeded(plain, "tanh", 3, kernel, **options)

    model: dict[str, Any] = {"phase": "model", "allowed": (*SAME, *GONE)}
    trained: dict[str, Any] = {"phase": "training", "allowed": (*SAME, *GONE)}
    middle = seeded(planted.symmetric_in_the_middle, constant(0.03))
    return (
        of(
            "zeros",
            seeded(plain, "relu", 3, "zeros"),
            "constant-kernel",
            phase="model",
            allowed=(*SAME, *DARK),
        ),
        of("constants", constants(0.02), "constant-kernel", **model),
        of("constants in the middle", middle, "constant-kernel", **model),
        of(
            "constants, trained",
            constants(0.02, head=constant(0.02)),
            "constant-kernel",
            epochs=3,
            **trained,
        ),
        of(
            "constants in the middle, trained",
            middle,
            "symmetric-units",
            epochs=3,
            **trained,
        ),
        of(
            "half of the units twice",
            seeded(plain, "relu", 3, "he_normal", then=planted.duplicate),
            "symmetric-units",
            phase="model",
        ),
        of(
            "half of the units twice, trained",
            seeded(plain, "relu", 3, "he_normal", then=planted.duplicate),
            "symmetric-units",
            epochs=3,
            phase="training",
        ),
        of(
            "half of the filters twice",
            seeded(planted.convolutions, then=planted.duplicate),
            "symmetric-units",
            data=cases.images,
            phase="model",
        ),
        of(
            "recurrent units all alike",
            seeded(planted.recurrent_of_constants),
            "constant-kernel",
            data=cases.rows_of_digits,
            **model,
        ),
        of(
            "one initializer object",
            seeded(planted.one_instance),
            "shared-draw",
            phase="model",
        ),
        of("one seed", seeded(planted.one_seed), "shared-draw", phase="model"),
        of(
            "one seed, convolutions",
            seeded(
                planted.convolutions,
                kernel_initializer=keras.initializers.HeNormal(seed=7),
            ),
            "shared-draw",
            data=cases.images,
            phase="model",
        ),
    )


def _too_small() -> tuple[Case, ...]:
    gone = {"allowed": GONE}
    return (
        of(
            "0.01 N(0, 1)",
            seeded(plain, "tanh", 10, normal(0.01)),
            "initializer-mismatch",
            **gone,
        ),
        of(
            "0.001 N(0, 1)",
            seeded(plain, "relu", 4, normal(0.001)),
            "initializer-mismatch",
            **gone,
        ),
        of(
            "sigmoid, 15 layers",
            seeded(plain, "sigmoid", 15),
            "vanishing-signal",
            **gone,
        ),
        of(
            "softmax inside",
            seeded(planted.softmax_inside),
            "vanishing-signal",
            **gone,
        ),
        of(
            "ReLU, Glorot, 30 layers",
            seeded(plain, "relu", 30),
            "initializer-mismatch",
            allowed=DARK,
        ),
        of(
            "ReLU, Glorot, 20 layers",
            seeded(plain, "relu", 20),
            "initializer-mismatch",
            phase="model",
            allowed=DARK,
        ),
        of(
            "GELU, Glorot, 20 layers",
            seeded(plain, "gelu", 20),
            "initializer-mismatch",
            phase="model",
            **gone,
        ),
        of(
            "ReLU, He, 60 layers",
            seeded(plain, "relu", 60, "he_normal", width=32),
            "collapsed-inputs",
            allowed=(*DARK, "exploding-signal"),
            close=("vanishing-signal",),
        ),
        of(
            "dead by their bias",
            seeded(plain, "relu", 3, "he_normal", bias=constant(-20.0)),
            "large-biases",
            allowed=DARK,
        ),
    )


def _too_large() -> tuple[Case, ...]:
    large = {"allowed": TOO_LARGE}
    # ReLU's outputs add up in one direction, whatever the input.
    alike = (*TOO_LARGE, "collapsed-inputs", "dead-units")
    return (
        of(
            "N(0, 1), tanh",
            seeded(plain, "tanh", 5, normal(1.0)),
            "saturated-units",
            **large,
        ),
        of(
            "N(0, 0.25), ReLU",
            seeded(plain, "relu", 10, normal(0.5)),
            "initializer-mismatch",
            **large,
        ),
        of(
            "gain 2.5, tanh, 20 layers",
            seeded(plain, "tanh", 20, scaled(6.0)),
            "exploding-gradient",
            **large,
        ),
        of(
            "SELU, He, 20 layers",
            seeded(plain, "selu", 20, "he_normal"),
            "initializer-mismatch",
            phase="model",
            **large,
        ),
        of(
            "residual, He, 40 blocks",
            seeded(planted.residual, 40),
            "exploding-signal",
            allowed=alike,
        ),
        of(
            "recurrent ReLU, gain 2",
            seeded(planted.recurrent, "relu", orthogonal(2.0)),
            "exploding-signal",
            data=cases.pixels_in_turn,
            allowed=alike,
        ),
        of(
            "recurrent tanh, N(0, 1)",
            seeded(planted.recurrent, "tanh", normal(1.0)),
            "exploding-gradient",
            data=cases.pixels_in_turn,
            **large,
        ),
        of(
            "saturated by their bias",
            seeded(plain, "tanh", 3, bias=constant(6.0)),
            "large-biases",
            allowed=(*GONE, "saturated-units"),
        ),
    )


def _fans() -> tuple[Case, ...]:
    rest = {"data": cases.images, "allowed": GONE}
    return (
        of("depthwise, He", seeded(planted.depthwise), "wrong-fans", **rest),
        of("separable, He", seeded(planted.separable), "wrong-fans", **rest),
        of(
            "transposed with strides, He",
            seeded(planted.transposed),
            "wrong-fans",
            allowed=GONE,
        ),
        of(
            "by an equation, fans of the shape",
            seeded(planted.by_equation),
            "wrong-fans",
            data=cases.rows_of_digits,
            allowed=GONE,
        ),
    )


def _data() -> tuple[Case, ...]:
    small = seeded(plain, "relu", 3, inputs=8, outputs=1)
    scale = {"allowed": WILD}
    return (
        of(
            "pixels from 0 to 255",
            seeded(plain, "tanh", 3),
            "input-scale",
            data=cases.pixels,
            **scale,
        ),
        of(
            "inputs about 1,000",
            seeded(plain, "relu", 3),
            "input-scale",
            data=planted.offset,
            **scale,
        ),
        of(
            "inputs of 1e-5",
            seeded(plain, "relu", 3),
            "input-scale",
            data=planted.in_small_units,
            **scale,
        ),
        of(
            "one feature in other units",
            small,
            "input-scale",
            data=planted.one_in_other_units,
            **scale,
        ),
        of(
            "NaN in the data",
            seeded(plain, "relu", 3),
            "nonfinite",
            data=planted.digits_with_nan,
            allowed=("input-scale",),
        ),
        of(
            "infinity in the data",
            seeded(plain, "relu", 3),
            "nonfinite",
            data=planted.digits_with_infinity,
            allowed=("input-scale",),
        ),
        of(
            "NaN in a kernel",
            seeded(plain, "relu", 3, then=planted.not_a_number),
            "nonfinite",
            phase="model",
        ),
    )


def _rates() -> tuple[Case, ...]:
    def rate(optimizer: str, value: float, activation: str = "relu") -> Any:
        kernel = "he_normal" if activation == "relu" else "glorot_uniform"
        return seeded(plain, activation, 3, kernel, optimizer=optimizer, rate=value)

    trained: dict[str, Any] = {"phase": "training", "epochs": 3}
    wild = {**trained, "allowed": WILD}
    still = {**trained, "allowed": ("vanishing-gradient",)}
    values = seeded(plain, "relu", 3, inputs=8, outputs=1, optimizer="sgd", rate=0.01)
    return (
        of("SGD, rate 10", rate("sgd", 10.0, "tanh"), "update-too-large", **wild),
        of("Adam, rate 1", rate("adam", 1.0, "tanh"), "update-too-large", **wild),
        of(
            "dead by too large a rate",
            rate("sgd", 1.0),
            "exploding-signal",
            data=cases.fractions,
            **wild,
        ),
        of(
            "targets in the thousands",
            values,
            "target-scale",
            data=planted.large_targets,
            **{**wild, "allowed": (*wild["allowed"], "update-too-large")},
        ),
        of("SGD, rate 1e-9", rate("sgd", 1e-9), "update-too-small", **still),
        of("Adam, rate 1e-9", rate("adam", 1e-9), "update-too-small", **still),
    )


FAULTY: tuple[Case, ...] = (
    *_symmetry(),
    *_too_small(),
    *_too_large(),
    *_fans(),
    *_data(),
    *_rates(),
)

"""`initlab>mirrored`: units in pairs of opposite sign, which make any depth linear."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab import activations
from keras_initlab.initializers import draws
from keras_initlab.initializers.base import (
    PACKAGE,
    LayerInitializer,
    as_number,
    at_centre,
    checked_choice,
    checked_gain,
    checked_matrix,
    checked_seed,
    gain_config,
    generator,
    layout_of,
)
from keras_initlab.initializers.haar import haar_stack
from keras_initlab.model import fans
from keras_initlab.model.construction import Construction

Base = Literal["delta_orthogonal", "orthogonal"]
BASES: tuple[str, ...] = get_args(Base)

# The second moment of pre-activations at which an activation's gain is taken.
Q = 0.05


@keras.saving.register_keras_serializable(package=PACKAGE, name="mirrored")
class Mirrored(LayerInitializer):
    """Draw a kernel whose units come in pairs that mirror each other.

    Outputs 2j and 2j + 1 have opposite signs, and inputs 2i and 2i + 1 are read with
    opposite signs:

        W[2i + a, 2j + b] = (−1)^(a + b) · gain · W₀[i, j],   a, b ∈ {0, 1}

    with W₀ orthogonal, of half the width. Between two such kernels a network computes
    with the odd part ψ(z) = φ(z) − φ(−z) of its activation, which is exactly z for
    ReLU, GELU, SiLU and softplus: at first it is linear and keeps all lengths, angles
    and gradients at any depth. The two of a pair see different gradients, and part
    ways at the first step; not so behind an odd φ, such as tanh, or one that is odd but
    for a constant, the sigmoid: there they see opposite ones. Biases start at 0.

    With an angle θ the two of a pair of outputs differ by more than their sign:

        cos θ · W + sin θ · V

    where V is of the same mean square, orthogonal, over all taps of a convolution, and
    has no pairs; behind pairs it sums to 0 over the inputs of each tap, so that it
    reads the deviation of units from their mean. The network is then nonlinear from the
    start, and uses all taps.

    A network's first kernel has the output side alone (`inputs=False`), its last one
    the input side alone (`outputs=False`).
    `rewrite_initializers(model, scheme="isometric")` finds out which is which.

    Args:
        gain: a positive number, or an activation whose gain 1 / √E[ψ'(√q z)²],
            z ~ N(0, 1), is meant: it keeps the gradient's length.
        q: the second moment of the pre-activations at which that gain is taken.
        base: W₀ of a convolution: "delta_orthogonal", an orthogonal matrix at the
            centre and zero around it, which keeps lengths exactly; or "orthogonal",
            over all taps. Without a receptive field they are the same.
        inputs, outputs: which sides come in pairs. With neither it is W₀ itself.
        theta: the angle θ in radians, from 0 to π / 2; without pairs of outputs it
            changes nothing.
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: a side that is to come in pairs and has an odd number of units (of
            each group of a convolution), or none along its last axis; a gain that is
            not positive and finite, an unknown activation, one without an odd part
            (such as z²), an unknown base, a theta outside its range, or a weight that
            is a vector.
        TypeError: a seed that is not an int, a flag that is not a bool, a gain, q or
            theta that is none of the above.

    >>> import numpy as np
    >>> w = keras.ops.convert_to_numpy(Mirrored(seed=0)((6, 4)))
    >>> bool(np.allclose(w[0::2], -w[1::2]) and np.allclose(w[:, 0::2], -w[:, 1::2]))
    True
    >>> z = np.random.default_rng(0).normal(size=(2, 6)) @ w
    >>> relu = np.maximum(z, 0)
    >>> bool(np.allclose(relu[:, 0::2] - relu[:, 1::2], z[:, 0::2]))
    True

    Source: Balduzzi et al. 2017, section 4, for dense ReLU layers; Xiao et al. 2018,
    section 4, for the convolution; the odd part of any φ is this project's.
    """

    def __init__(
        self,
        gain: Any = 1.0,
        q: float = Q,
        base: Base = "delta_orthogonal",
        inputs: bool = True,
        outputs: bool = True,
        seed: int | None = None,
        theta: float = 0.0,
    ) -> None:
        self.q = _checked_q(q)
        self._gain = _checked_gain(gain, self.q)
        self.gain = gain
        self.base = checked_choice("base", base, BASES)
        self.inputs = _checked_flag("inputs", inputs)
        self.outputs = _checked_flag("outputs", outputs)
        self.seed = checked_seed(seed)
        self.theta = checked_theta(theta)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {
            "gain": gain_config(self.gain),
            "q": self.q,
            "base": self.base,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "seed": self.seed,
            "theta": self.theta,
        }

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the drawn tensor."""
        checked_matrix("mirrored", shape)
        layout = layout_of(shape, construction)
        paired = self.paired_axes(shape, layout)
        wide, random = draws.wide(dtype), generator(self.seed, construction)
        centred = self.is_centred(shape, layout)
        second = self.second_moment(shape, layout)

        def orthogonal(paired: tuple[int, ...], centred: bool, second: float) -> Any:
            half = _halved(shape, paired)
            count, rows, columns = layout.stack(half, with_field=not centred)
            matrices = haar_stack(count, rows, columns, random, wide)
            # Mean square of an entry: 1 / the longer side.
            matrices = matrices * wide(math.sqrt(second * max(rows, columns)))
            kernel = (
                at_centre(matrices, layout, half)
                if centred
                else layout.unstack(matrices, half)
            )
            for axis in paired:
                kernel = _in_pairs(kernel, axis)
            return kernel

        kernel = orthogonal(paired, centred, second)
        if self.mixing:
            taps = math.prod(shape[axis] for axis in layout.field) if centred else 1
            unpaired = orthogonal((), False, second / taps)
            if self.inputs:
                unpaired = _less_their_mean(unpaired, layout.inputs)
            kernel = math.cos(self.theta) * kernel + math.sin(self.theta) * unpaired
        return draws.to_tensor(kernel, dtype)

    @property
    def mixing(self) -> float:
        """The share of outputs' mean square in which pairs are independent: sin² θ."""
        return math.sin(self.theta) ** 2 if self.outputs else 0.0

    def is_centred(self, shape: tuple[int, ...], layout: fans.KernelLayout) -> bool:
        """Say whether all but the centre tap of a kernel is zero."""
        taps = math.prod(shape[axis] for axis in layout.field)
        return taps > 1 and self.base == "delta_orthogonal"

    def second_moment(self, shape: tuple[int, ...], layout: fans.KernelLayout) -> float:
        """Return the mean square of the entries that are not zero by design."""
        half = _halved(shape, self.paired_axes(shape, layout))
        if self.is_centred(shape, layout):
            return self._gain**2 / layout.stack(half, with_field=False)[1]
        return self._gain**2 / layout.fans(half).fan_in

    def paired_axes(
        self, shape: tuple[int, ...], layout: fans.KernelLayout
    ) -> tuple[int, ...]:
        """Return the axes of a kernel along which neighbours mirror each other.

        Raises:
            ValueError: a side that is to come in pairs cannot.
        """
        axes = []
        sides = (("inputs", self.inputs, 1), ("outputs", self.outputs, layout.blocks))
        for (side, wanted, blocks), axis in zip(sides, layout.unit_axes, strict=True):
            if not wanted:
                continue
            if axis is None or shape[axis] // blocks % 2:
                width = "none" if axis is None else shape[axis] // blocks
                where = " in each group" if blocks > 1 else ""
                raise ValueError(
                    f"initlab>mirrored needs an even number of {side}{where} to put "
                    f"them in pairs. Received: shape={shape}, with {width} along the "
                    f"last axis of its {side}. Pass {side}=False, make the width even, "
                    "or use initlab>orthogonal for this layer."
                )
            axes.append(axis % len(shape))
        return tuple(axes)


def _halved(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n // 2 if axis in axes else n for axis, n in enumerate(shape))


def _less_their_mean(kernel: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """Return a kernel that sums to 0 over its inputs, of the mean square it had."""
    number = math.prod(kernel.shape[axis] for axis in axes)
    scale = kernel.dtype.type(math.sqrt(number / (number - 1)))
    return np.asarray(scale * (kernel - kernel.mean(axis=axes, keepdims=True)))


def _in_pairs(kernel: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return a kernel with each entry along an axis followed by its opposite."""
    return np.stack([kernel, -kernel], axis=axis + 1).reshape(
        tuple(2 * n if at == axis else n for at, n in enumerate(kernel.shape))
    )


def _checked_gain(gain: Any, q: float) -> float:
    if gain is None or isinstance(gain, (int, float, complex, np.generic, np.ndarray)):
        return checked_gain(gain)
    slope = activations.moments(
        activations.odd_part(gain), variance=q
    ).derivative_second_moment
    if not slope > 1e-12:
        raise ValueError(
            "`gain` must be a number, or an activation that is not even: φ(z) − φ(−z) "
            f"must not be 0. Received: gain={gain!r}. Use initlab>orthogonal for it."
        )
    return 1.0 / math.sqrt(slope)


def _checked_q(q: Any) -> float:
    number = as_number(q)
    if number is None:
        raise TypeError(
            "`q`, the second moment of pre-activations, must be a number. Received: "
            f"q={q!r} of type {type(q).__name__}. Leave it out for {Q}."
        )
    if not 0 < number < math.inf:
        raise ValueError(
            "`q`, the second moment of pre-activations, must be positive and finite. "
            f"Received: q={q!r}. Leave it out for {Q}."
        )
    return number


def checked_theta(theta: Any) -> float:
    """Return the angle between pairs that mirror each other and outputs that do not.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not between 0 and π / 2.
    """
    number = as_number(theta)
    if number is None:
        raise TypeError(
            "`theta`, the angle by which outputs leave their pairs, must be a number. "
            f"Received: theta={theta!r} of type {type(theta).__name__}. Leave it out "
            "for 0, exact pairs."
        )
    if not 0 <= number <= math.pi / 2:
        raise ValueError(
            "`theta`, the angle by which outputs leave their pairs, must be between 0 "
            f"and π / 2 (radians). Received: theta={theta!r}. Use 0 for exact pairs."
        )
    return number


def _checked_flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(
            f"`{name}`, whether that side of the kernel comes in pairs, must be True "
            f"or False. Received: {name}={value!r} of type {type(value).__name__}."
        )
    return value

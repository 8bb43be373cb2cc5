"""Common initializers of biases that are not zero."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initlab.initializers import base, draws
from keras_initlab.model.construction import Construction


class _Bias(base.LayerInitializer):
    """A bias: nothing is drawn."""

    seed = None


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="bias_constant")
class ConstantBias(_Bias):
    """Set every bias to a small constant.

    With ReLU a small positive one lets all units start active.

    Args:
        value: a finite number.

    Raises:
        TypeError, ValueError: a value that is not a finite number.

    >>> keras.ops.convert_to_numpy(ConstantBias(0.5)((2,))).tolist()
    [0.5, 0.5]

    Source: Goodfellow, Bengio & Courville 2016, "Deep learning", section 8.4.
    """

    def __init__(self, value: float = 0.01) -> None:
        self.value = _checked_number("value", value)

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the tensor."""
        values = np.full(shape, float(self.value), draws.wide(dtype))
        return draws.to_tensor(values, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {"value": self.value}


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="bias_class_prior")
class ClassPriorBias(_Bias):
    """Set a classifier's last bias so that it starts from the classes' shares.

    The first epochs are then not spent on learning how common each class is. For a
    softmax head of C units: log(counts / sum), C counts. For a sigmoid head of one
    unit: log(positives / negatives), two counts, the negatives' first. For a sigmoid
    head of C units (several labels at a time): C such pairs. A class that was never
    seen counts as half a sample.

    Args:
        counts: labels seen of each class, numbers of shape (C,) or (C, 2).

    Raises:
        ValueError: counts that are negative, not finite, all zero or of another shape;
            a bias that does not fit them.

    >>> bias = ClassPriorBias([60, 30, 10])((3,))
    >>> keras.ops.convert_to_numpy(keras.ops.softmax(bias)).round(3)
    array([0.6, 0.3, 0.1], dtype=float32)

    Source: Karpathy 2019, "A recipe for training neural networks"; Lin et al. 2017,
    section 3.3, for a sigmoid.
    """

    def __init__(self, counts: Any = (1, 1)) -> None:
        self._counts = _checked_counts(counts)
        self.counts = np.asarray(counts).tolist()

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the tensor."""
        counts = np.maximum(self._counts, 0.5)
        pairs = counts.ndim == 2 or shape == (1,)
        fits = (
            shape == (len(counts),)
            if counts.ndim == 2 or not pairs
            else (counts.shape == (2,))
        )
        if not fits or (not pairs and _is_sigmoid(construction)):
            raise ValueError(
                "initlab>bias_class_prior needs a count for each unit of a softmax "
                "head, or a pair (negatives, positives) for each of a sigmoid head. "
                f"Received: counts of shape {counts.shape} for a bias of shape {shape}"
                f"{' of a sigmoid layer' if _is_sigmoid(construction) else ''}."
            )
        if pairs:
            table = counts.reshape(-1, 2)
            values = np.log(table[:, 1]) - np.log(table[:, 0])
        else:
            # The sum itself may be larger than any float.
            values = np.log(counts) - np.log(counts.max())
            values -= np.log(np.exp(values).sum())
        return draws.to_tensor(values.astype(draws.wide(dtype)), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's argument, as a list."""
        return {"counts": self.counts}


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="bias_forget_gate")
class ForgetGateBias(_Bias):
    """Set the bias of an LSTM's forget gate, so that it starts by remembering.

    The other gates start at zero. Keras's LSTM does the same with 1 by itself
    (`unit_forget_bias=True`); pass `unit_forget_bias=False` to set another value.

    Args:
        value: the forget gate's bias, a finite number.

    Raises:
        TypeError, ValueError: a value that is not a finite number; a bias whose size is
            not a multiple of four.

    >>> keras.ops.convert_to_numpy(ForgetGateBias()((8,))).tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    Source: Gers, Schmidhuber & Cummins 2000; Jozefowicz et al. 2015, section 3.3.
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = _checked_number("value", value)

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the tensor; the gates lie in Keras's order: in, forget, cell, out."""
        values = np.zeros(shape, draws.wide(dtype))
        layer = None if construction is None else construction.layer
        if getattr(layer, "unit_forget_bias", False):
            # Keras asks for the other gates' biases alone, and sets ones itself.
            return draws.to_tensor(values, dtype)
        has_gates = layer is None or hasattr(layer, "unit_forget_bias")
        if len(shape) != 1 or shape[0] % 4 or not has_gates:
            raise ValueError(
                "initlab>bias_forget_gate needs the bias of an LSTM, four gates of one "
                f"size. Received: shape={shape}"
                f"{'' if layer is None else f' of {type(layer).__name__}'}. "
                "Use 'zeros' for other layers."
            )
        units = shape[0] // 4
        values[units : 2 * units] = float(self.value)
        return draws.to_tensor(values, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {"value": self.value}


def _is_sigmoid(construction: Construction | None) -> bool:
    layer = None if construction is None else construction.layer
    return getattr(layer, "activation", None) is keras.activations.sigmoid


def _checked_number(name: str, value: Any) -> float:
    number = base.as_number(value)
    if number is None:
        raise TypeError(
            f"`{name}` must be a finite number. Received: {name}={value!r} of type "
            f"{type(value).__name__}."
        )
    if not np.isfinite(number):
        raise ValueError(
            f"`{name}` must be a finite number. Received: {name}={value!r}."
        )
    plain: float = value.item() if isinstance(value, np.number) else value
    return plain


def _checked_counts(counts: Any) -> np.ndarray:
    expected = (
        "`counts` must be numbers of labels, at least 0 and not all 0, one for each "
        "class or a pair (negatives, positives) for each unit."
    )
    try:
        array = np.asarray(counts)
        # NumPy would read texts as numbers. Ints beyond its own are objects.
        is_numeric = array.dtype.kind in "biufO"
        array = array.astype(np.float64) if is_numeric else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    fits = (array.ndim == 1 and array.size >= 2) or (
        array.ndim == 2 and array.shape[1] == 2 and array.size
    )
    if (
        not fits
        or not np.isfinite(array).all()
        or (array < 0).any()
        or (np.atleast_2d(array).max(axis=1) == 0).any()
    ):
        raise ValueError(
            f"{expected} Received: counts={counts!r}. Count the training labels, for "
            "example with np.bincount(y)."
        )
    return array

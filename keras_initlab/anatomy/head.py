"""Facts of a compiled model's outputs: their activations, losses and targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.anatomy.model import Anatomy
from keras_initlab.diagnosis import HeadFacts, TargetFacts
from keras_initlab.model import nonlinearity

# Layers that do not change the values of an output.
_SAME_VALUES = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Dropout,
)
# How many targets a loss is tried on.
TRIED = 64

_CLASSES = {
    keras.losses.CategoricalCrossentropy: "categorical_crossentropy",
    keras.losses.SparseCategoricalCrossentropy: "sparse_categorical_crossentropy",
    keras.losses.BinaryCrossentropy: "binary_crossentropy",
    keras.losses.MeanSquaredError: "mean_squared_error",
    keras.losses.MeanAbsoluteError: "mean_absolute_error",
    keras.losses.Huber: "huber",
    keras.losses.LogCosh: "log_cosh",
}


def head_facts(anatomy: Anatomy, y: Any = None) -> tuple[HeadFacts, ...]:
    """Return the facts of each output whose layer is known; () without a graph.

    Args:
        anatomy: of the model, compiled or not.
        y: a batch of targets as `fit` takes them.
    """
    if anatomy.flat is None:
        return ()
    outputs = list(anatomy.flat.outputs)
    losses = _by_output(anatomy.model, getattr(anatomy.model, "loss", None), outputs)
    targets = _by_output(anatomy.model, y, outputs)
    heads = []
    for tensor, loss, target in zip(outputs, losses, targets, strict=True):
        ends = _ends(anatomy, tensor)
        if ends is None:
            continue
        layer, units, functions = ends
        name, from_logits = _loss(loss)
        heads.append(
            HeadFacts(
                layer,
                units=units,
                activation=functions[0] if functions else "linear",
                before=functions[1] if len(functions) > 1 else "linear",
                loss=name,
                from_logits=from_logits,
                targets=None if target is None else _targets(target, _ignored(loss)),
                weighted=_has_loss_weights(anatomy.model),
                crossed=units == 1 and _crosses(loss, target),
            )
        )
    return tuple(heads)


def _by_output(model: Any, value: Any, outputs: Sequence[int]) -> list[Any]:
    """Return losses or targets in the order of the outputs; None where not given."""
    if isinstance(value, dict):
        names = list(getattr(model, "output_names", ()))
        return [value.get(name) for name in names] or [None] * len(outputs)
    if isinstance(value, list | tuple) and len(value) == len(outputs):
        return list(value)
    if len(outputs) == 1:
        return [value]
    # One loss for all outputs; of targets each has its own.
    alike = isinstance(value, str | keras.losses.Loss) or callable(value)
    return [value if alike else None] * len(outputs)


def _ends(anatomy: Anatomy, tensor: int) -> tuple[str, int, list[str]] | None:
    """Return the layer that makes an output, its units, and the activations there.

    The last activation comes first. None where a layer's effect is not known.
    """
    assert anatomy.flat is not None
    makers = {output: call for call in anatomy.flat.calls for output in call.outputs}
    functions: list[str] = []
    last: tuple[str, int] | None = None
    while (call := makers.get(tensor)) is not None and call.is_layer:
        layer = call.operation
        if last is None:
            shape = tuple(call.node.outputs[call.outputs.index(tensor)].shape)
            last = call.path, int(shape[-1] or 0) if shape else 0
        if not isinstance(layer, _SAME_VALUES):
            is_activation = isinstance(layer, nonlinearity.ACTIVATION_LAYERS)
            if not (is_activation or hasattr(layer, "kernel")):
                return None
            name = _name(nonlinearity.own_nonlinearity(layer))
            if name is None:
                return None
            functions += [name] if name != "linear" else []
            if hasattr(layer, "kernel"):
                return *last, functions
        if len(call.inputs) != 1:
            return None
        [tensor] = call.inputs
    return None


def _name(function: Any) -> str | None:
    if function is None:
        return "linear"
    if isinstance(function, keras.layers.Softmax):
        return "softmax"
    try:
        return activations.resolve(function).name
    except (TypeError, ValueError):
        return None


def _loss(loss: Any) -> tuple[str | None, bool]:
    """Return a loss's name (None for a user's own), and whether it takes logits."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None, False
    if isinstance(loss, keras.losses.Loss):
        name = _CLASSES.get(type(loss))
        return name, name is not None and bool(loss.get_config().get("from_logits"))
    name = getattr(loss, "__name__", None)
    return (name if name in _CLASSES.values() else None), False


def _crosses(loss: Any, y: Any) -> bool:
    """Whether flat targets and outputs of (batch, 1) broadcast in a loss.

    Keras brings both to one shape for its own losses and for functions; it leaves them
    to a user's own class, which is tried on numbers.
    """
    is_custom = isinstance(loss, keras.losses.Loss) and type(loss) not in _CLASSES
    if not is_custom or y is None:
        return False
    targets = np.asarray(y if isinstance(y, list) else keras.ops.convert_to_numpy(y))
    if targets.ndim != 1 or len(targets) < 2:
        return False
    # A few of them, however the rest is sorted: what broadcasts takes their square.
    few = np.linspace(0, len(targets) - 1, min(len(targets), TRIED)).astype(int)
    targets = targets[few].astype("float32")
    outputs = targets[::-1, None].copy()
    try:
        flat, deep = (
            float(
                keras.ops.convert_to_numpy(
                    loss(
                        keras.ops.convert_to_tensor(labels),
                        keras.ops.convert_to_tensor(outputs),
                    )
                )
            )
            for labels in (targets, targets[:, None])
        )
    except Exception:
        # A user's loss may require anything; training will show it.
        return False
    return not np.isclose(flat, deep, rtol=1e-3, equal_nan=True)


def _has_loss_weights(model: Any) -> bool:
    try:
        config = model.get_compile_config() or {}
    except (AttributeError, TypeError, ValueError):
        return True
    return config.get("loss_weights") is not None


def _ignored(loss: Any) -> int | None:
    """Return the class number that a loss leaves out, such as that of a border."""
    if not isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return None
    number: int | None = loss.get_config().get("ignore_class")
    return number


def _targets(y: Any, ignored: int | None = None) -> TargetFacts | None:
    values = np.asarray(y if isinstance(y, list) else keras.ops.convert_to_numpy(y))
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        return None
    if not values.size:
        return None
    values = values.astype("float64")
    finite = values[np.isfinite(values)]
    nonfinite = values.size - finite.size
    if ignored is not None:
        finite = finite[finite != ignored]
    if not finite.size:
        return TargetFacts(values.shape, nonfinite=nonfinite)
    rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[:, None]
    binary = bool(np.isin(finite, (0, 1)).all())
    return TargetFacts(
        tuple(values.shape),
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        mean=float(finite.mean()),
        deviation=float(finite.std()),
        whole=bool((finite == np.round(finite)).all()),
        one_hot=binary and rows.shape[1] > 1 and bool((rows.sum(axis=1) == 1).all()),
        nonfinite=nonfinite,
    )

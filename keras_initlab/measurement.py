"""measure: the signal at every layer, from one real batch."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.model import nonlinearity
from keras_initlab.model.batch import batch_size, check_keys, inputs_of
from keras_initlab.model.containers import check_has_call
from keras_initlab.model.layers import main_weight, places
from keras_initlab.stats import LayerStats, Stats, possible
from keras_initlab.taps import once
from keras_initlab.taps.figures import unit_axis

__all__ = ["measure"]

Array = NDArray[np.float64]
# Entries that are widened to float64 at a time: half a megabyte stays in cache.
_PIECE = 2**16


def measure(
    model: Any,
    x: Any,
    *,
    training: bool = True,
    gradients: bool = True,
    seed: int | None = 0,
) -> list[LayerStats]:
    """Measure the signal at every layer's output, and the gradient there, on a batch.

    One pass forward and one back, for any Keras model. There is no loss and there are
    no targets: the gradient at the model's outputs is drawn from N(0, 1), one value per
    element, and propagated back to the layers ("a unit gradient at the outputs"). This
    measures what the network does to a gradient, whatever the loss.

    Afterwards the model is as before, including seeds and moving averages, even if a
    layer raises an error. A model that is not built is built, as by a first call.

    Figures are taken over all finite elements of an output (batch and units). They are
    None if there are none, or if a figure does not apply:

    - `shape`: None stands for the batch, the first axis if it is as long as `x`.
    - `batch_variance`, `input_cosine`: for two inputs or more. The cosine is that of
      the flattened outputs, averaged over all pairs of inputs whose outputs are not 0.
    - `dead_fraction`: the share of units (features, or channels: the last axis, or the
      second for images with channels first) that are 0 at every position, for every
      input of the batch.
    - `saturated_fraction`: if the layer's own activation is bounded, the share of
      values within 1 % of its range of one of its ends; for ReLU6, whose zeros are
      counted in `zero_fraction`, of the upper end.
    - `gradient_second_moment`: E[(dL/dx)²] of an output x, with L = Σ r·y over the
      model's outputs y. None if no output depends on x.
    - `weight`, `weight_gradient_second_moment`: the layer's own kernel (for an RNN, its
      cell's; for a layer without a kernel, its first trainable weight), and
      E[(dL/dw)²] divided by the size of the batch, which is the figure of one input
      unless inputs interact. For a shared layer, the gradients of all its calls are
      added up; for a frozen weight it is None.

    Layers run in the dtype of their policy, without loss scaling: gradients too small
    for float16 become 0. On JAX each measurement compiles the model, as the first step
    of `fit` does; on the other backends it runs eagerly.

    Args:
        model: a `keras.Model`, compiled or not; also from a callback, during `fit`.
        x: a batch as `model(x)` takes it, of shape (batch, ...): an array, a tensor (a
            sparse or ragged one, too), a data frame, or a list, tuple or dict of these.
            A tuple `(x, y)` is not split. Or anything that yields batches to `fit`: a
            `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, a generator. Its first
            batch is used, without targets and sample weights.
        training: call the layers as in training (dropout is active, BatchNormalization
            uses the statistics of the batch) or as in inference.
        gradients: False leaves out the backward pass.
        seed: of the gradients at the outputs; None draws new ones each time.

    Returns:
        A `LayerStats` with `source="measured"` for each call of a layer, in the order
        in which the calls end, inner layers before the layer around them. Layers and
        their names are those of `VarianceMonitor`.

    Raises:
        TypeError: `model` is not a `keras.Model`; `x` holds no array.
        ValueError: `x` is empty, or holds no batch; `model` has no `call`, as VAEs and
            GANs that only have a `train_step`; or Keras's own error for an `x` that
            does not fit.

    >>> import numpy as np, keras
    >>> model = keras.Sequential([
    ...     keras.Input((64,)),
    ...     keras.layers.Dense(256, kernel_initializer="he_normal", name="a"),
    ...     keras.layers.ReLU(name="b"),
    ... ])
    >>> x = np.random.default_rng(0).normal(size=(32, 64))
    >>> for stats in measure(model, x):
    ...     print(stats.layer, stats.shape, stats.weight, round(stats.variance))
    a (None, 256) kernel 2
    b (None, 256) None 1

    Source: Glorot & Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010, section 4, measures activations and gradients this
    way.
    """
    check_has_call(model, "Measure one of these, as il.measure(model.encoder, x).")
    x = inputs_of(x)
    check_keys(model, x)
    batch = batch_size(x)
    # A separate stream: with the plain seed, an `x` that was drawn from
    # default_rng(0) would be its own gradient.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    once.build(model, x)
    weights = _main_weights(model) if gradients else {}
    passed = once.run(
        model,
        x,
        training=training,
        weights=list(weights.values()),
        cotangent=generator.standard_normal if gradients else None,
    )
    if not passed.calls:
        warnings.warn(
            f"Nothing was measured: no layer of {model.name!r} returned a dense tensor "
            "of floating-point numbers in a call that can be seen.",
            stacklevel=2,
        )
    by_weight = dict(zip(weights, passed.weight_gradients, strict=True))
    return Stats(_stats(call, by_weight, batch) for call in passed.calls)


def _main_weights(model: Any) -> dict[int, Any]:
    """Return the layers' main weights that are trainable, each once, by their id."""
    weights = [main_weight(place.layer) for place in places(model) if place.measured]
    return {id(v): v for v in weights if v is not None and v.trainable}


def _stats(call: once.Call, by_weight: dict[int, Any], batch: int) -> LayerStats:
    values = _as_array(call.output)
    weight = main_weight(call.layer)
    weight_gradient = _second_moment(by_weight.get(id(weight)))
    has_batch = values.ndim > 0 and len(values) == batch
    stats = LayerStats(
        call.key,
        weight=None if weight is None else weight.name,
        shape=(None, *values.shape[1:]) if has_batch else values.shape,
        gradient_second_moment=_second_moment(call.gradient),
        weight_gradient_second_moment=(
            None if weight_gradient is None else weight_gradient / batch
        ),
        saturated_fraction=_saturated_fraction(values, call.layer),
        source="measured",
        **_moments(values),
        dead_fraction=_dead_fraction(values, call.layer) if has_batch else None,
        **(_batch_figures(values.reshape(batch, -1)) if has_batch else {}),
    )
    return possible(stats)


def _dead_fraction(values: Array, layer: Any) -> float | None:
    if not np.isfinite(values).any():
        return None
    axis = unit_axis(layer, values.ndim)
    reduced = tuple(index for index in range(values.ndim) if index != axis)
    alive = (values != 0).any(axis=reduced) if values.ndim > 1 else (values != 0).any()
    return float(1 - np.mean(alive))


def _as_array(tensor: Any) -> Array:
    # float64: no sum of a model's figures overflows there, and no square underflows.
    return np.asarray(keras.ops.convert_to_numpy(tensor)).astype(np.float64)


def _second_moment(tensor: Any) -> float | None:
    if tensor is None:
        return None
    values = np.asarray(keras.ops.convert_to_numpy(tensor)).reshape(-1)
    total, count = 0.0, 0
    for at in range(0, values.size, _PIECE):
        piece = _finite(values[at : at + _PIECE].astype(np.float64))
        total, count = total + float(piece @ piece), count + piece.size
    return total / count if count else None


def _finite(x: Array) -> Array:
    finite = np.isfinite(x)
    return x if finite.all() else x[finite]


def _moments(x: Array) -> dict[str, Any]:
    """Return mean, variance, second moment, share of zeros and count of non-finite."""
    values = _finite(x)
    nonfinite = {"nonfinite": x.size - values.size}
    if not values.size:
        return nonfinite
    mean = float(values.mean())
    variance = float(np.square(values - mean).mean())
    return nonfinite | {
        "mean": mean,
        "variance": variance,
        "second_moment": variance + mean**2,
        "zero_fraction": 1.0 - np.count_nonzero(values) / values.size,
    }


def _batch_figures(rows: Array) -> dict[str, Any]:
    """Return how much the outputs of different inputs, the rows, differ."""
    figures: dict[str, Any] = {}
    finite = np.isfinite(rows)
    if not finite.any():
        return figures
    if len(rows) > 1:
        if finite.all():
            unit_variances = rows.var(axis=0)
        else:
            seen = rows[:, finite.any(axis=0)]
            unit_variances = np.nanvar(np.where(np.isfinite(seen), seen, np.nan), 0)
        figures["batch_variance"] = float(unit_variances.mean())
        figures["input_cosine"] = _input_cosine(rows[finite.all(axis=1)])
    return figures


def _input_cosine(rows: Array) -> float | None:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows, lengths = rows[lengths > 0], lengths[lengths > 0]
    count = len(rows)
    if count < 2:
        return None
    # Of all pairs at once: |Σu|² is the sum of the cosines of all ordered pairs, each
    # unit vector u with itself included.
    total = (1 / lengths) @ rows
    return float((total @ total - count) / (count * (count - 1)))


def _saturated_fraction(x: Array, layer: Any) -> float | None:
    ends = nonlinearity.bounds(layer)
    values = _finite(x)
    if ends is None or not values.size:
        return None
    low, high, near, counts_low = ends
    if values.min() < low - near or values.max() > high + near:
        # Something else comes after the activation.
        return None
    saturated = values > high - near
    if counts_low:
        saturated |= values < low + near
    return float(saturated.mean())

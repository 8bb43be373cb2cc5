"""calibrate: kernels scaled to the data, in one forward pass."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import keras
import numpy as np

from keras_initlab.calibration import products
from keras_initlab.calibration.forward import ROUNDS, Calibrator, NotFinite
from keras_initlab.calibration.moments import Statistic
from keras_initlab.calibration.report import CalibrationReport, CalibrationRow
from keras_initlab.calibration.scaling import Scaling
from keras_initlab.calibration.targets import (
    UNSEEN_ROLES,
    chosen_on_purpose,
    reason_not_to_touch,
    reason_to_leave,
    roles_in,
    target_of,
)
from keras_initlab.initializers import Orthogonal
from keras_initlab.model.batch import batch_size, inputs_of, size_of, values_of
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.containers import check_has_call
from keras_initlab.model.kernels import Kernel, kernels_of
from keras_initlab.model.roles import Roles
from keras_initlab.schemes.kernels import Seeds
from keras_initlab.schemes.options import check_second_moment, check_word
from keras_initlab.schemes.trained import what_was_learned
from keras_initlab.taps import once

# How far from its target a statistic may be without a note.
_SETTLED = 0.01
_STATISTICS = get_args(Statistic)


def calibrate(
    model: keras.Model,
    x: Any,
    target: float = 1.0,
    statistic: Statistic = "second_moment",
    orthogonal: bool = False,
    biases: bool = False,
    *,
    seed: int | None = None,
) -> CalibrationReport:
    """Scale every kernel so that its output on a batch of data has a target.

    As each layer is called on the batch, its kernel's output is measured before the
    layer's own activation, the kernel is scaled, and the output is scaled by the same
    factor before it goes on: one forward pass, whatever the depth. Use it for data that
    are not standardised (pixels in [0, 1], tokens, prices): a prediction that assumes
    standardised inputs is then wrong from the first layer on.

    - The output that is measured is kernel times input plus bias. The bias is not
      changed; the kernel is scaled to fit. If the bias alone exceeds the target, it is
      ignored.
    - Residual branches, as in `Variance`: the last kernel of each of the n branches on
      a stream gets `target / n`.
    - A recurrent cell's kernel is scaled gate by gate, by its product with the cell's
      input; the recurrent kernel is not changed. In attention, each projection is
      scaled separately.
    - A kernel that is used several times gets one scale for all its calls, found in a
      few passes. So does a kernel of your own layer whose product with the input cannot
      be traced: the layer's output is measured instead.
    - Layers are called as in training: dropout is active, BatchNormalization uses the
      statistics of the batch. Its moving averages, seeds and all other state are
      restored.
    - Frozen and quantised kernels, those under LoRA, and embeddings are not changed.

    Weights are set when the whole pass has succeeded; otherwise nothing changes.
    Under `tf.distribute` and `keras.distribution` the batch is not split.

    Args:
        model: a Keras model, compiled or not; built, if need be, by a first call.
        x: a batch as `model(x)` takes it, or anything that yields batches to `fit`, of
            which the first is used: see `measure`. 256 inputs or more keep the sampling
            error small.
        target: the second moment, or variance, of kernels' outputs.
        statistic: "second_moment", or "variance" over all units, inputs and positions.
        orthogonal: draw orthonormal kernels first, as LSUV does.
        biases: also set the biases so that each unit's mean over the batch is 0 before
            the activation; the target then holds for the centred output.
        seed: of the orthonormal draw; None draws a new one each time.

    Returns:
        A `CalibrationReport` with a row for each kernel (and gate): print it.

    Raises:
        TypeError: `model` is not a Keras model, or `x` holds no array.
        ValueError: `x` is empty; a kernel's output is not finite, for example because
            `x` holds NaN; `target` is not above 0; `statistic` is unknown; `model` has
            no `call`; or Keras's own error for an `x` that does not fit.

    >>> model = keras.Sequential([
    ...     keras.Input((64,)),
    ...     keras.layers.Dense(256, activation="relu", name="a"),
    ...     keras.layers.Dense(256, activation="relu", name="b"),
    ...     keras.layers.Dense(10, name="c"),
    ... ])
    >>> x = np.random.default_rng(0).uniform(size=(256, 64)).astype("float32")
    >>> report = calibrate(model, x)
    >>> [(row.layer, round(row.after, 3), row.note) for row in report]
    [('a', 1.0, ''), ('b', 1.0, ''), ('c', 1.0, 'head')]

    Source: Mishkin & Matas 2016, "All you need is a good init", which scales layer
    after layer, in several passes each; Salimans & Kingma 2016, "Weight normalization",
    section 3, for biases.
    """
    check_has_call(model, "Calibrate one of these, as il.calibrate(model.encoder, x).")
    target = check_second_moment("target", target, "of kernels' outputs")
    check_word("statistic", statistic, _STATISTICS)
    seeds = Seeds(seed)
    x = inputs_of(x)
    batch_size(x)
    once.build(model, x)
    learned = what_was_learned(model)
    kernels = kernels_of(model)
    roles = roles_in(model, kernels)
    reasons = chosen_on_purpose(model, kernels, roles or Roles())
    scalings = [
        _scaling(kernel, roles or Roles(), target, reasons.get(kernel.key), biases)
        for kernel in kernels
    ]
    if orthogonal:
        for index, scaling in enumerate(scalings):
            if scaling.leave is None:
                scaling.start = _orthonormal(scaling.kernel, seeds.at(index))
                scaling.is_drawn = True
    calibrator = Calibrator(
        model, [s for s in scalings if s.start is not None], statistic
    )
    try:
        calibrator.run(x)
    except NotFinite:
        raise ValueError(_not_finite(model, calibrator.not_finite, x)) from None
    if learned is not None:
        warnings.warn(
            f"calibrate scales kernels of {model.name!r} that have learned something: "
            f"{learned}.",
            stacklevel=2,
        )
    _assign(scalings)
    return CalibrationReport(
        [row for s in _ordered(scalings) for row in _rows(s, calibrator, statistic)],
        model=model.name,
        statistic=statistic,
        passes=calibrator.rounds,
        remarks=_remarks(x, roles),
    )


def _scaling(
    kernel: Kernel, roles: Roles, target: float, reason: str | None, biases: bool
) -> Scaling:
    """Return what a kernel starts from; `reason` says why its scale is to stay."""
    intact = reason_not_to_touch(kernel)
    leave = intact or reason_to_leave(kernel) or reason
    own_target, note = target_of(kernel, roles, target)
    gates = products.gate_count(kernel.layer, kernel.variable)
    scaling = Scaling(kernel, own_target, leave, note, gates)
    if intact is not None:
        return scaling
    scaling.start = keras.ops.convert_to_tensor(kernel.variable.value)
    layer, bias = kernel.layer, None
    if products.is_linear(layer) or kernel.weight == "pointwise_kernel":
        bias = layer.bias
    if bias is None:
        if biases and leave is None:
            scaling.note = "; ".join(filter(None, (note, "no bias to centre it with")))
        return scaling
    values = np.asarray(keras.ops.convert_to_numpy(bias.value), np.float64)
    centre = biases and leave is None and bias.trainable
    if centre or values.any():
        scaling.bias, scaling.centre = bias, centre
        scaling.bias_start = values.reshape(products.unit_shape(layer, values))
    return scaling


def _orthonormal(kernel: Kernel, seed: int | None) -> Any:
    construction = Construction(kernel.layer, kernel.weight, kernel.parents)
    with constructing(construction):
        return Orthogonal(seed=seed)(kernel.variable.shape, kernel.variable.dtype)


def _remarks(x: Any, roles: Roles | None) -> list[str]:
    """Return the sentences under the report."""
    remarks = [] if roles is not None else [UNSEEN_ROLES]
    leaves = [
        values_of(leaf) for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")
    ]
    if size_of(x) == 1:
        remarks.append(
            "`x` holds one input, and the kernels fit that one: pass 256 or more"
        )
    elif all(len(leaf) and (leaf == leaf[:1]).all() for leaf in leaves if leaf.ndim):
        remarks.append(
            "all inputs of `x` are alike, and the kernels fit that one: pass real data"
        )
    return remarks


def _not_finite(model: Any, path: str, x: Any) -> str:
    values = [
        values_of(leaf) for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")
    ]
    count = sum(
        int((~np.isfinite(v.astype(np.float64))).sum())
        for v in values
        if v.dtype.kind == "f" or v.dtype.kind == "V"
    )
    where = f"{count} values of `x` are not finite" if count else "all of `x` is finite"
    return (
        f"What the kernel of {path!r} makes of the batch must be finite. Received: NaN "
        f"or infinite values; {where}. Clean the data, or scale them to a few units. "
        f"No weight of {model.name!r} was changed."
    )


def _assign(scalings: list[Scaling]) -> None:
    """Set the weights, when all of their values have been computed."""
    values = [
        pair
        for scaling in scalings
        if scaling.leave is None and scaling.start is not None
        for pair in scaling.mapping
    ]
    for variable, value in values:
        variable.assign(value)


def _ordered(scalings: list[Scaling]) -> list[Scaling]:
    return sorted(scalings, key=lambda scaling: scaling.order)


def _rows(
    scaling: Scaling, calibrator: Calibrator, statistic: Statistic
) -> list[CalibrationRow]:
    kernel = scaling.kernel
    called = bool(scaling.moments)
    finding = scaling.finding
    if scaling.start is not None and not called:
        unseen = kernel.path in calibrator.unseen
        finding = (
            "runs in a loop or a compiled function: not seen"
            if unseen
            else "never called on this batch"
        )
    alone = scaling.is_left or not called
    notes = [scaling.leave, None if alone else scaling.note, finding]
    if scaling.by_output and not alone:
        notes.append("by its layer's output")
    if not alone and any(
        abs(scaling.after(gate, statistic) / scaling.target - 1) > _SETTLED
        for gate in range(scaling.gates)
    ):
        notes.append("" if finding else f"not settled in {ROUNDS} rounds")
    return [
        CalibrationRow(
            layer=kernel.path,
            weight=kernel.weight,
            gate=gate if scaling.gates > 1 else None,
            target=None if alone else scaling.target,
            before=scaling.before(gate, statistic) if called else None,
            after=scaling.after(gate, statistic) if called else None,
            factor=scaling.factors[gate],
            note="; ".join(note for note in notes if note),
        )
        for gate in range(scaling.gates)
    ]

"""Kernels that start at 0, or next to it, on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keras_initlab.model.graph import Call
from keras_initlab.model.kernels import Kernel
from keras_initlab.propagation.index import Key
from keras_initlab.propagation.propagate import run_forward
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.walk import Propagation
from keras_initlab.propagation.weights import weight_moments
from keras_initlab.schemes.kernels import fans_of

# The gain up to which a kernel starts small: no usual initializer comes near.
SMALL_GAIN = 0.03
# The share of a kernel's input below which the signal counts as lost.
_LOST = 1e-2


def small_starts_to_keep(model: Any, kernels: Sequence[Kernel]) -> dict[Key, str]:
    """Return the kernels whose small start should stay, with the reason.

    These are kernels whose initializer draws (nearly) zeros, and whose output the
    network does not need: a residual path, a gate with an offset of 1 or their own bias
    carries the signal around them, so that they start as the identity. If the layers
    that follow get no signal, the start is not such a choice.

    Source: Zhang et al. 2019, "Fixup initialization"; Bachlechner et al. 2021, "ReZero
    is all you need"; Qi et al. 2017, "PointNet", for transform nets.
    """
    small = {kernel.key: kernel for kernel in kernels if _starts_small(kernel)}
    if not small:
        return {}
    try:
        forward = run_forward(model, from_weights=True, redrawn=small)
    except ValueError:
        return {}  # what cannot be predicted tells nothing
    reasons = {}
    for key, kernel in small.items():
        reason = carrier(kernel, kernels, forward.propagation)
        if reason is not None:
            second = weight_moments(kernel.layer, kernel.weight).second_moment
            size = "next to 0" if second else "at 0"
            reasons[key] = f"kept: starts {size}, and {reason} carries the signal"
    return reasons


def _starts_small(kernel: Kernel) -> bool:
    fans = fans_of(kernel)
    if fans is None or kernel.initializer is None:
        return False
    moments = weight_moments(kernel.layer, kernel.weight, parents=kernel.parents)
    return bool(moments.second_moment * fans.fan_in <= SMALL_GAIN**2)


def carrier(
    kernel: Kernel, kernels: Sequence[Kernel], propagation: Propagation
) -> str | None:
    """Return what carries the signal around a kernel, None where nothing does.

    Args:
        kernel: one whose output is next to 0.
        kernels: all of the model.
        propagation: a prediction with this kernel.
    """
    # The output of a layer is that of the last kernel inside.
    last = {id(layer): k for k in kernels for layer in k.owners}
    graph, signals = propagation.flat_graph, propagation.signals
    calls = [call for call in graph.calls if last.get(id(call.operation)) is kernel]
    reading = max((_varies(signals, call.inputs) for call in calls), default=0.0)
    if not reading > 0:
        return None
    least = _LOST * reading

    def is_lost(call: Call) -> bool:
        return _varies(signals, call.outputs) <= least

    if not all(map(is_lost, calls)):
        return None  # other weights of the layer make its output
    pending = [tensor for call in calls for tensor in call.outputs]
    seen = set(pending)
    carried = False
    while pending:
        tensor = pending.pop()
        for call in graph.consumers.get(tensor, ()):
            if not is_lost(call):
                carried = True
            elif id(call.operation) in last:
                return None  # a kernel gets no signal
            else:
                fresh = [output for output in call.outputs if output not in seen]
                pending.extend(fresh)
                seen.update(fresh)
    bias = propagation.optional_weight(kernel.layer, "bias")
    if bias is not None and bias.second_moment > 0:
        return "its bias"
    return "another path" if carried else None


def _varies(signals: dict[int, Signal], tensors: Iterable[int]) -> float:
    """Return the largest variance over inputs, that is, how much they differ."""
    present = (signals[tensor] for tensor in tensors if tensor in signals)
    return max((signal.batch_variance for signal in present), default=0.0)

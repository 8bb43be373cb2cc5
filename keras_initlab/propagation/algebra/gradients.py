"""Gradients, from outputs back to everything from which they are computed."""

from __future__ import annotations

import heapq

from keras_initlab.propagation.signal import Gradient, Pull, Signal


def gradients(outputs: list[Signal], start: Gradient) -> dict[int, Gradient]:
    """Return the gradient at every signal that `outputs` depend on, by serial number.

    Each output starts with the gradient `start`; where several paths lead to a signal
    their gradients are assumed to be independent.
    """
    arrived: dict[int, Gradient] = {}
    noted: dict[int, Gradient] = {}
    echoed: dict[int, Gradient] = {}
    signals: dict[int, Signal] = {}
    heap: list[int] = []

    def reached(signal: Signal, gradient: Gradient, into: dict[int, Gradient]) -> None:
        _add(into, signal.serial, gradient)
        if signal.serial not in signals:
            signals[signal.serial] = signal
            heapq.heappush(heap, -signal.serial)

    for output in outputs:
        reached(output, start, arrived)
    # A signal's parents are older than it is: all that comes to it has come.
    while heap:
        signal = signals[-heapq.heappop(heap)]
        if signal.serial in arrived:
            for parent, pull in signal.edges.parents:
                reached(parent, pull(arrived[signal.serial]), arrived)
            for parent, pull in signal.edges.notes:
                reached(parent, pull(arrived[signal.serial]), noted)
            for parent, pull in signal.edges.echoes:
                reached(parent, pull(arrived[signal.serial]), echoed)
        if signal.serial in noted:
            for parent, pull in signal.edges.notes:
                reached(parent, pull(noted[signal.serial]), noted)
            for parent, pull in signal.edges.parents:
                if _is_passed_by(signal, parent):
                    reached(parent, pull(noted[signal.serial]), noted)
        if signal.serial in echoed:
            for parent, pull in _asked_behind(signal):
                reached(parent, pull(echoed[signal.serial]), echoed)
    for sideways in (noted, echoed):
        for serial, gradient in sideways.items():
            _add(arrived, serial, gradient)
    return arrived


def _asked_behind(signal: Signal) -> list[tuple[Signal, Pull]]:
    """Return where a gradient flows that was asked for at a signal.

    For pairs, back to where they were made, except to pairs that the actual gradient
    reaches.
    """
    mirror, way = signal.mirror, signal.edges.parents
    if mirror is not None and mirror.back is not None:
        way = mirror.back
    base = -1 if mirror is None or mirror.base is None else mirror.base.serial
    return [
        (parent, pull)
        for parent, pull in way
        if parent.serial != base and not (parent.mirror and parent.mirror.whole)
    ]


def _is_passed_by(signal: Signal, parent: Signal) -> bool:
    """Say whether a gradient that bypasses a signal also bypasses its parent.

    From a function of a Gaussian it flows to the Gaussian, and from a joined tensor to
    its parts: it reaches these.
    """
    return (
        bool(parent.origin.parts)
        if signal.origin.parts
        else parent.origin.function is not None
    )


def _add(gradients: dict[int, Gradient], serial: int, gradient: Gradient) -> None:
    before = gradients.get(serial)
    gradients[serial] = gradient if before is None else before.plus(gradient)

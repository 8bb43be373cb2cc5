"""Initializers that do not fit: the nonlinearity that follows, or the layer's fans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.checks import signal
from keras_initlab.diagnosis.facts import Facts, KernelFacts
from keras_initlab.diagnosis.finding import Finding, Severity
from keras_initlab.diagnosis.rules import check

# Decades of variance lost or gained between one normalisation and the next, as for a
# signal. Less than NOTED in one kernel is not counted.
RISKY, LOST = math.log10(signal.RISKY), math.log10(signal.LOST)
NOTED = math.log10(1.5)
# Gates and attention whose inputs are so many times too large start saturated: a third
# of N(0, 25) is beyond ±5, where a sigmoid's slope is below 0.7 %.
SATURATING = 25.0
# Ratios of variances by wrong fans that are reported as a warning, and at all.
WRONG, OFF = 4.0, 1.5

_FITTING = "Call il.rewrite_initializers(model) before training."


@check
def initializer_mismatch(facts: Facts) -> Iterator[Finding]:
    """Report kernels that together are drawn too small or too large.

    The count of decades starts anew after a normalisation, and after a residual branch,
    which has a stream beside it. Nothing is reported if the signals are known to be
    sound all the same.
    """
    most: list[KernelFacts] = []
    run: list[KernelFacts] = []
    decades = total = 0.0
    for kernel in facts.kernels:
        if _is_counted(kernel):
            off = math.log10(kernel.scale or 1.0)
            if abs(off) > NOTED:
                run, total = [*run, kernel], total + off
            if abs(total) > abs(decades):
                decades, most = total, run
        if kernel.normalised or kernel.branch_end:
            run, total = [], 0.0
    severity = _severity(abs(decades))
    # If signals are known, they show the effect of a small deviation.
    small = bool(facts.stats) and severity == "info"
    if not most or small or signal.is_sound(facts):
        return
    first = most[0]
    does = "shrinks" if decades < 0 else "grows"
    yield Finding(
        "initializer-mismatch",
        severity,
        first.layer,
        f"{first.initializer} draws its {first.weight} with "
        f"{wording.number(first.scale or 1)} times the variance that fits "
        f"{first.nonlinearity}{wording.and_others([k.layer for k in most])}: with all "
        f"of them the signal's variance {does} {wording.number(10 ** abs(decades))} "
        "times.",
        _FITTING,
    )


@check
def saturating_gates(facts: Facts) -> Iterator[Finding]:
    """Report kernels of gates and attention that are drawn far too large."""
    saturating = [
        kernel
        for kernel in facts.kernels
        if kernel.guarded
        and kernel.constant is None
        and (kernel.scale or 0.0) > SATURATING
    ]
    if not saturating:
        return
    worst = max(saturating, key=lambda kernel: kernel.scale or 0.0)
    yield Finding(
        "initializer-mismatch",
        "warning",
        worst.layer,
        f"{worst.initializer} draws its {worst.weight} with "
        f"{wording.number(worst.scale or 1)} times the variance that fits"
        f"{wording.and_others([k.layer for k in saturating])}: gates and attention are "
        "saturated from the start.",
        _FITTING,
    )


def _is_counted(kernel: KernelFacts) -> bool:
    aside = kernel.head or kernel.guarded or kernel.normalised or kernel.branch_end
    aside = aside or kernel.bypassed
    return kernel.scale is not None and kernel.constant is None and not aside


def _severity(decades: float) -> Severity:
    if decades < RISKY:
        return "info"
    return "error" if decades > LOST else "warning"


@check
def wrong_fans(facts: Facts) -> Iterator[Finding]:
    """Report kernels drawn by fans that are not those of their layer."""
    kernels = [kernel for kernel in facts.kernels if _off(kernel) > math.log(OFF)]
    serious = [kernel for kernel in kernels if _is_serious(kernel)]
    # Where signals are known, they say what a single one comes to.
    if facts.stats and len(serious) == 1:
        return
    yield from _fans(serious, "warning")
    if not facts.stats:
        yield from _fans([k for k in kernels if k not in serious], "info")


def _fans(kernels: Sequence[KernelFacts], severity: Severity) -> Iterator[Finding]:
    if not kernels:
        return
    worst = max(kernels, key=_off)
    yield Finding(
        "wrong-fans",
        severity,
        worst.layer,
        f"{worst.initializer} takes the fans of its {worst.weight} from the shape "
        f"alone: the variance is {wording.number(worst.by_wrong_fans or 1)} times what "
        f"the layer's own fans give{wording.and_others([k.layer for k in kernels])}.",
        'Use an initlab> initializer, such as "initlab>he_normal": it counts the fans '
        "by the layer.",
    )


def _off(kernel: KernelFacts) -> float:
    ratio = kernel.by_wrong_fans
    return 0.0 if ratio is None or kernel.constant is not None else abs(math.log(ratio))


def _is_serious(kernel: KernelFacts) -> bool:
    aside = kernel.head or kernel.guarded or kernel.normalised or kernel.branch_end
    aside = aside or kernel.bypassed
    return _off(kernel) >= math.log(WRONG) - 1e-9 and not aside

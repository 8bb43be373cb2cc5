"""Units that learn the same: constant kernels, twins, layers drawn alike.

Two units with the same incoming and outgoing weights have the same gradients, and stay
equal however many steps are made: Goodfellow, Bengio & Courville, "Deep Learning",
2016, section 8.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts, KernelFacts
from keras_initlab.diagnosis.finding import Finding, Severity
from keras_initlab.diagnosis.rules import check

# How many groups of layers with one kernel are named.
SHOWN = 6

_REDRAW = (
    "Draw them at random: call il.rewrite_initializers(model) before training, which "
    "gives each unit other weights."
)


@check
def constant_kernel(facts: Facts) -> Iterator[Finding]:
    """Report kernels whose entries are all the same, although units should differ.

    Zeros are right if another path carries the signal, and in a head.
    """
    passing = {s.layer.split("#")[0] for s in facts.stats if s.batch_variance}
    constant = [
        kernel
        for kernel in facts.kernels
        # If outputs still differ between inputs, another path bypasses the zeros.
        if _is_fault(kernel) and not (kernel.constant == 0 and kernel.layer in passing)
    ]
    if not constant:
        return
    first = constant[0]
    alone = len(constant) == 1 and first.constant != 0
    severity: Severity = "warning" if alone else "error"
    stuck = (
        "no gradient passes it"
        if first.constant == 0
        else "all its units compute the same"
    )
    yield Finding(
        "constant-kernel",
        severity,
        first.layer,
        f"All entries of its {first.weight} are {wording.number(first.constant or 0)}"
        f"{wording.and_others([k.layer for k in constant])}: {stuck}.",
        _REDRAW,
    )


def _is_fault(kernel: KernelFacts) -> bool:
    if kernel.constant is None or kernel.head or kernel.units == 1:
        return False
    if kernel.constant == 0:
        return not (kernel.branch_end or kernel.spared)
    # Each unit of a depthwise kernel reads its own input.
    return kernel.units > 1


@check
def symmetric_units(facts: Facts) -> Iterator[Finding]:
    """Report units that are, and stay, copies of another."""
    symmetric = [
        kernel
        for kernel in facts.kernels
        if kernel.twins
        and kernel.constant is None
        and kernel.read_alike != 0
        and not kernel.head
    ]
    if not symmetric:
        return
    worst = max(symmetric, key=lambda k: (k.read_alike or k.twins) / k.units)
    count = worst.read_alike or worst.twins
    severity: Severity = "error" if 2 * count > worst.units else "warning"
    same = "" if worst.read_alike is None else ", and are read the same by what follows"
    yield Finding(
        "symmetric-units",
        severity,
        worst.layer,
        f"{count} of its {worst.units} units have the weights of another unit{same}"
        f"{wording.and_others([k.layer for k in symmetric])}: they learn the same.",
        _REDRAW,
    )


@check
def shared_draw(facts: Facts) -> Iterator[Finding]:
    """Report layers that start from the very same kernel."""
    by_digest: dict[str, list[KernelFacts]] = {}
    for kernel in facts.kernels:
        if kernel.digest is not None:
            by_digest.setdefault(kernel.digest, []).append(kernel)
    groups = [kernels for kernels in by_digest.values() if len(kernels) > 1]
    # Queries, keys and values part at the first step, whatever they are drawn by.
    severity: Severity = (
        "info"
        if all(kernel.guarded for kernels in groups for kernel in kernels)
        else "warning"
    )
    if groups:
        named = ", and those of ".join(map(_names, groups[:SHOWN]))
        named += " …" * (len(groups) > SHOWN)
        yield Finding(
            "shared-draw",
            severity,
            groups[0][0].layer,
            f"The kernels of {named} are the same, entry by entry: one seed or one "
            "initializer object draws the same for each.",
            "Give each layer an initializer of its own, or an initlab> one: "
            "il.HeNormal(seed=0) draws another kernel in each layer.",
        )


def _names(kernels: Sequence[KernelFacts]) -> str:
    """Return the layers' names, with those of the weights if a layer has several."""
    layers = [kernel.layer for kernel in kernels]
    several = len(set(layers)) < len(layers)
    return ", ".join(f"{k.layer}/{k.weight}" if several else k.layer for k in kernels)

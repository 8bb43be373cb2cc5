"""Units that learn the same: constant kernels, twins, layers drawn alike.

Where two units read the same and are read the same, their gradients are the same, and
no number of steps parts them: Goodfellow, Bengio & Courville, "Deep Learning", 2016,
section 8.4.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    """Report kernels whose entries are all the same, where units are to differ.

    Zeros are right where another path carries the signal, and in a head.
    """
    passing = {one.layer.split("#")[0] for one in facts.stats if one.batch_variance}
    found = [
        one
        for one in facts.kernels
        # What tells inputs apart all the same has a way beside the zeros.
        if _is_fault(one) and not (one.constant == 0 and one.layer in passing)
    ]
    if not found:
        return
    first = found[0]
    alone = len(found) == 1 and first.constant != 0
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
        f"{wording.others([one.layer for one in found])}: {stuck}.",
        _REDRAW,
    )


def _is_fault(kernel: KernelFacts) -> bool:
    if kernel.constant is None or kernel.head or kernel.units == 1:
        return False
    if kernel.constant == 0:
        return not (kernel.branch_end or kernel.spared)
    # Of a depthwise kernel each unit reads an input of its own.
    return kernel.units > 1


@check
def symmetric_units(facts: Facts) -> Iterator[Finding]:
    """Report units that are, and stay, copies of another."""
    found = [
        one
        for one in facts.kernels
        if one.twins and one.constant is None and one.read_alike != 0 and not one.head
    ]
    if not found:
        return
    worst = max(found, key=lambda one: (one.read_alike or one.twins) / one.units)
    count = worst.read_alike or worst.twins
    severity: Severity = "error" if 2 * count > worst.units else "warning"
    same = "" if worst.read_alike is None else ", and are read the same by what follows"
    yield Finding(
        "symmetric-units",
        severity,
        worst.layer,
        f"{count} of its {worst.units} units have the weights of another unit{same}"
        f"{wording.others([one.layer for one in found])}: they learn the same.",
        _REDRAW,
    )


@check
def shared_draw(facts: Facts) -> Iterator[Finding]:
    """Report layers that start from the very same kernel."""
    by_digest: dict[str, list[KernelFacts]] = {}
    for one in facts.kernels:
        if one.digest is not None:
            by_digest.setdefault(one.digest, []).append(one)
    groups = [kernels for kernels in by_digest.values() if len(kernels) > 1]
    # Queries, keys and values part at the first step, whatever they are drawn by.
    severity: Severity = (
        "info"
        if all(one.guarded for kernels in groups for one in kernels)
        else "warning"
    )
    if groups:
        named = ", and those of ".join(
            ", ".join(one.layer for one in kernels) for kernels in groups[:SHOWN]
        )
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

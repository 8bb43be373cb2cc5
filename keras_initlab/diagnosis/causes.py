"""Causes and consequences: each finding is listed under its cause.

Causes come in the order in which a network works: data, kernels and biases, signals,
units, gradients, steps. A fault that was not there at the first step was caused by
training: then steps come before signals.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from keras_initlab.diagnosis.finding import Finding, worse, worst_first

# The order of causes. A code that is not listed has no cause and is none.
ORDER = (
    *("input-scale", "target-scale", "head-loss-mismatch"),
    *("wrong-fans", "constant-kernel", "symmetric-units", "shared-draw"),
    *("large-biases", "initializer-mismatch"),
    *("vanishing-signal", "exploding-signal", "collapsed-inputs", "saturated-head"),
    *("dead-units", "saturated-units"),
    *("no-gradient", "vanishing-gradient", "exploding-gradient"),
    *("update-too-large", "update-too-small", "nonfinite"),
)

_KERNELS = ("constant-kernel", "large-biases", "initializer-mismatch", "wrong-fans")

# For each code what may have caused it, the likeliest first.
CAUSES: dict[str, tuple[str, ...]] = {
    "initializer-mismatch": ("wrong-fans",),
    "symmetric-units": ("constant-kernel",),
    "vanishing-signal": (*_KERNELS, "input-scale"),
    "exploding-signal": (*_KERNELS[1:], "shared-draw", "input-scale"),
    "collapsed-inputs": (
        *_KERNELS,
        *("vanishing-signal", "exploding-signal", "symmetric-units", "input-scale"),
    ),
    "saturated-head": (
        *("initializer-mismatch", "wrong-fans", "exploding-signal", "input-scale"),
    ),
    "no-gradient": (
        *("head-loss-mismatch", *_KERNELS, "dead-units", "input-scale"),
        *("exploding-signal", "vanishing-signal"),
    ),
    "vanishing-gradient": (
        *(*_KERNELS, "dead-units", "saturated-units"),
        *("vanishing-signal", "collapsed-inputs", "no-gradient", "input-scale"),
        *("symmetric-units", "exploding-signal"),
    ),
    "exploding-gradient": (
        *_KERNELS[1:],
        *("shared-draw", "exploding-signal", "vanishing-signal", "input-scale"),
    ),
    "dead-units": (
        *_KERNELS,
        *("input-scale", "vanishing-signal", "collapsed-inputs", "exploding-signal"),
    ),
    "saturated-units": (*_KERNELS[1:], "input-scale", "exploding-signal"),
    "update-too-large": (
        *("constant-kernel", "initializer-mismatch", "wrong-fans"),
        *("exploding-signal", "exploding-gradient", "input-scale", "target-scale"),
    ),
    "update-too-small": (
        *_KERNELS,
        *("vanishing-signal", "collapsed-inputs", "no-gradient", "vanishing-gradient"),
        *("dead-units", "head-loss-mismatch"),
    ),
    "nonfinite": (
        *("initializer-mismatch", "wrong-fans", "exploding-signal"),
        *("exploding-gradient", "input-scale", "target-scale", "update-too-large"),
    ),
}

# No fault unless something follows from them.
LATENT = ("large-biases",)

# While it is trained, by steps that are too large: all that they can do to signals.
BY_STEPS = (
    *("vanishing-signal", "exploding-signal", "collapsed-inputs", "no-gradient"),
    *("vanishing-gradient", "exploding-gradient", "dead-units", "saturated-units"),
)


def folded(
    findings: Iterable[Finding], *, inputs: Collection[str] = (), training: bool = False
) -> list[Finding]:
    """Return the causes, the worst first, each with all that follows from it.

    Args:
        findings: of one moment.
        inputs: names of the model's inputs: findings there have no cause.
        training: whether all of them appeared during training.

    >>> zeros = Finding("constant-kernel", "error", "a", "All 0.", "Draw them apart.")
    >>> gone = Finding("vanishing-signal", "error", "b", "Nothing is left.", "Redraw.")
    >>> [(cause.code, cause.follows) for cause in folded([gone, zeros])]
    [('constant-kernel', 'And so: vanishing-signal in b.')]
    """
    ordered = sorted(findings, key=lambda finding: _place(finding, inputs, training))
    roots: dict[int, Finding] = {}
    consequences: dict[int, list[Finding]] = {}
    root_of: dict[int, int] = {}
    for index, finding in enumerate(ordered):
        cause = _cause(finding, ordered[:index], inputs, training)
        root = index if cause is None else root_of[cause]
        root_of[index] = root
        if root == index:
            roots[index] = finding
        else:
            consequences.setdefault(root, []).append(finding)
    causes = [
        with_consequences(root, consequences.get(index, ()))
        for index, root in roots.items()
        if root.code not in LATENT or index in consequences
    ]
    return worst_first(causes)


def with_consequences(cause: Finding, consequences: Sequence[Finding]) -> Finding:
    """Return a cause with what follows from it; it is as severe as the worst."""
    if not consequences:
        return cause
    together = (*cause.consequences, *consequences)
    worst = worst_first((cause, *together))[0]
    return replace(cause, severity=worst.severity, consequences=together)


def follows_from(finding: Finding, cause: Finding, training: bool = False) -> bool:
    """Whether the one finding may be a consequence of the other."""
    return cause.code in _causes(finding.code, training)


def _causes(code: str, training: bool) -> tuple[str, ...]:
    causes = CAUSES.get(code, ())
    if training and code in BY_STEPS:
        return ("update-too-large", *causes)
    if training and code == "update-too-large":
        return ()
    return causes


def _cause(
    finding: Finding,
    earlier: Sequence[Finding],
    inputs: Collection[str],
    training: bool,
) -> int | None:
    """Return the index of the likeliest cause, if there is one."""
    if finding.severity == "info" or finding.layer in inputs:
        return None
    for code in _causes(finding.code, training):
        for index, candidate in enumerate(earlier):
            # A finding of severity "info" has done no harm.
            harmful = code in LATENT or not worse("warning", candidate.severity)
            if candidate.code == code and harmful:
                return index
    return None


def _place(finding: Finding, inputs: Collection[str], training: bool) -> int:
    if finding.layer in inputs:
        return -1
    if training and finding.code == "update-too-large":
        return ORDER.index("vanishing-signal") - 1
    return ORDER.index(finding.code) if finding.code in ORDER else len(ORDER)

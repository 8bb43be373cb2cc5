"""Outputs that do not fit their loss or their targets."""

from __future__ import annotations

import math
from collections.abc import Iterator

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts, HeadFacts, TargetFacts
from keras_initlab.diagnosis.finding import Finding, Severity
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")
_BINARY = "binary_crossentropy"
_REGRESSION = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh")
# Ranges that an activation cannot leave.
_RANGES = {
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exponential": (0.0, math.inf),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu6": (0.0, 6.0),
}
# Targets of a regression: deviations near enough to 1, and how far the mean may be from
# 0, in deviations.
SMALLEST, LARGEST, OFFSET = 1e-3, 1e3, 1e2
# Of their range, how far targets may lie beyond an activation's for other reasons.
ROUNDING = 0.01
# How many times as large as another the loss of an output is that drowns it.
UNBALANCED = 1e4
# Σp² over the classes: 1 where the whole probability is on one.
SURE = 0.95


@check
def head_loss_mismatch(facts: Facts) -> Iterator[Finding]:
    """Report outputs whose activation does not fit the loss or the targets."""
    for head in facts.heads:
        for fault in (_of_softmax, _of_cross_entropy, _of_targets, _out_of_range):
            problem = fault(head)
            if problem is not None:
                severity, evidence, remedy = problem
                yield Finding(
                    "head-loss-mismatch", severity, head.layer, evidence, remedy
                )
                break


Told = tuple[Severity, str, str] | None


def _of_softmax(head: HeadFacts) -> Told:
    if head.activation == "softmax" and head.units == 1:
        return (
            "error",
            "It is a softmax over one unit, which is 1 for every input.",
            'Use Dense(1, "sigmoid") with loss="binary_crossentropy" for two classes, '
            "Dense(1) for a number.",
        )
    if head.activation == head.before == "softmax":
        return (
            "warning",
            "There are two softmaxes in a row: behind the second one all classes are "
            "nearly as likely as each other, and hardly any gradient passes.",
            "Leave one of them out.",
        )
    return None


def _of_cross_entropy(head: HeadFacts) -> Told:
    categorical = head.loss in _CATEGORICAL
    if not (categorical or head.loss == _BINARY):
        return None
    right = "softmax" if categorical else "sigmoid"
    if head.from_logits and head.activation in ("softmax", "sigmoid"):
        return (
            "warning",
            f"Its activation is {head.activation}, and the loss applies one more "
            "(from_logits=True): gradients are small, and the loss cannot come near 0.",
            "Leave the activation out, or use from_logits=False.",
        )
    if not head.from_logits and head.activation in ("linear", "relu", "tanh"):
        return (
            "error",
            f"{head.loss} expects probabilities, and the output's activation is "
            f"{head.activation}.",
            f'Use activation="{right}" in the last layer, or from_logits=True in the '
            f"loss{_and_targets(head)}.",
        )
    if categorical and head.units == 1:
        return (
            "error",
            f"{head.loss} of one unit is the same for every input.",
            'Use Dense(1, "sigmoid") with loss="binary_crossentropy", or a unit for '
            "each class.",
        )
    if head.loss == "categorical_crossentropy" and head.activation == "sigmoid":
        return (
            "warning",
            "categorical_crossentropy expects probabilities that add up to 1, and the "
            "output's activation is sigmoid.",
            'Use activation="softmax" for one class of several, or '
            'loss="binary_crossentropy" where several may be true at once.',
        )
    return None


def _and_targets(head: HeadFacts) -> str:
    """Return how to change the targets as well, "" if they are right."""
    targets = head.targets
    if head.loss != _BINARY or targets is None or targets.minimum is None:
        return ""
    if targets.whole and targets.minimum == -1 and targets.maximum == 1:
        return ", and targets of 0 and 1 instead of -1 and 1: y = (y + 1) / 2"
    return ""


def _of_targets(head: HeadFacts) -> Told:
    targets = head.targets
    if targets is None or targets.minimum is None or targets.maximum is None:
        return None
    if head.crossed:
        return (
            "error",
            f"The targets have shape {targets.shape} and the output "
            f"{(*targets.shape, head.units)}: the loss compares each target with the "
            "predictions for all inputs.",
            "Give the targets the output's shape: y = y[:, None].",
        )
    if head.loss == "sparse_categorical_crossentropy" and head.units:
        if targets.one_hot and targets.shape[-1] == head.units:
            return (
                "error",
                "sparse_categorical_crossentropy expects class numbers, and the "
                f"targets are one-hot, of shape {targets.shape}.",
                'Use loss="categorical_crossentropy".',
            )
        if targets.minimum < 0 or targets.maximum >= head.units or not targets.whole:
            return (
                "error",
                f"The targets go from {wording.number(targets.minimum)} to "
                f"{wording.number(targets.maximum)}, and {head.units} units stand for "
                f"classes 0 to {head.units - 1}.",
                _renumber(head.units, targets),
            )
    probabilities = (_BINARY, "categorical_crossentropy")
    if head.loss in probabilities and not 0 <= targets.minimum <= targets.maximum <= 1:
        return (
            "error",
            f"{head.loss} expects targets from 0 to 1, and they go from "
            f"{wording.number(targets.minimum)} to {wording.number(targets.maximum)}.",
            _to_probabilities(head, targets),
        )
    return None


def _to_probabilities(head: HeadFacts, targets: TargetFacts) -> str:
    """Return what makes targets, or the loss, such that they go together."""
    high = int(targets.maximum or 0)
    if targets.whole and (targets.minimum, targets.maximum) == (-1, 1):
        return "Use targets of 0 and 1: y = (y + 1) / 2."
    numbers = len(targets.shape) == 1 or targets.shape[1:] == (1,)
    if head.units > 1 and numbers and targets.whole:
        return 'Use loss="sparse_categorical_crossentropy".'
    if head.units > 1 or len(targets.shape) > 2:
        return "Scale the targets: y = (y - y.min()) / (y.max() - y.min())."
    if targets.whole and targets.minimum == 0:
        return (
            f'For {high + 1} classes use Dense({high + 1}, "softmax") with '
            'loss="sparse_categorical_crossentropy".'
        )
    return 'For numbers use loss="mse", and no activation in the last layer.'


def _renumber(units: int, targets: TargetFacts) -> str:
    """Return how to make class numbers fit the number of units."""
    low, high = int(targets.minimum or 0), int(targets.maximum or 0)
    if targets.whole and low != 0 and high - low < units:
        by = f"- {low}" if low > 0 else f"+ {-low}"
        return f"Number the classes from 0: y = y {by}."
    if targets.whole and low == 0:
        return f"Give the last layer a unit for each class: Dense({high + 1})."
    return (
        "Number the classes from 0, and give the last layer a unit for each: "
        f"Dense({max(high + 1, 2)})."
    )


def _out_of_range(head: HeadFacts) -> Told:
    targets = head.targets
    reach = _RANGES.get(head.activation)
    if head.loss not in _REGRESSION or targets is None or reach is None:
        return None
    if targets.minimum is None or targets.maximum is None:
        return None
    low, high = reach
    slack = ROUNDING * (targets.maximum - targets.minimum)
    if low - slack <= targets.minimum and targets.maximum <= high + slack:
        return None
    return (
        "error",
        f"{head.activation} gives {_range(low, high)}, and the targets go from "
        f"{wording.number(targets.minimum)} to {wording.number(targets.maximum)}.",
        "Leave the activation of the last layer out.",
    )


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"nothing below {wording.number(low)}"
    return f"{wording.number(low)} to {wording.number(high)}"


@check
def target_scale(facts: Facts) -> Iterator[Finding]:
    """Report targets out of reach of usual steps, or from which nothing is learned."""
    for head in facts.heads:
        targets = head.targets
        if targets is None:
            continue
        fault = _scale(head)
        if targets.nonfinite:
            yield Finding(
                "nonfinite",
                "error",
                head.layer,
                f"{targets.nonfinite} of the targets "
                f"{'is' if targets.nonfinite == 1 else 'are'} NaN or infinite.",
                "Look for missing values in the targets, and drop these rows: "
                "np.isfinite(y).all() should be True.",
            )
        elif fault is not None:
            evidence, remedy = fault
            yield Finding("target-scale", "warning", head.layer, evidence, remedy)


def _scale(head: HeadFacts) -> tuple[str, str] | None:
    targets = head.targets
    if targets is None or targets.mean is None or targets.deviation is None:
        return None
    # A loss of one's own may well leave its targets alone.
    if targets.deviation == 0 and targets.shape[0] > 1 and head.loss is not None:
        return (
            f"All targets are {wording.number(targets.mean)}.",
            "Look at how the targets are made: there is nothing to be learned.",
        )
    size = targets.deviation
    near = SMALLEST <= size <= LARGEST and abs(targets.mean) <= OFFSET * size
    if head.loss not in _REGRESSION or near:
        return None
    return (
        f"The targets have mean {wording.number(targets.mean)} and deviation "
        f"{wording.number(size)}; an untrained network's outputs have about 0 and 1.",
        "Standardise them: y = (y - y.mean()) / y.std(), and undo it after predict.",
    )


@check
def unbalanced_losses(facts: Facts) -> Iterator[Finding]:
    """Report an output whose loss is so large that those of others do not count."""
    sizes = {
        head.layer: (head, size)
        for head in facts.heads
        if (size := _first_loss(head)) is not None and not head.weighted
    }
    if len(sizes) < 2:
        return
    small, large = (f(sizes.values(), key=lambda pair: pair[1]) for f in (min, max))
    if large[1] > UNBALANCED * small[1] > 0 and _scale(large[0]) is None:
        yield Finding(
            "target-scale",
            "warning",
            large[0].layer,
            f"Its loss starts at about {wording.number(large[1])}, and that of "
            f"{small[0].layer} at {wording.number(small[1])}: hardly anything of the "
            "gradient is the smaller one's.",
            "Standardise its targets, or weigh it less: "
            f"compile(loss_weights=…), {small[1] / large[1]:.0e} for this output.",
        )


def _first_loss(head: HeadFacts) -> float | None:
    """Return about what an untrained network's loss is."""
    targets = head.targets
    if targets is None or targets.mean is None or targets.deviation is None:
        return None
    size = targets.mean**2 + targets.deviation**2
    if head.loss == "mean_squared_error":
        return size
    if head.loss in _REGRESSION:
        return math.sqrt(size)
    return (
        math.log(max(head.units, 2)) if head.loss in (*_CATEGORICAL, _BINARY) else None
    )


@check
def saturated_head(facts: Facts) -> Iterator[Finding]:
    """Report an untrained output that is sure of one class before it has learned."""
    if facts.trained or facts.at_start is not None:
        return
    stats = {layer.layer: layer for layer in facts.stats}
    for head in facts.heads:
        measured = stats.get(head.layer)
        sure = None if measured is None else _sureness(head, measured)
        if sure is not None and sure > SURE:
            yield Finding(
                "saturated-head",
                "warning",
                head.layer,
                "Before any training it is sure of one class: the squares of its "
                f"probabilities add up to {sure:.2f}, where {head.units} classes that "
                f"are equally likely give {1 / head.units:.2g}.",
                'Use kernel_initializer="initlab>auto" or "zeros" in the last layer.',
            )


def _sureness(head: HeadFacts, stats: LayerStats) -> float | None:
    """Return the mean of Σp² over the classes."""
    if head.activation != "softmax" or head.units < 2 or stats.second_moment is None:
        return None
    return stats.second_moment * head.units


@check
def dead_head(facts: Facts) -> Iterator[Finding]:
    """Report an output whose units are all 0, whatever the input."""
    stats = {layer.layer: layer for layer in facts.stats}
    for head in facts.heads:
        measured = stats.get(head.layer)
        if measured is None or head.activation not in ("relu", "relu6"):
            continue
        if measured.dead_fraction == 1:
            yield Finding(
                "dead-units",
                "error",
                head.layer,
                f"All units of the output are 0 for every input: behind its "
                f"{head.activation} there is no gradient.",
                "Leave the activation of the last layer out, with biases that start at "
                '0; where outputs must be positive, use activation="softplus".',
            )

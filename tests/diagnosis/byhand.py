"""Facts made by hand, to hold one rule at a time to what it says."""

from keras_initlab.diagnosis import (
    Facts,
    HeadFacts,
    InputFacts,
    KernelFacts,
    LayerFacts,
    TargetFacts,
)
from keras_initlab.stats import LayerStats

NAN = float("nan")


def kernel(layer="dense", **known):
    """Return the facts of one kernel with nothing wrong."""
    usual = {"initializer": "glorot", "nonlinearity": "relu", "units": 8}
    return KernelFacts(layer, "kernel", **{**usual, **known})


def kernels(*rows, **common):
    """Return the facts of kernels `dense_0`, `dense_1`…, each as its row says."""
    named = (kernel(f"dense_{i}", **{**common, **row}) for i, row in enumerate(rows))
    return Facts(kernels=tuple(named))


def chain(figure, values, *, kinds=(), units=8, last=None, **rest):
    """Return facts of layers in a row, with a figure each, and a head after them.

    Args:
        figure: the name of a field of `LayerStats`.
        values: of layers `dense_0`, `dense_1`…
        kinds: what is known of some layers by their numbers; () for nothing of any.
        units: of each layer.
        last: the figure of the head.
        rest: further facts.
    """
    shape, measured = (None, units), {"source": "measured"}
    stats = [
        LayerStats(f"dense_{i}", "kernel", shape, **measured, **{figure: value})
        for i, value in enumerate(values)
    ]
    known = {"nonfinite": 0} if figure == "nonfinite" else {figure: last}
    end = LayerStats("head", "kernel", shape, **measured, **known)
    if kinds:
        known = {one.layer: LayerFacts("Dense", bends=True) for one in stats}
        known |= {f"dense_{i}": LayerFacts("Any", **what) for i, what in kinds.items()}
        rest["layers"] = {**known, "head": LayerFacts("Dense", ends=True)}
    return Facts(stats=(*stats, end), **rest)


def data(**known):
    """Return facts of one input, `x`: standardised, but for what is given."""
    return Facts(inputs=(InputFacts("x", **{"mean": 0.0, "deviation": 1.0, **known}),))


def head(**known):
    """Return facts of one output of ten classes, with what is given."""
    return Facts(heads=(HeadFacts("head", **{"units": 10, **known}),))


def targets(**known):
    """Return facts of a hundred targets, standardised, with what is given."""
    usual = {"minimum": -3.0, "maximum": 3.0, "mean": 0.0, "deviation": 1.0}
    return TargetFacts((100,), **{**usual, **known})


def steps(*ratios, before=(), gradient=1.0, nonfinite=None, steps=None, **rest):
    """Return facts of layers whose weights a step changes by these shares."""

    def window(values):
        return tuple(
            LayerStats(
                f"dense_{i}",
                "kernel",
                weight_gradient_second_moment=gradient,
                update_ratio=value,
                nonfinite=nonfinite,
                source="monitored",
            )
            for i, value in enumerate(values)
        )

    earlier = tuple(window(values) for values in before)
    return Facts(stats=window(ratios), earlier=earlier, steps=steps, **rest)


def alike(*cosines, **rest):
    """Return facts of layers with these cosines between inputs."""
    return chain("input_cosine", cosines, **rest)


def many(count, **known):
    """Return the facts of so many kernels, all as given."""
    return kernels(*[known] * count)

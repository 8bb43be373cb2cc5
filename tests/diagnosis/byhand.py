"""Facts made by hand, to hold one rule at a time to what it says."""

from keras_initlab.diagnosis import Facts, InputFacts, KernelFacts, LayerFacts
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


def chain(figure, values, *, kinds=(), units=8, **rest):
    """Return facts of layers in a row, with a figure each, and a head after them.

    Args:
        figure: the name of a field of `LayerStats`.
        values: of layers `dense_0`, `dense_1`…
        kinds: what is known of some layers by their numbers; () for nothing of any.
        units: of each layer.
        rest: further facts.
    """
    shape, measured = (None, units), {"source": "measured"}
    stats = [
        LayerStats(f"dense_{i}", "kernel", shape, **measured, **{figure: value})
        for i, value in enumerate(values)
    ]
    counted = {"nonfinite": 0} if figure == "nonfinite" else {}
    head = LayerStats("head", "kernel", shape, **measured, **counted)
    if kinds:
        known = {one.layer: LayerFacts("Dense", bends=True) for one in stats}
        known |= {f"dense_{i}": LayerFacts("Any", **what) for i, what in kinds.items()}
        rest["layers"] = {**known, "head": LayerFacts("Dense", ends=True)}
    return Facts(stats=(*stats, head), **rest)


def data(**known):
    """Return facts of one input, `x`: standardised, but for what is given."""
    return Facts(inputs=(InputFacts("x", **{"mean": 0.0, "deviation": 1.0, **known}),))


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

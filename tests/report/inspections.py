"""Inspections made by hand: no model, no Keras."""

from keras_initlab.diagnosis import Finding
from keras_initlab.report import InspectedLayer, Inspection
from keras_initlab.stats import LayerStats

EVIL = "<script>alert(1)</script>"
# Names that something on the way may take for markup, code or maths.
NAMES = (
    EVIL,
    "[red]x[/red]",
    ":smile:",
    "$\\frac{",
    "$\\frac{$ $x^2$",
    "été/日本語/слой",
    "a\"b'c&d</style></title>--><img src=x onerror=alert(1)>",
    "esc\x1b[31mape\nline",
)


def figures(layer, source, variance, gradient, **more):
    return LayerStats(
        layer,
        shape=(None, 64),
        variance=variance,
        second_moment=variance,
        gradient_second_moment=gradient,
        source=source,
        **more,
    )


def dense(name, depth=0, measured=True):
    """Return a layer with everything that is known of one."""
    return InspectedLayer(
        name,
        "Dense",
        weight="kernel",
        kernel_shape=(64, 64),
        fan_in=64.0,
        fan_out=64.0,
        nonlinearity="leaky_relu(0.3)",
        initializer="initlab>auto(activation=leaky_relu, distribution=uniform)",
        predicted=figures(name, "predicted", 0.9**depth, 1.1**-depth),
        measured=figures(name, "measured", 0.8**depth, 1.2**-depth)
        if measured
        else None,
    )


def bare(name, kind="Flatten"):
    """Return a layer without a kernel, of which only a shape is known."""
    stats = LayerStats(name, shape=(None, 64), source="predicted")
    return InspectedLayer(name, kind, predicted=stats)


def finding(layer, code="vanishing-signal", severity="error", remedy=None):
    return Finding(
        code,
        severity,
        layer,
        "The variance over the batch falls to 1e-15 of that of the first layers.",
        remedy
        or 'Call il.rewrite_initializers(model, scheme="isometric") before training.',
    )


def inspection(*layers, findings=(), model="net", data="x of shape (64, 784)", **more):
    return Inspection(model, tuple(layers), tuple(findings), data, **more)


def small():
    """Return five layers, two of them inside another, with findings of every kind."""
    return inspection(
        bare("inputs", "InputLayer"),
        dense("encoder/dense_1", 1),
        dense("encoder/dense_2", 2),
        bare("encoder", "Sequential"),
        dense("head", 3),
        findings=[
            finding("encoder/dense_2", "wrong-fans", "warning", "Use initlab>auto."),
            finding("head"),
            finding(
                "inputs", "input-scale", "info", "Add keras.layers.Normalization()."
            ),
        ],
        notes=("Inputs are taken to have mean 0 and variance 1.",),
    )


def deep(count=300):
    """Return a deep network with the same fault in most layers."""
    layers = [
        dense(f"stage_{i // 50}/block_{i // 5}/dense_{i}", i) for i in range(count)
    ]
    return inspection(
        *layers,
        findings=[
            finding(layers[200].layer),
            *(
                finding(one.layer, "initializer-mismatch", "warning")
                for one in layers[:250]
            ),
        ],
    )


def blocks(count):
    """Return blocks of six layers with names as in a ResNet, two of them kernels."""
    layers = []
    for block in range(count):
        for i, part in enumerate(("1_conv", "1_bn", "1_relu", "2_conv", "add", "out")):
            name = f"conv{block // 6 + 2}_block{block % 6 + 1}_{part}"
            made = dense(name, 6 * block + i)
            if not part.endswith("conv"):
                made = InspectedLayer(
                    name,
                    "BatchNormalization",
                    predicted=made.predicted,
                    measured=made.measured,
                )
            layers.append(made)
    return inspection(*layers, findings=[finding(layers[-1].layer)], model="resnet")


def named(names=NAMES):
    """Return layers, a model, data and findings with names that are not harmless."""
    return inspection(
        *(dense(name, i) for i, name in enumerate(names)),
        findings=[
            finding(name, remedy=f"Rename f({name!r}) or `{name}`.") for name in names
        ],
        model=" ".join(names),
        data=f"x of {EVIL}",
        notes=names,
    )

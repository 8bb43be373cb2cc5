"""What the labelled networks are made of: the record, the data, the usual shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

# Inputs shown to a diagnosis; all of the data are for training.
BATCH = 128
ROWS = 1024


class Case(NamedTuple):
    """A network, and what is wrong with it.

    Attributes:
        name: of the case.
        build: returns a fresh compiled model, the same each time.
        data: returns x and y.
        phase: what is looked at: "model" is the model alone; "batch" the untrained
            model and a batch; "training" all that is told while it trains, and the
            trained model with a batch.
        epochs: of training. In the other phases, how long a healthy network needs to
            show that it learns.
        codes: of the planted fault, each of which must be found; empty if healthy.
        allowed: of what follows from it, which may be told as well.
        close: of these, what is so near to the fault that it may come first.
        targets: whether a diagnosis is shown the targets, too.
    """

    name: str
    build: Callable[[], Any]
    data: Callable[[], tuple[Any, Any]]
    phase: Literal["model", "batch", "training"] = "batch"
    epochs: int = 0
    codes: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    targets: bool = False


def before_and_while_trained(
    name: str, build: Any, data: Any = None, epochs: int = 4
) -> list[Case]:
    """Return a healthy case before training, and the same while it is trained.

    Of digits, if no data are given.
    """
    data = data or digits
    return [
        Case(name, build, data, epochs=epochs),
        Case(f"{name}, trained", build, data, phase="training", epochs=epochs),
    ]


def found(case: Case) -> list[Any]:
    """Return all findings on a case, of every severity."""
    # Not at the top: the labels can be read without the rules.
    import keras_initlab as il

    model = case.build()
    x, y = case.data()
    if case.phase == "model":
        return list(il.diagnose(model))
    y_shown = batch(y) if case.targets else None
    if case.phase == "batch":
        return list(il.diagnose(model, batch(x), y_shown))
    monitor = il.VarianceMonitor(every=1, gradients=True, on_finding="ignore")
    fit(model, x, y, case.epochs, [monitor])
    told = [*monitor.findings]
    return told + list(il.diagnose(model, batch(x), y_shown))


def alarms(findings: list[Any]) -> set[str]:
    """Return the codes of errors and warnings: of the causes alone."""
    return {one.code for one in findings if one.severity in ("error", "warning")}


def all_codes(findings: list[Any]) -> set[str]:
    """Return the codes of causes and consequences, what is only noted left out."""
    told = [one for one in findings if one.severity in ("error", "warning")]
    return alarms(told) | {part.code for one in told for part in one.consequences}


def batch(x: Any) -> Any:
    """Return the inputs that a diagnosis is shown."""
    return keras.tree.map_structure(lambda leaf: leaf[:BATCH], x)


def fit(
    model: Any, x: Any, y: Any, epochs: int, callbacks: list[Any] | None = None
) -> Any:
    """Train as all cases are trained; return Keras's history."""
    return model.fit(
        x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=callbacks or []
    )


# Data -----------------------------------------------------------------------------


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.data))[:ROWS]
    return found.data[order], found.target[order]


def digits() -> tuple[Any, Any]:
    """Return 8×8 digits as vectors, each pixel standardised."""
    x, y = _digits()
    deviation = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return x.astype("float32"), y


def fractions() -> tuple[Any, Any]:
    """Return digits as images' pixels are often given: 0 to 1."""
    x, y = _digits()
    return (x / 16).astype("float32"), y


def pixels() -> tuple[Any, Any]:
    """Return digits as unscaled bytes: 0 to 255."""
    x, y = _digits()
    return (x * 255 / 16).astype("float32"), y


def images() -> tuple[Any, Any]:
    """Return digits as 8×8 images with one channel, standardised as a whole."""
    x, y = _digits()
    x = (x - x.mean()) / x.std()
    return x.reshape(-1, 8, 8, 1).astype("float32"), y


def rows_of_digits() -> tuple[Any, Any]:
    """Return digits as sequences of eight rows."""
    x, y = digits()
    return x.reshape(-1, 8, 8), y


def pixels_in_turn() -> tuple[Any, Any]:
    """Return digits as sequences of 32 steps, two pixels each."""
    x, y = digits()
    return x.reshape(-1, 32, 2), y


def digits_to_digits() -> tuple[Any, Any]:
    """Return digits as what an autoencoder reads and writes."""
    x, _ = digits()
    return x, x


def regression() -> tuple[Any, Any]:
    """Return eight standardised features and a smooth function of them."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 8)).astype("float32")
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3]
    return x, (y / y.std())[:, None].astype("float32")


def tokens() -> tuple[Any, Any]:
    """Return sequences of 12 tokens out of 40; 1 if most of them are below 20."""
    x = np.random.default_rng(0).integers(0, 40, (ROWS, 12)).astype("int32")
    return x, ((x < 20).sum(axis=1) > 6).astype("int32")


# Initializers ---------------------------------------------------------------------


def normal(stddev: float) -> dict[str, Any]:
    """Return N(0, stddev²) as a config: an instance would be shared by all layers."""
    return {"class_name": "RandomNormal", "config": {"stddev": stddev}}


def scaled(scale: float) -> dict[str, Any]:
    """Return a variance of scale / fan_in, as a config."""
    return {"class_name": "VarianceScaling", "config": {"scale": scale}}


def orthogonal(gain: float) -> dict[str, Any]:
    """Return an orthogonal matrix times gain, as a config."""
    return {"class_name": "Orthogonal", "config": {"gain": gain}}


def constant(value: float) -> dict[str, Any]:
    """Return one value for all entries, as a config."""
    return {"class_name": "Constant", "config": {"value": value}}


# Networks -------------------------------------------------------------------------


def seeded(make: Callable[..., Any], *args: Any, **options: Any) -> Callable[[], Any]:
    """Return a function that makes the same network each time."""

    def build() -> Any:
        keras.utils.set_random_seed(0)
        return make(*args, **options)

    return build


def compiled(
    model: Any,
    optimizer: Any = "adam",
    loss: str = "classes",
    rate: float | None = None,
) -> Any:
    """Compile for classes or for values; return the model."""
    if isinstance(optimizer, str):
        kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        rate = rate or {"adam": 0.003, "sgd": 0.05}[optimizer]
        momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
        optimizer = kinds[optimizer](rate, **momentum)
    if loss == "classes":
        loss = "sparse_categorical_crossentropy"
        model.compile(optimizer, loss, metrics=["accuracy"])
    else:
        model.compile(optimizer, "mse")
    return model


def plain(
    activation: Any = "relu",
    depth: int = 3,
    kernel: Any = "glorot_uniform",
    *,
    width: int = 48,
    inputs: int = 64,
    bias: Any = "zeros",
    dropout: float = 0.0,
    head: Any = "glorot_uniform",
    outputs: int = 10,
    then: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Any:
    """Return Dense layers and a softmax (or, for `outputs=1`, linear) head.

    `kernel` and `activation` are shared by all hidden layers; `then` alters the model
    before it is compiled.
    """
    model = keras.Sequential([keras.Input((inputs,))])
    for index in range(depth):
        model.add(
            layers.Dense(
                width,
                activation,
                kernel_initializer=kernel,
                bias_initializer=bias,
                name=f"hidden_{index}",
            )
        )
        if dropout:
            model.add(layers.Dropout(dropout))
    last = "softmax" if outputs > 1 else None
    model.add(layers.Dense(outputs, last, kernel_initializer=head, name="head"))
    if then is not None:
        then(model)
    loss = "classes" if outputs > 1 else "values"
    return compiled(model, **{"loss": loss, **settings})


def stack(*rows: Any, shape: tuple[int, ...], dtype: str = "float32", **s: Any) -> Any:
    """Return a compiled Sequential model of these layers."""
    return compiled(keras.Sequential([keras.Input(shape, dtype=dtype), *rows]), **s)


def head(outputs: int = 10, **options: Any) -> Any:
    """Return a layer of class probabilities."""
    return layers.Dense(outputs, "softmax", name="head", **options)

"""Others' rules for faults in training, by absolute thresholds.

The rules of smdebug, TheDeepChecker, AUTOTRAINER and DeepDiagnosis in their
thresholds alone, written anew over one record of a training step. An alarm is told
by the codes of `il.diagnose` that it may stand for, all that it may mean: NaN, which
two of them call exploding, counts as `nonfinite` too.

Where the thresholds leave something open it is settled so: gradients and updates are
those of kernels, an update ratio ‖Δw‖/‖w‖ of a kernel of zeros is left out; smdebug's
saturation is that of most values of a tanh layer, and the variances that it compares
are not those of a softmax; TheDeepChecker's ρ is the mean
distance from the middle of the activation's range, and its ratios of gradients, four
in a row for exploding as for vanishing, are from layer to layer towards the input;
AUTOTRAINER counts zeros in networks with ReLU layers. All that speaks of
initialisation is asked before the first step only.

    python examples/benchmarks/diagnosis_rivals.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.tables import render_table

EXPLODED = {"exploding-gradient", "exploding-signal", "nonfinite"}
SAME = {"constant-kernel", "symmetric-units"}
MISMATCH = {"initializer-mismatch"}


class Output(NamedTuple):
    """What a layer made of the batch.

    Attributes:
        activation: the name of the layer's activation.
        values: with a row for each input and position, and a column for each unit.
        before: the same before the activation, None where that is not known.
    """

    activation: str
    values: np.ndarray
    before: np.ndarray | None


class Kernel(NamedTuple):
    """A kernel before and after a step, and the loss's gradient by it.

    Attributes:
        activation: the name of the activation that follows in the same layer.
    """

    activation: str
    before: np.ndarray
    after: np.ndarray
    gradient: np.ndarray


class Record(NamedTuple):
    """One step; `first` says whether it is the first of all."""

    first: bool
    outputs: list[Output]
    kernels: list[Kernel]


# The record -------------------------------------------------------------------------


class Keeper(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Keeps gradients, and leaves the weights alone."""

    def build(self, variables: Sequence[Any]) -> None:
        """Make room for a gradient by each variable."""
        super().build(variables)
        self.kept = [self.add_variable_from_reference(v, "kept") for v in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Keep the gradient."""
        index = self._get_variable_index(variable)
        self.assign(self.kept[index], keras.ops.convert_to_tensor(gradient))

    def gradients(self) -> list[np.ndarray]:
        """Return what was kept, in the order of the model's trainable variables."""
        return [_array(one) for one in self.kept]


class Observer:
    """Looks at a model's steps through a twin, on any backend."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.twin = build()
        self.keeper = Keeper(0.0)
        self.twin.compile(self.keeper, self.twin.loss)

    def step(self, model: Any, x: Any, y: Any, first: bool) -> Record:
        """Train the model by one step; return what there was to see."""
        weights = model.get_weights()
        self.twin.set_weights(weights)
        self.twin.train_on_batch(x, y)
        gradients = self.keeper.gradients()
        # The step has moved the averages of BatchNormalization.
        self.twin.set_weights(weights)
        outputs = list(_outputs(self.twin, x))
        activations = _activations_of_kernels(model)
        before = [_array(v) for v in model.trainable_variables]
        model.train_on_batch(x, y)
        kernels = [
            Kernel(activations.get(id(v), ""), old, _array(v), gradient)
            for v, old, gradient in zip(
                model.trainable_variables, before, gradients, strict=True
            )
            if v.name.endswith(("kernel", "embeddings"))
        ]
        return Record(first, outputs, kernels)


def _outputs(model: Any, x: Any) -> Iterator[Output]:
    """Yield the outputs of layers that are called once."""
    found = []
    for layer in model.layers:
        try:
            found.append((layer, layer.input, layer.output))
        except (AttributeError, ValueError):
            continue
    wanted = [[one, other] for _, one, other in found]
    values = keras.Model(model.inputs, wanted)(keras.tree.flatten(x), training=True)
    for (layer, _, _), (given, made) in zip(found, values, strict=True):
        name = activation_of(layer)
        before = None
        if name and isinstance(layer, layers.Activation | layers.ReLU):
            before = given
        elif name and not isinstance(layer, layers.RNN):
            activation, layer.activation = layer.activation, keras.activations.linear
            try:
                before = layer(given)
            finally:
                layer.activation = activation
        if isinstance(layer, layers.InputLayer) or not hasattr(made, "shape"):
            continue
        yield Output(name, _rows(made), None if before is None else _rows(before))


def activation_of(layer: Any) -> str:
    """Return the name of a layer's activation, or ""."""
    if isinstance(layer, layers.ReLU):
        return "relu"
    return getattr(getattr(layer, "activation", None), "__name__", "")


def _activations_of_kernels(model: Any) -> dict[int, str]:
    return {
        id(layer.kernel): activation_of(layer)
        for layer in model.layers
        if getattr(layer, "kernel", None) is not None
    }


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor)).astype(np.float64)


def _rows(tensor: Any) -> np.ndarray:
    values = _array(tensor)
    return values.reshape(-1, values.shape[-1])


# The rules --------------------------------------------------------------------------


def smdebug(record: Record) -> set[str]:
    """Return what smdebug's thresholds say."""
    codes = _nonfinite(record) | _vanished(record, 1e-7)
    for one in _of(record, "relu"):
        if np.mean(np.mean(one.values > 0, axis=0) < 0.01) > 0.5:
            codes.add("dead-units")
    for one in _of(record, "tanh"):
        if one.before is not None and np.mean(np.abs(one.before) > 9.5) > 0.5:
            codes.add("saturated-units")
    if record.first:
        variances = [
            one.values.var()
            for one in record.outputs
            if one.activation not in ("", "linear", "softmax")
        ]
        if variances and max(variances) > 10 * min(variances):
            codes |= MISMATCH
    return codes | _updates(record, 1e-8, 10)


def the_deep_checker(record: Record) -> set[str]:
    """Return what TheDeepChecker's thresholds say."""
    codes = _vanished(record, 1e-6)
    sizes = [np.abs(one.gradient).mean() for one in record.kernels]
    if any(size > 1e6 for size in sizes):
        codes.add("exploding-gradient")
    ratios = [one / other if other else 1.0 for one, other in _pairs(sizes)]
    if _in_a_row([ratio <= 0.5 for ratio in ratios], 4):
        codes.add("vanishing-gradient")
    if _in_a_row([ratio >= 2 for ratio in ratios], 4):
        codes.add("exploding-gradient")
    for one in _of(record, "relu"):
        if np.mean(np.percentile(np.abs(one.values), 95, axis=0) < 1e-5) > 0.5:
            codes.add("dead-units")
    for name, (low, high) in {"tanh": (-1, 1), "sigmoid": (0, 1)}.items():
        for one in _of(record, name):
            distance = np.abs(one.values - (low + high) / 2) / ((high - low) / 2)
            if np.mean(distance.mean(axis=0) > 0.85) > 0.5:
                codes.add("saturated-units")
    if record.first:
        for one in record.kernels:
            variance = one.before.var()
            if variance < 1e-10:
                codes |= SAME
            expected = _expected_variance(one)
            ratio = variance / expected if expected else 1.0
            if ratio > 2.7 or ratio < 1 / 2.7:
                codes |= MISMATCH
    return codes | _updates(record, 1e-4, 0.1)


def autotrainer(record: Record) -> set[str]:
    """Return what AUTOTRAINER's thresholds say."""
    codes = _nonfinite(record)
    if not record.kernels:
        return codes
    first, last = (np.linalg.norm(record.kernels[i].gradient) for i in (0, -1))
    if first < 1e-3 * last and first < 1e-4:
        codes.add("vanishing-gradient")
    if first > 70 * last:
        codes.add("exploding-gradient")
    if list(_of(record, "relu")):
        entries = np.concatenate([one.gradient.ravel() for one in record.kernels])
        if np.mean(entries == 0) >= 0.7:
            codes.add("dead-units")
    return codes


def deep_diagnosis(record: Record) -> set[str]:
    """Return what DeepDiagnosis's thresholds say."""
    codes = _nonfinite(record) | _vanished(record, 1e-7)
    for one in _of(record, "relu"):
        if np.mean(one.values <= 0) >= 0.7:
            codes.add("dead-units")
    for name in ("tanh", "sigmoid"):
        for one in _of(record, name):
            if one.before is not None and np.mean(np.abs(one.before) >= 5) > 0.5:
                codes.add("saturated-units")
    if record.first:
        variances = [one.before.var() for one in record.kernels]
        if any(not 1e-5 <= variance <= 10 for variance in variances):
            codes |= MISMATCH
    return codes


RIVALS: dict[str, Callable[[Record], set[str]]] = {
    "smdebug": smdebug,
    "TheDeepChecker": the_deep_checker,
    "AUTOTRAINER": autotrainer,
    "DeepDiagnosis": deep_diagnosis,
}


def _of(record: Record, activation: str) -> Iterator[Output]:
    return (one for one in record.outputs if one.activation == activation)


def _nonfinite(record: Record) -> set[str]:
    arrays = [one.gradient for one in record.kernels]
    return set() if all(np.isfinite(one).all() for one in arrays) else set(EXPLODED)


def _vanished(record: Record, least: float) -> set[str]:
    sizes = [np.abs(one.gradient).mean() for one in record.kernels]
    return {"vanishing-gradient"} if any(one < least for one in sizes) else set()


def _updates(record: Record, least: float, most: float) -> set[str]:
    codes = set()
    for one in record.kernels:
        size = np.linalg.norm(one.before)
        ratio = np.linalg.norm(one.after - one.before) / size if size else None
        if ratio is not None and ratio > most:
            codes.add("update-too-large")
        if ratio is not None and ratio < least:
            codes.add("update-too-small")
    return codes


def _pairs(sizes: list[float]) -> Iterator[tuple[float, float]]:
    """Yield each layer's size with that of the layer after it, from the last on."""
    return zip(sizes[-2::-1], sizes[:0:-1], strict=True)


def _in_a_row(told: list[bool], count: int) -> bool:
    return any(all(told[i : i + count]) for i in range(len(told) - count + 1))


def _expected_variance(kernel: Kernel) -> float | None:
    """Return the variance that TheDeepChecker has for the activation."""
    fans = il.kernel_fans(kernel.before.shape)
    return {
        "relu": 2 / fans.fan_in,
        "tanh": 2 / (fans.fan_in + fans.fan_out),
        "sigmoid": 1 / fans.fan_in,
    }.get(kernel.activation)


# What they say of a few networks ----------------------------------------------------


def network(activation: str, depth: int, kernel: Any) -> Any:
    """Return a plain network of vectors of 64 and ten classes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(depth):
        model.add(layers.Dense(48, activation, kernel_initializer=kernel))
    model.add(layers.Dense(10, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def normal(stddev: float) -> dict[str, Any]:
    """Return an initializer as a config, so that layers do not share an instance."""
    return {"class_name": "RandomNormal", "config": {"stddev": stddev}}


NETWORKS: dict[str, tuple[str, int, Any]] = {
    "healthy: tanh, Glorot, six layers": ("tanh", 6, "glorot_uniform"),
    "saturated: tanh, N(0, 1)": ("tanh", 5, normal(1.0)),
    "exploding: ReLU, N(0, 0.25)": ("relu", 10, normal(0.5)),
    "vanishing: ReLU, Glorot, 30 layers": ("relu", 30, "glorot_uniform"),
}


def main(argv: list[str] | None = None) -> int:
    """Print what each says of the first step of four networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two networks")
    parser.add_argument("--out", type=Path, help="a folder for diagnosis_rivals.json")
    arguments = parser.parse_args(argv)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((64, 64)).astype("float32")
    y = generator.integers(0, 10, 64)
    names = list(NETWORKS)[: 2 if arguments.quick else None]
    results = {}
    for name in names:
        settings = NETWORKS[name]

        def build(settings: tuple[str, int, Any] = settings) -> Any:
            return network(*settings)

        record = Observer(build).step(build(), x, y, first=True)
        results[name] = {key: sorted(rule(record)) for key, rule in RIVALS.items()}
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1)
        (arguments.out / "diagnosis_rivals.json").write_text(text + "\n")
    columns: list[tuple[str, Any]] = [("network", "left")]
    columns += [(name, "left") for name in RIVALS]
    rows = [
        [name, *(", ".join(codes) or "–" for codes in told.values())]
        for name, told in results.items()
    ]
    print(render_table("Alarms before training", columns, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

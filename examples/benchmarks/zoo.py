"""All of keras.applications: predicted against measured signals, and three schemes.

Every model is built with weights=None on the smallest input that it allows, and fed
with N(0, 1): behind its preprocessing, which is left out where that can be, and a
rescaling of pixels (EfficientNet's 1/255) is made up for. Three questions:

- Prediction: for what share of the kernels is the second moment that `propagate`
  predicts within 25 % of the one that `measure` finds? The prediction is the mean
  over draws of the weights, one draw differs from it: the mean over draws is given too.
- Schemes: how far do kernels' outputs spread (deviation of log10 of the second
  moment over the kernels) under Keras's default, scheme="activation" and
  scheme="variance", and how near are the last to their targets?
- Time: prediction and plan, as a share of the time that building the model takes.

    python examples/benchmarks/zoo.py [--quick] [--models NAME …] [--draws N]
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_initlab as il
from keras_initlab.propagation import add, affine, output_moments
from keras_initlab.tables import render_table

QUICK = ("MobileNetV2",)
SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
BATCH = 32
# Layers that keras.applications defines for itself.
RULES = {
    "CustomScaleLayer": lambda layer, x, y, context: add([x, y], [1.0, layer.scale]),
    "LayerScale": lambda layer, x, context: affine(x, layer.init_values),
}


def models() -> list[str]:
    """Return the names of all models of keras.applications."""
    return sorted(
        name
        for name, value in vars(keras.applications).items()
        if callable(value) and name[0].isupper()
    )


def build(name: str, seed: int) -> Any:
    """Return the model, its weights drawn by Keras's defaults."""
    maker = getattr(keras.applications, name)
    size = SMALLEST.get(name, 32)
    options: dict[str, Any] = {"weights": None, "input_shape": (size, size, 3)}
    if "include_preprocessing" in inspect.signature(maker).parameters:
        options["include_preprocessing"] = False
    keras.utils.set_random_seed(seed)
    model = maker(**options, classes=10)
    for layer in model.layers:
        rule = RULES.get(type(layer).__name__)
        if rule is not None:
            output_moments.register(type(layer), rule)
    return model


def deviation_of_input(model: Any) -> float:
    """Return the deviation of inputs that is 1 behind a rescaling of pixels."""
    first = model.layers[1]
    return 1 / first.scale if isinstance(first, keras.layers.Rescaling) else 1.0


def batch(model: Any, seed: int) -> Any:
    """Return a batch that is N(0, 1) behind a rescaling of pixels."""
    shape = (BATCH, *model.input_shape[1:])
    values = np.random.default_rng(seed).standard_normal(shape)
    return (deviation_of_input(model) * values).astype("float32")


def measured(model: Any, seed: int, training: bool) -> dict[str, float]:
    """Return the second moment of every layer's output."""
    stats = il.measure(model, batch(model, seed), training=training, gradients=False)
    return {one.layer: one.second_moment for one in stats}


def predicted(model: Any, training: bool) -> dict[str, float]:
    """Return the predicted second moment of every layer's output."""
    variance = deviation_of_input(model) ** 2
    stats = il.propagate(model, variance=variance, training=training)
    return {one.layer: one.second_moment for one in stats}


MODES = {"training": True, "inference": False}


def run(name: str, draws: int) -> dict[str, Any]:
    """Return all figures of one model."""
    ratios: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    spread: dict[str, dict[str, float]] = {mode: {} for mode in MODES}
    times: dict[str, list[float]] = {"build": [], "plan": [], "share": []}
    expected: dict[str, dict[str, float]] = {}
    kernels: list[str] = []
    for seed in range(draws):
        keras.backend.clear_session()  # so that layers' names count from 1
        start = time.perf_counter()
        model = build(name, seed)
        times["build"].append(time.perf_counter() - start)
        start = time.perf_counter()
        plan = rewrite(model, dry_run=True)
        times["plan"].append(time.perf_counter() - start)
        kernels = [one.layer for one in plan]
        for mode, training in MODES.items():
            if mode not in expected:
                expected[mode] = predicted(model, training)
            seconds = measured(model, seed, training)
            ratios[mode].append([expected[mode][k] / seconds[k] for k in kernels])
            spread[mode]["default"] = deviation(seconds, kernels)
    il.rewrite_initializers(model, seed=0)
    for mode, training in MODES.items():
        seconds = measured(model, 0, training)
        spread[mode]["activation"] = deviation(seconds, kernels)
    plan = rewrite(model)
    for mode, training in MODES.items():
        seconds = measured(model, 0, training)
        spread[mode]["variance"] = deviation(seconds, kernels)
        spread[mode].update(on_target(plan, seconds, predicted(model, training)))
    share = np.array(times["plan"]) / np.array(times["build"])
    return {
        "model": name,
        "kernels": len(kernels),
        "build_s": float(np.median(times["build"])),
        "plan_s": float(np.median(times["plan"])),
        "share": float(np.median(share)),
        **{
            mode: {**nearness(kernels, np.array(ratios[mode])), **spread[mode]}
            for mode in MODES
        },
    }


def rewrite(model: Any, *, dry_run: bool = False) -> il.Plan:
    """Choose by scheme="variance" for that input."""
    variance = deviation_of_input(model) ** 2
    return il.rewrite_initializers(
        model, scheme="variance", seed=0, variance=variance, dry_run=dry_run
    )


def deviation(seconds: dict[str, float], kernels: list[str]) -> float:
    """Return the standard deviation of log10 E[x²] over the kernels' outputs."""
    values = [seconds[kernel] for kernel in kernels]
    return float(np.log10([value for value in values if value > 0]).std())


def nearness(kernels: list[str], ratios: Any) -> dict[str, Any]:
    """Return the shares of kernels predicted within 25 %, and which are not."""
    mean = 1 / (1 / ratios).mean(axis=0)
    near = np.abs(mean - 1) <= 0.25
    return {
        "one_draw": float((np.abs(ratios - 1) <= 0.25).mean()),
        "mean_of_draws": float(near.mean()),
        "missed": [
            f"{kernel} {ratio:.2f}"
            for kernel, ratio, ok in zip(kernels, mean, near, strict=True)
            if not ok
        ],
    }


def on_target(
    plan: il.Plan, seconds: dict[str, float], outputs: dict[str, float]
) -> dict[str, float]:
    """Return the shares of kernels whose output is near its target.

    What a layer's own activation makes of the output is taken out by the prediction.
    """
    ratios = np.array(
        [
            seconds[one.layer] / outputs[one.layer] * one.predicted_after / one.target
            for one in plan
            if one.target and outputs[one.layer]
        ]
    )
    return {
        "within_25": float((np.abs(ratios - 1) <= 0.25).mean()),
        "within_2": float(((ratios >= 0.5) & (ratios <= 2)).mean()),
    }


def row(found: dict[str, Any]) -> list[str]:
    """Return a model's figures for the table."""
    cells = [found["model"], str(found["kernels"])]
    for mode in MODES:
        one = found[mode]
        cells += [f"{one['one_draw']:.0%}", f"{one['mean_of_draws']:.0%}"]
    for mode in MODES:
        one = found[mode]
        spread = [f"{one[key]:.2f}" for key in ("default", "activation", "variance")]
        near = f"{one['within_25']:.0%} / {one['within_2']:.0%}"
        cells += [" / ".join(spread), near]
    return [*cells, f"{found['share']:.1%}"]


def main(argv: list[str] | None = None) -> int:
    """Run the models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small model")
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument("--draws", type=int, default=3, help="draws of the weights")
    parser.add_argument("--out", type=Path, help="a folder for zoo.json")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message="The structure of `inputs`")
    names = arguments.models or (QUICK if arguments.quick else models())
    rewrite(build("MobileNetV2", 0), dry_run=True)  # imports and tables are not timed
    results = []
    for name in names:
        try:
            found = run(name, 1 if arguments.quick else arguments.draws)
        except ValueError as error:
            if "is not available with" not in str(error):
                raise
            print(error, flush=True)  # Keras builds no NASNet on PyTorch
            continue
        results.append(found)
        print(" | ".join(row(results[-1])), flush=True)
        if arguments.out:
            arguments.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results, indent=1)
            (arguments.out / "zoo.json").write_text(text + "\n")
    columns = [
        ("model", "left"),
        ("kernels", "right"),
        *[
            (f"{mode}: {what}", "right")
            for mode in ("train", "infer")
            for what in ("1 draw", "mean")
        ],
        *[
            (f"{mode}: {what}", "right")
            for mode in ("train", "infer")
            for what in ("spread default / act. / var.", "within 25 % / ×2")
        ],
        ("plan / build", "right"),
    ]
    title = "Kernels predicted within 25 %, spread of log10 E x², targets met, time"
    print(render_table(title, columns, [row(found) for found in results]))
    for found in results:
        for mode in ("training", "inference"):
            if found[mode]["missed"]:
                missed = found[mode]["missed"]
                print(f"{found['model']}, {mode}, missed: {', '.join(missed[:12])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

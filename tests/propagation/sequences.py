"""Sequences of known moments, and what layers make of them with fresh weights."""

import keras
import numpy as np

from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.walk import Propagation
from tests.helpers import as_numpy
from tests.propagation.simulation import pair_moments, redraw

FIGURES = ("mean", "second", "other input", "other position", "both")


class Law:
    """A law of sequences: x = mean + what all share + what steps share + the rest.

    `inputs` is the part of the variance that all inputs share at a step, `steps` that
    which all steps of an input share.
    """

    def __init__(self, mean=0.0, variance=1.0, inputs=0.0, steps=0.0):
        self.mean, self.deviation = mean, np.sqrt(variance)
        self.inputs, self.steps = inputs, steps

    def signal(self, shape):
        made = Signal.independent((None, *shape), self.mean, self.deviation**2)
        made.pairs[0, 0, 1] += self.inputs * self.deviation**2
        made.pairs[0, 1, 0] += self.steps * self.deviation**2
        return made

    def draw(self, generator, batch, shape):
        parts = (
            (self.inputs, (1, *shape)),
            (self.steps, (batch, 1, *shape[1:])),
            (1 - self.inputs - self.steps, (batch, *shape)),
        )
        noise = sum(
            np.sqrt(part) * generator.standard_normal(size) for part, size in parts
        )
        return (self.mean + self.deviation * noise).astype("float32")


INDEPENDENT, SHIFTED = Law(), Law(mean=1.0)
STEADY, COMMON = Law(steps=0.7), Law(inputs=0.5)


def predicted(model, signals, training=False):
    """Return the signals at the model's outputs."""
    return Propagation(model, training).run(list(signals))


def simulated(model, laws, outputs, *, draws=12, batch=16, run=None, seed=0):
    """Return each output's figures, an array of (draws, outputs, figures).

    `run` calls the model on arrays; `predict_on_batch`, which compiles once, if not
    given. `outputs` are the signals that were predicted, which know what are units.
    """
    generator = np.random.default_rng(seed)
    run = run or model.predict_on_batch
    rows = []
    for _ in range(draws):
        redraw(model, generator)
        arrays = [
            law.draw(generator, batch, tuple(one.shape[1:]))
            for law, one in zip(laws, model.inputs, strict=True)
        ]
        made = keras.tree.flatten(run(arrays if len(arrays) > 1 else arrays[0]))
        row = []
        for one, signal in zip(made, outputs, strict=True):
            values = as_numpy(one)
            pairs = pair_moments(values, signal.units)
            row.append([values.mean(), *pairs[0, 0], *pairs[0, 1]])
        rows.append(row)
    return np.array(rows)


def check(signals, rows, allowance, what=""):
    """Assert that predictions are within 5 standard errors and a share of E[x²].

    The standard error is that of the mean over draws, by their spread.
    """
    mean = rows.mean(axis=0)
    error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    for number, signal in enumerate(signals):
        found = [signal.mean, *signal.pairs[0, 0], *signal.pairs[0, 1]]
        scale = np.array([np.sqrt(signal.second), *[signal.second] * 4])
        for name, one, measured, sigma, size in zip(
            FIGURES, found, mean[number], error[number], scale, strict=True
        ):
            if np.isnan(measured):
                continue  # no two positions
            assert abs(one - measured) < 5 * sigma + allowance * size, (
                f"{what} output {number}, {name}: {one} predicted, {measured} measured "
                f"± {sigma}"
            )

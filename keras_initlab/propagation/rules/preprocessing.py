"""Preprocessing layers inside a model: tokens and augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.shape import take
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.signal import Shape, Signal

# Layers that change images randomly in training, and pass them on in inference. Their
# effect in training is measured, except for those that only move pixels.
_BY_CHANCE = (
    "AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
    "RandomColorJitter RandomContrast RandomElasticTransform RandomErasing "
    "RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
    "RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
    "RandomTranslation RandomZoom"
).split()


@layer_rule(*_BY_CHANCE)
def augmented(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Signal:
    """Return the images themselves in inference; in training they are measured."""
    if context.training:
        raise UnknownLayer(type(layer).__name__)
    return x


@layer_rule("RandomFlip")
def flipped(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return images of the same moments, flipped at random."""
    if not context.training:
        return x
    profile = {axis: (v + v[::-1]) / 2 for axis, v in x.profile.items()}
    return x.evolve(profile=profile, parents=((x, lambda gradient: gradient),))


def _sides(layer: Layer, x: Signal) -> tuple[int, int]:
    if len(x.shape) != 4:
        raise UnknownLayer("an image without a batch")
    return (2, 3) if layer.data_format == "channels_first" else (1, 2)


@layer_rule("CenterCrop", "RandomCrop")
def cropped(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return a part of each image; one that is too small is resized, and measured."""
    sides = _sides(layer, x)
    for axis, size in zip(sides, (layer.height, layer.width), strict=True):
        length = x.shape[axis]
        if length is None or length < size:
            raise UnknownLayer("images smaller than their crop")
        start = (length - size) // 2
        x = take(x, axis, start, start + size) if length > size else x
    return x


# Layers that turn inputs into tokens, also strings and ragged rows.
@layer_rule(
    "CategoryEncoding",
    "HashedCrossing",
    "Hashing",
    "IntegerLookup",
    "StringLookup",
    "TextVectorization",
)
def tokens(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return tokens, or their encoding; all are assumed to be equally likely."""
    if len(xs) > 1 and type(layer).__name__ != "HashedCrossing":
        raise UnknownLayer("tokens with weights")
    x, mode = xs[0], getattr(layer, "output_mode", "int")
    number = _vocabulary(layer)
    shape = tuple(layer.compute_output_shape(_input_shape(layer, xs)))
    if mode == "int":
        return _numbers(shape, number)
    row = x.shape[-1] if len(x.shape) > 1 else 1
    if mode == "one_hot" or row == 1:
        return _one_hot(shape, number)
    if mode not in ("multi_hot", "count") or row is None:
        raise UnknownLayer(f"tokens encoded as {mode!r}")
    return _encoded(shape, number, int(row), counted=mode == "count")


def _vocabulary(layer: Layer) -> int:
    for name in ("num_tokens", "num_bins"):
        if getattr(layer, name, None) is not None:
            return int(getattr(layer, name))
    return int(layer.vocabulary_size())


def _input_shape(layer: Layer, xs: tuple[Signal, ...]) -> Any:
    if type(layer).__name__ == "HashedCrossing":
        return [signal.shape for signal in xs]
    return xs[0].shape


def _numbers(shape: Shape, number: int) -> Signal:
    """Return whole numbers from 0 up to `number`."""
    return Signal.independent(shape, (number - 1) / 2, (number**2 - 1) / 12)


def _one_hot(shape: Shape, number: int) -> Signal:
    """Return a single 1 among zeros for each token."""
    signal = Signal.independent(shape, 1 / number, (1 - 1 / number) / number)
    signal.pairs[1, 0, 0] = 0.0
    return signal


@operation_rule("OneHot")
def one_hot(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return a single 1 among zeros for each token."""
    if operation.axis not in (-1, len(x.shape)):
        raise UnknownLayer("classes along another axis than the last")
    return _one_hot((*x.shape, operation.num_classes), operation.num_classes)


def _encoded(shape: Shape, number: int, row: int, *, counted: bool) -> Signal:
    """Return how often each token occurs in a row, or whether it does."""
    chance = 1 / number
    if counted:
        mean = row * chance
        second = row * chance * (1 - chance) + mean**2
        both = row * (row - 1) * chance**2
    else:
        none = (1 - chance) ** row
        mean = second = 1 - none
        both = 1 - 2 * none + max(1 - 2 * chance, 0.0) ** row
    pairs = np.full((2, 2, 2), mean**2)
    pairs[0, 0, 0], pairs[1, 0, 0] = second, both
    return Signal(shape, (len(shape) - 1,), mean, pairs)

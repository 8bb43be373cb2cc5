"""Every layer of Keras has a rule, is measured, or cannot stand in a network."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.propagation import UnknownLayer, propagate
from keras_initlab.propagation.dispatch import rule_of
from tests.propagation.simulation import predicted, simulated

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

# Measured on a sample, and why.
MEASURED = {
    "AutoContrast": "stretches each image between its own extremes",
    "ContrastLimitedAdaptiveHistogramEqualization": "ranks the values of tiles",
    "Discretization": "its bins are learned from data, and are any",
    "FlaxLayer": "holds a module of another library",
    "JaxLayer": "holds any function",
    "MelSpectrogram": "the logarithm of sums of squared waves",
    "STFTSpectrogram": "the size of a complex sum of waves",
    "Solarization": "folds the values of an image at a threshold",
    "TorchModuleWrapper": "holds a module of another library",
}

# No layer that one tensor of numbers runs through, and why.
APART = {
    "Equalization": "Keras cannot trace it: it returns its input's own symbol",
    "GRUCell": "runs inside RNN, with its states",
    "InputLayer": "is an input",
    "LSTMCell": "runs inside RNN, with its states",
    "Layer": "the base class, which does nothing",
    "MaxNumBoundingBoxes": "takes boxes",
    "Pipeline": "opened: the layers in it are what counts",
    "SimpleRNNCell": "runs inside RNN, with its states",
    "StackedRNNCells": "runs inside RNN, with its states",
    "TFSMLayer": "a saved program",
    "Wrapper": "the base class, which does nothing",
}


def exported():
    return {
        name: kind
        for name, kind in vars(keras.layers).items()
        if inspect.isclass(kind) and issubclass(kind, layers.Layer)
    }


def has_rule(kind):
    try:
        rule_of(object.__new__(kind))
    except UnknownLayer:
        return False
    return True


@pytest.mark.parametrize("name", sorted(exported()))
def test_every_layer_is_accounted_for(name):
    places = [has_rule(exported()[name]), name in MEASURED, name in APART]
    assert sum(places) == 1, (
        f"{name} must have a rule in propagation/rules, or stand in MEASURED or APART"
    )


def test_no_list_names_a_layer_that_is_gone():
    # Some came after the oldest Keras that is supported.
    assert exported().keys() >= (MEASURED.keys() | APART.keys()) - {
        "ContrastLimitedAdaptiveHistogramEqualization"
    }


def he(kind, *args, **kwargs):
    return lambda: kind(*args, kernel_initializer="he_normal", **kwargs)


IMAGE, ROW = (8, 8, 16), (8, 24)
BACKEND = keras.backend.backend()

# (layer, shape): one layer on N(0, 1). `measured` says that a sample must be.
CASES = {
    "Activation": (lambda: layers.Activation("gelu"), ROW),
    "Add": (lambda: layers.Rescaling(2.0), ROW),
    "AveragePooling1D": (lambda: layers.AveragePooling1D(2), ROW),
    "AveragePooling2D": (lambda: layers.AveragePooling2D(2), IMAGE),
    "BatchNormalization": (layers.BatchNormalization, ROW),
    "CenterCrop": (lambda: layers.CenterCrop(4, 6), IMAGE),
    "Conv1D": (he(layers.Conv1D, 24, 3, padding="same"), ROW),
    "Conv2D": (he(layers.Conv2D, 24, 3, strides=2), IMAGE),
    "Conv2DTranspose": (he(layers.Conv2DTranspose, 24, 3), IMAGE),
    "Cropping2D": (lambda: layers.Cropping2D(1), IMAGE),
    "Dense": (he(layers.Dense, 64, "relu"), (64,)),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depthwise_initializer="he_normal"),
        IMAGE,
    ),
    "EinsumDense": (he(layers.EinsumDense, "btc,cd->btd", (8, 64)), (8, 64)),
    "ELU": (layers.ELU, ROW),
    "Flatten": (layers.Flatten, ROW),
    "GaussianNoise": (lambda: layers.GaussianNoise(1.0), ROW),
    "GlobalAveragePooling1D": (layers.GlobalAveragePooling1D, ROW),
    "GlobalMaxPooling2D": (layers.GlobalMaxPooling2D, IMAGE),
    "GroupNormalization": (lambda: layers.GroupNormalization(2), IMAGE),
    "LayerNormalization": (layers.LayerNormalization, (8, 64)),
    "LeakyReLU": (layers.LeakyReLU, ROW),
    "MaxPooling2D": (lambda: layers.MaxPooling2D(2), IMAGE),
    "Permute": (lambda: layers.Permute((2, 1)), ROW),
    "RandomBrightness": (lambda: layers.RandomBrightness(0.5), IMAGE),
    "RandomCrop": (lambda: layers.RandomCrop(4, 4), IMAGE),
    "RandomFlip": (layers.RandomFlip, IMAGE),
    "RandomRotation": (lambda: layers.RandomRotation(0.2), IMAGE),
    "RandomZoom": (lambda: layers.RandomZoom(0.2), IMAGE),
    "ReLU": (layers.ReLU, ROW),
    "RepeatVector": (lambda: layers.RepeatVector(3), (24,)),
    "Reshape": (lambda: layers.Reshape((4, 48)), ROW),
    "Resizing": (lambda: layers.Resizing(5, 12), IMAGE),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(
            24,
            3,
            depthwise_initializer="he_normal",
            pointwise_initializer="he_normal",
        ),
        IMAGE,
    ),
    "Softmax": (layers.Softmax, ROW),
    "UpSampling2D": (lambda: layers.UpSampling2D(2), IMAGE),
    "ZeroPadding2D": (lambda: layers.ZeroPadding2D(1), IMAGE),
    # measured
    "AutoContrast": (lambda: layers.AutoContrast(value_range=(-4, 4)), (8, 8, 3)),
    "ContrastLimitedAdaptiveHistogramEqualization": (
        lambda: layers.ContrastLimitedAdaptiveHistogramEqualization(
            value_range=(-4, 4), tile_grid_size=(2, 2)
        ),
        (8, 8, 3),
    ),
    "Discretization": (lambda: layers.Discretization([-1.0, 0.0, 1.0]), (6,)),
    "FlaxLayer": (None, (6,)),
    "JaxLayer": (lambda: layers.JaxLayer(lambda inputs: inputs**2), (6,)),
    "MelSpectrogram": (
        lambda: layers.MelSpectrogram(
            fft_length=64, sequence_stride=32, num_mel_bins=8, max_freq=8000
        ),
        (256,),
    ),
    "STFTSpectrogram": (
        lambda: layers.STFTSpectrogram(
            frame_length=32, frame_step=16, fft_length=32, mode="magnitude"
        ),
        (256, 1),
    ),
    "Solarization": (
        lambda: layers.Solarization(0.0, 0.5, value_range=(-4, 4)),
        (8, 8, 3),
    ),
    "TorchModuleWrapper": (
        lambda: layers.TorchModuleWrapper(
            __import__("torch").nn.Tanh(), output_shape=(None, 6)
        ),
        (6,),
    ),
}
ONLY = {"FlaxLayer": "jax", "JaxLayer": "jax", "TorchModuleWrapper": "torch"}


def alone(name):
    """Return a model of the one layer, or skip where it cannot be made."""
    make, shape = CASES[name]
    if name not in exported() or ONLY.get(name, BACKEND) != BACKEND:
        pytest.skip(f"no {name} here")
    if name == "FlaxLayer":
        linen = pytest.importorskip("flax.linen")
        layer = layers.FlaxLayer(linen.activation.PReLU())
    else:
        layer = make()
    return keras.Sequential([keras.Input(shape), layer])


def test_all_that_is_measured_is_tried():
    assert MEASURED.keys() <= CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_one_layer_on_noise(name):
    model = alone(name)
    (stat,) = propagate(model, training=False)
    assert stat.source == ("measured" if name in MEASURED else "predicted")
    signal = predicted(model, training=False)
    assert np.isfinite(signal.pairs).all()
    assert np.isfinite(stat.gradient_second_moment)
    rows = simulated(model, signal.units, training=False, draws=16, batch=64)
    rows = rows[:, [0, 1, 2]]
    expected = [signal.mean, signal.pairs[0, 0, 0], signal.pairs[0, 0, 1]]
    error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    # What is measured has a sample's error of its own; what is normalised or smoothed
    # is exact for wide layers and for far neighbours.
    slack = (0.03 if name in MEASURED else 0.01) * signal.second
    assert (np.abs(rows.mean(axis=0) - expected) < 5 * error + slack).all(), (
        rows.mean(axis=0),
        expected,
        error,
    )


TOKENS = {
    "CategoryEncoding/one_hot": lambda: layers.CategoryEncoding(12, "one_hot"),
    "CategoryEncoding/multi_hot": lambda: layers.CategoryEncoding(12, "multi_hot"),
    "CategoryEncoding/count": lambda: layers.CategoryEncoding(12, "count"),
    "Hashing": lambda: layers.Hashing(4),
    "one_hot": lambda: lambda x: keras.ops.one_hot(x, 12),
    "IntegerLookup": lambda: layers.IntegerLookup(
        vocabulary=list(range(12)), num_oov_indices=0
    ),
    "IntegerLookup/count": lambda: layers.IntegerLookup(
        vocabulary=list(range(12)), num_oov_indices=0, output_mode="count"
    ),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens(name):
    try:
        layer = TOKENS[name]()
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, layer(inputs))
    except Exception as error:  # what a backend cannot do is not ours to test
        pytest.skip(f"{type(error).__name__}: {error}")
    signal = predicted(model)
    most = 10_000 if name == "Hashing" else 12
    data = np.random.default_rng(0).integers(0, most, (4096, 5))
    values = keras.ops.convert_to_numpy(model(data)).astype(float)
    assert values.shape[1:] == signal.shape[1:]
    flat = values.reshape(len(values), -1)
    rows = np.stack([flat.mean(axis=1), (flat**2).mean(axis=1)], axis=-1)
    error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    expected = np.array([signal.mean, signal.second])
    assert (np.abs(rows.mean(axis=0) - expected) <= 5 * error + 1e-9).all()


AUGMENTED = {
    "RandomFlip": lambda: layers.RandomFlip(),
    "RandomCrop": lambda: layers.RandomCrop(4, 4),
    "RandomTranslation": lambda: layers.RandomTranslation(0.2, 0.2),
    "RandomContrast": lambda: layers.RandomContrast(0.2, value_range=(-4, 4)),
    "RandomBrightness": lambda: layers.RandomBrightness(0.2, value_range=(-4, 4)),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5),
}


@pytest.mark.parametrize("name", AUGMENTED)
def test_augmentation_in_training(name):
    model = keras.Sequential([keras.Input((8, 8, 3)), AUGMENTED[name]()])
    (stat,) = propagate(model, training=True)
    kept = ("RandomFlip", "RandomCrop", "GaussianNoise")
    assert stat.source == ("predicted" if name in kept else "measured")
    rows = simulated(model, (3,), training=True, draws=16, batch=64)[:, 1]
    error = rows.std(ddof=1) / np.sqrt(len(rows))
    assert abs(rows.mean() - stat.second_moment) < 5 * error + 0.1 * stat.second_moment


@pytest.mark.tensorflow
def test_text_is_tokens():
    text = layers.TextVectorization(
        max_tokens=50, output_sequence_length=7, vocabulary=list("abcdefgh")
    )
    inputs = keras.Input((1,), dtype="string")
    hidden = layers.Embedding(50, 16, name="rows")(text(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D(name="mean")(hidden))
    stats = {stat.layer: stat for stat in propagate(model)}
    assert stats["rows"].shape == (None, 7, 16)
    assert stats["mean"].second_moment == pytest.approx(
        stats["rows"].second_moment / 7, rel=0.2
    )

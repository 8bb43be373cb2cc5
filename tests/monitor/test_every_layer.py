"""Every layer of Keras that has weights, monitored with gradients."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor

from .models import BACKEND, fit

# By the kind of its input: layers as branches of one model, so that one step is
# compiled for all of them.
IMAGES, ROWS, FILMS, VOLUMES, TOKENS = (8, 8, 4), (6, 8), (3, 6, 6, 2), (4, 4, 4, 2), 5
BRANCHES = {
    IMAGES: {
        "Conv2D": lambda: layers.Conv2D(3, 3),
        "Conv2DTranspose": lambda: layers.Conv2DTranspose(3, 3, strides=2),
        "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3),
        "SeparableConv2D": lambda: layers.SeparableConv2D(3, 3),
        "BatchNormalization": layers.BatchNormalization,
        "GroupNormalization": lambda: layers.GroupNormalization(2),
        "SpectralNormalization": lambda: layers.SpectralNormalization(
            layers.Conv2D(3, 3)
        ),
    },
    ROWS: {
        "Dense": lambda: layers.Dense(3),
        "EinsumDense": lambda: layers.EinsumDense("bti,io->bto", (6, 3)),
        "Conv1D": lambda: layers.Conv1D(3, 3),
        "Conv1DTranspose": lambda: layers.Conv1DTranspose(3, 3),
        "DepthwiseConv1D": lambda: layers.DepthwiseConv1D(3),
        "SeparableConv1D": lambda: layers.SeparableConv1D(3, 3),
        "LSTM": lambda: layers.LSTM(3),
        "GRU": lambda: layers.GRU(3, return_sequences=True),
        "SimpleRNN": lambda: layers.SimpleRNN(3),
        "RNN": lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        "Bidirectional": lambda: layers.Bidirectional(layers.GRU(3)),
        "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(3)),
        "LayerNormalization": layers.LayerNormalization,
        "RMSNormalization": layers.RMSNormalization,
        "PReLU": lambda: layers.PReLU(keras.initializers.Constant(0.25)),
        "Attention": lambda: Twice(layers.Attention(use_scale=True)),
        "AdditiveAttention": lambda: Twice(layers.AdditiveAttention()),
        "MultiHeadAttention": lambda: Twice(layers.MultiHeadAttention(2, 3)),
        "GroupQueryAttention": lambda: Twice(layers.GroupQueryAttention(3, 4, 2)),
    },
    FILMS: {
        "ConvLSTM2D": lambda: layers.ConvLSTM2D(2, 3),
    },
    (3, 6, 2): {"ConvLSTM1D": lambda: layers.ConvLSTM1D(2, 3)},
    VOLUMES: {
        "Conv3D": lambda: layers.Conv3D(2, 3),
        "Conv3DTranspose": lambda: layers.Conv3DTranspose(2, 3),
    },
    (2, 4, 4, 4, 2): {"ConvLSTM3D": lambda: layers.ConvLSTM3D(2, 3, padding="same")},
    (TOKENS,): {
        "Embedding": lambda: layers.Embedding(50, 8),
        "ReversibleEmbedding": lambda: layers.ReversibleEmbedding(50, 8),
    },
}

# They hold weights, and no branch of their own, and why.
APART = {
    "BaseConv": "a base class",
    "GRUCell": "inside GRU",
    "LSTMCell": "inside LSTM",
    "SimpleRNNCell": "inside SimpleRNN",
    "StackedRNNCells": "inside RNN",
    "FlaxLayer": "holds a module of another library",
    "JaxLayer": "holds any function",
    "Normalization": "its weights are learned from data beforehand",
    "STFTSpectrogram": "its weights are waves, not trained",
    "TFSMLayer": "a saved program",
}


class Twice(layers.Wrapper):
    """Attends from the input to itself."""

    def call(self, x):
        if isinstance(self.layer, (layers.Attention, layers.AdditiveAttention)):
            return self.layer([x, x])
        return self.layer(x, x)

    def build(self, input_shape):
        if isinstance(self.layer, (layers.Attention, layers.AdditiveAttention)):
            self.layer.build([input_shape, input_shape])
        else:
            self.layer.build(input_shape, input_shape)
        self.built = True


def branches():
    known = vars(layers)
    return {
        shape: {name: make for name, make in kinds.items() if name in known}
        for shape, kinds in BRANCHES.items()
    }


def test_every_layer_that_adds_weights_has_a_branch():
    """Also those that a later Keras brings."""
    adds = {
        kind.__name__  # of some layers there are two names
        for kind in vars(layers).values()
        if inspect.isclass(kind)
        and issubclass(kind, layers.Layer)
        and any(
            re.search(r"self\.add_weight\(", inspect.getsource(base))
            for base in kind.__mro__
            if issubclass(base, layers.Layer) and base is not layers.Layer
        )
    }
    here = {name for kinds in branches().values() for name in kinds}
    assert adds - here - set(APART) == set()


@pytest.mark.parametrize("shape", BRANCHES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_layer_with_weights_is_monitored(shape):
    kinds = branches()[shape]
    tokens = shape == (TOKENS,)
    inputs = keras.Input(shape, dtype="int32" if tokens else "float32")
    heads = []
    for name, make in kinds.items():
        layer = make()
        layer.name = name
        heads.append(layers.Dense(1)(layers.Flatten()(layer(inputs))))
    outputs = layers.Add()(heads) if len(heads) > 1 else heads[0]
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.01),
        "mse",
        jit_compile=False if BACKEND == "torch" else "auto",
    )
    rng = np.random.default_rng(0)
    count = 16
    x = (
        rng.integers(0, 50, (count, TOKENS))
        if tokens
        else rng.normal(size=(count, *shape)).astype("float32")
    )
    monitor = VarianceMonitor(1, gradients=True, on_finding="ignore")
    fit(model, x, rng.normal(size=(count, 1)).astype("float32"), [monitor])
    for name in kinds:
        # A layer by its own name, or those inside it.
        mine = [s for s in monitor.stats if s.layer.split("/")[0] == name]
        assert mine, name
        assert all(s.variance > 0 for s in mine), name
        assert any(s.gradient_second_moment for s in mine), name
        assert any(s.weight_gradient_second_moment for s in mine), name
        assert any(s.update_ratio for s in mine), name

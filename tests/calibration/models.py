"""Small models of every kind, and what their kernels make, found by hand."""

import keras
import numpy as np
from keras import layers


def uniform(*shape, seed=0):
    """Return pixels: in [0, 1], not standardised."""
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, 50, shape)


def convolutions():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, name="conv", activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, activation="relu", name="depthwise"),
            layers.SeparableConv2D(8, 3, strides=2, activation="relu"),
            layers.Conv2DTranspose(8, 3, strides=2, name="transpose"),
            layers.Reshape((7, 56)),
            layers.Conv1D(16, 3, padding="causal", activation="gelu"),
            layers.SeparableConv1D(8, 2, padding="same", activation="gelu"),
            layers.GlobalAveragePooling1D(),
            layers.Dropout(0.2, seed=0),
            *[layers.Dense(64, activation="relu") for _ in range(3)],
            layers.Dense(10, activation="softmax"),
        ]
    )


def residual():
    inputs = keras.Input((32,))
    x = layers.Dense(32)(inputs)
    for number in range(4):
        y = layers.LayerNormalization()(x)
        y = layers.Dense(64, activation="relu")(y)
        x = x + layers.Dense(32, name=f"end_{number}")(y)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def transformer():
    inputs = keras.Input((10,), dtype="int32")
    x = layers.Embedding(50, 24)(inputs)
    x = layers.MultiHeadAttention(3, 8, name="attention")(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.EinsumDense("btd,dhk->bthk", (10, 3, 8), name="einsum")(x)
    x = layers.Reshape((10, 24))(x)
    return keras.Model(inputs, layers.Dense(50)(x))


def recurrent():
    inputs = keras.Input((7, 6))
    x = layers.LSTM(8, return_sequences=True)(inputs)
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(8, activation="relu"))(x)
    cells = [layers.LSTMCell(8), layers.SimpleRNNCell(8)]
    x = layers.RNN(cells, return_sequences=True)(x)
    return keras.Model(inputs, layers.SimpleRNN(4)(x))


def siamese():
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    shared = layers.Dense(16, activation="tanh", name="shared")
    joined = layers.concatenate([shared(first), shared(5 * second)])
    return keras.Model(
        {"first": first, "second": second}, layers.Dense(1, name="head")(joined)
    )


def repeated():
    inputs = keras.Input((16,))
    shared = layers.Dense(16, name="shared")
    x = inputs
    for _ in range(5):
        x = layers.ReLU()(shared(x))
    return keras.Model(inputs, layers.Dense(2)(x))


@keras.saving.register_keras_serializable("tests")
class LateFirst(keras.Model):
    """Calls its layers in another order than it holds them, and one never."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(3)
        self.hidden = layers.Dense(32, activation="relu")
        self.first = keras.Sequential([layers.Dense(32), layers.ReLU()])
        self.unused = layers.Dense(4)

    def build(self, input_shape):
        self.unused.build((None, 7))
        super().build(input_shape)

    def call(self, inputs):
        return self.head(self.hidden(self.first(inputs)))


@keras.saving.register_keras_serializable("tests")
class Gated(layers.Layer):
    """Two kernels of its own, one of them a gate."""

    def build(self, input_shape):
        width = input_shape[-1]
        self.w = self.add_weight(shape=(width, 16), name="w")
        self.gate = self.add_weight(shape=(width, 16), name="gate")
        self.b = self.add_weight(shape=(16,), initializer="zeros", name="b")

    def call(self, inputs):
        gate = keras.ops.sigmoid(keras.ops.matmul(inputs, self.gate))
        return keras.ops.tanh(keras.ops.matmul(inputs, self.w) + self.b) * gate


@keras.saving.register_keras_serializable("tests")
class Unseen(layers.Layer):
    """Reads a value in Python: its product does not show on symbols."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 16), name="kernel")

    def call(self, inputs):
        scale = 1.0 if float(keras.ops.sum(inputs)) > 0 else 2.0
        return keras.ops.tanh(keras.ops.matmul(inputs, self.kernel)) * scale

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[0], 16), self.compute_dtype)


def own_layers():
    return keras.Sequential([keras.Input((20,)), Gated(), layers.Dense(4)])


MODELS = {
    "convolutions": (convolutions, uniform(64, 12, 12, 3)),
    "residual": (residual, uniform(256, 32)),
    "transformer": (transformer, tokens(64, 10)),
    "recurrent": (recurrent, uniform(64, 7, 6)),
    "siamese": (
        siamese,
        {"first": uniform(64, 8), "second": uniform(64, 8, seed=1)},
    ),
    "repeated": (repeated, uniform(64, 16)),
    "subclassed": (LateFirst, uniform(64, 20)),
    "own": (own_layers, uniform(64, 20)),
}


class Inputs:
    """Keeps what every layer of a model is called on."""

    def __init__(self, model, x):
        self.calls = {}
        layers_in = model._flatten_layers(include_self=False)
        patched = [layer for layer in layers_in if not isinstance(layer, keras.Model)]
        for layer in patched:
            vars(layer)["call"] = self._keeping(layer, layer.call)
        for layer in patched:
            if isinstance(layer, layers.RNN):
                vars(layer)["unroll"] = True
        try:
            with keras.StatelessScope():
                model(x, training=True)
        finally:
            for layer in patched:
                vars(layer).pop("call")
                if isinstance(layer, layers.RNN):
                    vars(layer)["unroll"] = False

    def _keeping(self, layer, call):
        def kept(inputs, *args, **kwargs):
            self.calls.setdefault(id(layer), []).append(inputs)
            return call(inputs, *args, **kwargs)

        return kept


def second_moments(model, x):
    """Return E y² of y = product + bias by the layers' paths, without calibrate's code.

    A clone of each layer, without its activation, is given the same inputs and weights.
    """
    from keras_initlab.model.kernels import kernels_of

    found = {}
    inputs = Inputs(model, x).calls
    for kernel in kernels_of(model):
        layer = kernel.layer
        calls = inputs.get(id(layer), [])
        if not calls:
            continue
        if hasattr(layer, "recurrent_kernel"):
            made = [np.asarray(keras.ops.convert_to_numpy(one)) for one in calls]
            w = keras.ops.convert_to_numpy(layer.kernel)
            gates = np.mean(
                [
                    np.square(np.split(x @ w, w.shape[-1] // layer.units, -1)).mean(
                        (1, 2)
                    )
                    for x in made
                ],
                axis=0,
            )
            for gate, value in enumerate(gates):
                found[kernel.path, gate if len(gates) > 1 else None] = value
            continue
        if not isinstance(layer, layers.Dense | layers.EinsumDense) and not hasattr(
            layer, "kernel_size"
        ):
            continue
        config = {**layer.get_config(), "activation": None, "name": "twin"}
        twin = type(layer).from_config(config)
        twin.build(calls[0].shape)
        for own, weight in zip(twin.weights, layer.weights, strict=True):
            own.assign(weight)
        values = [
            np.square(keras.ops.convert_to_numpy(twin(one)), dtype="float64").mean()
            for one in calls
        ]
        found[kernel.path, None] = float(np.mean(values))
    return found

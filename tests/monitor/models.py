"""Models and data for the monitor's tests: tiny, and still all kinds."""

import keras
import numpy as np
from keras import layers

BACKEND = keras.backend.backend()


def data(count=70, shape=(6,), outputs=2):
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 2.0, (count, *shape)).astype("float32")
    return x, rng.normal(size=(count, outputs)).astype("float32")


def mlp():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(2, name="out"),
        ]
    )


def busy():
    """With what draws random numbers and keeps state of its own."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="gelu"),
            layers.Dropout(0.2),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.1),
            layers.Dense(2),
        ]
    )


def nested_and_shared():
    inner = keras.Input((6,))
    encoder = keras.Model(inner, layers.Dense(6, name="dense")(inner), name="encoder")
    shared = layers.Dense(6, name="shared")
    x = keras.Input((6,))
    h = shared(shared(x))
    h = layers.Add(name="add")([encoder(h), encoder(x)])
    return keras.Model(x, layers.Dense(2, name="out")(h), name="whole")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [layers.Dense(5, name=f"block_{i}") for i in range(2)]
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        for block in self.blocks:
            x = keras.ops.tanh(block(x))
        return self.head(x)


class BuildsItsLayers(keras.Model):
    """Its layers, and those of a layer of it, are not there before it is built."""

    def build(self, input_shape):
        self.block = Block(name="block")
        self.block.build(input_shape)
        self.head = layers.Dense(2, name="head")
        self.head.build((None, 5))
        self.built = True

    def call(self, x):
        return self.head(self.block(x))


class Block(layers.Layer):
    def build(self, input_shape):
        self.dense = layers.Dense(5, name="dense")
        self.dense.build(input_shape)
        self.built = True

    def call(self, x):
        return keras.ops.relu(self.dense(x))


def sequence_model():
    x = keras.Input((4, 6))
    h = layers.Bidirectional(layers.GRU(3), name="both")(x)
    attended = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    timed = layers.TimeDistributed(layers.Dense(3), name="timed")(attended)
    sequence, *_ = layers.LSTM(3, return_state=True, name="lstm")(timed)
    h = layers.Concatenate(name="joined")([h, sequence])
    return keras.Model(x, layers.Dense(2, name="out")(h))


def two_ways():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    h = layers.Concatenate(name="joined")([a, b])
    outputs = [layers.Dense(1, name="left")(h), layers.Dense(1, name="right")(h)]
    return keras.Model([a, b], outputs)


def frozen(model, **settings):
    """Compile so that training moves no weight."""
    settings.setdefault("jit_compile", False if BACKEND == "torch" else "auto")
    model.compile(keras.optimizers.SGD(0.0), "mse", **settings)
    return model


def fit(model, x, y, callbacks=(), epochs=1, **settings):
    return model.fit(
        x,
        y,
        batch_size=16,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
        **settings,
    )


def outputs_by_numpy(model, named, x, batches):
    """Return each named output, on the given batches of 16, as one array."""
    taps = keras.Model(model.inputs[0], list(named.values()))
    found = {key: [] for key in named}
    for i in batches:
        results = taps(x[16 * i : 16 * (i + 1)], training=True)
        for key, value in zip(named, results, strict=True):
            value = keras.ops.convert_to_numpy(keras.ops.cast(value, "float32"))
            found[key].append(value.astype("float64").ravel())
    return {key: np.concatenate(values) for key, values in found.items()}

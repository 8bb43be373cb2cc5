"""Layers as people write them: their weights under any name, read in any way."""

import math

import keras
import numpy as np
from keras import layers, ops

NORMAL = "random_normal"


class Linear(layers.Layer):
    """As in Keras's guide to layers of one's own."""

    def __init__(self, units=32, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units), initializer=NORMAL)
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, x):
        return x @ self.w + self.b

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class MLPBlock(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.first, self.second = Linear(units), Linear(units)
        self.third = Linear(units)

    def call(self, x):
        x = ops.relu(self.first(x))
        return self.third(ops.relu(self.second(x)))


class Transposed(Linear):
    """Keeps its kernel as (outputs, inputs)."""

    def build(self, shape):
        self.w = self.add_weight(shape=(self.units, shape[-1]), initializer=NORMAL)
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.w)) + self.b


class Equalised(Linear):
    """Multiplies its kernel by a constant, as for an equalised learning rate."""

    def call(self, x):
        return ops.matmul(x, self.w * 0.125) + self.b


class InBackend(Linear):
    """Written with functions of the backend, which take no symbols."""

    def call(self, x):
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            return tf.matmul(x, self.w.value) + self.b.value
        if backend == "torch":
            import torch

            return torch.matmul(x, self.w.value) + self.b.value
        import jax.numpy as jnp

        return jnp.matmul(x, self.w.value) + self.b.value


class NoisyLinear(Linear):
    """Noise in the weights, of a deviation that is trained (Fortunato et al. 2018)."""

    def build(self, shape):
        super().build(shape)
        start = keras.initializers.Constant(0.017)
        self.sigma = self.add_weight(shape=self.w.shape, initializer=start)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        noise = keras.random.normal(self.sigma.shape, seed=self.seeds)
        return ops.matmul(x, self.w + self.sigma * noise) + self.b


class SelfAttention(layers.Layer):
    def __init__(self, heads, **options):
        super().__init__(**options)
        self.heads = heads

    def build(self, shape):
        size = shape[-1]
        inner = (size, self.heads, size // self.heads)
        self.wq, self.wk, self.wv = (
            self.add_weight(name=name, shape=inner, initializer=NORMAL)
            for name in ("wq", "wk", "wv")
        )
        outer = (self.heads, size // self.heads, size)
        self.wo = self.add_weight(name="wo", shape=outer, initializer=NORMAL)

    def call(self, x):
        query = ops.einsum("btd,dhk->bhtk", x, self.wq)
        key = ops.einsum("btd,dhk->bhtk", x, self.wk)
        value = ops.einsum("btd,dhk->bhtk", x, self.wv)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        weights = ops.softmax(scores / math.sqrt(query.shape[-1]))
        return ops.einsum("bhtk,hkd->btd", ops.matmul(weights, value), self.wo)


class SwiGLU(layers.Layer):
    def build(self, shape):
        size = shape[-1]
        self.w1 = self.add_weight(shape=(size, 2 * size))
        self.w2 = self.add_weight(shape=(size, 2 * size))
        self.w3 = self.add_weight(shape=(2 * size, size))

    def call(self, x):
        return (ops.silu(x @ self.w1) * (x @ self.w2)) @ self.w3


class GraphConvolution(layers.Layer):
    def __init__(self, units, activation=None, **options):
        super().__init__(**options)
        self.units, self.activation = units, keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get("glorot_uniform")

    def build(self, shape):
        nodes = (shape[1], shape[1])
        self.adjacency = self.add_weight(
            shape=nodes, initializer="identity", trainable=False
        )
        self.kernel = self.add_weight(
            shape=(shape[-1], self.units), initializer=self.kernel_initializer
        )

    def call(self, x):
        return self.activation(ops.matmul(self.adjacency, ops.matmul(x, self.kernel)))


class Capsule(layers.Layer):
    def __init__(self, number, size, **options):
        super().__init__(**options)
        self.number, self.size = number, size

    def build(self, shape):
        self.W = self.add_weight(shape=(self.number, shape[1], shape[2], self.size))

    def call(self, x):
        votes = ops.einsum("bij,nijd->bnid", x, self.W)
        total = ops.sum(votes, axis=2)
        square = ops.sum(ops.square(total), axis=-1, keepdims=True)
        return square / (1 + square) * total / ops.sqrt(square + 1e-7)


class Fourier(layers.Layer):
    """Random frequencies, which are not trained (Tancik et al. 2020)."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.B = self.add_weight(
            shape=(shape[-1], self.units), initializer=NORMAL, trainable=False
        )

    def call(self, x):
        phase = 2 * math.pi * ops.matmul(x, self.B)
        return ops.concatenate([ops.sin(phase), ops.cos(phase)], axis=-1)


class KolmogorovArnold(layers.Layer):
    """A function of its own on each edge, of five bumps (Liu et al. 2024)."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.base = self.add_weight(shape=(shape[-1], self.units))
        self.splines = self.add_weight(shape=(shape[-1], 5, self.units))
        self.grid = np.linspace(-2, 2, 5).astype("float32")

    def call(self, x):
        away = ops.expand_dims(x, -1) - ops.convert_to_tensor(self.grid)
        bumps = ops.exp(-ops.square(away))
        curved = ops.einsum("big,igo->bo", bumps, self.splines)
        return ops.silu(x) @ self.base + curved


class Convolution(layers.Layer):
    def __init__(self, filters, strides=1, **options):
        super().__init__(**options)
        self.filters, self.strides = filters, strides

    def build(self, shape):
        self.k = self.add_weight(shape=(3, 3, shape[-1], self.filters))

    def call(self, x):
        return ops.conv(x, self.k, strides=self.strides, padding="same")


class Experts(layers.Layer):
    def build(self, shape):
        self.router = layers.Dense(4, activation="softmax")
        self.w = self.add_weight(shape=(4, shape[-1], shape[-1]))

    def call(self, x):
        shares = self.router(x)
        each = ops.einsum("bd,edf->bef", x, self.w)
        return ops.sum(each * ops.expand_dims(shares, -1), axis=1)


class Listed(layers.Layer):
    def build(self, shape):
        square = (shape[-1], shape[-1])
        self.ws = [self.add_weight(shape=square) for _ in range(2)]

    def call(self, x):
        for w in self.ws:
            x = ops.relu(x @ w)
        return x


class Position(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer=NORMAL)

    def call(self, x):
        return x + self.table


class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer=NORMAL)

    def call(self, x):
        token = ops.repeat(self.token, ops.shape(x)[0], axis=0)
        return ops.concatenate([token, x], axis=1)

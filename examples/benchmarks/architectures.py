"""Starts on networks of other kinds than deep stacks, each trained on real data.

- siren: a network of sines (frequency 30, 2 → 64 × 3 → 1) learns an image, china.jpg
  of scikit-learn, from coordinates. Mean square error at the end; the image's is 1.
- text: which words stand in Python's own documentation. Windows of 16 words of its
  docstrings, told by package ("package", eight classes), and windows of docstrings and
  comments told apart ("comment"), through a pooled and an LSTM network; scikit-learn's
  digits as sequences of rows ("rows") through an LSTM. Test accuracy.
- circles: scikit-learn's two circles through 4 × 16 units. Test accuracy.

Adam. For each start the learning rate, and for accuracies the epoch, are those with the
best mean over seeds on validation data; the test data are looked at there. The image is
all there is to learn: the best rate counts. Networks of one shape train side by side.

    python examples/benchmarks/architectures.py [--quick] [--parts PART …]
        [--out FOLDER]
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import os
import re
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits, load_sample_image, make_circles

import keras_initlab as il
from keras_initlab.tables import render_table

PARTS = ("siren", "text", "circles")
RATES = {"siren": [1e-4, 1e-3], "text": [3e-3, 1e-2], "circles": [1e-3, 5e-3]}
SEEDS = {"siren": [0, 1], "text": [0, 1, 2], "circles": [0, 1, 2, 3, 4]}
EPOCHS = {"siren": 60, "text": 12, "circles": 20}
WORDS, LENGTH, WIDTH, EACH = 500, 16, 16, 1200
FREQUENCY, SIDE = 30.0, 32

Start = Callable[[Any, int], None]


@dataclass(frozen=True)
class Task:
    """Data in three parts, and the network that learns them.

    `held` are validation and test data; both are the training data where all there is
    has to be learnt.
    """

    build: Callable[[], Any]
    x: Any
    y: Any
    held: tuple[tuple[Any, Any], tuple[Any, Any]]
    batch: int
    classifies: bool = True


# Starts: each takes a model as Keras made it, and a seed.


def as_made(model: Any, seed: int) -> None:
    """Leave the model as Keras draws it."""


def by(scheme: str, **options: Any) -> Start:
    """Rewrite by a scheme."""

    def start(model: Any, seed: int) -> None:
        il.rewrite_initializers(model, scheme=scheme, seed=seed, **options)

    return start


def embedded(initializer: Any, scheme: str, *, made_up_for: bool = False) -> Start:
    """Draw the embedding by `initializer` (None: as it is), the kernels by a scheme.

    `made_up_for`: by one that takes the embedding as it starts for what it stays.
    """

    def start(model: Any, seed: int) -> None:
        for layer in model.layers:
            if isinstance(layer, layers.Embedding):
                if initializer is not None:
                    other = layers.Embedding(
                        WORDS, WIDTH, embeddings_initializer=initializer(seed=seed)
                    )
                    other.build()
                    layer.embeddings.assign(other.embeddings)
                layer.trainable = not made_up_for
        il.rewrite_initializers(model, scheme=scheme, seed=seed)
        model.trainable = True

    return start


def sitzmann(model: Any, seed: int) -> None:
    """Draw every kernel as Sitzmann et al. (2020) do."""
    generator = np.random.default_rng(seed)
    for number, layer in enumerate(model.layers):
        fan_in = layer.kernel.shape[0]
        limit = 1 / fan_in if number == 0 else math.sqrt(6 / fan_in) / FREQUENCY
        layer.kernel.assign(generator.uniform(-limit, limit, layer.kernel.shape))


def unit_rows(seed: int) -> Any:
    """Return what draws embeddings with variance 1 / output_dim."""
    return keras.initializers.RandomNormal(0.0, WIDTH**-0.5, seed=seed)


SCHEMES = {
    "activation": by("activation"),
    "variance": by("variance"),
    "isometric": by("isometric"),
}
STARTS: dict[str, dict[str, Start]] = {
    "siren": {"Keras's default": as_made, "Sitzmann's own": sitzmann, **SCHEMES},
    "rows": {"Keras's default": as_made, **SCHEMES},
    "text": {
        "Keras's default": as_made,
        "activation": by("activation"),
        "activation, auto embedding": embedded(il.Auto, "activation"),
        "activation, rows of length 1": embedded(unit_rows, "activation"),
        "activation, embedding of variance 1": embedded(il.Scaled, "activation"),
        "variance": by("variance"),
        "variance, embedding made up for": embedded(None, "variance", made_up_for=True),
    },
    "circles": {
        "Keras's default": as_made,
        **SCHEMES,
        "isometric, q of 50 layers": by("isometric", q=0.0125),
    },
}


# Tasks.


def siren() -> dict[str, Task]:
    """Return the image as a function of coordinates in [-1, 1]."""
    image = load_sample_image("china.jpg")[:416, 100:516].mean(axis=-1)
    pixel = 416 // SIDE
    small = image.reshape(SIDE, pixel, SIDE, pixel).mean(axis=(1, 3)).reshape(-1, 1)
    y = ((small - small.mean()) / small.std()).astype("float32")
    line = np.linspace(-1, 1, SIDE)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    x = x.astype("float32")

    def build() -> Any:
        hidden = [layers.Dense(64, sine) for _ in range(3)]
        return keras.Sequential([keras.Input((2,)), *hidden, layers.Dense(1)])

    return {"siren": Task(build, x, y, ((x, y), (x, y)), 128, classifies=False)}


def sine(x: Any) -> Any:
    """The activation of a SIREN."""
    return ops.sin(FREQUENCY * x)


def circles() -> dict[str, Task]:
    """Return two circles that a line cannot part, by activation."""
    x, y = make_circles(1200, noise=0.08, factor=0.5, random_state=0)

    def network(activation: str) -> Callable[[], Any]:
        def build() -> Any:
            hidden = [layers.Dense(16, activation) for _ in range(4)]
            return keras.Sequential([keras.Input((2,)), *hidden, layers.Dense(2)])

        return build

    return {
        f"circles, {name}": parted(network(name), standardised(x), y)
        for name in ("tanh", "sigmoid")
    }


def text(quick: bool) -> dict[str, Task]:
    """Return the three tasks on sequences, with an LSTM and a pooled network."""
    tasks = {}
    words = {"package": packages(), "comment": comments_or_not(quick)}
    for name, (x, y) in words.items():
        classes = int(y.max()) + 1
        for kind in ("pooled", "LSTM"):
            tasks[f"{name}, {kind}"] = parted(reader(kind, classes), x, y)
    x, y = load_digits(return_X_y=True)
    rows = standardised(x).reshape(-1, 8, 8)
    tasks["rows, LSTM"] = parted(reader("LSTM", 10, rows=True), rows, y)
    return tasks


def reader(kind: str, classes: int, *, rows: bool = False) -> Callable[[], Any]:
    """Return what builds a network that reads words, or rows of pixels."""

    def build() -> Any:
        inputs = keras.Input((8, 8) if rows else (LENGTH,), dtype=None if rows else int)
        h = inputs if rows else layers.Embedding(WORDS, WIDTH)(inputs)
        if kind == "LSTM":
            h = layers.LSTM(WIDTH)(h)
        else:
            h = layers.GlobalAveragePooling1D()(h)
            h = layers.Dense(WIDTH, "relu")(h)
        return keras.Model(inputs, layers.Dense(classes)(h))

    return build


def standardised(x: Any) -> Any:
    """Return the data with mean 0 and variance 1; what is always the same stays 0."""
    deviation = x.std(axis=0)
    return ((x - x.mean(axis=0)) / np.where(deviation, deviation, 1)).astype("float32")


def parted(build: Callable[[], Any], x: Any, y: Any) -> Task:
    """Return a task with 60 % of the data to train on, 20 % and 20 % held out."""
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype("int32")
    first, second = int(0.6 * len(x)), int(0.8 * len(x))
    held = ((x[first:second], y[first:second]), (x[second:], y[second:]))
    return Task(build, x[:first], y[:first], held, 32)


# Words from the standard library: docstrings and comments.

_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_PACKAGES = "tkinter _pydecimal.py email asyncio turtle.py importlib logging unittest"
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "lib2to3"}


@cache
def sources() -> list[tuple[str, str]]:
    """Return each module of the standard library: its package, and its text."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return [
        (path.parts[0], (root / path).read_text(errors="replace"))
        for path in paths
        if not _LEFT_OUT & set(path.parts)
    ]


def docstrings(source: str) -> Iterator[str]:
    """Yield a module's docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (found := ast.get_docstring(node)):
            yield found


def comments(source: str) -> Iterator[str]:
    """Yield a module's comments, line by line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("#!: ")


def windows(texts: Iterable[str]) -> list[tuple[str, ...]]:
    """Return texts as windows of so many words, each once."""
    words = [word for one in texts for word in (*_WORD.findall(one.lower()), "|")]
    starts = range(0, len(words) - LENGTH + 1, LENGTH)
    return list(dict.fromkeys(tuple(words[at : at + LENGTH]) for at in starts))


def encoded(classes: Sequence[list[tuple[str, ...]]]) -> tuple[Any, Any]:
    """Return windows as numbers of words, rare ones 0, and their classes."""
    generator, rows, labels = np.random.default_rng(0), [], []
    for label, found in enumerate(classes):
        for index in generator.permutation(len(found))[: EACH // len(classes)]:
            rows.append(found[index])
            labels.append(label)
    counts = Counter(word for row in rows for word in row)
    numbers = {word: i + 1 for i, (word, _) in enumerate(counts.most_common(WORDS - 1))}
    x = np.array([[numbers.get(word, 0) for word in row] for row in rows], "int32")
    return x, np.array(labels)


def packages() -> tuple[Any, Any]:
    """Return windows of docstrings, and which of eight packages they are from."""
    return encoded(
        [
            windows(
                text
                for own, source in sources()
                if own == name
                for text in docstrings(source)
            )
            for name in _PACKAGES.split()
        ]
    )


def comments_or_not(quick: bool) -> tuple[Any, Any]:
    """Return windows of docstrings (0) and of comments (1)."""
    few = _PACKAGES.split()
    texts = [source for name, source in sources() if not quick or name in few]
    return encoded(
        [
            windows(found for source in texts for found in kind(source))
            for kind in (docstrings, comments)
        ]
    )


# Training: networks of one shape side by side, in JAX.


def train(task: Task, networks: Any, rates: Any, epochs: int) -> Any:
    """Return accuracy, or mean square error, by epoch, network and held-out part."""
    model = task.build()
    fixed = [variable.value for variable in model.non_trainable_variables]

    def outputs(weights: Any, x: Any, training: bool) -> Any:
        return model.stateless_call(weights, fixed, x, training=training)[0]

    def loss(weights: Any, x: Any, y: Any) -> Any:
        made = outputs(weights, x, True)
        if not task.classifies:
            return jnp.mean((made - y) ** 2)
        return -jnp.take_along_axis(jax.nn.log_softmax(made), y[:, None], -1).mean()

    def step(state: Any, rate: Any, count: Any, x: Any, y: Any) -> Any:
        gradients = jax.grad(loss)(state[0], x, y)
        moved = [adam(*one, rate, count) for one in zip(*state, gradients, strict=True)]
        return tuple(map(list, zip(*moved, strict=True)))

    side_by_side = jax.vmap(step, in_axes=(0, 0, None, None, None))

    @jax.jit
    def epoch(state: Any, order: Any, count: Any) -> Any:
        def one(carry: Any, chosen: Any) -> Any:
            state, count = carry
            x, y = jnp.asarray(task.x)[chosen], jnp.asarray(task.y)[chosen]
            return (side_by_side(state, rates, count, x, y), count + 1), None

        return jax.lax.scan(one, (state, count), order)[0]

    @jax.jit
    def score(weights: Any, x: Any, y: Any) -> Any:
        made = jax.vmap(lambda one: outputs(one, x, False))(weights)
        if task.classifies:
            return (made.argmax(-1) == y).mean(axis=1)
        return ((made - y) ** 2).mean(axis=(1, 2))

    zeros = [jnp.zeros_like(one) for one in networks]
    state, count, found = (networks, zeros, zeros), jnp.float32(1), []
    generator = np.random.default_rng(0)
    for _ in range(epochs):
        usable = len(task.x) // task.batch * task.batch
        order = generator.permutation(len(task.x))[:usable].reshape(-1, task.batch)
        state, count = epoch(state, jnp.asarray(order), count)
        found.append([np.asarray(score(state[0], *part)) for part in task.held])
    return np.moveaxis(np.array(found), 1, -1)


def adam(weight: Any, mean: Any, square: Any, gradient: Any, rate: Any, n: Any) -> Any:
    """Return a weight and its two averages after a step of Adam."""
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    scale = jnp.sqrt(square / (1 - 0.999**n)) + 1e-7
    return weight - rate * mean / (1 - 0.9**n) / scale, mean, square


def drawn(task: Task, start: Start, seed: int) -> list[Any]:
    """Return the weights that a start gives a network of the task."""
    keras.utils.set_random_seed(seed)
    model = task.build()
    start(model, seed)
    return [np.asarray(variable.value) for variable in model.trainable_variables]


def compare(task: Task, starts: dict[str, Start], part: str, quick: bool) -> Any:
    """Return a record for each start: what it reaches, with which rate."""
    seeds, rates = SEEDS[part], RATES[part]
    epochs = EPOCHS[part]
    if quick:
        seeds, rates, epochs = seeds[:1], rates[-1:], min(epochs, 3)
    networks = [drawn(task, start, seed) for start in starts.values() for seed in seeds]
    repeated = [one for one in networks for _ in rates]
    stacked = [jnp.stack(weights) for weights in zip(*repeated, strict=True)]
    found = train(task, stacked, jnp.array(rates * len(networks)), epochs)
    found = found.reshape(epochs, len(starts), len(seeds), len(rates), 2)
    records = []
    for number, name in enumerate(starts):
        mean = found[:, number, :, :, 0].mean(axis=1)
        if task.classifies:
            at, rate = np.unravel_index(mean.argmax(), mean.shape)
        else:
            at, rate = epochs - 1, mean[-1].argmin()
        values = found[at, number, :, rate, 1]
        records.append(
            {
                "start": name,
                "mean": float(values.mean()),
                "worst": float(values.min() if task.classifies else values.max()),
                "deviation": float(values.std(ddof=1) if len(seeds) > 1 else 0.0),
                "rate": rates[rate],
                "epoch": int(at) + 1,
            }
        )
    return records


def main() -> None:
    """Train what is asked for, print the tables and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "architectures.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    text_tasks = partial(text, arguments.quick)
    makers = {"siren": siren, "text": text_tasks, "circles": circles}
    for part in arguments.parts:
        tasks = makers[part]()
        for name, task in tasks.items():
            starts = STARTS["rows" if name.startswith("rows") else part]
            results[name] = compare(task, starts, part, arguments.quick)
            path.write_text(json.dumps(results, indent=1) + "\n")
            show(name, task, results[name])


def show(name: str, task: Task, records: list[dict[str, Any]]) -> None:
    """Print one task's table."""
    scale, unit = (100, "accuracy, %") if task.classifies else (1, "mean square error")
    rows = [
        [
            one["start"],
            *(f"{scale * one[key]:.3g}" for key in ("mean", "deviation", "worst")),
            f"{one['rate']:g}",
            str(one["epoch"]),
        ]
        for one in records
    ]
    heads = (unit, "deviation", "worst seed", "rate", "epoch")
    columns = [("start", "left"), *((head, "right") for head in heads)]
    print(render_table(name, columns, rows), flush=True)


if __name__ == "__main__":
    main()

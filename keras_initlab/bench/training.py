"""One run: a model is built, drawn by a candidate, trained, and measured."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_initlab.bench.candidates import Candidate
from keras_initlab.bench.data import (
    VALIDATION_BATCH,
    Data,
    Shuffled,
    sample_of,
    training_data,
)
from keras_initlab.bench.records import Run
from keras_initlab.bench.reuse import reusable
from keras_initlab.diagnosis import Finding
from keras_initlab.inspection import measured_findings
from keras_initlab.measurement import measure
from keras_initlab.model.containers import is_container
from keras_initlab.model.layers import places
from keras_initlab.stats import LayerStats
from keras_initlab.taps import once

Build = Callable[[], Any]

# Keras's seeds are shared by a process: its threads train one at a time.
_LOCK = threading.Lock()
# The comparisons that this process has trained for, by their tokens.
_seen: set[str] = set()


@dataclass(frozen=True)
class Environment:
    """The settings of the comparing process, which processes that train must share."""

    backend: str
    floatx: str
    image_data_format: str
    dtype_policy: Any

    @classmethod
    def here(cls) -> Environment:
        """Return that of this process."""
        policy = keras.config.dtype_policy()
        return cls(
            keras.backend.backend(),
            keras.config.floatx(),
            keras.config.image_data_format(),
            keras.dtype_policies.serialize(policy),
        )

    def enter(self) -> None:
        """Set it in this process."""
        if keras.backend.backend() != self.backend:
            raise RuntimeError(
                f"The workers of `executor` must run Keras on {self.backend}, as this "
                f"process does. Received: a worker on {keras.backend.backend()}. Set "
                f"KERAS_BACKEND={self.backend} where the workers start."
            )
        keras.config.set_floatx(self.floatx)
        keras.config.set_image_data_format(self.image_data_format)
        keras.config.set_dtype_policy(
            keras.dtype_policies.deserialize(self.dtype_policy)
        )


@dataclass(frozen=True)
class Task:
    """Everything that one run needs, to be sent to another process.

    Attributes:
        token: of the comparison to which it belongs.
        names: of the layers, under which figures are recorded, whatever names the
            process that built the model gave them.
        starts: whether signals are measured and diagnosed before training.
        ends: whether they are measured after it.
    """

    build: Build
    candidate: Candidate
    seed: int
    learning_rate: float | None
    data: Data
    epochs: int
    batch_size: int
    environment: Environment
    token: str
    names: tuple[str, ...] = ()
    starts: bool = False
    ends: bool = False


def run(task: Task) -> Run:
    """Train one model."""
    with _LOCK:
        task.environment.enter()
        if task.token not in _seen:
            _seen.add(task.token)
            # The first model of a process takes seconds of imports. Threads of dask's
            # that draw from Python's generator meanwhile would change its weights.
            keras.utils.set_random_seed(task.seed)
            task.build()
        return _run(task)


def prepared(
    build: Build, candidate: Candidate, seed: int, rate: float | None, x: Any
) -> Any:
    """Return a compiled model whose weights are drawn by a candidate.

    Raises:
        TypeError, ValueError: `build` returns no compiled model, or its learning rate
            cannot be set.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    _check_compiled(model)
    if not is_container(model):  # VAEs, GANs: nothing to call, they build themselves
        once.build(model, x)
    model = candidate.apply(model, seed, x)
    _check_compiled(model)
    if rate is not None:
        _set_learning_rate(model, rate)
    return model


def _run(task: Task) -> Run:
    x, y = sample_of(task.data)
    with warnings.catch_warnings():
        # `compare` has done this once, and let the user see what was to be said.
        warnings.simplefilter("ignore")
        model = prepared(task.build, task.candidate, task.seed, task.learning_rate, x)
        look = _Look(model, task.names)
        findings, start = look.before(x, y) if task.starts else ((), ())
    if task.candidate.kind != "function":
        model = reusable(task.token, model)
        look.model = model
    begin = time.perf_counter()
    log = _Log(task.seed)
    initial, error = _fit(model, task, log)
    seconds = time.perf_counter() - begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        end = look.after(x) if task.ends else ()
    return Run(
        candidate=task.candidate.label,
        seed=task.seed,
        learning_rate=task.learning_rate,
        initial=initial,
        history=log.history,
        directions=_directions(model, log.history),
        seconds=seconds,
        error=error,
        start=start,
        end=end,
        findings=findings,
    )


def _fit(model: Any, task: Task, log: _Log) -> tuple[dict[str, float], str | None]:
    """Train; return the first evaluation, and the error of a run that diverged."""
    validation = task.data.validation
    data = training_data(task.data, task.batch_size, task.seed)
    sizes = {}
    initial = {}
    if isinstance(validation, tuple):
        sizes = {"batch_size": max(task.batch_size, VALIDATION_BATCH)}
    try:
        logs = (
            model.evaluate(*validation[:2], **sizes, verbose=0, return_dict=True)
            if isinstance(validation, tuple)
            else model.evaluate(validation, verbose=0, return_dict=True)
        )
        initial = {name: float(value) for name, value in logs.items()}
        model.fit(
            data,
            # Ours are in their order already; what has batches of its own, as Keras
            # would have it.
            shuffle=not isinstance(data, Shuffled),
            epochs=task.epochs,
            validation_data=validation,
            validation_batch_size=sizes.get("batch_size"),
            callbacks=[log],
            verbose=0,
        )
    except Exception as error:
        if _is_finite(model):
            error.add_note(
                f"In training {task.candidate.label!r} with seed {task.seed}."
            )
            raise
        # Where values are not finite some losses raise, as PyTorch's cross-entropy.
        return initial, f"{type(error).__name__}: {error}"[:300]
    return initial, None


class _Log(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the logs, and stops a run whose loss is no longer finite."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self.history: dict[str, list[float]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin the stream of layers such as Dropout, however much was drawn so far."""
        keras.utils.set_random_seed(self._seed)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the epoch's logs."""
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


class _Look:
    """The signals of a model, under the names that the comparison uses."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        self.model = model
        paths = [place.path for place in places(model)]
        same = len(paths) == len(names)
        self._names = dict(zip(paths, names, strict=True)) if same else {}

    def before(
        self, x: Any, y: Any
    ) -> tuple[tuple[Finding, ...], tuple[LayerStats, ...]]:
        """Return what `diagnose` and `measure` find before training."""
        if is_container(self.model):
            return (), ()
        findings, stats = measured_findings(self.model, x, y)
        return tuple(map(self._renamed, findings)), self._stats(stats)

    def after(self, x: Any) -> tuple[LayerStats, ...]:
        """Return what `measure` finds after it."""
        return () if is_container(self.model) else self._stats(measure(self.model, x))

    def _stats(self, stats: Iterable[LayerStats]) -> tuple[LayerStats, ...]:
        return tuple(replace(layer, layer=self._named(layer.layer)) for layer in stats)

    def _renamed(self, finding: Finding) -> Finding:
        follows = tuple(map(self._renamed, finding.consequences))
        layer = self._named(finding.layer)
        return replace(finding, layer=layer, consequences=follows)

    def _named(self, layer: str) -> str:
        path, call, number = layer.partition("#")
        return self._names.get(path, path) + call + number


def _directions(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Return for each metric whether it is to be "min" or "max", where Keras knows."""
    directions = {}
    for name in names:
        callback = keras.callbacks.EarlyStopping(monitor=name)
        callback.set_model(model)
        callback.on_train_begin()
        with contextlib.suppress(ValueError):  # neither is known of this metric
            callback.on_epoch_end(0, {name: 0.0})
            up = callback.monitor_op is keras.ops.greater
            directions[name] = "max" if up else "min"
    return directions


def _set_learning_rate(model: Any, rate: float) -> None:
    try:
        model.optimizer.learning_rate = rate
    except TypeError as error:
        raise ValueError(
            "`learning_rates` go with an optimizer whose learning rate is a number. "
            f"Received: {type(model.optimizer).__name__} with a schedule. Leave "
            "`learning_rates` out, or compile with a number."
        ) from error


def _check_compiled(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`build` must return a compiled keras.Model. Received: "
            f"{model!r} of type {type(model).__name__}."
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`build` must return a compiled model. Received: "
            f"{model.name!r}, not compiled. Call model.compile(optimizer, loss, "
            "metrics=[...]) in `build`."
        )


def _is_finite(model: Any) -> bool:
    values = map(keras.ops.convert_to_numpy, model.trainable_variables)
    return all(np.isfinite(array.astype("float64")).all() for array in values)

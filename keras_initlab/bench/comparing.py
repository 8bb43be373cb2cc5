"""compare: which initialisation trains your model better, and faster."""

from __future__ import annotations

import functools
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import keras

from keras_initlab.bench import store
from keras_initlab.bench.candidates import Candidate, candidates_of
from keras_initlab.bench.comparison import Comparison
from keras_initlab.bench.data import Data, data_of, digest, sample_of
from keras_initlab.bench.execution import execute
from keras_initlab.bench.records import Run
from keras_initlab.bench.reuse import forget
from keras_initlab.bench.training import Environment, Task, prepared
from keras_initlab.model.layers import places

__all__ = ["compare"]


def compare(
    build: Callable[[], Any],
    candidates: Any,
    x: Any,
    y: Any = None,
    validation_data: Any = None,
    epochs: int = 10,
    seeds: int | Sequence[int] = 3,
    learning_rates: Sequence[float] | None = None,
    metric: str | tuple[str, str] | None = None,
    target: float | None = None,
    executor: Executor | None = None,
    out: str | Path | None = None,
    *,
    batch_size: int = 32,
    signals: bool = True,
    verbose: str | int = "auto",
) -> Comparison:
    """Train a model under several initialisations, and say which did best.

    Every candidate is trained for the same epochs, on the same data in the same order,
    with each of the seeds and learning rates. A seed decides the weights that `build`
    draws, what a candidate draws in their place, and the order of the data. The
    learning rate of each candidate is the one with the best mean of the metric on the
    validation data. A run that diverges is a result: it is counted, and left out of
    the means.

    Signals before and after training, and what `diagnose` finds before it, are those
    of the first seed.

    Args:
        build: a function without arguments that returns a compiled model.
        candidates: a list, or a dict from labels, of what draws the weights:

            - the name of an initializer ("he_normal", "initlab>auto"), an initializer,
              or a class of them: it draws every kernel that `rewrite_initializers`
              would, with a seed of its own for each;
            - "activation", "variance", "isometric", "auto", or a scheme such as
              `il.Variance(target=2.0)`; "auto" is the scheme, "initlab>auto" the
              initializer;
            - "calibrate": the weights as `build` draws them, scaled by `il.calibrate`
              on inputs of the training data;
            - None, or "as built": the weights as `build` draws them;
            - any other function: it receives the built model, and changes it in place
              or returns another compiled model.
        x, y: training data as `fit` takes them, arrays or nested arrays; or, with
            `y=None`, batches that can be iterated several times (`tf.data.Dataset`,
            `PyDataset`, `DataLoader`) and determine their own order.
        validation_data: a tuple (x, y), or batches. None holds out a fifth of `x` and
            `y`, the same for all runs.
        epochs: for each run.
        seeds: a number of seeds, counted from 0, or the seeds.
        learning_rates: those to try for each candidate; None keeps the model's own.
        metric: the name of the metric that is compared, as in `fit`'s logs
            ("accuracy"); with "min" or "max", as in `("score", "max")`, if Keras does
            not know which is better. None is the model's first metric, or its loss.
        target: a value of the metric; the epochs needed to reach it on the validation
            data are counted.
        executor: any `concurrent.futures.Executor` whose workers run this package and
            the same backend: a `ProcessPoolExecutor` (with the "spawn" context), or
            `dask.distributed`'s `Client.get_executor()`. `build`, candidates and data
            are pickled. None trains in this process, one run after the other.
        out: a file of JSON Lines, to which each run is added when it ends. Runs that it
            already holds are not done again.
        batch_size: for arrays.
        signals: False measures and diagnoses nothing, which saves time: on JAX each
            measurement compiles the model.
        verbose: 0 shows no progress.

    Returns:
        A `Comparison`: print it, show it in a notebook, or call its `plot()`. After
        Ctrl-C it holds the runs that were completed.

    Raises:
        TypeError, ValueError: an argument is not as above. Raised before any training;
            for a metric that the model does not have, after the first run.
        KeyboardInterrupt: no run was completed.

    >>> import numpy as np
    >>> def build():
    ...     model = keras.Sequential([keras.Input((8,)),
    ...         keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> comparison = compare(build, ["zeros", "initlab>auto"], x, x[:, :1],
    ...     learning_rates=[0.1], seeds=2, verbose=0)
    >>> comparison.best
    'initlab>auto'
    """
    chosen = candidates_of(candidates)
    numbers = _seeds(seeds)
    rates = _rates(learning_rates)
    wanted, direction = _metric(metric)
    sizes = {"epochs": epochs, "batch_size": batch_size}
    _check_counts(**sizes)
    _check_build(build)
    data = data_of(x, y, validation_data)
    names, weights = _try_out(build, chosen, numbers[0], rates, data)
    setup = {**sizes, "data": digest(data), "weights": weights}
    done = {_key(run): run for run in store.read(out, setup)} if out else {}
    common = (data, epochs, batch_size, Environment.here(), uuid.uuid4().hex, names)
    tasks = [
        Task(
            build,
            candidate,
            seed,
            rate,
            *common,
            starts=signals and seed == numbers[0] and rate == rates[0],
            ends=signals and seed == numbers[0],
        )
        for seed in numbers
        for candidate in chosen
        for rate in rates
        if (candidate.label, seed, rate) not in done
    ]
    if executor is not None and tasks:
        _check_picklable(tasks[0], chosen, executor)
    order = [candidate.label for candidate in chosen]
    comparison = functools.partial(
        Comparison.of,
        metric=wanted,
        direction=direction,
        target=target,
        epochs=epochs,
        planned=len(order) * len(numbers) * len(rates),
    )
    for run in _stored(execute(tasks, executor, bool(verbose)), out, setup, bool(done)):
        comparison([run])  # refuses an unknown metric after the first run
        done[_key(run)] = run
    return comparison(_in_order(done.values(), order, numbers, rates))


def _stored(
    runs: Iterator[Run], out: str | Path | None, setup: store.Setup, has_runs: bool
) -> Iterator[Run]:
    """Yield the runs as they end, and add them to a file; stop at Ctrl-C.

    Raises:
        KeyboardInterrupt: no run has ended yet, and `some` says that there was none
            before.
    """
    try:
        for run in runs:
            if out:
                store.add(out, run, setup)
            has_runs = True
            yield run
    except KeyboardInterrupt:
        if not has_runs:
            raise
    finally:
        forget()


def _key(run: Run) -> tuple[str, int, float | None]:
    return run.candidate, run.seed, run.learning_rate


def _in_order(
    runs: Any, order: list[str], seeds: Sequence[int], rates: Sequence[float | None]
) -> Iterator[Run]:
    """Yield the requested runs; a file may hold others as well."""
    by_key = {_key(run): run for run in runs}
    for label in order:
        for rate in rates:
            for seed in seeds:
                if (label, seed, rate) in by_key:
                    yield by_key[label, seed, rate]


def _try_out(
    build: Callable[[], Any],
    candidates: Sequence[Candidate],
    seed: int,
    rates: Sequence[float | None],
    data: Data,
) -> tuple[tuple[str, ...], str]:
    """Apply each candidate once; return the layers' names, and the weights' shapes.

    A candidate that cannot be applied fails here, before anything is trained.
    """
    x, _ = sample_of(data)
    names: tuple[str, ...] = ()
    shapes = ""
    for candidate in candidates:
        try:
            model = prepared(build, candidate, seed, rates[0], x)
        except Exception as error:
            error.add_note(f"In preparing the candidate {candidate.label!r}.")
            raise
        if not names:
            names = tuple(place.path for place in places(model))
            shapes = store.fingerprint([tuple(w.shape) for w in model.weights])
    return names, shapes


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        return list(range(seeds))
    numbers = [] if isinstance(seeds, int | str | float) else list(seeds)
    if not numbers or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(
            "`seeds` must be a number of seeds, 1 or more, or a list of ints. "
            f"Received: seeds={seeds!r}. Leave it out for 3."
        )
    return list(dict.fromkeys(numbers))


def _rates(rates: Any) -> list[float | None]:
    if rates is None:
        return [None]
    values = [rates] if isinstance(rates, int | float) else list(rates)
    if not values or not all(isinstance(r, int | float) and r > 0 for r in values):
        raise ValueError(
            "`learning_rates` must be a list of numbers above 0. Received: "
            f"learning_rates={rates!r}. Leave it out for that of the model."
        )
    return [float(rate) for rate in dict.fromkeys(values)]


def _metric(metric: Any) -> tuple[str | None, str | None]:
    if metric is None:
        return None, None
    if isinstance(metric, str):
        return metric.removeprefix("val_"), None
    if (
        isinstance(metric, tuple | list)
        and len(metric) == 2
        and isinstance(metric[0], str)
        and metric[1] in ("min", "max")
    ):
        return metric[0].removeprefix("val_"), metric[1]
    raise ValueError(
        "`metric` must be the name of a metric, or a pair of a name and 'min' or "
        f"'max'. Received: metric={metric!r}. Leave it out for the model's first."
    )


def _check_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"`{name}` must be an int, 1 or more. Received: {name}={count!r}."
            )


def _check_build(build: Any) -> None:
    if not callable(build) or isinstance(build, keras.Model):
        raise TypeError(
            "`build` must be a function without arguments that returns a compiled "
            f"model. Received: {build!r} of type {type(build).__name__}. A model can "
            "be trained once only: wrap what makes it in `def build(): ...`."
        )


def _check_picklable(
    task: Task, candidates: Sequence[Candidate], executor: Executor
) -> None:
    """Refuse what an executor cannot send to other processes.

    Executors of other packages use their own picklers.
    """
    kind = type(executor)
    if not isinstance(executor, Executor):
        raise TypeError(
            "`executor` must be a concurrent.futures.Executor. Received: "
            f"{executor!r} of type {kind.__name__}. Pass a ProcessPoolExecutor, or "
            "dask's client.get_executor()."
        )
    if not isinstance(executor, ProcessPoolExecutor):
        return
    contexts = (c for c in vars(executor).values() if isinstance(c, BaseContext))
    if any(context.get_start_method() == "fork" for context in contexts):
        raise ValueError(
            "A ProcessPoolExecutor must start its processes anew: one that is forked "
            "hangs where it uses a backend that its parent has used. Received: an "
            "executor that forks. Pass ProcessPoolExecutor(2, "
            "mp_context=multiprocessing.get_context('spawn'))."
        )
    parts = [("build", task.build)]
    parts += [(f"the candidate {c.label!r}", c.value) for c in candidates]
    for name, part in [*parts, ("the data", task.data)]:
        try:
            pickle.dumps(part)
            _check_importable(part)
        except Exception as error:
            raise ValueError(
                f"With an executor of processes, {name} must be picklable. Received: "
                f"{type(part).__name__}, of which pickle says: {error}. Define "
                "functions at the top level of a module, not as a lambda, inside "
                "another function or in a notebook."
            ) from error


def _check_importable(part: Any) -> None:
    """Refuse a function of an interactive session, which is in no file."""
    if getattr(part, "__module__", None) == "__main__":
        main = sys.modules["__main__"]
        if getattr(main, "__file__", None) is None:
            raise pickle.PicklingError("it is defined in an interactive session")

"""Where runs are done: in this process, or by an executor's workers."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    ProcessPoolExecutor,
    as_completed,
)

import keras

from keras_initlab.bench.records import Run
from keras_initlab.bench.training import Task, run

__all__ = ["execute"]


def execute(
    tasks: Sequence[Task], executor: Executor | None, show: bool
) -> Iterator[Run]:
    """Yield runs as they are done."""
    if not tasks:
        return
    bar = keras.utils.Progbar(len(tasks), unit_name="run") if show else None
    done = _here(tasks) if executor is None else _elsewhere(tasks, executor)
    try:
        for number, run in enumerate(done, start=1):
            yield run
            if bar is not None:
                bar.update(number, finalize=number == len(tasks))
    except BaseException:
        if bar is not None:
            print(file=sys.stdout)  # what follows begins on a line of its own
        raise


def _here(tasks: Sequence[Task]) -> Iterator[Run]:
    for task in tasks:
        yield run(task)


def _elsewhere(tasks: Sequence[Task], executor: Executor) -> Iterator[Run]:
    futures = {executor.submit(run, task): task for task in tasks}
    lost = []
    try:
        for future in as_completed(futures):
            try:
                done = future.result()
            except BrokenExecutor:
                lost.append(futures[future])
            else:
                yield done
    finally:
        for future in futures:
            future.cancel()
    if lost:
        yield from _again(lost)


def _again(tasks: Sequence[Task]) -> Iterator[Run]:
    """Yield the runs of an executor that has stopped, from a separate process.

    Not from this process: what killed a worker, such as a lack of memory, might end it.
    """
    warnings.warn(
        f"A worker of `executor` was killed, and the executor has stopped. Its "
        f"{len(tasks)} runs that were not done are done one after the other.",
        stacklevel=2,
    )
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        for task in tasks:
            yield pool.submit(run, task).result()

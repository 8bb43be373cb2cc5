"""Where runs are done: in this process, or by an executor's workers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed

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
        for number, one in enumerate(done, start=1):
            yield one
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
    futures = [executor.submit(run, task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()

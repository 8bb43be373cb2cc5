"""The calls of a prediction as one flat graph, composite layers opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from keras_initlab.model.graph import Call, Graph


class FlatGraph:
    """Numbers the tensors of nested graphs, and lists the calls that compute them.

    Attributes:
        opened: the outputs of the last call, if the walk has opened it; None if it is a
            call of the flat graph itself.
    """

    def __init__(self) -> None:
        self.opened: tuple[int, ...] | None = None
        self._calls: list[Call] = []
        self._read: list[tuple[int, ...]] = []
        self._ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._next = 0

    @property
    def graph(self) -> Graph:
        """The graph, from the model's inputs to its outputs."""
        return Graph(tuple(self._calls), *self._ends)

    @property
    def read(self) -> tuple[int, ...]:
        """The numbers of the tensors that the open call reads."""
        return self._read[-1]

    def fresh(self, count: int) -> tuple[int, ...]:
        """Return numbers for tensors that have none yet."""
        first, self._next = self._next, self._next + count
        return tuple(range(first, self._next))

    @contextmanager
    def reading(self, numbers: tuple[int, ...]) -> Iterator[None]:
        """Open a call that reads those tensors."""
        self._read.append(numbers)
        try:
            yield
        finally:
            self._read.pop()

    def end(self, inputs: tuple[int, ...]) -> None:
        """Say that the model's inputs were these, and its outputs the last ones."""
        self._ends = (inputs, self.opened or ())

    def outputs_of(self, call: Call, prefix: str, key: str) -> tuple[int, ...]:
        """Return the numbers of an open call's outputs; add the call if it is one.

        Args:
            call: a call of the graph of a layer whose path is `prefix`.
            key: identifies the call in this walk and in the next.
        """
        if self.opened is not None and len(self.opened) == len(call.outputs):
            return self.opened
        outputs = self.fresh(len(call.outputs))
        path = f"{prefix}/{call.path}" if prefix else call.path
        self._calls.append(
            replace(call, path=path, key=key, inputs=self.read, outputs=outputs)
        )
        return outputs

    @contextmanager
    def whole_or_none(self) -> Iterator[None]:
        """Drop the calls inside if they fail."""
        count = len(self._calls)
        try:
            yield
        except BaseException:
            del self._calls[count:]
            raise

    @contextmanager
    def forgotten(self) -> Iterator[None]:
        """Drop the calls inside, which repeat others."""
        count = len(self._calls)
        try:
            yield
        finally:
            del self._calls[count:]

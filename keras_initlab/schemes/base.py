"""The contract of a scheme: what it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import keras

from keras_initlab.model.kernels import Kernel, kernels_of
from keras_initlab.model.roles import Roles, roles_of
from keras_initlab.plan import PlanRow
from keras_initlab.propagation.given import Given
from keras_initlab.propagation.index import Key
from keras_initlab.schemes.chosen import (
    is_default,
    reason_to_keep,
    reason_to_keep_head,
)
from keras_initlab.schemes.kernels import (
    Finder,
    Followed,
    Seeds,
    fans_of,
    followed,
    left_alone,
)
from keras_initlab.schemes.small_starts import small_starts_to_keep


@dataclass(frozen=True)
class Choice:
    """A kernel, and its row of the plan: `row.after` is the initializer it gets."""

    kernel: Kernel
    row: PlanRow


@dataclass(frozen=True)
class Selection:
    """What a scheme returns.

    Attributes:
        choices: one for each kernel, in the order of the plan's rows.
        assumptions: sentences to stand under the plan, without "assumed:".
    """

    choices: Sequence[Choice]
    assumptions: Sequence[str] = ()


@dataclass(eq=False)
class SchemeContext:
    """What a scheme receives besides the model.

    Attributes:
        seeds: `seeds.at(index)` is an int seed for the kernel with this number, or
            None where the user gave no seed.
        only_unbuilt: whether built layers are left alone. Kernels of others have no
            variable yet, hence no fans.
        scheme: the scheme as the user wrote it, for error messages.
        skipped: ids of the layers to skip.
        only_defaults: which chosen initializers stay; see `rewrite_initializers`.
        given: moments of the inputs, from a batch; None without a batch.
    """

    model: keras.Model
    seeds: Seeds
    only_unbuilt: bool = False
    scheme: Any = None
    skipped: set[int] = field(default_factory=set)
    only_defaults: bool | None = None
    given: Given | None = None
    _finder: Finder = field(default_factory=Finder, init=False, repr=False)
    _followed: dict[tuple[int, str], Followed] = field(
        default_factory=dict, init=False, repr=False
    )
    _heads: set[tuple[int, str]] | None = field(default=None, init=False, repr=False)

    def kernels(self, *, recurrent: bool = False) -> list[Kernel]:
        """Return the model's kernels; recurrent kernels only if `recurrent`."""
        return kernels_of(self.model, recurrent=recurrent)

    def reason_to_leave(self, kernel: Kernel) -> str | None:
        """Return why a kernel is left alone ("frozen"), None if it may change.

        Kernels that start at 0 on purpose, while a residual path or a bias carries the
        signal around them, are left alone, too.
        """
        reason = left_alone(kernel, self.skipped, self.only_unbuilt)
        reason = reason or reason_to_keep(kernel, self.only_defaults)
        reason = reason or self._kept_starts.get(kernel.key)
        if reason is not None or self.only_defaults is False or is_default(kernel):
            return reason
        if kernel.key in self.heads:
            return reason_to_keep_head(kernel, self.nonlinearity(kernel))
        return None

    @cached_property
    def _kept_starts(self) -> dict[Key, str]:
        """Why kernels start at 0 on purpose, those of recurrent states left out."""
        return small_starts_to_keep(self.model, self.kernels())

    @property
    def heads(self) -> set[tuple[int, str]]:
        """The kernels that make the model's outputs, as far as its graph shows."""
        if self._heads is None:
            graph = self._finder.graph_of(self.model)
            roles = Roles() if graph is None else roles_of(graph, self.kernels())
            self._heads = roles.heads
        return self._heads

    def nonlinearity(self, kernel: Kernel) -> Followed:
        """Return the nonlinearity that a kernel's output meets; linear if unknown."""
        if kernel.key not in self._followed:
            self._followed[kernel.key] = followed(kernel, self._finder)
        return self._followed[kernel.key]

    def choice(
        self,
        kernel: Kernel,
        initializer: Any,
        *,
        gain: float | None = None,
        std: float | None = None,
        target: float | None = None,
        note: str = "",
    ) -> Choice:
        """Return the choice of an initializer (an object or a name) for a kernel.

        A kernel that has to stay as it is keeps its initializer, and the row says why.
        `gain`, `std`, `target` and `note` are shown in the plan: see `PlanRow`.
        """
        follows, fans = self.nonlinearity(kernel), fans_of(kernel)
        reason = self.reason_to_leave(kernel)
        notes = [reason, follows.note, note]
        if reason is not None:
            initializer, gain, std, target = kernel.initializer, None, None, None
        elif not kernel.layer.built:
            notes.append("drawn when the layer is built")
        elif kernel.attribute is None:
            notes.append("its layer keeps no initializer: clones draw as before")
        row = PlanRow(
            layer=kernel.path,
            weight=kernel.weight,
            nonlinearity=follows.resolved.name,
            fan_in=None if fans is None else fans.fan_in,
            fan_out=None if fans is None else fans.fan_out,
            gain=gain,
            std=std,
            before=kernel.initializer,
            after=keras.initializers.get(initializer)
            if reason is None
            else initializer,
            note="; ".join(text for text in notes if text),
            target=target,
            inputs="assumed" if self.given is None else "measured",
        )
        return Choice(kernel, row)


@runtime_checkable
class Scheme(Protocol):
    """Chooses an initializer for each kernel of a model: one method.

    `Activation`, `Variance`, `Isometric` and `AutoScheme` are schemes; so is an object
    of any class with this method, which need not derive from this one.

    >>> import keras_initlab as il
    >>> class Narrow:
    ...     def choose(self, model, context):
    ...         return Selection([
    ...             context.choice(
    ...                 kernel,
    ...                 il.Scaled(0.5, seed=context.seeds.at(index)),
    ...                 gain=0.5,
    ...             )
    ...             for index, kernel in enumerate(context.kernels())
    ...         ])
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> plan = il.rewrite_initializers(model, scheme=Narrow(), seed=0)
    >>> [(row.layer == model.layers[0].name, row.gain) for row in plan]
    [(True, 0.5)]
    """

    def choose(self, model: keras.Model, context: SchemeContext) -> Selection:
        """Return a choice for each kernel, and change nothing.

        `rewrite_initializers` sets the initializers and draws the weights, unless it
        is a dry run.

        Args:
            model: the model to choose for, as it is before the rewrite.
            context: its kernels, the nonlinearity after each, which kernels have to be
                left alone, and the seeds.

        Raises:
            ValueError: the scheme cannot work on this model; the message says why.
        """
        ...

"""Taps in JAX's training step.

A tap is an identity whose derivative rules record the tensor and its gradient. The
backward rule is called as plain Python, once a tap, where `jax.vjp` goes back; where no
gradient flows back to a tap, it is not called at all. JAX's documentation looks at
gradients in a debugger in the same way ("Custom derivative rules").
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras

from keras_initlab.taps.backends.base import (
    Backend,
    Passes,
    WithGradient,
    sums_as_products,
)
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.step import TappedStep
from keras_initlab.taps.weights import loss_scale, optimizers_of, skipped

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # Its place in older releases of JAX.
    from jax.core import get_opaque_trace_state


class _Passes(Passes):
    def column_sums(self, rows: Any, factors: Any = None) -> tuple[Any, Any]:
        # On CPUs as a product: XLA sums columns element by element, 20 times as slow.
        if jax.default_backend() != "cpu":
            return super().column_sums(rows, factors)
        return sums_as_products(rows, factors)

    def whole_mean_square(self, x: Any, shift: Any = None) -> Any:
        return _mean_square(x, shift)


@jax.jit  # type: ignore[untyped-decorator]
def _mean_square(x: Any, shift: Any) -> Any:
    return jnp.mean(jnp.square(x if shift is None else x - shift))


class Jax(Backend):
    """The training step returns the figures beside the logs.

    A tensor within the function that is differentiated is a tracer of that function.
    The forward rule of a tap is given the tensor of the step itself.
    """

    control_flow = (StopIteration,)
    passes = _Passes()

    def why_not(self, model: Any) -> str | None:
        """Decline Flax NNX, which compiles the step of the class, and old releases.

        Before 0.7 a gradient was taken in two steps, in the first of which forward
        rules are not in the step's own trace.
        """
        if jax.__version_info__ < (0, 7):
            return f"it needs JAX 0.7 or later, and this is {jax.__version__}"
        if getattr(keras.config, "is_nnx_enabled", lambda: False)():
            return "Flax NNX is enabled. Call keras.config.disable_nnx() to monitor"
        return None

    def is_chief(self) -> bool:
        """Whether this is the first process."""
        return int(jax.process_index()) == 0

    def tap(self, step: TappedStep, model: Any, patches: Patches) -> None:
        """Let `train_step` return ((logs, figures), state)."""
        optimizer = model.optimizer
        for held in optimizers_of(model):
            step.weights.attach_stateless(held)
        taps = _Taps(self.trace)

        def wrap_compute(compute: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(compute)
            def forward(*args: Any, **kwargs: Any) -> Any:
                if not _argument("training", 6, args, kwargs):
                    return compute(*args, **kwargs)
                taps.weights = _argument("trainable_variables", 0, args, kwargs)
                with step.recorder.recording(taps.watch):
                    results = compute(*args, **kwargs)
                taps.paths += [path for path, _ in step.recorder.take()]
                return results

            return forward

        def wrap_step(train_step: Callable[..., Any]) -> Callable[..., Any]:
            # JAX caches traces by function: a new function is always traced.
            @functools.wraps(train_step)
            def tapped(state: Any, data: Any) -> Any:
                taps.begin()
                with step.weights.watching():
                    logs, new_state = train_step(state, data)
                scale = _loss_scale(optimizer, state)
                calls, gradients = taps.take()
                figures = step.figures(
                    step.recorder.outputs(calls),
                    step.weights.take(),
                    gradients if step.request.gradients else {},
                    scale,
                    skipped(scale, _loss_scale(optimizer, new_state)),
                )
                return (logs, figures), new_state

            return tapped

        patches.add(model, "compute_loss_and_updates", wrap_compute)
        patches.add(model, "train_step", wrap_step)

    def split(self, results: Any) -> tuple[Any, Any]:
        """Return (logs, state) and figures."""
        (logs, figures), state = results
        return (logs, state), figures

    def replicas(self) -> int:
        """Return 1: an array spans all devices."""
        return 1

    def sum_over_replicas(self, vector: Any) -> Any:
        """Return the vector unchanged."""
        return vector

    def gather(self, vector: Any) -> Any:
        """Return it as a row, replicated on each device."""
        row = vector[None]
        distribution = keras.distribution.distribution()
        if distribution is None:
            return row
        mesh = distribution.device_mesh.backend_mesh
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        return jax.lax.with_sharding_constraint(row, whole)

    def trace(self) -> Hashable:
        """Return JAX's trace state."""
        # Older releases of JAX ask for the argument, newer ones ignore it.
        state: Hashable = get_opaque_trace_state(convention="flax")
        return state

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a jax.Array."""
        return isinstance(x, jax.Array)

    def dense(self, x: Any) -> Any:
        """Return it unchanged."""
        return x

    @contextmanager
    def isolated(self, model: Any, gradients: bool) -> Iterator[None]:
        """Sync the variables: within `fit` the trainer holds their values."""
        model.jax_state_sync()
        yield

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """See `Backend.differentiate`; compiled where that is possible.

        Operations compiled one by one take several times as long as all at once. But
        models whose Python code reads values, or draws without a seed, need that.
        """
        run = functools.partial(
            _differentiated, forward, variables, weights, cotangents
        )
        values = [variable.value for variable in variables]
        try:
            taken, gradients = jax.jit(run)(x, values)
        except Exception:
            # If the model is faulty, this raises its own error.
            taken, gradients = run(x, values)
        pairs = [(y, gradients.get(i)) for i, y in enumerate(taken, len(weights))]
        return pairs, [gradients.get(i) for i in range(len(weights))]


class _Taps:
    """The tensors and gradients that a trace of a step has recorded, by index.

    Attributes:
        paths: of the layers, by index.
        weights: the variables that the loss is differentiated by.
    """

    def __init__(self, trace: Callable[[], Hashable]) -> None:
        self._trace = trace
        self.begin()

    def begin(self) -> None:
        """Forget all records: a trace begins."""
        self.paths: list[str] = []
        self.weights: Sequence[Any] = ()
        self._tensors: dict[int, Any] = {}
        self._gradients: dict[int, Any] = {}
        self._differentiated: set[int] = set()
        self._within = self._trace()
        self._calls = itertools.count()
        self._tap = _recording_identity(self._record, self._record_gradient)

    def _record(self, index: int, tensor: Any) -> None:
        if self._trace() == self._within:
            self._tensors[index] = tensor.value
        if tensor.perturbed:
            self._differentiated.add(index)

    def _record_gradient(self, index: int, gradient: Any) -> None:
        if self._trace() == self._within:
            self._gradients[index] = gradient

    def watch(self, tensor: Any) -> Any:
        """Return the tensor behind a tap, which records it with its gradient."""
        index = next(self._calls)
        if not self.weights:
            return tensor
        tapped = self._tap(index, tensor, self.weights[0])
        # No gradient goes back through frozen layers.
        return tapped if index in self._differentiated else tensor

    def take(self) -> tuple[list[tuple[str, Any]], dict[int, Any]]:
        """Return path and tensor of each call, and gradients by their indices."""
        indices = sorted(self._tensors)
        calls = [(self.paths[index], self._tensors[index]) for index in indices]
        gradients = {
            place: self._gradients[index]
            for place, index in enumerate(indices)
            if index in self._gradients
        }
        return calls, gradients


def _loss_scale(optimizer: Any, state: Any) -> Any:
    """Return what it is in a state: (weights, other variables, optimizer's, ...)."""
    with keras.StatelessScope(list(zip(optimizer.variables, state[2], strict=True))):
        return loss_scale(optimizer)


def _argument(name: str, index: int, args: Any, kwargs: Any) -> Any:
    return (
        kwargs[name] if name in kwargs else args[index] if len(args) > index else None
    )


def _recording_identity(
    record: Callable[[int, Any], None], record_gradient: Callable[[int, Any], None]
) -> Callable[[int, Any, Any], Any]:
    """Return an identity of (index, tensor, source) that records when differentiated.

    JAX uses the rules only for functions of a variable of the differentiation: any
    such variable may be the `source`. `record` is given a `CustomVJPPrimal`.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def tap(index: int, tensor: Any, source: Any) -> Any:
        return tensor

    def forward(index: int, tensor: Any, source: Any) -> tuple[Any, None]:
        record(index, tensor)
        return tensor.value, None

    def backward(index: int, _: None, gradient: Any) -> tuple[Any, None]:
        if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
            return None, None
        record_gradient(index, gradient)
        return gradient, None

    tap.defvjp(forward, backward, symbolic_zeros=True)
    identity: Callable[[int, Any, Any], Any] = tap
    return identity


def _differentiated(
    forward: Callable[..., list[Any]],
    variables: Sequence[Any],
    weights: Sequence[Any],
    cotangents: Callable[[list[Any]], list[Any]] | None,
    x: Any,
    values: Sequence[Any],
) -> tuple[list[Any], dict[int, Any]]:
    """Return the tapped tensors, and gradients by index: of weights, then of taps."""
    gradients: dict[int, Any] = {}
    record = _recording_identity(lambda *_: None, gradients.__setitem__)
    places = {id(weight): index for index, weight in enumerate(weights)}

    def run(source: Any) -> tuple[list[Any], list[Any]]:
        taken: list[Any] = []

        def tap(tensor: Any) -> Any:
            taken.append(record(len(weights) + len(taken), tensor, source))
            return taken[-1]

        mapping = [
            (variable, record(places[id(variable)], value, source))
            if id(variable) in places
            else (variable, value)
            for variable, value in zip(variables, values, strict=True)
        ]
        return forward(x, tap, mapping), taken

    if cotangents is None:
        return run(jnp.zeros(()))[1], gradients
    outputs, pull_back, taken = jax.vjp(run, jnp.zeros(()), has_aux=True)
    pull_back(cotangents(outputs))
    return taken, gradients


BACKEND = Jax()

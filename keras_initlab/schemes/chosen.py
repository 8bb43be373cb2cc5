"""Initializers that somebody has chosen, and which of them a rewrite leaves alone."""

from __future__ import annotations

import inspect
import random
from functools import lru_cache
from typing import Any

import keras

from keras_initlab.model.kernels import Kernel
from keras_initlab.plan import describe
from keras_initlab.propagation.weights import initial_moments
from keras_initlab.schemes.kernels import Followed, fans_of

# A head with less than this share of the usual variance is small on purpose.
_SMALL = 0.1
# The default initializer of kernels if a layer's class names none.
_USUAL = "glorot_uniform"


def reason_to_keep(kernel: Kernel, only_defaults: bool | None) -> str | None:
    """Return why a chosen initializer stays, None if it goes.

    Args:
        kernel: a kernel that may otherwise be rewritten.
        only_defaults: True keeps all but the default of the layer's class, None those
            from outside Keras and this package, False none.
    """
    if only_defaults is False or kernel.initializer is None:
        return None
    name = describe(kernel.initializer, without="seed")
    if only_defaults:
        return None if is_default(kernel) else f"chosen: {name}"
    if _is_known(kernel.initializer):
        return None
    return f"an initializer of your own, {name}: only_defaults=False rewrites it"


def reason_to_keep_head(kernel: Kernel, follows: Followed) -> str | None:
    """Return why the chosen initializer of a head stays, None if it goes.

    A head that starts far smaller than usual, or at 0, makes the first outputs small:
    no layer comes after it whose signal could vanish.

    Source: Lillicrap et al. 2016, section 7 (DDPG); Zhang et al. 2019 (Fixup).
    """
    kernel_fans, initializer = fans_of(kernel), kernel.initializer
    if kernel_fans is None or not _is_of(initializer, "keras"):
        return None
    shape = tuple(kernel.variable.shape)
    moments = initial_moments(
        initializer, shape, kernel.layer, kernel.weight, kernel.parents
    )
    if moments.second_moment >= _SMALL * follows.rule.variance(kernel_fans):
        return None
    name = describe(initializer, without="seed")
    return f"a small head, chosen: {name}; only_defaults=False rewrites it"


def is_default(kernel: Kernel) -> bool:
    """Whether the kernel has the default initializer of its layer's class.

    The same initializer, chosen by hand, cannot be distinguished from it. Inside
    attention and recurrent layers the default is that of the outer layer.
    """
    initializer = kernel.initializer
    if not isinstance(initializer, keras.initializers.Initializer):
        return False
    default = _default(type(kernel.layer), kernel.attribute)  # type: ignore[arg-type]
    return (type(initializer), _config(initializer)) == default


@lru_cache(maxsize=256)
def _default(layer: type, attribute: str | None) -> tuple[type, dict[str, Any]]:
    """Return the class and config of the initializer that a layer's class gives."""
    # Keras's draw a seed for themselves.
    state = random.getstate()
    try:
        default = keras.initializers.get(_argument(layer, attribute))
    finally:
        random.setstate(state)
    if not isinstance(default, keras.initializers.Initializer):
        return type(default), {}
    return type(default), _config(default)


def _argument(layer: type, attribute: str | None) -> Any:
    """Return the default of a constructor's argument, by the nearest class with one."""
    for kind in layer.__mro__:
        if "__init__" not in vars(kind):
            continue
        argument = inspect.signature(kind).parameters.get(attribute or "")
        if argument is not None:
            default = argument.default
            return _USUAL if default in (None, inspect.Parameter.empty) else default
    return _USUAL


def _config(initializer: Any) -> dict[str, Any]:
    config = initializer.get_config()
    return {key: value for key, value in config.items() if key != "seed"}


def _is_known(initializer: Any) -> bool:
    return _is_of(initializer, "keras") or _is_of(initializer, "keras_initlab")


def _is_of(initializer: Any, package: str) -> bool:
    kind = initializer if inspect.isroutine(initializer) else type(initializer)
    return str(getattr(kind, "__module__", "")).partition(".")[0] == package

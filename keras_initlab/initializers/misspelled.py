"""Names that people try for `initlab>` initializers, and what they mean.

For an unknown name, Keras only says that it cannot interpret it. So other common names
of initializers, and names of classes, are registered too, to be refused with a hint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import keras

from keras_initlab.initializers.base import PACKAGE

_FAMILIES = {
    "glorot": ("glorot", "xavier"),
    "he": ("he", "kaiming", "msra"),
    "lecun": ("lecun",),
}
_OTHERS = {
    "auto": ("automatic", "default", "activation"),
    "scaled": ("variance", "variance_scaling"),
    "mirrored": ("isometric", "looks_linear", "mirror"),
    "orthogonal": ("orthonormal",),
    "delta_orthogonal": ("dirac", "delta"),
    "identity": ("eye", "zero"),
    "bias_constant": ("constant", "bias"),
    "bias_class_prior": ("class_prior", "prior"),
    "bias_forget_gate": ("forget_gate",),
}


class _Misspelled:
    """Registered under a wrong name; raises where Keras makes an initializer of it."""

    def __init__(self, name: str, meant: Iterable[str]) -> None:
        self._name = f"{PACKAGE}>{name}"
        self._meant = " or ".join(repr(f"{PACKAGE}>{right}") for right in meant)

    def from_config(self, config: Any) -> NoReturn:
        """Raise a ValueError that names what may be meant."""
        raise ValueError(
            f"The name of an {PACKAGE}> initializer is expected. Received: "
            f"{self._name!r}. Did you mean {self._meant}?"
        )


def meanings(registered: Iterable[type]) -> dict[str, tuple[str, ...]]:
    """Return the wrong names, each with the right ones.

    Args:
        registered: the classes of initializers; their names count as wrong ones.
    """
    by_wrong: dict[str, tuple[str, ...]] = {}
    for family, names in _FAMILIES.items():
        for name in names:
            by_wrong[name] = (f"{family}_normal", f"{family}_uniform")
            by_wrong[f"{name}_normal"] = (f"{family}_normal",)
            by_wrong[f"{name}_uniform"] = (f"{family}_uniform",)
    by_wrong |= {name: (meant,) for meant, names in _OTHERS.items() for name in names}
    right = {
        kind: keras.saving.get_registered_name(kind).partition(">")[2]
        for kind in registered
    }
    for kind, name in right.items():
        by_wrong |= {kind.__name__: (name,), name.replace("_", ""): (name,)}
    return {
        wrong: meant for wrong, meant in by_wrong.items() if wrong not in right.values()
    }


def refuse(registered: Iterable[type]) -> None:
    """Register the wrong names with Keras; see `meanings`."""
    objects = keras.saving.get_custom_objects()
    for wrong, meant in meanings(registered).items():
        objects.setdefault(f"{PACKAGE}>{wrong}", _Misspelled(wrong, meant))

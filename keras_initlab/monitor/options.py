"""The arguments of a VarianceMonitor, checked before anything is measured."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_initlab.taps.request import BACKWARD, FORWARD
from keras_initlab.words import did_you_mean

Custom = tuple[tuple[str, Callable[[Any], Any]], ...]

Log = Literal["none", "summary", "layers"]
OnFinding = Literal["ignore", "warn", "stop", "raise"]
PlotKind = Literal["variance", "depth", "histograms", "updates"]
LOGS: tuple[str, ...] = get_args(Log)
ON_FINDING: tuple[str, ...] = get_args(OnFinding)
PLOTS: tuple[str, ...] = get_args(PlotKind)


def positive_int(name: str, value: Any, meaning: str, advice: str) -> int:
    """Return `value` if it is a positive int; `meaning` completes the error."""
    expected = f"`{name}` must be a positive int: {meaning}."
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{expected} Received: {name}={value!r}. {advice}")
    if value < 1:
        raise ValueError(f"{expected} Received: {name}={value!r}. {advice}")
    return int(value)


def every_of(value: Any) -> int | datetime.timedelta:
    """Return `value` if it is a number of steps or a span of time."""
    if not isinstance(value, datetime.timedelta):
        return positive_int(
            "every",
            value,
            "measure every so many training steps",
            "Use every=10, every=1 to measure each step, or a datetime.timedelta.",
        )
    if value <= datetime.timedelta(0):
        raise ValueError(
            "`every` must be a positive span of time. Received: "
            f"every={value!r}. Use datetime.timedelta(seconds=10)."
        )
    return value


def window_of(value: Any) -> int | None:
    """Return the number of steps in a window, or None for the whole epoch."""
    if value == "epoch":
        return None
    advice = 'Use window="epoch", or a number of training steps.'
    meaning = "so many training steps are one window"
    if isinstance(value, str):
        raise ValueError(
            f'`window` must be "epoch" or a positive int. Received: {value!r}. {advice}'
        )
    return positive_int("window", value, meaning, advice)


def one_of(name: str, value: Any, choices: tuple[str, ...], more: str = "") -> str:
    """Return `value` if it is one of the choices; `more` names further ones."""
    if value not in choices:
        names = ", ".join(f'"{choice}"' for choice in choices)
        kind = ValueError if isinstance(value, str) else TypeError
        hint = did_you_mean(value, choices)
        raise kind(f"`{name}` must be one of {names}{more}. Received: {value!r}.{hint}")
    return str(value)


def statistics_of(value: Any, gradients: bool) -> tuple[tuple[str, ...], Custom]:
    """Return the names of built-in statistics, and custom functions by name."""
    statistics = FORWARD if value is None else value
    if isinstance(statistics, str) or callable(statistics):
        statistics = [statistics]
    if not isinstance(statistics, Iterable):
        raise TypeError(
            "`statistics` must be a list of names and functions. Received: "
            f"{value!r}. Use statistics=None for all of them."
        )
    names: list[str] = []
    custom: dict[str, Callable[[Any], Any]] = {}
    for statistic in statistics:
        if callable(statistic):
            name = getattr(statistic, "__name__", type(statistic).__name__)
            if name in custom or name in (*FORWARD, *BACKWARD, "<lambda>"):
                raise ValueError(
                    "A function in `statistics` goes by its own name, which must not "
                    f"be taken. Received: {statistic!r}, of the name {name!r}. Define "
                    "it by `def` under a name of its own."
                )
            custom[name] = statistic
        else:
            names.append(_checked_name(statistic))
    wanted = {"mean", "variance", "second_moment", *names}
    wanted |= set(BACKWARD) if gradients else set()
    every = (*FORWARD, *BACKWARD)
    return tuple(name for name in every if name in wanted), tuple(custom.items())


def _checked_name(name: Any) -> str:
    every = (*FORWARD, *BACKWARD)
    if not isinstance(name, str):
        raise TypeError(
            "`statistics` must hold names and functions. Received: "
            f"{name!r} of type {type(name).__name__}. Names are: {', '.join(every)}."
        )
    if name not in every:
        hint = did_you_mean(name, every)
        raise ValueError(
            "`statistics` must hold names of statistics. Received: "
            f"{name!r}.{hint} Names are: {', '.join(every)}."
        )
    return name


@dataclass(frozen=True)
class Selector:
    """Decides from a layer and its path whether it is measured; see `selector`."""

    chosen: Any

    def __call__(self, layer: Any, path: str) -> bool:
        """Whether the layer is selected."""
        chosen = self.chosen
        if chosen is None:
            return True
        if isinstance(chosen, tuple):
            return any(part(layer, path) for part in chosen)
        if isinstance(chosen, str):
            return chosen in (path, layer.name)
        if isinstance(chosen, re.Pattern):
            return chosen.search(path) is not None
        if isinstance(chosen, type):
            return isinstance(layer, chosen)
        return bool(chosen(layer))


def selector(value: Any) -> Selector:
    """Return the `Selector` for an argument `layers`."""
    if isinstance(value, (list, tuple, set)):
        return Selector(tuple(selector(part) for part in value))
    if value is None or isinstance(value, (str, re.Pattern)):
        return Selector(value)
    if isinstance(value, type) and issubclass(value, keras.layers.Layer):
        return Selector(value)
    if callable(value) and not isinstance(value, (type, keras.layers.Layer)):
        return Selector(value)
    raise TypeError(
        "`layers` must say which layers to measure: a layer's name or path, a compiled "
        "regular expression (re.compile) for paths, a layer class, a function of the "
        f"layer, or a list of these. Received: {value!r} of type "
        f"{type(value).__name__}. Use layers=None for all of them."
    )


def finding_handler(value: Any) -> Any:
    """Return the action for a finding: a name from `ON_FINDING`, or a function."""
    if callable(value):
        return value
    return one_of("on_finding", value, ON_FINDING, ", or a function of a Finding")


def sinks_of(value: Any) -> list[Callable[..., Any]]:
    """Return the sinks as a list."""
    sinks = [] if value is None else [value] if callable(value) else value
    if isinstance(sinks, str) or not isinstance(sinks, Iterable):
        sinks = [value]
    sinks = list(sinks)
    for sink in sinks:
        if not callable(sink):
            raise TypeError(
                "`sinks` must hold functions of a list of records. Received: "
                f"{sink!r} of type {type(sink).__name__}. Use JSONLines(path), "
                "CSV(path) or TensorBoard(folder) of keras_initlab.monitor, or a "
                "function of your own."
            )
    return sinks

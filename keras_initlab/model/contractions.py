"""Products that sum over axes, as letters: matmul, dot, tensordot and einsum."""

from __future__ import annotations

from typing import Any

Letters = tuple[str, str, str]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
CONTRACTIONS = frozenset(("Matmul", "Dot", "Tensordot", "Einsum"))


def factors_of(operation: Any, arguments: Any) -> tuple[Any, Any] | None:
    """Return the two factors of a product; None if there are not two."""
    args, kwargs = arguments
    if type(operation).__name__ == "Einsum":
        return tuple(args) if len(args) == 2 else None
    row = [*args[:2], *(kwargs[name] for name in ("x1", "x2")[len(args) :])]
    return (row[0], row[1]) if len(row) == 2 else None


def letters_of(operation: Any, ranks: tuple[int, int]) -> Letters | None:
    """Return a letter for each axis of both factors and of the result.

    None if a product does not pair axes, as with a vector or a diagonal.
    """
    rule = {
        "Matmul": _of_matmul,
        "Dot": _of_dot,
        "Tensordot": _of_tensordot,
        "Einsum": _of_einsum,
    }.get(type(operation).__name__)
    letters = None if rule is None else rule(operation, ranks)
    if letters is None or any(len(set(part)) != len(part) for part in letters):
        return None
    return letters


def _of_matmul(operation: Any, ranks: tuple[int, int]) -> Letters | None:
    if min(ranks) < 2:
        return None
    front = "abcdefghij"[: max(ranks) - 2]
    of_x = front[len(front) - ranks[0] + 2 :] + "mk"
    of_y = front[len(front) - ranks[1] + 2 :] + "kn"
    return of_x, of_y, front + "mn"


def _of_dot(operation: Any, ranks: tuple[int, int]) -> Letters | None:
    if ranks[1] != 2:
        return None
    front = "abcdefghij"[: ranks[0] - 1]
    return front + "k", "kn", front + "n"


def _of_tensordot(operation: Any, ranks: tuple[int, int]) -> Letters | None:
    axes = operation.axes
    if isinstance(axes, int):
        x_axes, y_axes = list(range(ranks[0] - axes, ranks[0])), list(range(axes))
    else:
        x_axes, y_axes = ([row] if isinstance(row, int) else list(row) for row in axes)
    of_x, of_y = _LETTERS[: ranks[0]], list(_LETTERS[26 : 26 + ranks[1]])
    for x_axis, y_axis in zip(x_axes, y_axes, strict=True):
        of_y[y_axis] = of_x[x_axis]
    result = [a for a in of_x if a not in of_y] + [a for a in of_y if a not in of_x]
    return of_x, "".join(of_y), "".join(result)


def _of_einsum(operation: Any, ranks: tuple[int, int]) -> Letters | None:
    equation = operation.subscripts.replace(" ", "")
    if "->" not in equation or equation.count(",") != 1:
        return None
    read, result = equation.split("->")
    factors = read.split(",")
    free = "".join(a for a in _LETTERS if a not in equation)
    sizes = [
        rank - len(part.replace("...", "")) if "..." in part else 0
        for part, rank in zip(factors, ranks, strict=True)
    ]
    most = max(sizes)
    filled = [
        part.replace("...", free[most - size : most])
        for part, size in zip([*factors, result], [*sizes, most], strict=True)
    ]
    return filled[0], filled[1], filled[2]

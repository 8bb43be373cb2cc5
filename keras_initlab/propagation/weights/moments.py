"""The first two moments of a weight's entries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WeightMoments:
    """Moments of a weight's entries.

    Attributes:
        mean: E[w].
        second_moment: E[w²], over all entries.
        centred: everything but the receptive field's centre tap is zero, in a field of
            more than one tap: padding then costs nothing.
        sampled: no rule is known for the initializer: moments of one draw.
        paired: whether neighbours on its input side, and on its output side, have
            opposite signs; see `initlab>mirrored`.
        mixing: where outputs come in pairs, the share of their second moment that the
            two of a pair do not have in common; it comes from all taps, `centred` or
            not.
    """

    mean: float
    second_moment: float
    centred: bool = False
    sampled: bool = False
    paired: tuple[bool, bool] = field(default=(False, False), repr=False)
    mixing: float = field(default=0.0, repr=False)

    @property
    def variance(self) -> float:
        """E[w²] − E[w]², at least 0; NaN where a moment is not finite."""
        # In this order: max keeps its first argument where the comparison is with NaN.
        return max(self.second_moment - self.mean**2, 0.0)

"""The first two moments of a weight's entries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WeightMoments:
    """Moments of a weight's entries.

    Attributes:
        mean: E[w].
        second_moment: E[w²], over all entries.
        centred: whether all taps of the receptive field but the centre one are zero:
            padding then has no effect.
        sampled: whether these are moments of one draw, as the initializer has no rule.
        paired: whether neighbours on its input side, and on its output side, have
            opposite signs; see `initlab>mirrored`.
        mixing: if outputs come in pairs, the share of their second moment in which the
            two of a pair are independent; it comes from all taps, `centred` or not.
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

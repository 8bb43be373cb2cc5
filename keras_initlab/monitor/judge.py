"""What a monitor says of each window: the rules of `diagnosis`, and what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keras_initlab import diagnosis
from keras_initlab.anatomy import Anatomy, anatomy_of, kernel_facts
from keras_initlab.diagnosis import Facts, Finding
from keras_initlab.diagnosis.checks.updates import SMALL
from keras_initlab.model.containers import Part, parts_of
from keras_initlab.stats import LayerStats


class Judge:
    """Goes through the windows of one training, and tells each fault once.

    Args:
        model: the model.
        updates: whether update ratios are measured.
    """

    def __init__(self, model: Any, updates: bool) -> None:
        self._model = model
        self._still = updates
        self._windows = 0
        self._before: tuple[LayerStats, ...] = ()
        self._anatomies: list[tuple[Part, Anatomy]] | None = None
        self._told: set[str] = set()

    def findings(self, stats: Sequence[LayerStats]) -> list[Finding]:
        """Return what is wrong in a window and was not in those before."""
        self._windows += 1
        now = tuple(stats)
        ratios = [one.update_ratio for one in now if one.update_ratio is not None]
        self._still = self._still and not any(ratio > SMALL for ratio in ratios)
        facts = Facts(
            stats=now,
            earlier=(self._before,) if self._before else (),
            updates=self._still,
            **self._of_model(),
        )
        self._before = now
        # The layer where a fault begins may move; it is the same fault.
        found = [f for f in diagnosis.findings_of(facts) if f.code not in self._told]
        self._told.update(finding.code for finding in found)
        return found

    def _of_model(self) -> dict[str, Any]:
        try:
            if self._anatomies is None:
                # What a layer of one's own does when it is called is not for a
                # callback to set off.
                self._anatomies = [
                    (part, anatomy_of(part.model, predict=False))
                    for part in parts_of(self._model)
                ]
            known: dict[str, Any] = {
                "layers": {
                    part.outside(path): facts
                    for part, anatomy in self._anatomies
                    for path, facts in anatomy.layers.items()
                }
            }
            # Units that are not twins do not become twins: to look at all the weights
            # in windows 1, 2, 4, 8 … is enough.
            if self._windows & (self._windows - 1) == 0:
                known["kernels"] = tuple(
                    replace(facts, layer=part.outside(facts.layer))
                    for part, anatomy in self._anatomies
                    for facts in kernel_facts(anatomy, initial=False)
                )
        except Exception:
            # Weights spread over processes cannot be read here, and a layer that
            # somebody wrote may be anything: training goes on, and the rules that go
            # by signals alone still speak.
            return {}
        return known

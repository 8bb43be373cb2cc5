"""Shows the doctests of docstrings as code: what mkdocstrings reads from this."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A paragraph that begins with a prompt, and its output.
_DOCTEST = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.M | re.S)


class Doctests(griffe.Extension):
    """Puts doctests between fences, which Markdown knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            fenced = _DOCTEST.sub(
                lambda match: f"```pycon\n{match[0]}\n```", obj.docstring.value
            )
            obj.docstring.value = fenced

"""Remedies that go by what the network is: new weights do not mend all of them."""

from __future__ import annotations

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts

_RECURRENT = ("SimpleRNN", "RNN", "LSTM", "GRU", "Bidirectional", "ConvLSTM")


def redraw(facts: Facts, scheme: str) -> str:
    """Return what mends signals or gradients that new initial weights can mend.

    >>> redraw(Facts(), "isometric")
    'Call il.rewrite_initializers(model, scheme="isometric") before training.'
    """
    if facts.biased:
        named = ", ".join(facts.biased[:3])
        return (
            f"The biases of {named} are far from 0, which no choice of kernels mends: "
            'use bias_initializer="zeros".'
        )
    inside = [one for one in facts.kernels if one.nonlinearity == "softmax"]
    found = [one.layer for one in inside if not (one.head or one.guarded)]
    if found:
        named = ", ".join(found[:6]) + " …" * (len(found) > 6)
        return f'Use another activation than softmax in {named}, such as "gelu".'
    text = wording.rewrite(scheme)
    if any(one.kind.startswith(_RECURRENT) for one in facts.layers.values()):
        return (
            f'{text[:-1]}; in recurrent layers use recurrent_initializer="orthogonal".'
        )
    return text

"""Remedies that depend on the cause: new initial weights do not fix every fault."""

from __future__ import annotations

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts

_RECURRENT = ("SimpleRNN", "RNN", "LSTM", "GRU", "Bidirectional", "ConvLSTM")

SLOWER = (
    "It was sound at the first step, so the steps broke it: use a learning rate 3 to "
    "10 times smaller, or clipnorm=1.0 in the optimizer."
)


_FROM_TRAINING = "train with a smaller learning rate, or clipnorm=1.0 in the optimizer."


def redraw(facts: Facts, code: str, scheme: str) -> str:
    """Return the remedy for signals or gradients, depending on the cause of the fault.

    >>> redraw(Facts(), "vanishing-signal", "isometric")
    'Call il.rewrite_initializers(model, scheme="isometric") before training.'
    >>> redraw(Facts(at_start=frozenset()), "vanishing-signal", "isometric")
    'It was sound at the first step, so the steps broke it: use a learning rate 3 to \
10 times smaller, or clipnorm=1.0 in the optimizer.'
    """
    if facts.broke(code):
        return SLOWER
    inside = [kernel for kernel in facts.kernels if kernel.nonlinearity == "softmax"]
    softmax = [kernel.layer for kernel in inside if not (kernel.head or kernel.guarded)]
    if softmax:
        named = ", ".join(softmax[:6]) + " …" * (len(softmax) > 6)
        return f'Use another activation than softmax in {named}, such as "gelu".'
    if any(kernel.isometric for kernel in facts.kernels):
        return (
            "Other initial weights will not carry it further: put a normalization, "
            "such as layers.LayerNormalization(), between the layers, or skip "
            "connections around them."
        )
    text = wording.rewrite(scheme)
    if facts.trained:
        return (
            f"If the untrained model has it too, {text[0].lower()}{text[1:]} If not, "
            f"{_FROM_TRAINING}"
        )
    if any(layer.kind.startswith(_RECURRENT) for layer in facts.layers.values()):
        return (
            f'{text[:-1]}; in recurrent layers use recurrent_initializer="orthogonal".'
        )
    return text

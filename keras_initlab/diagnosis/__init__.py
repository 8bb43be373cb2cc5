"""What is wrong with a network's signals, from what is known of them."""

from keras_initlab.diagnosis.finding import Finding, check

__all__ = ["Finding", "check"]

"""The mathematics of signals, without Keras and its layers."""

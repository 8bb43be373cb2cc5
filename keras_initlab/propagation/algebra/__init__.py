"""The mathematics of signals: what knows neither Keras nor layers."""

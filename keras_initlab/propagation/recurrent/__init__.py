"""Recurrent layers: the cell is simulated on drawn weights.

`cells` holds the equations of the cells and their derivatives, `simulation` runs them
on random pre-activations and weights, forward and backward through time, and `steps`
turns a signal into moments by step and back.
"""

"""How a Keras model is read: its layers, kernels, graph, roles and construction."""

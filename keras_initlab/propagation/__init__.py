"""How signals travel through a model's graph."""

"""What an activation does to a Gaussian signal: gain, chi, mean, odd part.

- `properties`: of any activation, by closed form where known, else by quadrature;
- `table`: the activations that have closed forms;
- `probe`: which of them a callable is, by its values;
- `quadrature`: moments under a Gaussian law.
"""

from keras_initlab.activations.properties import (
    Activation,
    chi,
    gain,
    moments,
    odd_part,
    resolve,
)
from keras_initlab.activations.table import NAMED

__all__ = ["NAMED", "Activation", "chi", "gain", "moments", "odd_part", "resolve"]

"""What an activation does to a Gaussian signal: gain, chi, mean, odd part.

- `properties`: those of any activation, in closed form or by quadrature;
- `table`: Keras's activations, their forms and families;
- `probe`: recognises a callable by its values;
- `quadrature`: moments of functions of a Gaussian variable.
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

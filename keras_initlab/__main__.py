"""`python -m keras_initlab`, the same as the command `keras-initlab`."""

import sys

from keras_initlab.cli import main

if __name__ == "__main__":
    sys.exit(main())

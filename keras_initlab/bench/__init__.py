"""The lab bench: which initialisation trains your model faster."""

from keras_initlab.bench.comparing import compare
from keras_initlab.bench.comparison import Comparison
from keras_initlab.bench.records import CandidateResult, Run, Spread

__all__ = ["CandidateResult", "Comparison", "Run", "Spread", "compare"]

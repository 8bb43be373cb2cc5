"""The labelled networks: with a fault planted, and with nothing wrong."""

from tests.diagnosis.cases import Case, alarms, all_codes, batch, fit, found
from tests.diagnosis.faulty import FAULTY
from tests.diagnosis.healthy import HEALTHY

__all__ = ["FAULTY", "HEALTHY", "Case", "alarms", "all_codes", "batch", "fit", "found"]

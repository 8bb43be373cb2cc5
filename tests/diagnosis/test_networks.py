"""Every planted fault is found first by its own code; on healthy networks nothing is.

On PyTorch all networks are looked at. Other backends compile each of them, for a
second or more: they do some, of every kind of fault and of health. The rules see
figures alone, and that these are the same on all backends is tested where they are
measured.
"""

import keras
import numpy as np
import pytest

from tests.diagnosis.networks import FAULTY, HEALTHY, Case, alarms, all_codes, found
from tests.helpers import kernels

BACKEND = keras.backend.backend()
ELSEWHERE = (
    *("constants in the middle", "half of the filters twice", "one seed"),
    *("GELU, Glorot, 20 layers", "N(0, 1), tanh", "ReLU, He, 60 layers"),
    *("depthwise, He", "NaN in the data", "SGD, rate 1e-9"),
    *("ReLU, He", "BatchNormalization", "residual, pre-norm", "LSTM", "transformer"),
)


def parameters(some: tuple[Case, ...]):
    chosen = [one for one in some if BACKEND == "torch" or one.name in ELSEWHERE]
    return [pytest.param(one, id=one.name.replace(" ", "-")) for one in chosen]


@pytest.mark.parametrize("case", parameters(FAULTY))
def test_planted_fault_is_found(case):
    findings = found(case)
    texts = [str(finding) for finding in findings]
    first = findings[0]
    assert first.code in (*case.codes, *case.close), texts
    told = all_codes([first]) if first.code in case.close else alarms(findings)
    assert set(case.codes) <= told, texts
    assert all_codes(findings) <= {*case.codes, *case.allowed}, texts


@pytest.mark.parametrize("case", parameters(HEALTHY))
def test_healthy_network_raises_no_alarm(case):
    findings = found(case)
    assert not alarms(findings), [str(one) for one in findings]


def test_names_are_unique():
    names = [case.name for case in (*FAULTY, *HEALTHY)]
    assert len(names) == len(set(names))
    assert set(names) >= set(ELSEWHERE)


def test_faulty_cases_have_codes_and_healthy_ones_none():
    assert all(case.codes for case in FAULTY)
    assert not any(case.codes or case.allowed for case in HEALTHY)


@pytest.mark.parametrize("case", [FAULTY[5], HEALTHY[0]], ids=lambda case: case.name)
def test_a_case_is_built_the_same_each_time(case):
    one, other = (kernels(case.build()) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

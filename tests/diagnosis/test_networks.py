"""Every planted fault is found by its own code; on healthy networks nothing is."""

import numpy as np
import pytest

from tests.diagnosis.networks import FAULTY, HEALTHY, Case, alarms, found
from tests.helpers import kernels

# Training takes seconds; these two are always run.
ALWAYS = ("constants, trained", "ReLU, He, trained")


def parameters(some: tuple[Case, ...]):
    return [
        pytest.param(one, id=one.name.replace(" ", "-"), marks=_marks(one))
        for one in some
    ]


def _marks(case: Case):
    slow = case.phase == "training" and case.name not in ALWAYS
    return [pytest.mark.slow] if slow else []


@pytest.mark.parametrize("case", parameters(FAULTY))
def test_planted_fault_is_found(case):
    findings = found(case)
    told = alarms(findings)
    assert set(case.codes) <= told, [str(one) for one in findings]
    assert told <= {*case.codes, *case.allowed}, [str(one) for one in findings]


@pytest.mark.parametrize("case", parameters(HEALTHY))
def test_healthy_network_raises_no_alarm(case):
    findings = found(case)
    assert not alarms(findings), [str(one) for one in findings]


def test_names_are_unique():
    names = [case.name for case in (*FAULTY, *HEALTHY)]
    assert len(names) == len(set(names))


def test_faulty_cases_have_codes_and_healthy_ones_none():
    assert all(case.codes for case in FAULTY)
    assert not any(case.codes or case.allowed for case in HEALTHY)


@pytest.mark.parametrize("case", [FAULTY[5], HEALTHY[0]], ids=lambda case: case.name)
def test_a_case_is_built_the_same_each_time(case):
    one, other = (kernels(case.build()) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

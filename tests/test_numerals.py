import pytest

from keras_initlab import numerals

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**-55.5, "3.16·10⁻⁵⁶"),
        (1e-55, "10⁻⁵⁵"),
        (-1e-9, "-10⁻⁹"),
        (1.5e300, "1.5·10³⁰⁰"),
        (0.00012, "0.00012"),
        (1234.0, "1,230"),
        (999.6, "1,000"),
        (123456.0, "123,000"),
        (999999.0, "10⁶"),
        (64.0, "64"),
        (0.0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_as_people_write_them(value, text):
    assert numerals.number(value) == text

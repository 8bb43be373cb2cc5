import pytest

from keras_initlab.tables import fit, render_table

pytestmark = pytest.mark.once

COLUMNS = [("name", "left"), ("g", "right")]


@pytest.mark.parametrize("text", ["[red]x[/red]", ":smile:", "[/]", "\\[a]"])
def test_markup_is_text_in_cells_and_titles(text):
    table = render_table(text, COLUMNS, [[text, "1"]])
    assert table.splitlines()[0] == text
    assert table.splitlines()[-1].split() == [text, "1"]


def test_a_terminal_gets_no_codes():
    assert "\x1b" not in render_table("\x1b[31m", COLUMNS, [["\x1b]0;title\x07", "1"]])


@pytest.mark.parametrize("width", [12, 20, 40])
def test_width(width):
    table = render_table("t", COLUMNS, [["dense_" * 9, "1"]], width)
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (100, ([0, 1, 2], [10, 5, 4])),
        # 12 + 1 + 7 + 1 + 6, to the last character.
        (27, ([0, 1, 2], [10, 5, 4])),
        # The most important one is narrowed before another is given up.
        (26, ([0, 1, 2], [9, 5, 4])),
        (24, ([0, 2], [10, 4])),
        (19, ([0, 2], [10, 4])),
        (14, ([0], [10])),
        (5, ([0], [3])),
    ],
)
def test_columns_that_fit(room, expected):
    assert fit([10, 5, 4], [0, 2, 1], room, least=8) == expected

import io

import pytest

from tests.report import inspections
from tests.report.inspections import bare, dense, inspection

pytestmark = pytest.mark.once


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_layers_in_order_measured_and_predicted():
    above, below = inspections.small().plot().axes
    names = [one.get_text() for one in below.get_xticklabels()]
    assert names == ["encoder/dense_1", "encoder/dense_2", "head"]
    assert labels(above) == ["measured", "predicted"]


def test_layers_that_were_not_measured_keep_their_place():
    one = inspection(dense("a"), dense("b", measured=False), dense("c"))
    _, below = one.plot().axes
    assert [text.get_text() for text in below.get_xticklabels()] == ["a", "b", "c"]


def test_predicted_alone():
    one = inspection(dense("a", measured=False), bare("b"))
    above, _ = one.plot().axes
    assert labels(above) == ["predicted"]


def test_draws_on_the_figure_that_is_given():
    from matplotlib.figure import Figure

    figure = Figure()
    assert inspections.small().plot(figure) is figure


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_can_be_drawn():
    inspections.named().plot().savefig(io.BytesIO())


def test_nothing_to_plot():
    with pytest.raises(ValueError, match=r"nothing to plot.*'net' with 1 layers"):
        inspection(bare("a")).plot()

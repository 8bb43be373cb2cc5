import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from keras_initlab.model import fans
from keras_initlab.model.fans import Fans, kernel_fans
from tests.helpers import as_numpy


def built(layer, *input_shape):
    layer = type(layer).from_config(layer.get_config())
    layer.build((None, *input_shape))
    return layer


LAYERS = {
    "dense": (layers.Dense(7), (5,), Fans(5, 7)),
    "conv1d": (layers.Conv1D(8, 3), (10, 4), Fans(12, 24)),
    "conv2d": (layers.Conv2D(8, (3, 5)), (10, 10, 4), Fans(60, 120)),
    "conv3d": (layers.Conv3D(8, 2), (4, 4, 4, 3), Fans(24, 64)),
    "conv2d groups": (layers.Conv2D(8, 3, groups=2), (10, 10, 4), Fans(18, 36)),
    "conv2d dilation": (
        layers.Conv2D(8, 3, dilation_rate=2),
        (10, 10, 4),
        Fans(36, 72),
    ),
    "conv2d strides": (layers.Conv2D(8, 3, strides=2), (10, 10, 4), Fans(36, 18)),
    "conv1d groups, dilation": (
        layers.Conv1D(6, 3, groups=3, dilation_rate=2),
        (10, 6),
        Fans(6, 6),
    ),
    "conv1d transpose": (layers.Conv1DTranspose(8, 3), (10, 4), Fans(12, 24)),
    "conv2d transpose strides": (
        layers.Conv2DTranspose(8, 4, strides=2),
        (10, 10, 4),
        Fans(16, 128),
    ),
    "conv3d transpose": (layers.Conv3DTranspose(2, 2), (4, 4, 4, 3), Fans(24, 16)),
    "depthwise 1d": (layers.DepthwiseConv1D(3), (10, 4), Fans(3, 3)),
    "depthwise 2d": (
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        (10, 10, 4),
        Fans(9, 18),
    ),
    "depthwise 2d strides": (
        layers.DepthwiseConv2D(4, strides=2),
        (10, 10, 4),
        Fans(16, 4),
    ),
    "einsum": (layers.EinsumDense("abc,cd->abd", (None, 7)), (3, 5), Fans(5, 7)),
    "einsum heads": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (4, 5),
        Fans(5, 6),
    ),
    "einsum back": (
        layers.EinsumDense("abde,dec->abc", (None, 5)),
        (4, 2, 3),
        Fans(6, 5),
    ),
    "einsum batched": (
        layers.EinsumDense("abc,bcd->abd", (4, 7)),
        (4, 5),
        Fans(5, 7),
    ),
    "einsum ellipsis": (layers.EinsumDense("...x,xy->...y", (7,)), (3, 5), Fans(5, 7)),
}
GATED = {
    "simple_rnn": (layers.SimpleRNN(6), (5, 4), Fans(4, 6), Fans(6, 6)),
    "gru": (layers.GRU(6), (5, 4), Fans(4, 6), Fans(6, 6)),
    "lstm": (layers.LSTM(6), (5, 4), Fans(4, 6), Fans(6, 6)),
    "conv_lstm": (
        layers.ConvLSTM2D(6, 3),
        (5, 8, 8, 4),
        Fans(36, 54),
        Fans(54, 54),
    ),
}


@pytest.mark.parametrize("name", GATED)
def test_each_gate_has_fans_of_its_own(name):
    layer, input_shape, kernel, recurrent = GATED[name]
    cell = built(layer, *input_shape).cell
    assert kernel_fans(cell.kernel.shape, cell, "kernel") == kernel
    shape = cell.recurrent_kernel.shape
    assert kernel_fans(shape, cell, "recurrent_kernel") == recurrent


def test_separable_kernels():
    layer = built(layers.SeparableConv2D(8, 3, depth_multiplier=2), 10, 10, 4)
    shape = layer.depthwise_kernel.shape
    assert kernel_fans(shape, layer, "depthwise_kernel") == Fans(9, 18)
    shape = layer.pointwise_kernel.shape
    assert kernel_fans(shape, layer, "pointwise_kernel") == Fans(8, 8)


def test_a_lookup_sums_over_one_row():
    layer = built(layers.Embedding(100, 8))
    assert kernel_fans(layer.embeddings.shape, layer, "embeddings") == Fans(1, 8)


@pytest.mark.parametrize("name", LAYERS)
def test_fans_by_layer_type(name):
    layer, input_shape, expected = LAYERS[name]
    layer = built(layer, *input_shape)
    assert kernel_fans(layer.kernel.shape, layer, "kernel") == expected


@pytest.mark.parametrize("name", LAYERS)
def test_fan_in_is_what_an_output_sums_over(name):
    """With a kernel of ones and an input of ones, an inner output is fan_in."""
    layer, input_shape, expected = LAYERS[name]
    layer = built(layer, *input_shape)
    layer.kernel.assign(np.ones(layer.kernel.shape))
    output = as_numpy(layer(np.ones((1, *input_shape), "float32")))
    # The middle of the output: borders see less of the input, with strides or not.
    middle = output[0, *(size // 2 for size in output.shape[1:-1])]
    assert middle.max() == expected.fan_in


@pytest.mark.parametrize("name", LAYERS)
def test_fan_out_is_what_an_input_reaches(name):
    """The sum of all outputs over the number of inputs; borders count little here."""
    layer, input_shape, expected = LAYERS[name]
    wide = (*(48 if len(input_shape) < 4 else 16 for _ in input_shape[:-1]),)
    if isinstance(layer, layers.EinsumDense):
        wide = input_shape[:-1]
    elif wide:
        layer.padding = "same"
    layer = built(layer, *wide, input_shape[-1])
    layer.kernel.assign(np.ones(layer.kernel.shape))
    output = as_numpy(layer(np.ones((1, *wide, input_shape[-1]), "float32")))
    reached = output.sum() / (np.prod(wide) * input_shape[-1])
    assert reached == pytest.approx(expected.fan_out, rel=0.15)


SHAPES = [
    ((), Fans(1, 1)),
    ((6,), Fans(6, 6)),
    ((5, 7), Fans(5, 7)),
    ((3, 3, 4, 8), Fans(36, 72)),
    ((np.int64(5), 7), Fans(5, 7)),
]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
def test_fans_by_shape_alone(shape, expected):
    assert kernel_fans(shape) == expected


def test_unregistered_layer_falls_back_to_its_shape():
    class Mystery(layers.Layer):
        pass

    assert kernel_fans((5, 7), Mystery(), "w") == Fans(5, 7)


def test_a_rule_can_be_registered():
    class Halved(layers.Layer):
        pass

    @fans.kernel_layout.register(Halved)
    def _halved(layer, weight, shape):
        return fans.KernelLayout(inputs=(0,), outputs=(1,), input_share=0.5)

    assert kernel_fans((6, 4), Halved(), "kernel") == Fans(3, 4)


@pytest.mark.parametrize(
    "shape", [(None, 4), (0, 4), (4, -1), (2.5, 4), (True, 4), ("a", 3), (3, None)]
)
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="sizes are all positive integers") as caught:
        kernel_fans(shape)
    assert f"shape={shape}" in str(caught.value)


@pytest.mark.parametrize("mode", fans.MODES)
def test_over(mode):
    expected = {"fan_in": 4, "fan_out": 8, "fan_avg": 6}[mode]
    assert Fans(4, 8).over(mode) == expected


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_groups_divide_both_fans(rank, inputs, outputs, groups, field):
    layer = [layers.Conv1D, layers.Conv2D, layers.Conv3D][rank - 1](
        outputs * groups, field, groups=groups
    )
    shape = (*([field] * rank), inputs, outputs * groups)
    found = kernel_fans(shape, layer, "kernel")
    assert found == Fans(field**rank * inputs, field**rank * outputs)


@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_a_stride_divides_the_fan_of_one_side(rank, inputs, outputs, field, stride):
    plain = [layers.Conv1D, layers.Conv2D][rank - 1](outputs, field, strides=stride)
    back = [layers.Conv1DTranspose, layers.Conv2DTranspose][rank - 1](
        outputs, field, strides=stride
    )
    taps = field**rank
    found = kernel_fans((*([field] * rank), inputs, outputs), plain, "kernel")
    assert found == Fans(taps * inputs, taps * outputs / stride**rank)
    found = kernel_fans((*([field] * rank), outputs, inputs), back, "kernel")
    assert found == Fans(
        pytest.approx(taps * inputs / stride**rank), pytest.approx(taps * outputs)
    )


@st.composite
def equations(draw):
    """Draw an einsum of an input (a batch first) and a kernel, and the axes' sizes."""
    kept, summed, new = (draw(st.integers(least, 2)) for least in (0, 1, 1))
    names = iter("bcdefghij")
    kept, summed, new = (
        "".join(next(names) for _ in range(n)) for n in (kept, summed, new)
    )
    shared = kept[: draw(st.integers(0, len(kept)))]
    source = "".join(draw(st.permutations(kept + summed)))
    kernel = "".join(draw(st.permutations(shared + summed + new)))
    made = "".join(draw(st.permutations(kept + new)))
    sizes = {name: draw(st.integers(1, 4)) for name in kept + summed + new}
    return f"a{source},{kernel}->a{made}", source, made, sizes


@settings(max_examples=40, deadline=None)
@given(equations())
def test_any_equation(case):
    """An output of ones on ones is fan_in; all outputs over all inputs, fan_out."""
    equation, source, made, sizes = case
    layer = layers.EinsumDense(equation, tuple(sizes[name] for name in made))
    shape = tuple(sizes[name] for name in source)
    layer.build((None, *shape))
    layer.kernel.assign(np.ones(layer.kernel.shape))
    output = as_numpy(layer(np.ones((1, *shape), "float32")))
    fan = kernel_fans(layer.kernel.shape, layer, "kernel")
    assert (output == fan.fan_in).all()
    assert output.sum() / np.prod(shape) == pytest.approx(fan.fan_out)


def test_an_equation_without_a_kernel_axis_is_refused():
    layer = layers.EinsumDense("ab,bc->ac", 3)
    layer.equation = "ab,->ab"
    with pytest.raises(ValueError, match="Received: equation='ab,->ab'"):
        kernel_fans((), layer, "kernel")


def test_additive_attention_sums_over_its_units():
    layer = layers.AdditiveAttention()
    layer.build([(None, 3, 8), (None, 3, 8)])
    assert kernel_fans(layer.scale.shape, layer, "scale") == Fans(8, 1)

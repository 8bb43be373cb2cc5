"""measure, diagnose and inspect take what `fit` takes: one batch is drawn."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.model.batch import inputs_of

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = X[:, :1]
SPARSE = np.where(np.random.default_rng(1).random((16, 6)) > 0.6, X[:16], 0)


def model_of(width=6):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((width,), name="x"),
            layers.Dense(8, kernel_initializer="he_normal", name="a"),
            layers.Dense(1, name="b"),
        ]
    )


def two_inputs():
    keras.utils.set_random_seed(0)
    left, right = keras.Input((3,), name="left"), keras.Input((1,), name="right")
    outputs = layers.Dense(4, name="a")(layers.Concatenate(name="c")([left, right]))
    return keras.Model([left, right], outputs)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        part = slice(8 * index, 8 * index + 8)
        return X[part], Y[part], np.ones(8)


def dataset(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays if arrays[1:] else arrays[0])


def loader(*arrays):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.as_tensor, arrays))
    return torch.utils.data.DataLoader(data, batch_size=8)


def generator():
    for start in range(0, 32, 8):
        yield X[start : start + 8], Y[start : start + 8]


SOURCES = {
    "dataset": lambda: dataset(X, Y).batch(8),
    "dataset without targets": lambda: dataset(X).batch(8),
    "PyDataset": Batches,
    "generator": generator,
    "DataLoader": lambda: loader(X, Y),
    "DataLoader without targets": lambda: loader(X),
    "DataFrame": lambda: pytest.importorskip("pandas").DataFrame(X[:8]),
}


def assert_alike(found, expected):
    assert [one.layer for one in found] == [one.layer for one in expected]
    figures = [
        [[one.variance, one.gradient_second_moment] for one in stats]
        for stats in (found, expected)
    ]
    np.testing.assert_allclose(*figures, rtol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_is_drawn_from_what_fit_takes(source):
    found = il.measure(model_of(), SOURCES[source]())
    assert_alike(found, il.measure(model_of(), X[:8]))
    assert il.diagnose(model_of(), SOURCES[source]()) == il.diagnose(model_of(), X[:8])
    assert il.inspect(model_of(), SOURCES[source]()).data == "x of shape (8, 6)"


@pytest.mark.parametrize(
    "x",
    [
        lambda: dataset(({"left": X[:, :3], "right": Y}, Y)).batch(8),
        lambda: iter([({"left": X[:8, :3], "right": Y[:8]}, Y[:8])]),
        lambda: iter([((X[:8, :3], Y[:8]), Y[:8], np.ones(8))]),
        lambda: {
            "left": pytest.importorskip("pandas").DataFrame(X[:8, :3]),
            "right": pytest.importorskip("pandas").Series(Y[:8, 0]),
        },
    ],
    ids=["dataset of dicts", "dicts", "tuples", "frame and series"],
)
def test_batches_of_several_inputs(x):
    expected = il.measure(two_inputs(), [X[:8, :3], Y[:8]])
    assert_alike(il.measure(two_inputs(), x()), expected)
    assert il.inspect(two_inputs(), x()).layers[-1].measured is not None


def test_arrays_are_left_as_they_are():
    for x in (X, [X, Y], (X, Y), {"left": X}):
        assert keras.tree.flatten(inputs_of(x))[0] is X
    assert isinstance(inputs_of((X, Y)), tuple)


def test_of_a_generator_one_batch_is_used():
    batches = generator()
    il.inspect(model_of(), batches)
    assert len(list(batches)) == 3


def test_a_loader_does_not_move_the_generator():
    torch = pytest.importorskip("torch")
    before = torch.random.get_rng_state()
    inputs_of(loader(X, Y))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("call", [il.measure, il.diagnose, il.inspect])
def test_what_holds_no_batch_is_refused(call):
    model = model_of()
    with pytest.raises(ValueError, match=r"at least one batch.*generator"):
        call(model, (one for one in ()))


def sparse_model():
    keras.utils.set_random_seed(0)
    sparse = keras.backend.backend() != "torch"
    return keras.Sequential(
        [
            keras.Input((6,), sparse=sparse, name="x"),
            layers.Dense(8, kernel_initializer="he_normal", name="a"),
            layers.Dense(1, name="b"),
        ]
    )


def sparse_of_backend():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.sparse.from_dense(SPARSE)
    if backend == "jax":
        from jax.experimental.sparse import BCOO

        return BCOO.fromdense(SPARSE)
    import torch

    return torch.as_tensor(SPARSE).to_sparse()


@pytest.mark.parametrize(
    "x",
    [
        sparse_of_backend,
        lambda: pytest.importorskip("scipy.sparse").csr_matrix(SPARSE),
    ],
    ids=["of the backend", "SciPy"],
)
def test_sparse_inputs(x):
    expected = il.inspect(model_of(), SPARSE)
    found = il.inspect(sparse_model(), x())
    assert found.data == "x of shape (16, 6)"
    assert [one.code for one in found.findings] == [
        one.code for one in expected.findings
    ]
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.measured.variance == pytest.approx(other.measured.variance, rel=1e-4)
    assert il.diagnose(sparse_model(), x()) == list(found.findings)


@pytest.mark.tensorflow
def test_ragged_inputs():
    import tensorflow as tf

    class Padded(layers.Layer):
        def call(self, x):
            return x.to_tensor(shape=(None, 4)) if hasattr(x, "to_tensor") else x

        def compute_output_shape(self, input_shape):
            return (input_shape[0], 4)

    model = keras.Sequential(
        [keras.Input((None,), ragged=True), Padded(), layers.Dense(3, name="a")]
    )
    x = tf.ragged.constant([[1.0, 2.0], [3.0], [1.0, 2.0, 4.0]])
    found = il.inspect(model, x)
    assert found.layers[-1].measured.shape == (None, 3)
    assert found.data == "x of shape (3, None)"
    assert isinstance(il.diagnose(model, x), list)

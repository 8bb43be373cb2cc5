import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il

X = np.random.default_rng(0).standard_normal((32, 8)).astype("float32")


def net(**options):
    rows = [layers.Dense(8, "relu", name=f"d{i}", **options) for i in range(3)]
    return keras.Sequential([keras.Input((8,)), *rows, layers.Dense(1, **options)])


def trained(**options):
    model = net(**options)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], epochs=1, batch_size=16, verbose=0)
    return model


def loaded():
    model = net()
    model.set_weights(trained().get_weights())
    return model


def rewrite(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return il.rewrite_initializers(model, seed=0, **options)


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
def test_a_rewrite_says_that_it_redraws_what_was_learned(scheme):
    with pytest.warns(UserWarning, match="its optimizer has made 2 steps") as caught:
        il.rewrite_initializers(trained(), scheme=scheme)
    (told,) = [one for one in caught if one.category is UserWarning]
    assert "redraw=True" in str(told.message)
    assert told.filename == __file__


def test_weights_that_were_set_tell_it_too():
    with pytest.warns(UserWarning, match="biases and scales are not where"):
        il.rewrite_initializers(loaded())


def test_steps_count_without_biases():
    with pytest.warns(UserWarning, match="draws 4 kernels"):
        il.rewrite_initializers(trained(use_bias=False))


def test_nothing_is_said_where_nothing_learned_is_drawn_over():
    assert rewrite(trained(), redraw=True)[0].changed
    rewrite(trained(), dry_run=True)
    rewrite(trained(), only_unbuilt=True)
    frozen = trained()
    frozen.trainable = False
    rewrite(frozen)


def test_fresh_models_and_second_rewrites_are_no_trained_ones():
    model = net()
    model.compile("adam", "mse")
    rewrite(model)
    rewrite(model, scheme="variance")
    prior = net()
    prior.layers[-1].bias.assign([0.7])
    rewrite(prior)
    drawn = net(bias_initializer=keras.initializers.RandomNormal(stddev=0.1))
    rewrite(drawn)
    normalised = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.PReLU(),
        ]
    )
    rewrite(normalised)
    cells = layers.LSTM(8, return_sequences=True), layers.LSTM(8), layers.Dense(1)
    rewrite(keras.Sequential([keras.Input((4, 8)), *cells]))

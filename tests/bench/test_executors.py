"""Runs by executors: threads, processes, dask's workers."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

import keras_initlab as il
from tests.bench import networks

X, Y = networks.data()
SPAWN = multiprocessing.get_context("spawn")

compare = functools.partial(
    il.compare,
    networks.small,
    ["as built", "he_normal"],
    X,
    Y,
    epochs=2,
    seeds=2,
    verbose=0,
)


@pytest.fixture(scope="module")
def here():
    return compare()


def outcomes(comparison):
    return [(run.candidate, run.seed, run.history) for run in comparison.runs]


def names(comparison):
    return [[one.layer for one in run.start] for run in comparison.runs]


def test_threads_do_not_disturb_each_other(here):
    with ThreadPoolExecutor(3) as executor:
        found = compare(executor=executor)
    assert outcomes(found) == outcomes(here)


# Python is started several times: on JAX that takes half as long as elsewhere.
@pytest.mark.slow
@pytest.mark.jax
def test_processes(here):
    with ProcessPoolExecutor(2, mp_context=SPAWN) as executor:
        found = compare(executor=executor)
    assert outcomes(found) == outcomes(here)
    assert names(found) == names(here)


def kill_once(marker, model):
    """Kill the process, the first time that it is a worker's."""
    if multiprocessing.parent_process() is None or marker.exists():
        return
    marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.jax
def test_the_run_of_a_killed_process_is_done_again(tmp_path):
    killer = functools.partial(kill_once, tmp_path / "killed")
    candidates = {"killer": killer, "zeros": "zeros"}
    given = {"epochs": 1, "seeds": 2, "verbose": 0}
    with ProcessPoolExecutor(2, mp_context=SPAWN) as executor:
        given["executor"] = executor
        with pytest.warns(UserWarning, match="was killed"):
            found = il.compare(networks.small, candidates, X, Y, **given)
    assert (tmp_path / "killed").exists()
    keys = [(run.candidate, run.seed) for run in found.runs]
    assert keys == [("killer", 0), ("killer", 1), ("zeros", 0), ("zeros", 1)]


@pytest.mark.parametrize("what", ["build", "candidate"])
def test_what_cannot_be_pickled_is_named(what):
    def local(*_):
        return networks.small()

    build = local if what == "build" else networks.small
    candidate = networks.bigger_head if what == "build" else (lambda model: None)
    with (
        ProcessPoolExecutor(1, mp_context=SPAWN) as executor,
        pytest.raises(ValueError, match=f"{what}.* must be picklable"),
    ):
        il.compare(build, [candidate], X, Y, verbose=0, executor=executor)


def test_a_pool_that_forks_is_refused():
    fork = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, mp_context=fork) as executor,
        pytest.raises(ValueError, match="get_context\\('spawn'\\)"),
    ):
        compare(executor=executor)


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
def test_dask(cluster, here):
    # A lambda: dask's own pickler takes it.
    found = il.compare(
        lambda: networks.small(),
        ["as built", "he_normal"],
        X,
        Y,
        epochs=2,
        seeds=2,
        verbose=0,
        executor=cluster.get_executor(),
    )
    # Weights that Keras draws by Python's generator are another matter: dask's threads
    # draw from it, too.
    assert outcomes(found)[2:] == outcomes(here)[2:]
    assert names(found) == names(here)


def slow_start(folder, model):
    """Tell which process trains, and give time to kill it."""
    if multiprocessing.parent_process() is not None:
        Path(folder, str(os.getpid())).touch()
        time.sleep(3)


@pytest.mark.slow
def test_the_run_of_a_killed_worker_of_dask_is_done_again(cluster, tmp_path):
    killed = []

    def kill():
        while not (at_work := [*tmp_path.iterdir()]):
            time.sleep(0.05)
        killed.append(int(at_work[0].name))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    found = il.compare(
        networks.small,
        {"slow": functools.partial(slow_start, str(tmp_path)), "zeros": "zeros"},
        X,
        Y,
        epochs=1,
        seeds=2,
        verbose=0,
        executor=cluster.get_executor(),
    )
    thread.join()
    keys = [(run.candidate, run.seed) for run in found.runs]
    assert keys == [("slow", 0), ("slow", 1), ("zeros", 0), ("zeros", 1)]
    # Another process than the one that was killed began its run anew.
    assert len([*tmp_path.iterdir()]) > 1

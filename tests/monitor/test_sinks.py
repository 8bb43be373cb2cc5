"""Each sink's files are read back by another reader: json, csv, TensorBoard itself."""

import csv
import json
import math
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from keras_initlab.monitor.sinks import CSV, JSONLines, TensorBoard
from tests.helpers import ROOT, run_python

# Files alone: nothing here asks a backend for anything.
pytestmark = pytest.mark.once

ODD = "block 1/dense·ü:0#1"
NAN, INF = math.nan, math.inf


def epoch(number, steps=(0,), layers=("a", ODD), **more):
    """Return an epoch's records; the variance tells epoch, step and layer."""
    return [
        {
            "epoch": number,
            "step": step,
            "layer": layer,
            "variance": variance(number, step, index),
            **more,
        }
        for step in steps
        for index, layer in enumerate(layers)
    ]


def variance(number, step=0, layer=0):
    return number + step / 64 + layer / 1024  # exact in float32, too


def read_lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.open("rb")]


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(params=[JSONLines, CSV])
def text_sink(request):
    return request.param


def layers_in(path):
    rows = read_table(path) if path.suffix == ".csv" else read_lines(path)
    return [(int(row["epoch"]), row["layer"]) for row in rows]


def path_for(sink, folder):
    return folder / ("run.csv" if sink is CSV else "run.jsonl")


def test_json_lines_hold_the_records(tmp_path):
    path = tmp_path / "deep" / "er" / "run.jsonl"
    sink = JSONLines(path)
    sink.open()
    assert path.read_bytes() == b""
    sink(epoch(0, weight="kernel"))
    sink([])
    sink(epoch(1, mean=np.float32(0.5), nonfinite=np.int64(3)))
    assert read_lines(path) == [
        *epoch(0, weight="kernel"),
        *epoch(1, mean=0.5, nonfinite=3),
    ]


@pytest.mark.parametrize(
    "value", [NAN, INF, -INF, np.float32("nan"), np.float64("inf")]
)
def test_json_without_a_value_is_null(tmp_path, value):
    path = tmp_path / "run.jsonl"
    JSONLines(path)([{"epoch": 0, "layer": "a", "variance": value}])
    assert read_lines(path) == [{"epoch": 0, "layer": "a", "variance": None}]


def test_csv_holds_the_records(tmp_path):
    path = tmp_path / "deep" / "er" / "run.csv"
    sink = CSV(path)
    sink.open()
    sink([])
    assert path.read_bytes() == b""
    # The second record knows more than the first.
    first = [*epoch(0, layers=["a"]), *epoch(0, layers=['b, "c"\n'], mean=NAN)]
    sink(first)
    sink(epoch(1, mean=np.float64(0.1), weight=None))
    sink(epoch(2, layers=["a"], mean=-INF))
    rows = read_table(path)
    assert [*rows[0]] == ["epoch", "step", "layer", "variance", "mean", "weight"]
    assert [row["layer"] for row in rows] == ["a", 'b, "c"\n', "a", ODD, "a"]
    assert [row["mean"] for row in rows] == ["", "nan", "0.1", "0.1", "-inf"]
    assert {row["weight"] for row in rows} == {""}
    assert float(rows[3]["variance"]) == variance(1, 0, 1)


def test_csv_gets_new_columns_on_the_right(tmp_path):
    path = tmp_path / "run.csv"
    sink = CSV(path)
    sink(epoch(0))
    sink([{"epoch": 1, "layer": "a", "gradient": 2.0}])
    sink([{"epoch": 2, "layer": "a", "early": 1.0}])
    rows = read_table(path)
    columns = ["epoch", "step", "layer", "variance", "gradient", "early"]
    assert [*rows[0]] == columns
    assert all(None not in row and None not in row.values() for row in rows)
    assert [row["layer"] for row in rows] == ["a", ODD, "a", "a"]
    assert [row["gradient"] for row in rows] == ["", "", "2.0", ""]
    assert [row["early"] for row in rows] == ["", "", "", "1.0"]
    assert [one.name for one in tmp_path.iterdir()] == ["run.csv"]


def test_csv_with_new_columns_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path, link = tmp_path / "run.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    sink = CSV(link)
    sink(epoch(0))
    path.chmod(0o640)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("keras_initlab.files.shutil.copymode", fail)
        with pytest.raises(OSError, match="no space"):
            sink(epoch(1, mean=1.0))
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.csv", "run.csv"]
    sink(epoch(1, mean=1.0))
    assert [row["mean"] for row in read_table(path)] == ["", "", "1.0", "1.0"]
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.csv", "run.csv"]


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_csv_holds_no_formula_of_a_spreadsheet(tmp_path, name):
    path = tmp_path / "run.csv"
    sink = CSV(path)
    for number in range(2):
        # Names of layers and weights, and of functions that are columns.
        sink([{"epoch": number, "layer": name, "weight": name, name: -0.5}])
    for row in read_table(path):
        assert row["layer"] == row["weight"] == f"'{name}"
        assert row[f"'{name}"] == "-0.5"
        assert len(row) == 4


@pytest.mark.parametrize("append", [False, True])
def test_fit_empties_the_file_or_goes_on(tmp_path, text_sink, append):
    path = path_for(text_sink, tmp_path)
    for number in range(2):
        sink = text_sink(path, append=append)
        sink.open()
        sink(epoch(number))
    earlier = [(0, "a"), (0, ODD)] if append else []
    assert layers_in(path) == [*earlier, (1, "a"), (1, ODD)]


def test_csv_goes_on_with_columns_of_another_order(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("loss,layer,epoch\n1.5,z,0\n")
    sink = CSV(path, append=True)
    sink.open()
    sink(epoch(1, layers=["a"]))
    assert [(row["loss"], row["layer"], row["step"]) for row in read_table(path)] == [
        ("1.5", "z", ""),
        ("", "a", "0"),
    ]


def test_line_that_was_torn_off_swallows_no_other(tmp_path, text_sink):
    path = path_for(text_sink, tmp_path)
    sink = text_sink(path, append=True)
    sink(epoch(0))
    path.write_bytes(path.read_bytes()[:-9])
    sink.open()
    sink(epoch(1))
    lines = path.read_text(encoding="utf-8").splitlines()
    whole = tmp_path / f"whole{path.suffix}"
    whole.write_text("\n".join(lines[:-3] + lines[-2:]) + "\n", encoding="utf-8")
    assert layers_in(whole) == [(0, "a"), (1, "a"), (1, ODD)]


# The module by itself, without the package's own imports: of Keras and a backend.
SINKS = f"""
import os, signal, sys, types
for name in ("keras_initlab", "keras_initlab.monitor"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [os.path.join({str(ROOT)!r}, *name.split("."))]
from keras_initlab.monitor import sinks
"""
KILLED = """
names = [f"layer {index}" for index in range(500)]
for sink in (sinks.CSV("run.csv"), sinks.JSONLines("run.jsonl")):
    sink.open()
    for epoch in range(3):
        sink([{"epoch": epoch, "layer": name, "mean": 1 / 3} for name in names])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_killed_process_leaves_whole_lines(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SINKS + KILLED],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    expected = [(i, f"layer {index}") for i in range(3) for index in range(500)]
    assert layers_in(tmp_path / "run.csv") == expected
    assert layers_in(tmp_path / "run.jsonl") == expected


def test_text_of_an_epoch_is_written_in_one_go(tmp_path, text_sink, monkeypatch):
    # Nothing that a kill could cut in two; above the size of any buffer.
    written = []

    def count(path, data):
        written.append(len(data))

    monkeypatch.setattr("keras_initlab.files.appended", count)
    text_sink(tmp_path / "run")(epoch(0, layers=map(str, range(20_000))))
    assert len(written) == 1
    assert written[0] > 200_000


def accumulated(folder):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    events = event_accumulator.EventAccumulator(
        str(folder), size_guidance={"tensors": 0, "scalars": 0}
    )
    return events.Reload()


def scalars(folder, tag):
    return [(event.step, event.value) for event in accumulated(folder).Scalars(tag)]


@pytest.fixture
def board(tmp_path):
    pytest.importorskip("tensorboard")

    def make(**options):
        sink = TensorBoard(tmp_path / "deep" / "logs", **options)
        sink.open()
        return sink

    return make


def test_tensorboard_reads_each_statistic_of_each_layer(board):
    sink = board()
    for number in range(3):
        sink(epoch(number, mean=np.float32(-0.5), nonfinite=2, weight="w", odd=True))
    events = accumulated(sink.log_dir)
    assert sorted(events.Tags()["scalars"]) == sorted(
        f"{name}/{layer}"
        for name in ("variance", "mean", "nonfinite")
        for layer in ("a", ODD)
    )
    assert events.Tags()["tensors"] == []
    for index, layer in enumerate(("a", ODD)):
        assert scalars(sink.log_dir, f"variance/{layer}") == [
            (number, variance(number, 0, index)) for number in range(3)
        ]
    assert scalars(sink.log_dir, f"nonfinite/{ODD}") == [(0, 2), (1, 2), (2, 2)]
    assert scalars(sink.log_dir, "mean/a")[0] == (0, -0.5)


def test_tensorboard_keeps_nan_and_infinities(board):
    sink = board()
    values = [NAN, INF, -INF, 1e300]
    for number, value in enumerate(values):
        sink([{"epoch": number, "layer": "a", "variance": value}])
    read = [value for _, value in scalars(sink.log_dir, "variance/a")]
    np.testing.assert_array_equal(read, [NAN, INF, -INF, INF])  # beyond float32


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ({0: 1, 1: 1, 3: 1}, [0, 1, 3]),
        ({5: 1, 6: 1}, [5, 6]),
        ({0: 3, 1: 3}, [0, 1, 2, 3, 4, 5]),
        ({2: 3, 3: 3}, [6, 7, 8, 9, 10, 11]),
        # An epoch was left early.
        ({0: 3, 1: 2, 2: 1, 3: 2}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
    ids=["epochs", "resumed", "windows", "windows resumed", "fewer windows"],
)
@pytest.mark.parametrize("at_once", [False, True])
def test_tensorboard_steps(board, windows, expected, at_once):
    sink = board()
    calls = [epoch(i, steps=range(0, 10 * n, 10)) for i, n in windows.items()]
    if at_once:
        calls = [[row for rows in calls for row in rows]]
    for rows in calls:
        sink(rows)
    values = [variance(i, 10 * step) for i, n in windows.items() for step in range(n)]
    assert scalars(sink.log_dir, "variance/a") == list(
        zip(expected, values, strict=True)
    )


def histograms(folder):
    """Return step and buckets (left, right, count) by tag."""
    util = pytest.importorskip("tensorboard.util.tensor_util")
    events = accumulated(folder)
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        assert plugin == "histograms"
    return {
        tag: [(e.step, util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_reads_histograms_of_the_finite_values(board):
    sink = board(histograms=True)
    outputs = np.linspace(-1, 2, 61, dtype="float32").reshape(-1, 1)
    spoilt = np.concatenate([outputs, [[NAN], [INF], [-INF]]])
    for number in range(2):
        sink(epoch(number))
        sink.samples(
            number,
            {"a": spoilt, ODD: np.ones((2, 2), "float16"), "lost": spoilt[-3:]},
            {"a": outputs * 1e-6, "none": outputs[:0]},
        )
    read = histograms(sink.log_dir)
    assert read.keys() == {"outputs/a", f"outputs/{ODD}", "gradients/a"}
    assert all([step for step, _ in series] == [0, 1] for series in read.values())
    buckets = read["outputs/a"][1][1]
    counts, edges = np.histogram(outputs, bins=len(buckets))
    np.testing.assert_allclose(buckets[:, 0], edges[:-1], atol=1e-6)
    np.testing.assert_allclose(buckets[:, 1], edges[1:], atol=1e-6)
    # A value on an edge may be counted on either side of it.
    assert np.abs(np.cumsum(buckets[:, 2]) - np.cumsum(counts)).max() <= 1
    assert buckets[:, 2].sum() == 61
    assert read[f"outputs/{ODD}"][0][1][:, 2].sum() == 4
    np.testing.assert_allclose(read["gradients/a"][0][1][-1, 1], 2e-6)


def test_tensorboard_histograms_stand_at_the_epochs_last_window(board):
    sink = board(histograms=True)
    for number in range(2):
        sink(epoch(number, steps=(0, 10, 20)))
        sink.samples(number, {"a": np.arange(4.0)}, {})
    assert [step for step, _ in histograms(sink.log_dir)["outputs/a"]] == [2, 5]


def test_tensorboard_without_histograms_writes_none(board):
    sink = board()
    sink(epoch(0))
    sink.samples(0, {"a": np.arange(4.0)}, {})
    assert accumulated(sink.log_dir).Tags()["tensors"] == []


def test_tensorboard_begins_a_file_for_each_fit(board):
    sink = board()
    for number in (7, 3):
        sink.open()
        sink(epoch(number))
    *_, first, second = sorted(sink.log_dir.iterdir())
    assert scalars(first, "variance/a") == [(7, 7.0)]
    assert scalars(second, "variance/a") == [(3, 3.0)]


def test_tensorboard_is_written_without_any_backend(tmp_path):
    pytest.importorskip("tensorboard")
    code = f"""{SINKS}
sink = sinks.TensorBoard({str(tmp_path)!r}, histograms=True)
sink([{{"epoch": 0, "layer": "a", "mean": 1.0}}])
sink.samples(0, {{"a": sinks.np.ones(3)}}, {{}})
print(*sorted({{"tensorflow", "jax", "torch", "keras"}} & sys.modules.keys()), "end")
"""
    assert run_python(code).split() == ["end"]
    assert scalars(tmp_path, "mean/a") == [(0, 1.0)]


def test_missing_tensorboard_is_said_at_once(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tensorboard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        ImportError, match=r'pip install "keras-initlab\[tensorboard\]"'
    ):
        TensorBoard(tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"run", ["run"], sys.stdout], ids=repr)
def test_bad_path_is_refused(text_sink, path):
    with pytest.raises(TypeError, match=r"`path` must be a string or a path.*Received"):
        text_sink(path)


@pytest.mark.parametrize("path", ["", "gs://bucket/run"])
def test_path_elsewhere_is_refused(text_sink, path):
    with pytest.raises(ValueError, match=r"on this machine\. Received: path="):
        text_sink(path)


def test_bad_arguments_of_tensorboard_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"`log_dir` must be a string.*NoneType"):
        TensorBoard(None)
    with pytest.raises(ValueError, match=r"Received: log_dir='s3://logs'"):
        TensorBoard("s3://logs")
    with pytest.raises(TypeError, match=r"`histograms`.* must be True or False"):
        TensorBoard(tmp_path, histograms=10)


def test_append_must_be_a_bool(text_sink):
    with pytest.raises(
        TypeError, match=r"`append`.*True or False. Received: append='a'"
    ):
        text_sink("run", append="a")


def test_text_sinks_show_their_arguments_and_can_be_pickled(tmp_path, text_sink):
    assert repr(text_sink("run", append=True)) == (
        f"{text_sink.__name__}('run', append=True)"
    )
    path = path_for(text_sink, tmp_path)
    sink = text_sink(path)
    sink.open()
    sink(epoch(0))
    pickle.loads(pickle.dumps(sink))(epoch(1))
    assert [number for number, _ in layers_in(path)] == [0, 0, 1, 1]


def test_tensorboard_shows_its_arguments_and_can_be_pickled(board):
    sink = board()
    assert repr(sink) == f"TensorBoard({str(sink.log_dir)!r}, histograms=False)"
    sink(epoch(0))
    pickle.loads(pickle.dumps(sink))(epoch(1))
    assert [step for step, _ in scalars(sink.log_dir, "variance/a")] == [0, 1]

"""Files are written whole or not at all, also on a disk that is full."""

import contextlib
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from keras_initlab.files import appended, replacing
from keras_initlab.monitor.sinks import CSV, JSONLines
from tests.report import inspections

pytestmark = pytest.mark.once


@contextlib.contextmanager
def full_disk(size):
    """Let no file grow beyond `size` bytes: a part is written, and then it fails."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def names(folder):
    return sorted(one.name for one in folder.iterdir())


@pytest.mark.parametrize("sink", [JSONLines, CSV])
def test_full_disk_leaves_no_torn_line(tmp_path, sink):
    path = tmp_path / "run"
    write = sink(path)
    write([{"epoch": 0, "layer": "a", "mean": 0.5}])
    before = path.read_bytes()
    many = [{"epoch": 1, "layer": f"layer {i}", "mean": 1 / 3} for i in range(500)]
    with full_disk(len(before) + 1000), pytest.raises(OSError, match="large"):
        write(many)
    assert path.read_bytes() == before
    write(many)
    assert len(path.read_text().splitlines()) == 501 + (sink is CSV)


def test_full_disk_leaves_the_table_without_its_new_columns(tmp_path):
    path = tmp_path / "run.csv"
    sink = CSV(path)
    sink([{"epoch": i, "layer": f"layer {i}"} for i in range(500)])
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError, match="large"):
        sink([{"epoch": 500, "layer": "a", "mean": 0.5}])
    assert path.read_bytes() == before
    assert names(tmp_path) == ["run.csv"]


def test_full_disk_leaves_the_earlier_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the page of yesterday")
    page = inspections.small()
    with full_disk(1000), pytest.raises(OSError, match="large"):
        page.save_html(path)
    assert path.read_text() == "the page of yesterday"
    assert names(tmp_path) == ["report.html"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), SystemExit()])
def test_what_fails_changes_nothing(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_new_file_has_the_mode_of_any_other_and_an_old_one_keeps_its_own(tmp_path):
    plain, path = tmp_path / "plain.txt", tmp_path / "a.txt"
    plain.write_text("")
    for mode in (stat.S_IMODE(plain.stat().st_mode), 0o640):
        with replacing(path) as fresh:
            fresh.write_text("new")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        path.chmod(0o640)


def test_name_may_be_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("n" * 255)
    with replacing(path) as fresh:
        fresh.write_text("new")
    assert path.read_text() == "new"


def test_link_stays_a_link(tmp_path):
    path, link = tmp_path / "there" / "a.txt", tmp_path / "link.txt"
    path.parent.mkdir()
    link.symlink_to(path)
    for text in ("first", "second"):
        with replacing(link) as fresh:
            fresh.write_text(text)
        assert path.read_text() == text
        assert link.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipe_is_written_to_and_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    with replacing(path) as fresh:
        fresh.write_text("through")
    reader.join(10)
    assert read == ["through"]
    assert path.is_fifo()


def test_error_names_the_file(tmp_path):
    path = tmp_path / "nowhere" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as fresh:
        fresh.write_text("new")
    assert caught.value.filename == str(path) or str(path) in str(caught.value)
    with pytest.raises(IsADirectoryError), replacing(tmp_path) as fresh:
        fresh.write_text("new")


def test_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    # As for anybody but root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"a\.txt"), replacing(path) as fresh:
        fresh.write_text("new")
    assert path.read_text() == "old"


def test_file_in_a_folder_that_takes_no_new_ones_is_written_in_place(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def refuse(**_):
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with replacing(path) as fresh:
        fresh.write_text("new")
    assert path.read_text() == "new"


def test_appended_goes_through_a_device():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="space"):
        appended(Path("/dev/full"), b"line\n")

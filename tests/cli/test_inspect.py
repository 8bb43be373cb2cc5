import json
import os
import sys
import warnings
from dataclasses import replace

import pytest

from keras_initlab.cli import main
from tests.report import inspections

INSPECTION = "keras_initlab.inspection"


def of_file():
    return replace(inspections.small(), file="model.keras")


def test_text(model, inspected, capsys):
    assert main(["inspect", "model.keras"]) == 0
    printed = capsys.readouterr()
    assert printed.out == inspections.small().text() + "\n"
    # Others' prints do not mix into it.
    assert printed.err == "chatter\n"
    ((given, x),) = inspected
    assert [one.name for one in given.layers] == ["one", "two"]
    assert x is None


def test_json_is_all_that_is_printed(model, inspected, capsys):
    assert main(["inspect", "model.keras", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == of_file().to_dict()


def test_html(model, inspected, capsys):
    assert main(["inspect", "model.keras", "--format", "html"]) == 0
    assert capsys.readouterr().out == of_file().html() + "\n"


def test_width(model, inspected, capsys):
    assert main(["inspect", "model.keras", "--width", "60"]) == 0
    assert capsys.readouterr().out == inspections.small().text(60) + "\n"


def test_markdown(model, inspected, capsys):
    assert main(["inspect", "model.keras", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == of_file().markdown() + "\n"


@pytest.mark.parametrize("width", ["29", "0", "wide", "60.5"])
def test_a_width_that_is_none(width, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "model.keras", "--width", width])
    assert caught.value.code == 2
    assert "30 or more" in capsys.readouterr().err


def test_a_terminal_gets_its_width_and_colours(model, inspected, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((80, 24)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["inspect", "model.keras"]) == 0
    assert capsys.readouterr().out == inspections.small().text(80, color=True) + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["inspect", "model.keras"]) == 0
    assert capsys.readouterr().out == inspections.small().text(80) + "\n"


@pytest.mark.parametrize(
    ("level", "code"),
    [("error", 1), ("warning", 1), ("info", 1), ("never", 0), (None, 0)],
)
def test_fail_on(level, code, model, inspected, capsys):
    more = ["--fail-on", level] if level else []
    assert main(["inspect", "model.keras", *more]) == code
    # The report is printed all the same.
    assert "vanishing-signal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("level", "code"), [("error", 0), ("warning", 1), ("info", 1), ("never", 0)]
)
def test_fail_on_goes_by_the_severity(level, code, model, inspected, monkeypatch):
    one = inspections.finding("a", severity="warning")
    found = inspections.inspection(inspections.dense("a"), findings=[one])
    monkeypatch.setattr(sys.modules[INSPECTION], "inspect", lambda *_: found)
    assert main(["inspect", "model.keras", "--fail-on", level]) == code


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.html", "html"),
        ("a.json", "json"),
        ("a.md", "markdown"),
        ("a.txt", "text"),
        ("a", "text"),
    ],
)
def test_a_file_is_written_as_its_ending_says(name, form, model, inspected, capsys):
    assert main(["inspect", "model.keras", "-o", name]) == 0
    assert capsys.readouterr().out == ""
    with open(name, encoding="utf-8") as file:
        assert file.read() == getattr(of_file(), form)() + "\n"


def test_the_format_counts_more_than_the_ending(model, inspected):
    assert main(["inspect", "model.keras", "-o", "a.txt", "--format", "json"]) == 0
    with open("a.txt", encoding="utf-8") as file:
        assert json.load(file)["schema"] == 1


def test_files_that_cannot_be_written(model, inspected, refused, tmp_path):
    before = (tmp_path / "model.keras").read_bytes()
    assert "is the model itself" in refused(
        "inspect", "model.keras", "-o", "model.keras"
    )
    assert "no folder nowhere" in refused("inspect", "model.keras", "-o", "nowhere/a")
    assert "is a folder" in refused("inspect", "model.keras", "-o", str(tmp_path))
    # Said before the work is done.
    assert inspected == []
    assert (tmp_path / "model.keras").read_bytes() == before


def test_a_full_disk(model, inspected, monkeypatch, capsys):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", full)
    monkeypatch.setattr("keras_initlab.cli.loading._check_file", lambda _: None)
    assert main(["inspect", "model.keras", "-o", "a.txt"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "keras-initlab: a.txt cannot be written: No space left on device."
    )


def test_a_warning_is_a_line_said_once(model, inspected, monkeypatch, capsys):
    def warn(*_):
        for _ in range(2):
            warnings.warn("no rule\nfor this layer", stacklevel=1)
        return inspections.small()

    monkeypatch.setattr(sys.modules[INSPECTION], "inspect", warn)
    assert main(["inspect", "model.keras"]) == 0
    assert capsys.readouterr().err == (
        "keras-initlab: warning: no rule for this layer\n"
    )


def test_what_cannot_be_inspected(model, inspected, monkeypatch, refused, capsys):
    def fail(*_):
        warnings.warn("not said where the work fails", stacklevel=1)
        raise RuntimeError("\x1b[1mtwo\nlines\x1b[0m " + "and more " * 99)

    monkeypatch.setattr(sys.modules[INSPECTION], "inspect", fail)
    line = refused("inspect", "model.keras")
    assert "model.keras cannot be inspected: two lines and more" in line
    assert len(line) < 400
    assert main(["inspect", "model.keras", "--traceback"]) == 2
    assert "RuntimeError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "report.pdf"], "would hold no .pdf file"),
        (["-o", "report.PNG"], "would hold no .png file"),
        (["-o", "a.json", "--format", "html"], "would hold html, not json"),
        (["-o", "a.html", "--format", "text"], "would hold text, not html"),
    ],
)
def test_a_name_that_says_something_else_is_refused(arguments, words, refused, model):
    assert words in refused("inspect", "model.keras", *arguments)
    assert os.listdir() == ["model.keras"]


def test_what_is_asked_for_is_written_under_any_other_ending(model, inspected):
    arguments = ["-o", "report.out", "--format", "json"]
    assert main(["inspect", "model.keras", *arguments]) == 0
    with open("report.out", encoding="utf-8") as file:
        assert json.load(file) == inspections.small().to_dict() | {
            "file": "model.keras"
        }

import io
import os
import subprocess
import sys

import pytest

import keras_initlab
from keras_initlab import rewrite
from keras_initlab.cli import arguments, main
from keras_initlab.cli.output import no_native_logs
from tests.helpers import run_python


def test_gains_of_some(capsys):
    assert main(["gains", "relu", "gelu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].split()[:6] == "relu 0.3989 0.5000 0.5000 1.4142 1.0000".split()
    assert lines[-1].split()[4] == "1.5335"


def test_gains_of_all_names_every_keras_activation(capsys):
    assert main(["gains"]) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]}
    assert {"relu", "swish", "softmax", "glu", "threshold"} <= shown
    assert len(shown) >= 31


def test_an_unknown_activation_is_one_line_and_exit_code_2(capsys):
    assert main(["gains", "rellu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'rellu'" in error


def test_no_command_prints_help(capsys):
    assert main([]) == 0
    assert "keras-initlab gains" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "rewrite", "gains"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"  keras-initlab {command} " in out[out.index("examples:") :]
    assert ("Only for files from people whom you trust" in " ".join(out.split())) == (
        command != "gains"
    )


def test_the_schemes_are_those_of_the_rewrite():
    assert arguments.SCHEMES == rewrite.SCHEMES


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_ends_quietly_when_interrupted(error, monkeypatch, capsys):
    def stop(_):
        raise error

    monkeypatch.setattr("keras_initlab.cli.gains.emit", stop)
    code = main(["gains", "relu"])
    assert code == {KeyboardInterrupt: 130, BrokenPipeError: 141}[error]
    assert capsys.readouterr() == ("", "")


def test_nobody_reads_the_output(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main(["gains", "relu"]) == 141


def test_an_output_without_the_letters(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert main(["gains", "relu"]) == 0
    assert b"E[\\u03c6]" in raw.getvalue()


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == keras_initlab.__version__


@pytest.mark.torch
def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "keras_initlab", "gains", "tanh"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1.5925" in done.stdout


@pytest.mark.torch
def test_import_registers_and_adds_no_backend_of_its_own():
    printed = run_python(
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "import keras_initlab\n"
        "added = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(added & {'matplotlib', 'tensorflow', 'jax', 'torch', 'scipy'}))\n"
        "print(keras.initializers.get('initlab>auto').__class__.__name__)\n"
    ).splitlines()[-2:]
    assert printed == ["[]", "Auto"]


@pytest.mark.tensorflow
def test_nothing_of_tensorflows_is_on_the_standard_error():
    done = subprocess.run(
        [sys.executable, "-m", "keras_initlab", "gains", "relu", "rellu"],
        # As in a terminal: nothing is set.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
        capture_output=True,
        text=True,
    )
    [line] = done.stderr.splitlines()
    assert line.startswith("keras-initlab: ")
    assert done.returncode == 2


def test_what_python_writes_there_still_arrives_and_c_does_not(capfd):
    with no_native_logs():
        print("python", file=sys.stderr)
        os.write(2, b"native\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "python\nafterwards\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        *([name, "--help"] for name in ("inspect", "rewrite", "gains")),
    ],
    ids=" ".join,
)
def test_help_and_version_wait_for_no_keras(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_initlab", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines}
    assert "keras_initlab.cli" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch"}
    # And nothing else on the standard error.
    assert all(line.startswith("import time:") for line in lines)


@pytest.mark.torch
def test_the_command_registers_the_names_when_it_loads_a_model():
    printed = run_python(
        "import sys\n"
        "sys.argv = ['/usr/bin/keras-initlab', 'gains', 'relu']\n"
        "from keras_initlab.cli import main\n"
        "assert 'keras' not in sys.modules\n"
        "import keras_initlab.cli.loading\n"
        "import keras\n"
        "print(keras.initializers.get('initlab>auto').__class__.__name__)\n"
    )
    assert printed.split() == ["Auto"]

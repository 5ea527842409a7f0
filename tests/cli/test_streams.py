"""What the system refuses a command is one line: streams that are full, closed or of few characters, names, disks."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from dyntok_jax.cli import main
from dyntok_jax.cli.shared import screen
from dyntok_jax.cli.shared.figures import figures_table
from dyntok_jax.cli.shared.screen import print_out, progress_bar, waiting
from dyntok_jax.cli.shared.training_screen import training_view
from dyntok_jax.errors import escaped
from dyntok_jax.training import Report
from tests.support.tiny import tiny_tokenizer, write_tiny_encoder

PROGRAM = "import sys; from dyntok_jax.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return str(folder)


def run(*arguments, shell="{}", **options):
    """The status and what was said, of a command within a line of shell."""
    command = shell.format('"$0" -c "$1" "${@:2}"')
    return subprocess.run(
        ["bash", "-c", command, sys.executable, PROGRAM, *arguments], capture_output=True, check=False, **options
    )


def assert_one_line(done, *said):
    text = done.stderr.decode()
    assert done.returncode == 2, text
    assert text.startswith("dyntok: error: ")
    assert text.count("\n") == 1
    for part in said:
        assert part in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("{} > /dev/full", "Standard output cannot be read or written: No space left on device"),
        ("{} >&-", "Standard output is closed"),
        ("PYTHONIOENCODING=ascii {}", "Standard output takes ascii"),
    ],
)
def test_20_a_standard_output_that_takes_nothing_is_told(tokenizer_folder, shell, said):
    assert_one_line(run("show", "Grüße", "--model", tokenizer_folder, shell=shell), said)


def test_20_a_closed_standard_input_is_told(tokenizer_folder):
    assert_one_line(run("show", "-", "--model", tokenizer_folder, shell="{} <&-"), "Standard input is closed")


@pytest.mark.slow
def test_20_a_closed_standard_error_is_no_error(tokenizer_folder):
    assert run("show", "x", "--model", tokenizer_folder, shell="{} 2>&-").returncode == 0


def test_20_an_argument_that_is_not_utf8_is_told(tokenizer_folder):
    assert_one_line(run("show", b"a\xff", "--model", tokenizer_folder), r"'a\udcff' is not UTF-8")


def test_20_ctrl_c_while_importing_is_quiet(tmp_path):
    """The import of `tyro`, one of the first, is made to wait."""
    (tmp_path / "tyro.py").write_text("import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n")
    program = f"import signal; signal.signal(2, signal.default_int_handler); {PROGRAM}"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, "--version"], **options) as process:
        while not (tmp_path / "here").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b""
    assert process.returncode == 130


@pytest.mark.slow
def test_20_a_disk_too_small_for_orbax_is_told(tmp_path):
    write_tiny_encoder(tmp_path / "model")
    done = run("convert", str(tmp_path / "model"), str(tmp_path / "orbax"), shell="ulimit -f 60; {}")
    assert_one_line(done, "orbax cannot be written: File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_20_a_disk_that_is_full_before_is_told(tmp_path, monkeypatch, capsys):
    write_tiny_encoder(tmp_path / "model")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "orbax")]) == 2
    assert "orbax cannot be written: No space left on device." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "{model}", "{long}"],
        ["convert", "{long}", "out"],
        ["encode", "text.txt", "--model", "{long}"],
        ["show", "x", "--model", "{long}"],
        ["learn-merges", "text.txt", "--output", "{long}", "--merges", "5", "--model", "{tokenizer}"],
        ["build-vocab", "text.txt", "--size", "9", "--output", "{long}", "--model", "{tokenizer}"],
        ["train-hypernet", "--text", "text.txt", "--output", "{long}", "--model", "{model}"],
        ["encode", "{long}"],
    ],
)
def test_20_names_that_no_file_system_has_are_told(tmp_path, tokenizer_folder, capsys, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write_tiny_encoder(tmp_path / "model")
    (tmp_path / "text.txt").write_text("some text\n")
    names = {"long": "x" * 300, "model": str(tmp_path / "model"), "tokenizer": tokenizer_folder}
    assert main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dyntok: error: ")
    assert error.count("\n") == 1


def test_25_an_empty_name_for_the_output_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text\n")
    for arguments in (["encode", "text.txt", "--output", ""], ["convert", "model", ""]):
        assert main(arguments) == 2
        assert "is empty: give one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_25_a_run_does_not_go_into_a_folder_of_other_things(tmp_path, capsys):
    write_tiny_encoder(tmp_path / "model")
    (tmp_path / "text.txt").write_text("some text\n" * 500)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    files = ["--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt")]
    options = ["--output", str(tmp_path / "photos"), "--steps", "1", "--max-length", "32", "--batch-size", "4"]
    assert main(["train-hypernet", *files, *options]) == 2
    assert "holds other things (cat.jpg)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_25_progress_goes_to_a_pipe_by_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(screen, "FIRST_LINE_SECONDS", 0.05)
    with progress_bar("Encoding", 1000) as advance:
        advance(10)
        time.sleep(0.5)  # nothing is done meanwhile, as while the first program is compiled
    out, error = capsys.readouterr()
    lines = error.splitlines()
    assert out == ""
    assert lines[0] == "Encoding: 10 of 1,000, 0 s"
    assert 2 <= len(lines) <= 10
    with waiting("Converting"):
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("Converting: 0 s\n")


def test_25_what_is_quick_says_nothing_of_progress(capsys):
    with progress_bar("Encoding", 10) as advance, waiting("Converting"):
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_25_lines_of_progress_come_ever_more_seldom(capsys, monkeypatch):
    pauses = []

    class Clock:
        """Lets no time pass but counts it."""

        def wait(self, seconds):
            pauses.append(seconds)
            return len(pauses) > 60

        def set(self):
            """The end is not waited for."""

    monkeypatch.setattr(screen, "threading", SimpleNamespace(Event=Clock, Thread=threading.Thread))
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: sum(pauses)))
    with progress_bar("Encoding", 10):
        pass
    assert pauses[0] == 10
    assert pauses[-1] == 300
    assert pauses == sorted(pauses)
    assert capsys.readouterr().err.splitlines()[1] == "Encoding: 0 of 10, 20 s"


@pytest.mark.parametrize("arguments", [["encode", "--a\x1b[31m"], ["encode", "--boundary", "\x1b[31m"], ["\x1b[31m"]])
def test_23_arguments_are_quoted_escaped(capsys, arguments):
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert r"\x1b[31m" in error


@pytest.mark.parametrize("name", ["a\x1b[31m.txt", "a[/b].txt", "a[red].txt", "a\u202eb"])
def test_23_names_stand_in_tables_and_news_of_training_as_they_are_but_escaped(capsys, name):
    print_out(figures_table([{"": name, "tokens": "1"}]), name)
    with training_view(1) as show:
        show(Report(step=1, metrics={name: 1.0}, is_validation=True))
    out, error = capsys.readouterr()
    assert not {"\x1b", "\u202e"} & set(out + error)
    assert (out.count(escaped(name)), error.count(escaped(name))) == (2, 1)


def test_23_names_of_files_are_printed_escaped(tmp_path, tokenizer_folder, capsys):
    name = tmp_path / "a\x1b[31m.jsonl"
    (tmp_path / "text.txt").write_text("some text, some text\n" * 3)
    arguments = [str(tmp_path / "text.txt"), "--model", tokenizer_folder, "--merges", "1"]
    assert main(["learn-merges", *arguments, "--output", str(name)]) == 0
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error
    assert name.exists()

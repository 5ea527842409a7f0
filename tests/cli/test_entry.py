"""The command line itself: help that teaches, quick starts, exit statuses, quiet pipes."""

import os
import subprocess
import sys

import pytest

from dyntok_jax.cli import main
from dyntok_jax.cli.entry import COMMANDS
from tests.support.tiny import tiny_tokenizer

# A runner in the background leaves its children deaf to Ctrl-C, so they are made to hear it.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from dyntok_jax.cli import main
sys.exit(main())
"""


def start(*arguments, **pipes):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], text=True, **pipes)


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"] if command else ["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.count("  dyntok ") >= 3
    assert "{None" not in out


def test_examples_of_the_help_can_be_parsed(tmp_path, monkeypatch):
    from dyntok_jax.cli.entry import _parse

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('output = "run"\ntext = ["de.txt"]\n')
    for command in COMMANDS.values():
        lines = command.EXAMPLES.replace("\\\n", " ").splitlines()
        for line in lines:
            # an explanation stands three spaces or more behind what it explains
            words = line[line.index("dyntok ") :].split("   ")[0].split()
            if not any('"' in word for word in words):
                assert isinstance(_parse(words[1:]), tuple(COMMANDS.values()))


def test_help_and_version_import_no_jax():
    program = (
        "import sys; from dyntok_jax.cli import main\n"
        "try:\n    main([sys.argv[1]])\nexcept SystemExit:\n    pass\n"
        "assert not {'jax', 'numba', 'tokenizers'} & set(sys.modules)"
    )
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", program, option], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(("usage: dyntok", "dyntok "))


def test_unknown_options_and_commands_exit_with_2(capsys):
    for arguments in (["encode", "--nonsense"], ["nonsense"], [], ["encode", "--share", "much"]):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(tokenizer_folder):
    reader, writer = os.pipe()
    os.close(reader)
    with start("show", "text", "--model", tokenizer_folder, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_interrupting_is_quiet():
    with start("show", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # the first byte is taken when the command reads; before that, Python is still importing
        process.stdin.write("x" * 1_000_000)
        process.stdin.flush()
        process.send_signal(2)
        assert process.communicate()[1] == ""
    assert process.returncode == 130


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("dyntok_jax.cli.commands.show.read_lines", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["show", "-"])

"""Options from a TOML file: what they may be, and what is said of those that they may not."""

import pytest

from dyntok_jax.cli.commands.train_hypernet import TrainHypernet
from dyntok_jax.cli.shared import named_file, read_options
from dyntok_jax.errors import InputError


@pytest.fixture
def read(tmp_path):
    def read(text: str):
        file = tmp_path / "run.toml"
        file.write_text(text, encoding="utf-8")
        return read_options(str(file), TrainHypernet, but=("config",))

    return read


def test_options_of_every_type(read):
    text = 'text = ["de.txt"]\nsteps = 3\nlearning_rate = 1\nclip = 0.5\nplain = true\nshare = "fixed"\nmesh = "4x2"\n'
    assert read(text) == {
        "text": ("de.txt",),
        "steps": 3,
        "learning_rate": 1,
        "clip": 0.5,
        "plain": True,
        "share": "fixed",
        "mesh": "4x2",
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('learning_rate = "1e-4"', "learning_rate in .* is '1e-4': write a number"),
        ('batch_size = "24"', "batch_size in .*: write a whole number"),
        ("steps = 2.5", "steps in .* is 2.5: write a whole number"),
        ("steps = true", "steps in .*: write a whole number"),
        ('text = "de.txt"', r'text in .* is \'de.txt\': write a list of strings, such as text = \["..."\]'),
        ("text = [1]", "text in .*: write a list of strings"),
        ('resume = "no"', "resume in .*: write true or false"),
        ('share = "half"', 'share in .*: write one of "uniform", "gaussian", "fixed"'),
        ("mesh = 4", "mesh in .*: write a string"),
        ("[data]\nsteps = 3", "no option data"),
        ("config = 'other.toml'", "no option config"),
    ],
)
def test_other_types_are_refused(read, line, told):
    with pytest.raises(InputError, match=told):
        read(line)


def test_the_file_is_found_among_the_arguments():
    assert named_file(["--steps", "3", "--config", "a.toml"], "--config") == "a.toml"
    assert named_file(["--config=a.toml"], "--config") == "a.toml"
    assert named_file(["--steps", "3"], "--config") is None

"""What errors quote of files can neither command a terminal nor hide anything."""

import pytest

from dyntok_jax import errors
from dyntok_jax.convert import open_checkpoint, read_config
from dyntok_jax.errors import DyntokError, escaped


def test_23_control_characters_are_written_out():
    assert escaped("a\x1b]0;x\x07b\x9bc\x7f\r") == r"a\x1b]0;x\x07b\x9bc\x7f\r"
    assert escaped("a\u202eb\u2066\u2028\udcff") == r"a\u202eb\u2066\u2028\udcff"
    assert escaped("Grüße, नमस्ते\u200d 🙂\tb\nc") == "Grüße, नमस्ते\u200d 🙂\tb\nc"


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_23_errors_of_every_type_are_escaped(kind):
    assert str(kind("a\x1b[2Jb")) == r"a\x1b[2Jb"


def test_23_names_of_files_reach_no_terminal_raw(tmp_path):
    folder = tmp_path / "a\x1b[31mb\u202e"
    folder.mkdir()
    for read in (read_config, open_checkpoint):
        with pytest.raises(DyntokError) as caught:
            read(folder)
        assert r"a\x1b[31mb\u202e" in str(caught.value)

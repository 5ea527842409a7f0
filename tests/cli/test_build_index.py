"""`dyntok build-index`: an index of the table it was given, with the recall it says, or one line of what is wrong."""

import numpy as np
import pytest

from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.convert import load_tables
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.vocabulary import GrownVocabulary, RowSource, count_segments, embed_vocabulary, grow_entries, open_table
from dyntok_jax.vocabulary.index import (
    load_index,
    search,
    table_identity,
)
from dyntok_jax.vocabulary.index.index_folder import (
    read_about,
)
from tests.support.tiny import write_tiny_decoder

DE = load_sample()["de"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model, and tables of a vocabulary grown from its own: by FVT, and another one with half the numbers."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_decoder(folder / "model", n_layers=1)
    tokenizer = ByteLevelTokenizer.load(folder / "model")
    counts = count_segments(DE[:10], TextEncoder(tokenizer))
    vocabulary = GrownVocabulary.from_entries(
        tokenizer, grow_entries(counts, tokenizer, 300, max_subwords=5), "pretoken"
    )
    input_VD, output_VD = load_tables(folder / "model")
    name = str(folder / "model")
    embed_vocabulary(folder / "table", vocabulary, RowSource(input_VD, output_VD, model=name))
    embed_vocabulary(folder / "other", vocabulary, RowSource(input_VD, output_VD * 0.5, model=name))
    return folder


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "de.txt").write_text("\n".join(DE[:6]) + "\n", encoding="utf-8")

    def build(*options, table="table", status=0):
        assert main(["build-index", str(tiny / table), "--texts", "de.txt", *options]) == status
        out, err = capsys.readouterr()
        assert err.count("\n") == (status != 0)
        return err if status else out

    return build


@pytest.mark.slow
def test_the_index_finds_the_tables_rows_and_says_how_many(run, tiny):
    said = run("--output", "index")
    table = open_table(tiny / "table")
    index, about = load_index("index", table=table_identity(table.config)), read_about("index")
    assert f"{table.config.rows:,} rows in {len(index.blocks)} blocks" in said
    assert "100.0% (100.0%) in" in said
    assert about["recall_at_20"][str(len(index.blocks))] == about["best_row_found"][str(len(index.blocks))] == 1
    assert about["vocabulary"] == table.config.vocabulary
    rows = table.rows(0, table.config.rows, "output")
    query = np.random.default_rng(0).normal(size=(1, rows.shape[1])).astype(np.float32)
    ids, _ = search(index, query, 5, len(index.blocks))
    assert ids[0].tolist() == np.argsort(-(rows @ query[0]), kind="stable")[:5].tolist()


@pytest.mark.slow
def test_one_text_shapes_and_nothing_measures(run, tmp_path):
    (tmp_path / "one.txt").write_text(DE[0] + "\n", encoding="utf-8")
    assert "Recall is not measured" in run("--output", "index", "--texts", "one.txt")
    assert read_about("index")["recall_at_20"] == {}


@pytest.mark.slow
def test_states_of_writing_shape_the_index_unless_left_out(run):
    n_of = {}
    for n_tokens in (0, 3):
        run("--output", f"index{n_tokens}", "--written-tokens", str(n_tokens))
        n_of[n_tokens] = read_about(f"index{n_tokens}")["held_out_queries"]
    assert 0 < n_of[3] - n_of[0] <= 3 * 2  # two of six texts measure


def test_the_ends_of_texts_are_scored_always(run, tiny):
    run("--output", "index", "--eight-bit")
    end = ByteLevelTokenizer.load(tiny / "model").own.token_to_id("</s>")
    index = load_index("index", table=None)
    assert index.special_E.tolist() == [end]
    assert index.blocks.rows.dtype == np.int8


def test_what_cannot_be_built_is_told_and_nothing_is_written(run, tmp_path):
    assert "`dyntok embed-vocab` wrote" in run("--output", "index", table="model", status=2)
    (tmp_path / "index").write_text("mine")
    assert "exists already" in run("--output", "index", status=2)
    assert "must be 0 or more, got -1" in run("--output", "new", "--written-tokens", "-1", status=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["de.txt", "index"]


def test_an_index_is_replaced_when_asked_and_known_by_its_table(run, tiny):
    run("--output", "index")
    assert "exists already" in run("--output", "index", status=2)
    run("--output", "index", "--overwrite", table="other")
    load_index("index", table=table_identity(open_table(tiny / "other").config))
    with pytest.raises(ValueError, match="another table"):
        load_index("index", table=table_identity(open_table(tiny / "table").config))

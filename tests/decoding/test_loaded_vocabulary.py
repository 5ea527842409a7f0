"""A decoder writes in a vocabulary grown from its own, or says in one line which folder is not its own."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from dyntok_jax import DynamicDecoder, SamplingConfig, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.convert import load_tables
from dyntok_jax.decoding import LargeVocabulary
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.models import forward
from dyntok_jax.sharding import make_mesh
from dyntok_jax.text import ByteLevelTokenizer, TextEncoder
from dyntok_jax.vocabulary import (
    GrownVocabulary,
    RowSource,
    count_segments,
    embed_vocabulary,
    grow_entries,
    open_table,
    save_vocabulary,
)
from dyntok_jax.vocabulary.index import build_index, save_index, table_identity
from tests.support.tiny import WIDTH, write_tiny_decoder

DE = load_sample()["de"]
PROMPT = DE[0][:60]
PROMPTS = [PROMPT, "All human beings", "x"]
HEADS = {"model_type": "mistral", "n_heads": 16, "n_kv_heads": 8}
ALL = 10_000
"""More blocks than any index here has."""


def write_large(folder, model, *, n_new=300, is_8_bit=False, dtype="float32", output_factor=1.0, n_own=False):
    """A vocabulary of a model in `folder`, with table and index."""
    tokenizer = ByteLevelTokenizer.load(model)
    counts = count_segments(DE[:10], TextEncoder(tokenizer))
    grown = grow_entries(counts, tokenizer, n_new, max_subwords=5, min_count=1)
    vocabulary = GrownVocabulary.from_entries(tokenizer, grown, "pretoken")
    input_VD, output_VD = load_tables(model)
    if output_VD is not None:
        output_VD = output_VD * output_factor
    table = embed_vocabulary(
        folder / "table", vocabulary, RowSource(input_VD, output_VD, model="tiny"), dtype=dtype, chunk_rows=256
    )
    save_vocabulary(folder / "vocab", vocabulary, model="tiny")
    rows = table.rows(0, table.config.rows, "output").astype(np.float32)
    queries = np.random.default_rng(0).normal(size=(32, rows.shape[1])).astype(np.float32)
    built = build_index(rows, queries, special_ids=[1], is_8_bit=is_8_bit, n_own=tokenizer.n_own if n_own else 0)
    save_index(folder / "index", built, table=table_identity(table.config))
    return vocabulary


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Models and what belongs to each: `own` has no new entry, `half` other rows, `tied` one table, in 8 bits."""
    folder = tmp_path_factory.mktemp("large")
    write_tiny_decoder(folder / "model", n_layers=1)
    write_tiny_decoder(folder / "other", n_layers=1, seed=5)
    write_tiny_decoder(folder / "tied", n_layers=1, ties_embeddings=True)
    write_large(folder / "grown", folder / "model")
    write_large(folder / "own", folder / "model", n_new=0)
    write_large(folder / "half", folder / "model", output_factor=0.5)
    write_large(folder / "of_tied", folder / "tied", is_8_bit=True)
    return folder


@pytest.fixture(scope="module")
def decoder(tiny):
    return DynamicDecoder.load(tiny / "model")


@pytest.mark.slow
def test_15_a_zero_row_is_never_written(tmp_path):
    """A model that hates all else: the logit of its zero padding row, 0, is the best of all."""
    write_tiny_decoder(tmp_path / "model", n_layers=1)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = np.where(np.arange(WIDTH) == 3, np.float32(-1), tensors["lm_head.weight"] * 0.01)
    tensors["model.norm.weight"] = np.eye(WIDTH, dtype=np.float32)[3] * 20
    tensors["model.embed_tokens.weight"][:, 3] = 5
    tensors["lm_head.weight"][[40, 41]] = 0
    save_file(tensors, path)
    write_large(tmp_path / "grown", tmp_path / "model", n_own=True)
    decoder = DynamicDecoder.load(tmp_path / "model")
    for is_indexed in (True, False):
        vocabulary = loaded(decoder, tmp_path / "grown", is_indexed=is_indexed)
        for text in written(decoder, vocabulary):
            assert text.ids
            assert not {40, 41} & set(text.ids)


def loaded(decoder, folder, *, is_indexed=True, k=20, n_probe=ALL):
    index = folder / "index" if is_indexed else None
    return decoder.load_vocabulary(folder / "vocab", folder / "table", index, k=k, n_probe=n_probe)


def written(decoder, vocabulary=None, prompts=PROMPTS, **options):
    options = {"max_tokens": 10, "goal": Share(100)} | options
    return decoder.generate(prompts, vocabulary=vocabulary, **options)


def ids_of(texts):
    return [text.ids for text in texts]


def oracle(decoder, folder, entries, prompt, n_tokens):
    """Greedy choice over all rows of the table, everything read again at each step."""
    table = open_table(folder / "table")
    input_VD, output_VD = (table.rows(0, table.config.rows, which) for which in ("input", "output"))
    rows = list(input_VD[decoder.tokenizer.own.encode(prompt).ids])
    read, found = jax.jit(forward), []
    while len(found) < n_tokens:
        padded = np.pad(np.stack(rows), ((0, 32 - len(rows)), (0, 0)))
        hidden = read(decoder.decoder, padded[None], np.arange(32)[None] < len(rows))[0, len(rows) - 1]
        token = int((output_VD @ np.asarray(hidden)).argmax())
        if token in decoder.end_ids:
            break
        found.append(token)
        rows.append(input_VD[token])
    return found, entries.decode(found)


@pytest.mark.slow
def test_the_text_is_the_best_row_of_the_table_at_each_step(decoder, tiny):
    vocabulary = loaded(decoder, tiny / "grown")
    (text,) = written(decoder, vocabulary, ["Alle Menschen"], goal=None, max_tokens=6)
    expected, spelt = oracle(decoder, tiny / "grown", vocabulary.entries, "Alle Menschen", 6)
    assert text.ids == expected
    assert text.text == spelt


@pytest.mark.slow
def test_with_all_blocks_read_an_index_is_exact_search(decoder, tiny):
    exact, indexed = (written(decoder, loaded(decoder, tiny / "grown", is_indexed=i)) for i in (False, True))
    assert [(text.text, text.ids) for text in exact] == [(text.text, text.ids) for text in indexed]


@pytest.mark.slow
def test_new_tokens_are_counted_and_stand_for_their_strings(decoder, tiny):
    vocabulary = loaded(decoder, tiny / "grown", k=800)
    texts = written(decoder, vocabulary, sampling=SamplingConfig(50.0), max_tokens=30)
    for text in texts:
        assert text.n_new == sum(index >= vocabulary.entries.n_own for index in text.ids)
        assert text.text == vocabulary.entries.decode(text.ids)
    assert sum(text.n_new for text in texts) > 5
    assert written(decoder)[0].n_new is None


def test_a_vocabulary_without_new_entries_gives_the_models_own_text(decoder, tiny):
    found = written(decoder, loaded(decoder, tiny / "own"))
    expected = written(decoder)
    assert [(t.text, t.ids, t.finish) for t in found] == [(t.text, t.ids, t.finish) for t in expected]
    assert [text.n_new for text in found] == [0] * len(PROMPTS)


@pytest.mark.slow
def test_a_tied_table_and_rows_of_8_bits_give_exact_texts(tiny):
    decoder = DynamicDecoder.load(tiny / "tied")
    exact, indexed = (written(decoder, loaded(decoder, tiny / "of_tied", is_indexed=i)) for i in (False, True))
    assert ids_of(exact) == ids_of(indexed)


def test_streamed_pieces_are_the_generated_text(decoder, tiny):
    options = {"vocabulary": loaded(decoder, tiny / "grown", k=100), "sampling": SamplingConfig(3.0), "seed": 5}
    (whole,) = decoder.generate([PROMPT], max_tokens=30, **options)
    pieces = list(decoder.stream(PROMPT, max_tokens=30, **options))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 3
    stop = whole.text[4:7]
    (stopped,) = decoder.generate([PROMPT], max_tokens=30, stop=[stop], **options)
    assert (stopped.finish, stopped.text) == ("stop", whole.text[: whole.text.index(stop)])


def test_an_answer_never_depends_on_its_neighbours(decoder, tiny):
    options = {"vocabulary": loaded(decoder, tiny / "grown"), "sampling": SamplingConfig(1.5), "seed": 3}
    together = written(decoder, **options)
    assert ids_of(together) == [ids_of(written(decoder, prompts=[prompt], **options))[0] for prompt in PROMPTS]


@pytest.mark.slow
def test_a_penalty_takes_the_prompts_subwords(decoder, tiny):
    vocabulary, sampling = loaded(decoder, tiny / "own", k=600), SamplingConfig(repetition_penalty=2.0)
    assert ids_of(written(decoder, vocabulary, sampling=sampling)) == ids_of(written(decoder, sampling=sampling))


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_model_and_table_may_have_different_dtypes(tiny, tmp_path, dtypes):
    decoder = DynamicDecoder.load(tiny / "tied", dtype=dtypes[0])
    write_large(tmp_path, tiny / "tied", is_8_bit=True, dtype=dtypes[1])
    exact, indexed = (written(decoder, loaded(decoder, tmp_path, is_indexed=i), [PROMPT]) for i in (False, True))
    assert exact[0].text
    assert exact[0].ids == indexed[0].ids


@pytest.mark.slow
@pytest.mark.parametrize("is_indexed", [True, False], ids=["index", "exact"])
def test_banned_tokens_are_no_candidates(decoder, is_indexed):
    rng = np.random.default_rng(0)
    table, hidden = rng.normal(size=(600, 8)).astype(np.float32), rng.normal(size=(2, 8)).astype(np.float32)
    order = np.argsort(-(hidden @ table.T), axis=1)
    banned = np.unique(order[:, [0, 2]]).astype(np.int32)
    index = build_index(table, hidden, special_ids=banned[:1].tolist()).index if is_indexed else None
    singles = np.arange(600, dtype=np.int32)[:, None]
    large = LargeVocabulary(table, None, index, singles, banned, k=5, n_probe=ALL)
    ids, logits, _ = large.propose(decoder.decoder, jnp.asarray(hidden), None)
    expected = np.stack([row[~np.isin(row, banned)][:5] for row in order])
    assert ids.tolist() == expected.tolist()
    np.testing.assert_allclose(logits, np.take_along_axis(hidden @ table.T, expected, axis=1), rtol=1e-5)


@pytest.mark.slow
def test_bytes_that_no_text_contains_are_banned_and_never_written(tmp_path):
    write_tiny_decoder(tmp_path / "model", n_layers=1)
    spec = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    lost = {"À", "Á"}  # what GPT-2's table writes for the bytes C0 and C1
    gaps = sorted(spec["model"]["vocab"][piece] for piece in lost)
    spec["model"]["vocab"] = {piece: index for piece, index in spec["model"]["vocab"].items() if piece not in lost}
    Tokenizer.from_str(json.dumps(spec)).save(str(tmp_path / "model" / "tokenizer.json"))
    decoder = DynamicDecoder.load(tmp_path / "model")
    appended = list(range(decoder.tokenizer.n_own, decoder.tokenizer.vocab_size))
    assert len(appended) == 2
    write_large(tmp_path, tmp_path / "model")
    vocabulary = loaded(decoder, tmp_path, k=850)
    assert vocabulary.large.banned_E.tolist() == gaps + appended
    assert (np.asarray(vocabulary.large.constituents_VS)[appended] < 0).all()
    found = {i for t in written(decoder, vocabulary, sampling=SamplingConfig(100.0), max_tokens=200) for i in t.ids}
    assert len(found) > 200
    assert not found & {*gaps, *appended}


@pytest.mark.slow
def test_on_a_mesh_everything_is_the_same(tmp_path):
    write_tiny_decoder(tmp_path / "model", n_layers=1, **HEADS)
    write_large(tmp_path, tmp_path / "model")
    alone, sharded = (DynamicDecoder.load(tmp_path / "model", mesh=mesh) for mesh in (None, make_mesh(2, 4)))
    options = {"sampling": SamplingConfig(0.8), "seed": 2, "max_tokens": 6}
    assert ids_of(written(sharded, loaded(sharded, tmp_path), **options)) == ids_of(
        written(alone, loaded(alone, tmp_path), **options)
    )


def test_a_mesh_that_does_not_divide_the_rows_is_told(decoder, tiny, monkeypatch):
    monkeypatch.setattr(decoder, "mesh", make_mesh(1, 3))
    with pytest.raises(ConfigError, match="3 devices do not divide rows of width 32"):
        loaded(decoder, tiny / "grown")


@pytest.mark.parametrize(
    ("vocabulary", "table", "index", "options", "said"),
    [
        ("grown", "own", None, {}, "rows of another vocabulary"),
        ("grown", "grown", "own", {}, "index in .* indexes another table"),
        ("grown", "half", None, {}, "holds rows for another model"),
        ("grown", "half", "grown", {}, "holds rows for another model"),
        ("gone", "grown", None, {}, "`dyntok build-vocab` wrote"),
        ("grown", "gone", None, {}, "`dyntok embed-vocab` wrote"),
        ("grown", "grown", "gone", {}, "`dyntok build-index` wrote"),
        ("own", "own", None, {"k": 601}, "A step must find 601 candidates, but the vocabulary has 600"),
        ("own", "own", "own", {"k": 600, "n_probe": 1}, "1 blocks of the index may hold only"),
        ("grown", "grown", None, {"k": 0}, "must be 1 or more, got 0"),
        ("grown", "grown", "grown", {"n_probe": 0}, "n_probe .* must be 1 or more"),
    ],
)
def test_what_does_not_belong_together_is_told(decoder, tiny, vocabulary, table, index, options, said):
    folders = tiny / vocabulary / "vocab", tiny / table / "table", index and tiny / index / "index"
    with pytest.raises(InputError, match=said):
        decoder.load_vocabulary(*folders, **options)


def test_another_models_vocabulary_is_told(decoder, tiny, tmp_path):
    shutil.copytree(tiny / "grown" / "vocab", tmp_path / "vocab")
    path = tmp_path / "vocab" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer": "0" * 16}))
    with pytest.raises(InputError, match="was built for another tokenizer"):
        decoder.load_vocabulary(tmp_path / "vocab", tiny / "grown" / "table")
    other = DynamicDecoder.load(tiny / "other")
    with pytest.raises(InputError, match="holds rows for another model"):
        loaded(other, tiny / "grown")
    with pytest.raises(InputError, match="loaded for another decoder"):
        written(other, loaded(decoder, tiny / "grown"))


def test_a_top_k_beyond_the_candidates_is_told(decoder, tiny):
    vocabulary = loaded(decoder, tiny / "grown")
    with pytest.raises(InputError, match="top_k is 21, but a step in the large vocabulary has only 20"):
        written(decoder, vocabulary, sampling=SamplingConfig(1.0, top_k=21))
    more = replace(vocabulary, large=replace(vocabulary.large, k=21))
    assert written(decoder, more, sampling=SamplingConfig(1.0, top_k=21))


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """Runs `dyntok generate` in an empty folder; gives what went to standard output and to standard error."""
    monkeypatch.chdir(tmp_path)

    def generate(*options, status=0):
        named = [str(tiny / option[1:]) if option.startswith("@") else option for option in options]
        assert main(["generate", PROMPT, "--model", str(tiny / "model"), "--max-tokens", "10", *named]) == status
        return capsys.readouterr()

    return generate


LARGE = ("--vocab", "@grown/vocab", "--table", "@grown/table")


def test_the_command_writes_what_the_library_writes(run, decoder, tiny, tmp_path):
    sampling = SamplingConfig(3.0)
    vocabulary = loaded(decoder, tiny / "grown", k=100, n_probe=2)
    (text,) = written(decoder, vocabulary, [PROMPT], sampling=sampling, seed=1, goal=None)
    options = ("--index", "@grown/index", "--candidates", "100", "--probes", "2", "--temperature", "3", "--seed", "1")
    out, err = run(*LARGE, *options, "--output", "out.jsonl", "--json", "figures.json")
    assert out == text.text
    assert "new" in err.splitlines()[1]
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (line["text"], line["n_written"], line["n_new"]) == (text.text, len(text.ids), text.n_new)
    assert json.loads((tmp_path / "figures.json").read_text())["new_tokens"] == text.n_new


@pytest.mark.slow
def test_without_an_index_every_row_is_scored(run, decoder, tiny):
    (text,) = written(decoder, loaded(decoder, tiny / "grown", is_indexed=False), [PROMPT])
    assert run(*LARGE, "--share", "100").out == text.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vocab", "@grown/vocab"], "give --table too"),
        (["--table", "@grown/table"], "--table needs a large vocabulary: give --vocab too"),
        (["--index", "@grown/index"], "give --vocab too"),
        (["--candidates", "5"], "give --vocab too"),
        ([*LARGE, "--probes", "5"], "give --index too"),
        ([*LARGE, "--candidates", "0"], "must be 1 or more"),
        ([*LARGE, "--candidates", "10000"], "ask for fewer"),
        ([*LARGE, "--temperature", "1", "--top-k", "65"], "a smaller top_k"),
        ([*LARGE, "--index", "@own/index"], "another table"),
        ([*LARGE[:2], "--table", "@own/table"], "another vocabulary"),
        ([*LARGE, "--mesh", "1x3"], "do not divide"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_nothing_is_written(run, tmp_path, options, said):
    out, err = run(*options, "--output", "out.jsonl", status=2)
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
    assert not list(tmp_path.iterdir())

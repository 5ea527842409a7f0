"""Rows of a grown vocabulary on disk: what the formula says, through every stop, split over devices, damage named."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from dyntok_jax.assets import load_sample
from dyntok_jax.embedding import Hypernet, HypernetConfig, TokenEmbedder, embed_tokens, predict_embeddings
from dyntok_jax.errors import CheckpointError, ConfigError, InputError, NotANumberError
from dyntok_jax.kernels import NONE
from dyntok_jax.merging import RaggedTokens
from dyntok_jax.sharding import make_mesh
from dyntok_jax.text import ByteLevelTokenizer, RaggedSubwords, TextEncoder
from dyntok_jax.vocabulary import (
    GrownVocabulary,
    RowSource,
    count_segments,
    embed_vocabulary,
    grow_entries,
    open_table,
    row_prediction as module,
    row_table as vocabulary_table,
)
from tests.support.tiny import tiny_decoder_tokenizer, tiny_tokenizer

D, CHUNK = 16, 128
BPE = ByteLevelTokenizer.convert(tiny_decoder_tokenizer())
UNIGRAM = ByteLevelTokenizer.convert(tiny_tokenizer())


def without_all_bytes():
    """A tokenizer that has neither a piece for every byte nor an unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(load_sample()["en"][:4], trainer)
    return ByteLevelTokenizer.convert(tokenizer)


def grown(tokenizer):
    texts = [text for code in ("en", "de", "el") for text in load_sample()[code][:4]]
    counts = count_segments(texts, TextEncoder(tokenizer))
    return GrownVocabulary.from_entries(tokenizer, grow_entries(counts, tokenizer, 60, max_subwords=5), "pretoken")


VOCABULARY = grown(BPE)
RANDOM = np.random.default_rng(0)
SOURCE, OUTPUT = (jnp.asarray(RANDOM.normal(size=(BPE.n_own + 3, D)), jnp.float32) for _ in range(2))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 32)


def embed(folder, vocabulary=VOCABULARY, source=SOURCE, **options):
    of_source = {name: options.pop(name) for name in ("output_VD", "hypernet", "language", "model") if name in options}
    return embed_vocabulary(folder, vocabulary, RowSource(source, **of_source), **{"chunk_rows": CHUNK} | options)


def all_rows(table, which="input"):
    return table.rows(0, table.config.rows, which)


def make_hypernet(separate_output=False, n_langs=0, max_subwords=7):
    config = HypernetConfig(
        width=D,
        hidden_width=16,
        ffn_width=16,
        n_layers=1,
        n_heads=2,
        vocab_size=BPE.n_own,
        n_extra_tokens=256,
        max_subwords=max_subwords,
        n_langs=n_langs,
        langs=("de", "en")[:n_langs] or None,
        separate_output=separate_output,
        predict_bias=False,
    )
    # drawn by numpy, which is quick
    shapes = jax.eval_shape(partial(Hypernet, config), jax.random.key(0))
    random = np.random.default_rng(0)
    return config, jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.2, leaf.shape), leaf.dtype), shapes)


def means_in_python(vocabulary, source, filler):
    """FVT, entry by entry."""
    n_own = vocabulary.tokenizer.n_own
    rows = [source[index] if index < n_own else filler for index in range(vocabulary.n_own)]
    for parts in vocabulary.constituents_ES.tolist():
        rows.append(np.mean([rows[part] for part in parts if part != NONE], axis=0))
    return np.stack(rows)


def test_fvt_rows_are_means_and_own_rows_are_as_they_were(tmp_path):
    source = np.asarray(SOURCE)
    rows = all_rows(embed(tmp_path / "table"))
    np.testing.assert_array_equal(rows[: BPE.n_own], source[: BPE.n_own])
    np.testing.assert_allclose(rows, means_in_python(VOCABULARY, source, source.mean(axis=0)), atol=1e-6)


def test_appended_bytes_take_the_unknown_tokens_row(tmp_path):
    vocabulary = grown(UNIGRAM)
    source = RANDOM.normal(size=(UNIGRAM.n_own, D)).astype(np.float32)
    rows = all_rows(embed(tmp_path / "table", vocabulary, jnp.asarray(source)))
    assert UNIGRAM.vocab_size > UNIGRAM.n_own
    np.testing.assert_allclose(rows, means_in_python(vocabulary, source, source[UNIGRAM.unknown_id]), atol=1e-6)


def one_token_each(forms):
    """Texts that are each one token, of these subwords."""
    ids_N, lengths = np.concatenate(forms).astype(np.int32), [len(form) for form in forms]
    zeros_N, offsets = np.zeros_like(ids_N), np.append(0, np.cumsum(lengths))
    spans_N2, are_counted_N = np.zeros((len(ids_N), 2), np.int32), np.ones(len(ids_N), bool)
    subwords = RaggedSubwords(ids_N, zeros_N, zeros_N, zeros_N, zeros_N, spans_N2, zeros_N, are_counted_N, offsets)
    return RaggedTokens(subwords, offsets[:-1].astype(np.int32), np.array(lengths, np.int32), np.arange(len(forms) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("has_unknown", [False, True])
@pytest.mark.parametrize("is_output", [False, True])
def test_fvt_gives_a_prompts_token_the_row_that_it_has_as_an_entry(tmp_path, has_unknown, is_output):
    """Appended bytes, alone and within an entry, and entries without any."""
    tokenizer = UNIGRAM if has_unknown else without_all_bytes()
    assert tokenizer.vocab_size > tokenizer.n_own + 1
    assert (tokenizer.unknown_id is not None) == has_unknown
    vocabulary = grown(tokenizer)
    source, output = (
        jnp.asarray(RANDOM.normal(size=(tokenizer.n_own + 3, D)), jnp.float32) for _ in ("input", "output")
    )
    table = embed(tmp_path / "table", vocabulary, source, output_VD=output)
    forms, is_subword = vocabulary.surface_forms(tokenizer.n_own, vocabulary.size)
    merged_bytes = np.array([[tokenizer.n_own, 5], [5, tokenizer.n_own + 1]], np.int32)
    tokens = one_token_each([*(form[keep] for form, keep in zip(forms, is_subword, strict=True)), *merged_bytes])
    embedder = TokenEmbedder(tokenizer, source, output_VD=output)
    no_language = np.zeros(len(tokens), np.int32)
    row_M, rows_UD = embedder.new_rows(tokens, no_language)
    if is_output:
        rows_UD = embedder.new_output_rows(tokens, no_language, output)
    model_VD = np.asarray(output if is_output else source)
    filler = model_VD[tokenizer.unknown_id] if has_unknown else model_VD.mean(axis=0)
    found_BD = rows_UD[row_M]
    stored = table.rows(tokenizer.n_own, vocabulary.size, "output" if is_output else "input")
    np.testing.assert_allclose(found_BD[:-2], stored, atol=1e-6)
    np.testing.assert_allclose(found_BD[-2:], np.stack([(filler + model_VD[5]) / 2] * 2), atol=1e-6)
    inputs = embedder.inputs(tokens, no_language, n_batch=len(tokens), length=1)
    if not is_output:
        np.testing.assert_allclose(embed_tokens(source, inputs)[:, 0], found_BD, atol=1e-6)


def test_an_output_table_of_its_own_has_rows_of_its_own(tmp_path):
    table = embed(tmp_path / "table", output_VD=OUTPUT)
    expected = all_rows(embed(tmp_path / "output", source=OUTPUT))
    np.testing.assert_allclose(all_rows(table, "output"), expected, atol=1e-6)
    np.testing.assert_array_equal(all_rows(table), all_rows(embed(tmp_path / "input")))
    assert (table.folder / "output").is_dir()


def test_tied_tables_are_one(tmp_path):
    table = embed(tmp_path / "table")
    np.testing.assert_array_equal(all_rows(table, "output"), all_rows(table))
    assert not (table.folder / "output").exists()


@pytest.mark.parametrize("separate_output", [False, True])
def test_hypernetwork_rows_are_its_predictions(tmp_path, separate_output):
    hypernet = make_hypernet(separate_output)
    output = OUTPUT if separate_output else None
    table = embed(tmp_path / "table", output_VD=output, hypernet=hypernet)
    source = SOURCE if output is None else jnp.concatenate([SOURCE, OUTPUT], axis=1)
    surface_US, is_subword_US = VOCABULARY.surface_forms(BPE.n_own, VOCABULARY.size)
    expected = jax.jit(predict_embeddings)(hypernet[1], jnp.asarray(surface_US), jnp.asarray(is_subword_US), source)
    np.testing.assert_allclose(all_rows(table)[BPE.n_own :], expected.input_UD, atol=1e-5)
    np.testing.assert_array_equal(all_rows(table)[: BPE.n_own], SOURCE[: BPE.n_own])
    if separate_output:
        np.testing.assert_allclose(all_rows(table, "output")[BPE.n_own :], expected.output_UD, atol=1e-5)


def test_a_language_changes_the_rows(tmp_path):
    hypernet = make_hypernet(n_langs=2)
    de, en = (all_rows(embed(tmp_path / code, hypernet=hypernet, language=code)) for code in ("de", "en"))
    assert not np.array_equal(de, en)
    with pytest.raises(InputError, match="name the texts' language"):
        embed(tmp_path / "none", hypernet=hypernet)
    with pytest.raises(InputError, match="has no languages"):
        embed(tmp_path / "none", hypernet=make_hypernet(), language="de")
    with pytest.raises(InputError, match="does not depend on the language"):
        embed(tmp_path / "none", language="de")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_are_stored_in_the_dtype_asked_for(tmp_path, dtype):
    table = embed(tmp_path / "table", dtype=dtype)
    wide = all_rows(embed(tmp_path / "wide"))
    np.testing.assert_array_equal(all_rows(table), wide.astype(jnp.dtype(dtype)))


@pytest.mark.slow
def test_batches_compile_one_program_a_length(tmp_path):
    jax.clear_caches()
    embed(tmp_path / "table")
    assert module._average._cache_size() <= 2  # surface lengths of 3 and of 5


@pytest.mark.parametrize("shape", [(8, 1), (3, 1), (2, 4)])
def test_split_batches_give_the_same_rows(tmp_path, shape):
    split = embed(tmp_path / "split", mesh=make_mesh(*shape))
    np.testing.assert_allclose(all_rows(split), all_rows(embed(tmp_path / "whole")), atol=1e-6)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("n_before", [0, 1, 3])
@pytest.mark.parametrize("where", ["before the note", "after the note", "before the rows"])
def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch, n_before, where):
    whole = all_rows(embed(tmp_path / "whole", output_VD=OUTPUT), "output")
    calls, name = [], {"before the rows": "_check_rows"}.get(where, "write_rows_done")
    real = getattr(module, name)

    def until_killed(*arguments):
        if where == "after the note":
            real(*arguments)
        calls.append(arguments)
        if len(calls) > n_before:
            raise Killed
        if where != "after the note":
            real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, until_killed)
        with pytest.raises(Killed):
            embed(tmp_path / "table", output_VD=OUTPUT)
    with pytest.raises(InputError, match="is not finished"):
        open_table(tmp_path / "table")
    made, told, write_rows_done = [], [], module.write_rows_done
    monkeypatch.setattr(module, "write_rows_done", lambda folder, n: (made.append(n), write_rows_done(folder, n)))
    table = embed(tmp_path / "table", output_VD=OUTPUT, progress=told.append)
    n_chunks = -(-VOCABULARY.size // CHUNK)
    assert len(made) == n_chunks - n_before - (where == "after the note")
    assert sum(told) == VOCABULARY.size
    np.testing.assert_array_equal(all_rows(table, "output"), whole)


def test_a_table_that_is_whole_is_left_alone(tmp_path):
    embed(tmp_path / "table")
    before = (tmp_path / "table" / "input" / "0.0").stat().st_mtime_ns
    embed(tmp_path / "table")
    assert (tmp_path / "table" / "input" / "0.0").stat().st_mtime_ns == before


def test_a_run_with_other_arguments_does_not_go_on(tmp_path):
    embed(tmp_path / "table")
    with pytest.raises(InputError, match=r"differs in model_tables\)"):
        embed(tmp_path / "table", source=OUTPUT)
    with pytest.raises(InputError, match="differs in hypernetwork, dtype"):
        embed(tmp_path / "table", hypernet=make_hypernet(), dtype="bfloat16")
    table = embed(tmp_path / "table", source=OUTPUT, overwrite=True)
    np.testing.assert_array_equal(table.rows(0, 5), OUTPUT[:5])


def test_no_other_folder_is_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="exists already and is not a table"):
            embed(tmp_path / name, overwrite=True)
    with pytest.raises(CheckpointError, match="cannot be written"):
        embed(tmp_path / "file" / "below")


def test_a_disk_too_small_is_told_at_once(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(InputError, match=r"takes \d+ KB, but .* has 10 bytes free"):
        embed(tmp_path / "table")
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("value", "dtype", "fault"),
    [(np.nan, "float32", "not finite"), (1e6, "float16", "not finite"), (0, "float32", "zero")],
)
def test_a_row_that_means_nothing_is_named(tmp_path, value, dtype, fault):
    parts = [part for part in VOCABULARY.constituents_ES[20].tolist() if part != NONE]
    source = SOURCE.at[jnp.asarray(parts)].set(value)
    with pytest.raises(NotANumberError, match=f"is {fault}") as error:
        embed(tmp_path / "table", source=source, dtype=dtype)
    named = int(str(error.value).split("entry ")[1].split(",")[0])
    if fault == "zero":  # zero rows of the model's own are its own business
        assert set(VOCABULARY.constituents_ES[named - VOCABULARY.n_own].tolist()) <= {*parts, NONE}
    else:
        assert named == min(parts)
    with pytest.raises(InputError, match="is not finished"):
        open_table(tmp_path / "table")


def test_rows_are_read_by_stretches(tmp_path):
    table = embed(tmp_path / "table")
    rows = all_rows(table)
    np.testing.assert_array_equal(table.rows(100, 140), rows[100:140])
    assert table.rows(7, 7).shape == (0, D)
    with pytest.raises(InputError, match="There are no rows"):
        table.rows(0, VOCABULARY.size + 1)


@pytest.mark.parametrize("split", ["width", "rows"])
def test_a_table_comes_split_over_devices(tmp_path, split):
    table = embed(tmp_path / "table")
    rows, mesh = all_rows(table), make_mesh(2, 4)
    placed = table.to_device(mesh, split=split)
    padded = -(-len(rows) // 4) * 4 if split == "rows" else len(rows)
    assert placed.shape == (padded, D)
    np.testing.assert_array_equal(placed[: len(rows)], rows)
    assert not np.any(placed[len(rows) :])
    parts = {shard.data.shape for shard in placed.addressable_shards}
    assert parts == {(padded // 4, D) if split == "rows" else (padded, D // 4)}
    np.testing.assert_array_equal(table.to_device(split=split), rows)


def test_what_does_not_fit_devices_is_told(tmp_path, monkeypatch):
    table = embed(tmp_path / "table")
    with pytest.raises(ConfigError, match="do not divide rows of width 16"):
        table.to_device(make_mesh(1, 3))
    monkeypatch.setattr(vocabulary_table, "_host_memory", lambda: 10)
    with pytest.raises(InputError, match=r"takes \d+ KB on the devices, which have 10 bytes free"):
        table.to_device()


def test_a_table_of_another_vocabulary_is_refused(tmp_path):
    embed(tmp_path / "table")
    assert open_table(tmp_path / "table", vocabulary_hash=VOCABULARY.fingerprint).config.rows == VOCABULARY.size
    with pytest.raises(InputError, match="rows of another vocabulary"):
        open_table(tmp_path / "table", vocabulary_hash="0")


def test_damage_is_named_not_read_as_zeros(tmp_path):
    table = embed(tmp_path / "table")
    chunk = tmp_path / "table" / "input" / "1.0"
    chunk.write_bytes(chunk.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="is damaged"):
        open_table(tmp_path / "table").rows(CHUNK, 2 * CHUNK)
    chunk.unlink()
    with pytest.raises(CheckpointError, match="is damaged"):
        open_table(tmp_path / "table").rows(CHUNK, 2 * CHUNK)
    np.testing.assert_array_equal(table.rows(0, CHUNK), SOURCE[:CHUNK])
    shutil.rmtree(tmp_path / "table" / "input")
    with pytest.raises(CheckpointError, match="is damaged"):
        open_table(tmp_path / "table")


@pytest.mark.parametrize("damage", ["missing", "cut", "a bit", "layout", "no layout", "no array"])
def test_16_a_damaged_table_is_mended_by_embedding_it_again(tmp_path, damage):
    folder = tmp_path / "table"
    whole = all_rows(embed(folder, output_VD=OUTPUT), "output")
    chunk, layout = folder / "output" / "1.0", folder / "output" / "zarr.json"
    others = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.0") if path != chunk}
    match damage:
        case "missing":
            chunk.unlink()
        case "cut":
            chunk.write_bytes(chunk.read_bytes()[:-8])
        case "a bit":
            content = bytearray(chunk.read_bytes())
            content[100] ^= 1
            chunk.write_bytes(content)
        case "layout":
            layout.write_text("{")
        case "no layout":
            layout.unlink()
        case "no array":
            shutil.rmtree(folder / "output")
    with pytest.raises(CheckpointError, match=r"is damaged.*embed the vocabulary again"):
        all_rows(open_table(folder), "output")
    np.testing.assert_array_equal(all_rows(embed(folder, output_VD=OUTPUT), "output"), whole)
    np.testing.assert_array_equal(all_rows(open_table(folder), "input")[: BPE.n_own], SOURCE[: BPE.n_own])
    if damage in ("missing", "cut", "a bit"):
        assert all(
            path.stat().st_mtime_ns == before
            for path, before in others.items()
            if path.parent.name == "input" and path.name != "1.0"
        )


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("table.json", {"format": "x"}, "is not a table"),
        ("table.json", {"version": 3}, "has version 3"),
        ("table.json", {"rows": "many"}, "damaged .rows."),
        ("table.json", {"dtype": "int8"}, "damaged .dtype"),
        ("done.json", {"rows": True}, "done.json is damaged"),
    ],
)
def test_damaged_notes_are_named(tmp_path, file, change, said):
    embed(tmp_path / "table")
    path = tmp_path / "table" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=said):
        open_table(tmp_path / "table")
    path.write_text("{")
    with pytest.raises(InputError, match="is not readable JSON"):
        open_table(tmp_path / "table")
    with pytest.raises(InputError, match="There is no"):
        open_table(tmp_path / "nowhere")


def test_16_a_table_whose_notes_are_damaged_is_replaced(tmp_path):
    for content in ("{", '{"format": "dyntok_vocabulary_table", "version": 1}'):
        embed(tmp_path / "table", overwrite=True)
        (tmp_path / "table" / "table.json").write_text(content)
        with pytest.raises(InputError, match="--overwrite"):
            embed(tmp_path / "table")
    np.testing.assert_array_equal(embed(tmp_path / "table", overwrite=True).rows(0, 5), SOURCE[:5])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": SOURCE[: BPE.n_own - 1]}, "the model's table 599 rows"),
        ({"hypernet": make_hypernet(), "output_VD": OUTPUT}, "predicts no rows of it"),
        ({"hypernet": make_hypernet(separate_output=True)}, "this model has one"),
        ({"hypernet": make_hypernet(max_subwords=3)}, "trained for 3"),
    ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        embed(tmp_path / "table", **options)
    assert not (tmp_path / "table").exists()


def test_options_that_cannot_be_are_refused(tmp_path, monkeypatch):
    table = embed(tmp_path / "table")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no check of types before ours
    for options, said in (({"chunk_rows": 0}, "chunk_rows must be 1 or more"), ({"dtype": "int8"}, "has rows of")):
        with pytest.raises(InputError, match=said):
            embed(tmp_path / "other", **options)
    with pytest.raises(InputError, match="which must be input or output, got 'logits'"):
        table.to_device(which="logits")
    with pytest.raises(InputError, match="split must be rows or width, got 'columns'"):
        table.to_device(split="columns")

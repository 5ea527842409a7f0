"""A decoder goes on in the tokens of its own prompt: their rows are read and scored, each prompt's for itself."""

import json

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dyntok_jax import DynamicDecoder, Merging, SamplingConfig, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.decoding.prompt_entries import prompt_entries
from dyntok_jax.embedding import predict_embeddings
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.models import forward
from dyntok_jax.sharding import make_mesh
from dyntok_jax.text import to_bytes
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

DE = load_sample()["de"]
PROMPTS = [DE[0][:90], "All human beings are born free", "x"]
FULL = Share(100)
WHOLE = Merging(merge_last=True)
"""The last segment of a prompt, too."""
HOT = SamplingConfig(8.0)
"""So hot that tokens of the prompt are drawn, too."""
READ = jax.jit(forward)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompt_vocabulary")
    write_tiny_decoder(folder / "model", n_layers=1)
    write_tiny_decoder(folder / "tied", n_layers=1, ties_embeddings=True)
    write_tiny_decoder(folder / "wide", n_layers=1, model_type="mistral", n_heads=16, n_kv_heads=8)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return DynamicDecoder.load(folder / "model")


def written(decoder, prompts=PROMPTS, **options):
    return decoder.generate(prompts, vocabulary="prompt", **{"max_tokens": 12, "merging": Merging()} | options)


def entries_of(decoder, prompt):
    read = decoder.read([prompt], goal=FULL)
    return prompt_entries(decoder.tokenizer, read.tokens[0], n_own=decoder.config.vocab_size)


def new_forms(decoder, prompt):
    """The subwords of each new token of a prompt, found without the code under test."""
    forms, pieces = {}, set(decoder.tokenizer.pieces)
    for ids in decoder.read([prompt], goal=FULL).tokens[0].ids():
        string = decoder.tokenizer.token_string(ids)
        if len(ids) > 1 and string not in pieces:
            forms.setdefault(string, ids)
    return list(forms.values())


def oracle(decoder, prompt, n_tokens, penalty=1.0):
    """Greedy choice among all rows, everything read again at each step; a token counts as its constituents."""
    own_in = np.asarray(decoder.decoder.word_embeddings[...])
    output = decoder.decoder.output_embeddings
    own_out = own_in if output is None else np.asarray(output[...])
    new = new_forms(decoder, prompt)
    parts = [[index] for index in range(len(own_in))] + new
    inputs, outputs = (np.stack([*own, *(own[ids].mean(axis=0) for ids in new)]) for own in (own_in, own_out))
    tokens = decoder.read([prompt], goal=FULL).tokens[0]
    rows, seen, found = [own_in[ids].mean(axis=0) for ids in tokens.ids()], set(tokens.subword_L.tolist()), []
    for _ in range(n_tokens):
        padded = jnp.asarray(np.pad(np.stack(rows), ((0, 64 - len(rows)), (0, 0))))
        hidden = READ(decoder.decoder, padded[None], jnp.arange(64)[None] < len(rows))[0, len(rows) - 1]
        scores = outputs @ np.asarray(hidden)
        for index, of_token in enumerate(parts):
            if penalty != 1 and set(of_token) <= seen:
                scores[index] = scores[index] / penalty if scores[index] > 0 else scores[index] * penalty
        token = int(scores.argmax())
        if token in decoder.end_ids:
            break
        found.append(token)
        rows.append(inputs[token])
        seen |= set(parts[token])
    return found


def test_entries_are_the_prompts_merged_tokens_once_each(decoder):
    entries = entries_of(decoder, PROMPTS[0])
    assert len(entries) > 5
    assert len(set(entries.strings)) == len(entries)
    assert not set(entries.strings) & set(decoder.tokenizer.pieces)
    merged = decoder.read(PROMPTS[:1], goal=FULL).tokens[0].ids()
    assert [decoder.tokenizer.token_string(merged[place]) for place in entries.places] == entries.strings
    assert len(entries_of(decoder, "x")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "tied"])
@pytest.mark.parametrize("penalty", [1.0, 3.0])
def test_the_text_is_the_best_of_all_rows_at_each_step(folder, name, penalty):
    decoder = DynamicDecoder.load(folder / name)
    texts = written(decoder, sampling=SamplingConfig(repetition_penalty=penalty), max_tokens=6)
    assert [text.ids for text in texts] == [oracle(decoder, prompt, 6, penalty) for prompt in PROMPTS]


def test_new_tokens_are_drawn_counted_and_spelt(decoder):
    texts = written(decoder, [PROMPTS[0]] * 8, seed=list(range(8)), sampling=HOT, max_tokens=40)
    entries, n_own = entries_of(decoder, PROMPTS[0]), decoder.config.vocab_size
    assert sum(text.n_new for text in texts) > 5
    pieces = [*decoder.tokenizer.pieces[:n_own], *entries.strings]
    for text in texts:
        assert text.n_new == sum(index >= n_own for index in text.ids)
        shown = [pieces[index] for index in text.ids if index not in decoder.tokenizer.special_ids]
        assert text.text == to_bytes("".join(shown)).decode(errors="replace")


def test_a_rare_word_of_the_prompt_is_written_in_one_step(decoder, monkeypatch):
    """Where the hidden state points at the row of a prompt's token, that token comes, whole."""
    prompt = "Das Wort Bundesverfassungsgericht"
    read = decoder.read([prompt], merging=WHOLE)
    entries = prompt_entries(decoder.tokenizer, read.tokens[0], n_own=decoder.config.vocab_size)
    number = max(range(len(entries)), key=lambda n: len(entries.strings[n]))
    rare = to_bytes(entries.strings[number]).decode()
    assert len(rare) > 8
    own = np.asarray(decoder.decoder.word_embeddings[...])
    rows = np.stack([own[ids].mean(axis=0) for ids in read.tokens[0].ids()])
    padded = jnp.asarray(np.pad(rows, ((0, 64 - len(rows)), (0, 0))))[None]
    hidden = np.asarray(READ(decoder.decoder, padded, jnp.arange(64)[None] < len(rows)))[0, len(rows) - 1]
    given = decoder.embedder.new_output_rows

    def pointed_at(tokens, language_B, output_VD):
        rows_UD = given(tokens, language_B, output_VD).copy()
        row_M, _ = decoder.embedder.new_rows(tokens, language_B)
        rows_UD[row_M[entries.places[number]]] = 100 * hidden
        return rows_UD

    monkeypatch.setattr(decoder.embedder, "new_output_rows", pointed_at)
    (text,) = written(decoder, [prompt], max_tokens=1, merging=WHOLE)
    assert (text.ids, text.text, text.n_new) == ([decoder.config.vocab_size + number], rare, 1)


@pytest.mark.slow
def test_an_answer_never_depends_on_its_neighbours(decoder):
    options = {"sampling": HOT, "seed": 4, "max_tokens": 40}
    together = written(decoder, **options)
    assert sum(text.n_new for text in together) > 0
    assert [text.ids for text in together] == [written(decoder, [prompt], **options)[0].ids for prompt in PROMPTS]
    assert "".join(decoder.stream(PROMPTS[0], vocabulary="prompt", goal=FULL, **options)) == together[0].text


@pytest.mark.slow
def test_on_a_mesh_everything_is_the_same(folder):
    alone, sharded = (DynamicDecoder.load(folder / "wide", mesh=mesh) for mesh in (None, make_mesh(2, 4)))
    options = {"sampling": HOT, "seed": 4, "max_tokens": 40}
    expected = written(alone, **options)
    assert [text.ids for text in written(sharded, **options)] == [text.ids for text in expected]
    assert sum(text.n_new for text in expected) > 0


def test_what_cannot_be_is_told(decoder, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no check of types before ours
    with pytest.raises(InputError, match=r"merges nothing.*: give a goal \(goal=Share\(100\), --share 100\)"):
        decoder.generate(PROMPTS, vocabulary="prompt")
    with pytest.raises(InputError, match="got 'promt'"):
        decoder.generate(PROMPTS, vocabulary="promt")


def test_the_command_writes_what_the_library_writes(decoder, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generate = ["generate", PROMPTS[0], "--model", str(folder / "model"), "--max-tokens", "40", "--prompt-vocab"]
    full = ["--share", "100"]
    hot = ["--temperature", str(HOT.temperature), "--seed", "4"]
    assert main([*generate, *full, *hot, "--output", "out.jsonl"]) == 0
    (text,) = written(decoder, PROMPTS[:1], sampling=HOT, seed=4, max_tokens=40)
    assert capsys.readouterr().out == text.text
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert (line["n_written"], line["n_new"]) == (40, text.n_new)
    needs_goal = "prompts are static by default: give a goal too, such as --share 100"
    for more, said in (
        ([], needs_goal),
        (["--static"], needs_goal),
        ([*full, "--vocab", "v"], "different vocabularies to write in"),
    ):
        assert main([*generate, *more]) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert (out, err.count("\n")) == ("", 1)


def test_output_rows_come_in_the_order_of_input_rows(decoder):
    read, output = decoder.read(PROMPTS, goal=FULL), decoder.decoder.output_embeddings[...]
    row_M, rows_UD = decoder.embedder.new_rows(read.tokens, read.language_N)
    found = decoder.embedder.new_output_rows(read.tokens, read.language_N, output)
    assert found.shape == rows_UD.shape
    all_ids = [ids for tokens in read.tokens for ids in tokens.ids()]
    for row, ids in zip(row_M, all_ids, strict=True):
        if row >= 0:
            np.testing.assert_allclose(found[row], np.asarray(output)[ids].mean(axis=0), atol=1e-6)


@pytest.mark.slow
def test_a_hypernetwork_gives_output_rows_too_or_says_that_it_has_none(folder):
    for name, separate in (("both", True), ("input", False)):
        write_tiny_decoder_hypernet(folder / name, folder / "model", separate_output=separate)
    decoder = DynamicDecoder.load(folder / "model", folder / "both")
    read, output = decoder.read(PROMPTS, goal=FULL), decoder.decoder.output_embeddings[...]
    row_M, _ = decoder.embedder.new_rows(read.tokens, read.language_N)
    found = decoder.embedder.new_output_rows(read.tokens, read.language_N, output)
    both_VM = jnp.concatenate([decoder.decoder.word_embeddings[...], output], axis=1)
    ids = next(ids for ids in read.tokens[0].ids() if len(ids) > 1)
    surface = np.zeros((1, decoder.embedder.max_subwords), np.int32)
    surface[0, : len(ids)] = ids
    is_subword = np.arange(surface.shape[1])[None] < len(ids)
    expected = predict_embeddings(
        decoder.embedder.hypernet[1], jnp.asarray(surface), jnp.asarray(is_subword), both_VM, None
    ).output_UD[0]
    place = read.tokens[0].ids().index(ids)
    np.testing.assert_allclose(found[row_M[place]], expected, atol=1e-5)
    assert written(decoder, max_tokens=3)
    with pytest.raises(ConfigError, match="predicts no rows of it"):
        written(DynamicDecoder.load(folder / "model", folder / "input"))

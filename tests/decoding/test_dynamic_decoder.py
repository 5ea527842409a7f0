"""`DynamicDecoder`: static means static, special tokens survive, and no answer depends on its neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyntok_jax import Budget, DynamicDecoder, Merges, Merging, SamplingConfig, Share, learn_merges
from dyntok_jax.assets import load_sample
from dyntok_jax.decoding import advance
from dyntok_jax.decoding.batch_decoder import _score, _start
from dyntok_jax.decoding.prompts import continuation_ids
from dyntok_jax.embedding import TokenEmbedder
from dyntok_jax.errors import ConfigError, InputError, NotANumberError, TooLongError
from dyntok_jax.models import embed_ids, forward, logits
from dyntok_jax.sharding import make_mesh
from dyntok_jax.text import ByteLevelTokenizer, pad_batch
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."
FULL = Share(100)
PROMPTS = [GREEK, "All human beings", "x", GREEK[:40], "Alle Menschen sind frei und gleich an Würde geboren."]
LETTERS = "What is free?\nA. all\nB. none\nC. some\nAnswer:"
"""How a question is asked in style `letters`."""
CHAT = [{"role": "user", "content": GREEK}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return DynamicDecoder.load(folder)


READ = jax.jit(forward)


def greedy(decoder, rows_TD, n_tokens):
    """The most probable tokens behind embeddings, everything read again at each step."""
    table, rows, found = np.asarray(decoder.decoder.word_embeddings[...]), list(np.asarray(rows_TD)), []
    for _ in range(n_tokens):
        padded = jnp.asarray(np.pad(np.stack(rows), ((0, 256 - len(rows)), (0, 0))))  # one program for all lengths
        hidden = READ(decoder.decoder, padded[None], jnp.arange(256)[None] < len(rows))[:, len(rows) - 1]
        found.append(int(logits(decoder.decoder, hidden)[0].argmax()))
        rows.append(table[found[-1]])
    return found


def test_static_ids_are_exactly_the_tokenizer_s(decoder):
    texts = [*PROMPTS, "a</s>b", " <s> spaced  out", "<s>", "\n\n", "e\u0301"]
    read = decoder.read(texts, goal=None)
    for text, tokens in zip(texts, read.tokens, strict=True):
        assert tokens.subword_L.tolist() == decoder.tokenizer.own.encode(text).ids
        assert set(tokens.length_T.tolist()) == {1}


@pytest.mark.slow
def test_without_a_goal_the_model_reads_the_tokenizers_own_ids(decoder):
    own = decoder.tokenizer.own
    generated = decoder.generate(PROMPTS, max_tokens=1)
    scored = decoder.score(PROMPTS, [" a"] * len(PROMPTS))
    chosen = decoder.choose(["What is free?"], [["all", "none", "some"]])
    asked = [*PROMPTS, *PROMPTS, LETTERS]
    for prompt, found in zip(asked, [*generated, *scored, *chosen], strict=True):
        assert found.prompt_tokens.ids() == [[index] for index in own.encode(prompt).ids]


def test_without_a_goal_a_stream_is_behind_the_tokenizers_own_ids(decoder):
    options = {"max_tokens": 20, "sampling": SamplingConfig(1.0), "seed": 5}
    static, merged = (decoder.generate([GREEK], goal=goal, **options)[0].text for goal in (None, FULL))
    assert "".join(decoder.stream(GREEK, **options)) == static != merged


def test_a_merge_list_is_applied_without_a_goal(decoder):
    batch = pad_batch(decoder.text_encoder.encode([GREEK], boundary="pretoken"), np.arange(1), pad_id=0)
    learnt = learn_merges([batch], 5, tokenizer=decoder.tokenizer.fingerprint, boundary="pretoken", max_subwords=7)
    merged, static = decoder.read([GREEK], merging=Merging(merge_list=learnt)), decoder.read([GREEK])
    assert merged.n_tokens[0] < static.n_tokens[0]
    with pytest.raises(InputError, match="Give goal or merging, not both"):
        decoder.read([GREEK], goal=Merges(2), merging=Merging(merge_list=learnt))
    with pytest.raises(InputError, match="give it without a goal"):
        Merging(Merges(2), merge_list=learnt)


def test_special_tokens_survive_and_no_space_is_added(decoder):
    (tokens,) = decoder.read(["<s>Hello world</s><s> Hello</s>"], merging=Merging(merge_last=True)).tokens
    assert "".join(tokens.strings(decoder.tokenizer)) == "<s>Hello world</s><s> Hello</s>"
    assert [s for s in tokens.strings(decoder.tokenizer) if s.startswith("<")] == ["<s>", "</s>", "<s>", "</s>"]


def test_chats_go_through_the_template_without_more_special_tokens(tmp_path):
    write_tiny_decoder(tmp_path, begins=True)
    decoder = DynamicDecoder.load(tmp_path)
    text = decoder.chat.render(CHAT)
    for goal in (None, FULL):
        (tokens,) = decoder.read([CHAT], goal=goal).tokens
        assert decoder.tokenizer.token_text(tokens.subword_L.tolist()) == text
    assert decoder.read([CHAT], goal=None).tokens[0].subword_L.tolist() == (
        decoder.tokenizer.own.encode(text, add_special_tokens=False).ids
    )
    assert decoder.read(["x"], goal=None).tokens[0].strings(decoder.tokenizer) == ["<s>", "x"]


def test_special_tokens_are_counted_nowhere(tmp_path):
    """Neither those that the tokenizer adds nor those of a chat's template, in one meaning with the encoder."""
    write_tiny_decoder(tmp_path, begins=True)
    decoder = DynamicDecoder.load(tmp_path)
    text = "Hello world"
    n_subwords = len(decoder.tokenizer.own.encode(text, add_special_tokens=False).ids)
    assert decoder.tokenizer.own.encode(text).ids[0] in decoder.tokenizer.special_ids
    for goal in (None, Share(100)):
        reading = {"merging": Merging(goal, merge_last=True)}
        (generated,) = decoder.generate([text], max_tokens=1, **reading)
        (scored,) = decoder.score([text], ["x"], **reading)
        assert [generated.n_static, scored.n_static] == [n_subwords] * 2
        assert [generated.n_tokens, scored.n_tokens] == [len(scored.prompt_tokens) - 1] * 2
        assert (generated.n_tokens == n_subwords) == (goal is None)
        (of_chat,) = decoder.generate([CHAT], max_tokens=1, **reading)
        ids = decoder.tokenizer.own.encode(decoder.chat.render(CHAT), add_special_tokens=False).ids
        assert of_chat.n_static == sum(index not in decoder.tokenizer.special_ids for index in ids) < len(ids)


def test_the_last_segment_stays_unmerged_unless_asked(decoder):
    text = "menschlichen Gesellschaft"
    kept, merged = (decoder.read([text], merging=Merging(merge_last=last)).tokens[0] for last in (False, True))
    assert merged.strings(decoder.tokenizer)[-1].endswith("Gesellschaft") or merged.length_T[-1] > 1
    assert kept.length_T[-1] == 1
    assert kept.strings(decoder.tokenizer)[0] == merged.strings(decoder.tokenizer)[0]


@pytest.mark.slow
@pytest.mark.parametrize("goal", [None, FULL, Merges(2)])
def test_generation_is_reading_everything_again_at_each_step(decoder, goal):
    texts = decoder.generate(PROMPTS, goal=goal, max_tokens=6, batch_size=2)
    table = np.asarray(decoder.decoder.word_embeddings[...])
    for prompt, found in zip(PROMPTS, texts, strict=True):
        rows = np.stack([table[ids].mean(axis=0) for ids in found.prompt_tokens.ids()])
        expected = greedy(decoder, jnp.asarray(rows), 6)
        ended = [*expected, *decoder.end_ids].index(decoder.end_ids[0])
        assert found.ids == expected[:ended]
        assert found.n_static == len(decoder.tokenizer.own.encode(prompt, add_special_tokens=False).ids)
        assert found.prompt_tokens.is_counted_T.sum() == found.n_tokens <= found.n_static


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "gemma3_text"])
def test_every_family_reads_merged_prompts_and_generates(tmp_path, model_type):
    windows = {"sliding_window": 8, "full_layers": (1,)} if model_type == "gemma3_text" else {}
    write_tiny_decoder(tmp_path, model_type=model_type, n_layers=3, ties_embeddings=True, **windows)
    decoder = DynamicDecoder.load(tmp_path)
    (found,) = decoder.generate([GREEK], goal=FULL, max_tokens=6)
    table = np.asarray(decoder.decoder.word_embeddings[...])
    rows = np.stack([table[ids].mean(axis=0) for ids in found.prompt_tokens.ids()])  # as in the table: not scaled
    assert len(rows) < found.n_static
    expected = greedy(decoder, jnp.asarray(rows), 6)
    assert found.ids == expected[: [*expected, *decoder.end_ids].index(decoder.end_ids[0])]


def test_an_answer_never_depends_on_its_neighbours(decoder):
    options = {"max_tokens": 8, "sampling": SamplingConfig(1.0, top_p=0.95), "seed": 3, "goal": FULL}
    together = decoder.generate(PROMPTS, **options)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = decoder.generate([prompt], **options)
        assert (alone.text, alone.ids, alone.finish) == (found.text, found.ids, found.finish)


def test_scope_batch_merges_what_prompts_share(decoder):
    read = decoder.read([GREEK, "x"], merging=Merging(Merges(1), scope="batch"))
    alone = decoder.read([GREEK, "x"], merging=Merging(Merges(1), scope="example"))
    assert read.n_tokens.tolist() == alone.n_tokens.tolist()  # x has nothing to merge
    read = decoder.read(["ab ab ab", "cd ab"], merging=Merging(Merges(1), scope="batch"))
    assert read.n_tokens[0] <= decoder.read(["ab ab ab"], goal=None).n_tokens[0]


def test_the_seed_decides_and_several_seeds_give_several_samples(decoder):
    options = {"max_tokens": 12, "sampling": SamplingConfig(1.5), "goal": FULL}
    first, second, third = decoder.generate([GREEK] * 3, seed=[1, 2, 1], **options)
    assert first.ids == third.ids != second.ids
    assert decoder.generate([GREEK], seed=1, **options)[0].ids == first.ids


def test_streamed_pieces_are_the_generated_text(decoder):
    options = {"max_tokens": 40, "sampling": SamplingConfig(1.0), "seed": 5, "goal": FULL}
    (whole,) = decoder.generate([GREEK], **options)
    pieces = list(decoder.stream(GREEK, **options))
    assert "".join(pieces) == whole.text
    assert len(pieces) > 3
    heard: dict[int, str] = {}
    decoder.generate(
        [GREEK, "x"], on_text=lambda row, piece: heard.update({row: heard.get(row, "") + piece}), **options
    )
    assert heard[0] == whole.text


def test_stop_strings_end_a_text_and_are_no_part_of_it(decoder):
    options = {"max_tokens": 40, "sampling": SamplingConfig(1.0), "seed": 5, "goal": FULL}
    (whole,) = decoder.generate([GREEK], **options)
    stop = whole.text[6:9]
    (found,) = decoder.generate([GREEK], stop=[stop], **options)
    assert found.finish == "stop"
    assert found.text == whole.text[: whole.text.index(stop)]
    (never,) = decoder.generate([GREEK], stop=["no such thing"], **options)
    assert (never.text, never.finish) == (whole.text, whole.finish)


def test_a_penalised_prompt_counts_merged_tokens_as_their_subwords(decoder):
    static, dynamic = (decoder.read([GREEK], merging=Merging(goal, merge_last=True)) for goal in (None, FULL))
    seen = [decoder._batches._seen(read, np.arange(1), 1) for read in (static, dynamic)]
    assert seen[0].any()
    np.testing.assert_array_equal(*seen)
    decoder.generate([GREEK], goal=FULL, sampling=SamplingConfig(repetition_penalty=1.3), max_tokens=3)


@pytest.mark.slow
def test_scores_are_the_log_probabilities_of_the_full_forward(decoder):
    prompts, continuations = [GREEK, GREEK, "x"], [" και", " ελεύθεροι και ίσοι", ""]
    found = decoder.score(prompts, continuations, goal=None)
    for prompt, text, scored in zip(prompts, continuations, found, strict=True):
        own = decoder.tokenizer.own
        ids, behind = own.encode(prompt).ids, own.encode(prompt + text).ids[len(own.encode(prompt).ids) :]
        assert list(scored.ids) == behind
        whole = jnp.asarray([ids + behind], jnp.int32)
        hidden = forward(decoder.decoder, embed_ids(decoder.decoder, whole), whole >= 0)
        rows = jax.nn.log_softmax(logits(decoder.decoder, hidden))[0, len(ids) - 1 : -1]
        np.testing.assert_allclose(scored.log_probs_O, rows[np.arange(len(behind)), behind], atol=1e-4)
        assert scored.total == pytest.approx(float(scored.log_probs_O.sum()), abs=1e-4)
    assert found[1].bits_per_byte == pytest.approx(-found[1].total / np.log(2) / len(continuations[1].encode()))
    assert found[2].bits_per_byte == 0


def test_scores_do_not_depend_on_the_batch(decoder):
    prompts, continuations = PROMPTS, [" a", " frei", "", " und", " b"]
    together = decoder.score(prompts, continuations, goal=FULL)
    for prompt, text, found in zip(prompts, continuations, together, strict=True):
        (alone,) = decoder.score([prompt], [text], goal=FULL)
        np.testing.assert_allclose(alone.log_probs_O, found.log_probs_O, atol=1e-5)


@pytest.mark.slow
def test_choices_are_the_best_of_their_scores(decoder):
    questions, options = ["What is free?", "Who?"], [["all", "none", "some"], ["I", "you"]]
    letters = decoder.choose(questions, options, goal=FULL)
    scored = decoder.score([LETTERS] * 3, [" A", " B", " C"], goal=FULL)
    np.testing.assert_allclose(letters[0].scores, [text.total for text in scored], atol=1e-5)
    full = decoder.choose(questions, options, style="full", context="Q: ", goal=FULL)
    scored = decoder.score(["Q: Who?\nAnswer:"] * 2, [" I", " you"], goal=FULL)
    np.testing.assert_allclose(full[1].scores, [-text.bits_per_byte for text in scored], atol=1e-5)
    assert [choice.best for choice in (*letters, *full)] == [
        int(np.argmax(choice.scores)) for choice in (*letters, *full)
    ]


def test_a_border_within_a_token_leaves_the_prompt_alone(decoder):
    own = decoder.tokenizer.own
    word = next(piece for piece in decoder.tokenizer.pieces if piece.isascii() and piece.isalpha() and len(piece) > 3)
    assert len(own.encode(word).ids) == 1
    assert continuation_ids(decoder.tokenizer, word[:2], word[2:]) == own.encode(word[2:]).ids


@pytest.mark.slow
def test_continuations_get_no_space_of_their_own(mistral_tokenizer):
    tokenizer = ByteLevelTokenizer.convert(mistral_tokenizer)
    ids = continuation_ids(tokenizer, "The capital of France is", " Paris")
    assert [tokenizer.pieces[i] for i in ids] == ["ĠParis"]
    ids = continuation_ids(tokenizer, "Par", "is")
    assert [tokenizer.pieces[i] for i in ids] == ["is"]


def test_a_hypernetwork_predicts_prompts_and_is_cached(folder, tmp_path):
    write_tiny_decoder_hypernet(tmp_path / "hypernet", folder)
    decoder = DynamicDecoder.load(folder, tmp_path / "hypernet")
    cold = decoder.score([GREEK], [" και"], goal=FULL)
    assert decoder.embedder.cache.misses > 0
    misses = decoder.embedder.cache.misses
    warm = decoder.score([GREEK], [" και"], goal=FULL)
    assert decoder.embedder.cache.misses == misses
    np.testing.assert_array_equal(cold[0].log_probs_O, warm[0].log_probs_O)
    fvt = DynamicDecoder.load(folder).score([GREEK], [" και"], goal=FULL)
    assert not np.allclose(cold[0].log_probs_O, fvt[0].log_probs_O)


def test_two_tables_go_into_a_hypernetwork_of_two(folder, tmp_path):
    config = write_tiny_decoder_hypernet(tmp_path / "two", folder, separate_output=True)
    decoder = DynamicDecoder.load(folder, tmp_path / "two")
    assert decoder.embedder.predictor.source_VM.shape[1] == 2 * config.width
    assert np.isfinite(decoder.score([GREEK], [" και"], goal=FULL)[0].total)
    with pytest.raises(ConfigError, match="this model has one"):
        TokenEmbedder(decoder.tokenizer, decoder.decoder.word_embeddings[...], decoder.embedder.hypernet)


@pytest.mark.slow
def test_a_session_compiles_few_programs(folder):
    """50 prompts of 1 to 1,400 characters, one at a time."""
    decoder = DynamicDecoder.load(folder)
    text = " ".join(load_sample()["el"])
    programs = (_start, advance, _score)
    before = sum(program._cache_size() for program in programs)
    for length in np.random.default_rng(0).integers(1, 1400, 50):
        decoder.generate([text[:length]], max_tokens=2, goal=Share(50))
    assert sum(program._cache_size() for program in programs) - before <= 10


@pytest.mark.slow
def test_bfloat16_parameters_decode(folder):
    decoder = DynamicDecoder.load(folder, dtype=jnp.bfloat16)
    assert decoder.decoder.word_embeddings.dtype == jnp.bfloat16
    (found,) = decoder.generate([GREEK], goal=FULL, max_tokens=4)
    assert len(found.ids) <= 4
    wide, half = (d.score([GREEK], [" και"], goal=FULL)[0].total for d in (DynamicDecoder.load(folder), decoder))
    assert half == pytest.approx(wide, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1), (2, 4), (1, 8)])
def test_on_a_mesh_everything_is_the_same(tmp_path, shape):
    write_tiny_decoder(tmp_path, model_type="mistral", sliding_window=8, n_heads=16, n_kv_heads=8)
    alone, sharded = (DynamicDecoder.load(tmp_path, mesh=mesh) for mesh in (None, make_mesh(*shape)))
    options = {"max_tokens": 6, "sampling": SamplingConfig(0.8), "seed": 2, "goal": FULL}
    texts = [[found.ids for found in d.generate(PROMPTS, **options)] for d in (alone, sharded)]
    assert texts[0] == texts[1]
    scores = [[s.total for s in d.score(PROMPTS, [" a"] * 5, goal=FULL)] for d in (alone, sharded)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_a_mesh_that_does_not_divide_the_heads_is_told_before_anything_is_compiled(folder):
    with pytest.raises(ConfigError, match="do not divide the parameters evenly"):
        DynamicDecoder.load(folder, mesh=make_mesh(2, 4))


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([], {}, InputError, "There is no prompt"),
        ([""], {}, InputError, "Prompt 0 is empty"),
        (["x", CHAT], {}, InputError, "mix plain texts and chats"),
        ([[]], {}, InputError, "Chat 0 must be a list of turns"),
        (["x"], {"max_tokens": 0}, InputError, "max_tokens must be 1 or more"),
        (["x"], {"max_tokens": 512}, TooLongError, "Prompt 0 has 1 tokens after merging and 512 more"),
        ([GREEK * 60], {}, TooLongError, "there is room for 512"),
        ([GREEK], {"goal": Budget(3)}, TooLongError, "there is room for 3"),
        (["x"], {"stop": [""]}, InputError, "empty stop string"),
        (["x"], {"seed": [1, 2]}, InputError, "1 prompts and 2 seeds"),
        (["x"], {"seed": -1}, InputError, "A seed must be 0 or more"),
        (["x"], {"batch_size": 0}, InputError, "batch_size must be 1 or more"),
        (["x"], {"language": "de"}, InputError, "leave the language out"),
        (["\ud800"], {}, InputError, "lone surrogate"),
    ],
)
def test_what_cannot_be_done_is_told(decoder, prompts, options, error, message):
    with pytest.raises(error, match=message):
        decoder.generate(prompts, **options)


def test_one_prompt_is_no_list_and_continuations_are_one_each(decoder):
    with pytest.raises(InputError, match="put it in a list"):
        decoder.generate("Hello")
    with pytest.raises(InputError, match="2 prompts and 1 continuations"):
        decoder.score(["a", "b"], ["c"])
    with pytest.raises(InputError, match="Question 0 has 0 options"):
        decoder.choose(["a"], [[]])
    for score, prompts, texts in (
        (decoder.score, "ab", ["c", "d"]),
        (decoder.score, ["a", "b"], "cd"),
        (decoder.choose, ["a"], ["bc"]),
    ):
        with pytest.raises(InputError, match="got one text: put it in a list"):
            score(prompts, texts)


def test_a_missing_template_is_told(tmp_path):
    write_tiny_decoder(tmp_path, has_template=False)
    with pytest.raises(ConfigError, match="no chat template"):
        DynamicDecoder.load(tmp_path).generate([CHAT])


def test_weights_that_are_no_numbers_stop_with_an_error(folder):
    decoder = DynamicDecoder.load(folder)
    decoder.decoder.final_norm.scale[...] = jnp.full_like(decoder.decoder.final_norm.scale[...], jnp.nan)
    with pytest.raises(NotANumberError, match="after prompt 0 are NaN or infinite"):
        decoder.generate(["x"])
    with pytest.raises(NotANumberError, match="after prompt 0 are NaN or infinite"):
        decoder.score(["x"], ["y"])

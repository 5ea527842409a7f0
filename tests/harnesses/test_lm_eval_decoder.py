"""`dyntok` in lm-evaluation-harness: what is merged, what is refused, and that nothing depends on batches."""

import json
import logging
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model

from dyntok_jax import DynamicDecoder, Merging, SamplingConfig, Share
from dyntok_jax.errors import ConfigError, InputError, TooLongError
from dyntok_jax.harnesses import DecoderArguments, LmEvalDecoder
from tests.support.harness_tasks import write_harness_tasks
from tests.support.tiny import write_tiny_decoder, write_tiny_decoder_hypernet

GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren."
PAIRS = [(GERMAN, " Sie sind"), ("All human beings", " are born"), (GERMAN, " mit Vernunft"), ("", "x"), ("x ", "y")]
POSITIONS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_decoder(folder / "model", max_positions=POSITIONS)
    write_tiny_decoder_hypernet(folder / "hypernet", folder / "model")
    write_tiny_decoder(folder / "begins", max_positions=POSITIONS, begins=True)
    write_tiny_decoder(folder / "plain", has_template=False)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return DynamicDecoder.load(folder / "model", folder / "hypernet")


@pytest.fixture(scope="module")
def model(decoder):
    """A function that wraps the decoder with some arguments."""
    return lambda **arguments: LmEvalDecoder(decoder, DecoderArguments(**arguments))


def asked(kind, *arguments):
    return [Instance(kind, {}, one, 0, metadata=("task", 0, 1)) for one in arguments]


def scores(lm, *pairs):
    return lm.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)


def texts(lm, *requests):
    return lm.generate_until(asked("generate_until", *requests), disable_tqdm=True)


def test_the_harness_knows_it_by_name():
    declared = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    assert EntryPoint("dyntok", declared["dyntok"], "lm_eval.models").load() is LmEvalDecoder
    assert get_model("dyntok") is LmEvalDecoder


def test_it_is_made_of_the_harness_s_arguments(folder):
    given = f"pretrained={folder / 'model'},hypernet={folder / 'hypernet'},share=50,max_subwords=none,protect=none"
    lm = LmEvalDecoder.create_from_arg_string(given, {"batch_size": "4", "max_batch_size": None, "device": "cuda:0"})
    assert lm.merging == Merging(Share(50), max_subwords=None, protect=None)
    assert lm.arguments.batch_size == 4
    assert lm.decoder.embedder.hypernet is not None
    assert len(texts(lm, (GERMAN, {"max_gen_toks": 3}))) == 1


def test_what_is_scored_after_a_merged_context_is_what_the_decoder_scores(decoder, model):
    lm = model(share=100)
    after = [lm.tok_encode(text) for _, text in PAIRS[:3]]
    expected = decoder.score([context for context, _ in PAIRS[:3]], after, goal=Share(100))
    for (found, is_greedy), text in zip(scores(lm, *PAIRS[:3]), expected, strict=True):
        assert found == pytest.approx(text.total, abs=1e-4)
        assert is_greedy == (list(text.greedy_O) == text.ids)
    static, merged = scores(model(), PAIRS[0]), scores(lm, PAIRS[0])
    assert abs(static[0][0] - merged[0][0]) > 1e-3


def test_a_merged_context_is_continued_as_the_decoder_does(decoder, model):
    requests = [(context, {"max_gen_toks": 8, "until": ["e"]}) for context, _ in PAIRS[:3]]
    expected = decoder.generate([context for context, _ in requests], goal=Share(100), max_tokens=8, stop=["e"])
    assert texts(model(share=100), *requests) == [text.text for text in expected]


def test_a_context_is_cut_by_subwords_where_positions_count_them(decoder, model):
    long, request = GERMAN + " Menschen" * 40, {"max_gen_toks": 8}
    lm = model(share=100, positions="subwords")
    prompt = lm.contexts.prompt(long, lm.tok_encode(long), room=POSITIONS - 8)
    assert long.endswith(prompt)
    kept, all_of_it = (decoder.read([text], merging=lm.merging, limit=1000).n_positions[0] for text in (prompt, long))
    assert kept <= POSITIONS - 8 < all_of_it
    assert len(texts(lm, (long, request))) == 1
    tokens = model(share=100).contexts
    assert len(tokens.prompt(long, lm.tok_encode(long), room=POSITIONS - 8)) > len(prompt)


@pytest.mark.parametrize("share", [None, 100])
def test_no_answer_depends_on_its_batch(model, share):
    one, many = model(share=share, batch_size=1), model(share=share, batch_size=8)
    for (alone, is_greedy), (beside, is_greedy_too) in zip(scores(one, *PAIRS), scores(many, *PAIRS), strict=True):
        assert alone == pytest.approx(beside, abs=1e-4)
        assert is_greedy == is_greedy_too
    requests = [(context, {"max_gen_toks": 4}) for context, _ in PAIRS]
    assert texts(one, *requests) == texts(many, *requests)


def test_a_context_is_cut_only_if_it_is_too_long_after_merging(decoder, model, caplog):
    long = GERMAN + " Menschen"
    room = POSITIONS - 8
    while len(decoder.read([long], goal=Share(100)).tokens[0]) <= room - 2:
        long += " Menschen"
    assert decoder.read([long], limit=1000).n_tokens[0] > room
    request = {"max_gen_toks": 8}
    (fitting,) = texts(model(share=100), (long, request))
    assert not caplog.records
    assert fitting == decoder.generate([long], goal=Share(100), max_tokens=8)[0].text
    longer, lm = GERMAN * 20 + long, model(share=100)
    kept = lm.contexts.prompt(longer, lm.tok_encode(longer), room)
    assert longer.endswith(kept)
    assert room - 3 <= decoder.read([kept], goal=Share(100)).n_tokens[0] <= room  # the cut word is a few tokens less
    (cut,) = texts(lm, (longer, request))
    assert "only its last 56 are read" in caplog.text
    assert cut == decoder.generate([kept], goal=Share(100), max_tokens=8)[0].text


def test_a_cut_context_begins_with_the_first_token_once(folder, caplog):
    lm = LmEvalDecoder(DynamicDecoder.load(folder / "begins"), DecoderArguments(share=100))
    begin = lm.decoder.begin_id
    for text in (GERMAN, f"<s>{GERMAN}", f"<s>{GERMAN * 9}"):
        prompt = lm.contexts.prompt(text, lm.tok_encode(text), room=20)
        (tokens,) = lm.decoder.read([prompt], goal=Share(100)).tokens
        assert len(tokens) <= 20
        assert list(tokens.subword_L).count(begin) == 1
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_special_token_as_a_stop_string_ends_a_text(decoder, model):
    first = decoder.generate([GERMAN], max_tokens=1)[0].ids[0]
    renamed = DynamicDecoder(decoder.config, decoder.decoder, decoder.embedder)  # no token ends its texts
    assert texts(LmEvalDecoder(renamed), (GERMAN, {"max_gen_toks": 3, "until": ["</s>"]}))[0] != ""
    contexts = LmEvalDecoder(renamed).contexts
    assert contexts._special_ids(["</s>", "x"]) == (decoder.end_ids[0],)
    assert contexts._ending((first,)).generate([GERMAN], max_tokens=3)[0].finish == "end"
    assert model().contexts._special_ids(["</s>"]) == ()  # it ends them anyway


def test_samples_of_one_context_differ_by_seed(decoder, model):
    request = (GERMAN, {"max_gen_toks": 8, "do_sample": True, "temperature": 1.0, "top_k": 50})
    drawn = texts(model(seed=5), request, request)
    sampling = SamplingConfig(temperature=1.0, top_k=50)
    assert drawn == [text.text for text in decoder.generate([GERMAN] * 2, max_tokens=8, sampling=sampling, seed=[5, 6])]
    assert drawn[0] != drawn[1]


def test_results_tell_how_many_tokens_were_saved(decoder, model):
    lm = model(share=100)
    assert lm.get_model_info()["dyntok_reduction_percent"] is None
    scores(lm, PAIRS[0], PAIRS[2])  # one context
    read = decoder.read([GERMAN], goal=Share(100))
    info = lm.get_model_info()
    counts = info["dyntok_static_tokens"], info["dyntok_tokens"]
    assert counts == (int(read.n_static[0]), int(read.tokens.counts[0]))
    assert info["dyntok_reduction_percent"] == pytest.approx(100 * (1 - counts[1] / counts[0]))
    assert "Share(percent=100)" in info["dyntok_merging"]
    assert json.dumps(info)
    assert model().get_model_info()["dyntok_merging"] == "static"


def test_answers_are_kept_for_a_second_run(model, tmp_path):
    lm = model()
    kept = CachingLM(lm, str(tmp_path / "answers.db"))
    first = kept.loglikelihood(asked("loglikelihood", *PAIRS))
    lm.decoder = None  # it must not be asked again
    assert kept.loglikelihood(asked("loglikelihood", *PAIRS)) == first


def test_a_whole_text_has_nothing_to_merge(model):
    with pytest.raises(InputError, match=r"task: a whole text is scored without a context"):
        model(share=50).loglikelihood_rolling(asked("loglikelihood_rolling", ("All human beings",)))


def test_what_cannot_be_scored_is_told(model):
    for pair, error, said in (
        (("All", ""), InputError, "empty text"),
        (("All\ud800", " x"), InputError, "lone surrogate"),
        (("All", " human beings" * 90), TooLongError, r"A continuation has \d+ tokens, and there is room for 64"),
    ):
        with pytest.raises(error, match=said):
            scores(model(), pair)
    with pytest.raises(TooLongError, match="asks for 64 tokens"):
        texts(model(), ("All", {"max_gen_toks": 64}))


def test_a_token_that_takes_the_continuation_in_is_no_obstacle(model):
    lm = model()
    assert len(lm.tok_encode("en")) == len(lm.tok_encode("e")) == 1
    assert lm._encode_pair("e", "n") == (lm.tok_encode("e"), lm.tok_encode("n"))
    assert np.isfinite(scores(lm, ("e", "n"))[0][0])


def test_without_a_chat_template_chats_are_refused(folder, model):
    lm = LmEvalDecoder(DynamicDecoder.load(folder / "plain"))
    with pytest.raises(ConfigError, match="no chat template: leave out --apply_chat_template"):
        lm.apply_chat_template([{"role": "user", "content": "Hello"}])
    with pytest.raises(ConfigError, match="no chat template"):
        lm.chat_template(True)
    with pytest.raises(InputError, match="default chat template, not 'tools'"):
        model().chat_template("tools")


def test_a_system_turn_that_the_template_refuses_is_left_out(folder, caplog):
    lm = LmEvalDecoder(DynamicDecoder.load(folder / "model"))
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}"
    )
    object.__setattr__(lm.decoder.chat, "source", source)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert lm.apply_chat_template(chat) == "Hello"
    assert "The system turn is left out" in caplog.text


def test_a_text_without_a_context_needs_a_first_token(decoder):
    one = DynamicDecoder(decoder.config, decoder.decoder, decoder.embedder)
    with pytest.raises(ConfigError, match="neither a bos_token nor an eos_token"):
        scores(LmEvalDecoder(one), ("", "x"))


def test_caches_of_requests_tell_tokenizers_apart(model, folder):
    begins = LmEvalDecoder(DynamicDecoder.load(folder / "begins"), DecoderArguments(pretrained=str(folder / "begins")))
    assert begins.tokenizer_name.startswith("begins-")
    assert begins.tokenizer_name != model().tokenizer_name


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
@pytest.mark.parametrize("share", [None, 50])
def test_a_whole_evaluation_runs(folder, tmp_path, monkeypatch, share):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    tasks = write_harness_tasks(tmp_path)
    if share is not None:
        tasks = [path for path in tasks if "texts" not in path]
    found = simple_evaluate(
        "dyntok",
        {
            "pretrained": str(folder / "model"),
            "hypernet": str(folder / "hypernet") if share else "auto",
            "share": share,
        },
        tasks,
        batch_size=4,
        bootstrap_iters=0,
        num_fewshot=1,
        apply_chat_template=True,
    )
    assert set(found["results"]["local_quiz"]) >= {"acc,none", "acc_norm,none"}
    reduction = found["config"]["dyntok_reduction_percent"]
    assert reduction is None if share is None else 0 < reduction < 100

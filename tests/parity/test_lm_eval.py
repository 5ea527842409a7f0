"""Static results in lm-evaluation-harness are those of its own `hf` model on the same weights."""

import json
import math

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from dyntok_jax import DynamicDecoder
from dyntok_jax.harnesses import DecoderArguments, LmEvalDecoder
from tests.support.harness_tasks import write_harness_tasks
from tests.support.tiny import CHAT_TEMPLATE, write_tiny_decoder

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
POSITIONS = 64
LONG = "All human beings are born free and equal in dignity and rights. " * 8
CONTEXTS = {
    "plain": ("All human beings are", " born free"),
    "without a context": ("", "All human beings"),
    "white space at the end of the context": ("All human beings are \n", "born free"),
    "tokens that cross the border": ("All human be", "ings are born"),
    "a context that begins with the first token": ("<s>All human beings", " are born"),
    "a context that is too long": (LONG, " born free"),
    "Greek": ("Όλοι οι άνθρωποι", " γεννιούνται ελεύθεροι"),
    "the same context again": ("All human beings are", " equal"),
    "only the first token": ("", "<s>All"),
}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is free? "}]


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module", params=[False, True], ids=["adds nothing", "adds <s>"])
def models(request, tmp_path_factory):
    """A tiny decoder in the harness's `hf` model and in ours."""
    folder = tmp_path_factory.mktemp("decoder")
    write_tiny_decoder(folder, max_positions=POSITIONS, begins=request.param)
    # otherwise transformers would take it for Llama's own kind of tokenizer
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHAT_TEMPLATE}
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3)
    ours = LmEvalDecoder(DynamicDecoder.load(folder), DecoderArguments(pretrained=str(folder), batch_size=3))
    return theirs, ours


def instances(kind, arguments):
    return [Instance(kind, {}, one, 0, metadata=("task", 0, 1)) for one in arguments]


def test_ids_of_contexts_and_continuations_are_theirs(models):
    theirs, ours = models
    for context, continuation in CONTEXTS.values():
        if context:
            assert ours._encode_pair(context, continuation) == theirs._encode_pair(context, continuation)
        assert ours.tok_encode(continuation) == theirs.tok_encode(continuation)


def test_log_likelihoods_are_theirs(models):
    requests = instances("loglikelihood", CONTEXTS.values())
    theirs, ours = (model.loglikelihood(requests, disable_tqdm=True) for model in models)
    for name, one, other in zip(CONTEXTS, theirs, ours, strict=True):
        assert other == (pytest.approx(one[0], abs=1e-3), one[1]), name


def test_a_continuation_as_long_as_the_model_reads_is_theirs(models):
    text = ""
    while len(models[0]._encode_pair("All", text)[1]) < POSITIONS:
        text += " x"
    assert len(models[0]._encode_pair("All", text)[1]) == POSITIONS
    (theirs,), (ours,) = (model.loglikelihood(instances("loglikelihood", [("All", text)]), True) for model in models)
    assert ours == (pytest.approx(theirs[0], abs=1e-3), theirs[1])


def test_long_texts_are_scored_in_their_windows(models):
    texts = ["All", LONG, LONG[:200], "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι. " * 6]
    requests = instances("loglikelihood_rolling", [(text,) for text in texts])
    theirs, ours = (model.loglikelihood_rolling(requests, disable_tqdm=True) for model in models)
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_texts_are_continued_as_they_do(models):
    settings = {"max_gen_toks": 12, "until": ["z", "\n\n"], "do_sample": False, "temperature": 0.0}
    contexts = ["All human beings", LONG, "Όλοι", "x"]
    asked = [(context, settings) for context in contexts]
    # each alone: beside a longer one, theirs is padded on the left
    asked += [(context, {"max_gen_toks": 5, "repetition_penalty": 1.3}) for context in contexts]
    theirs, ours = models
    expected = [theirs.generate_until([one], disable_tqdm=True)[0] for one in instances("generate_until", asked)]
    assert ours.generate_until(instances("generate_until", asked), disable_tqdm=True) == expected


@pytest.mark.parametrize("turns", [CHAT, CHAT[1:], [*CHAT, {"role": "assistant", "content": "Everyone "}]])
@pytest.mark.parametrize("begins_answer", [True, False])
def test_chats_are_written_as_they_do(models, turns, begins_answer):
    theirs, ours = models
    expected = theirs.apply_chat_template([*turns], add_generation_prompt=begins_answer)
    assert ours.apply_chat_template([*turns], add_generation_prompt=begins_answer) == expected
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.chat_template(False) is theirs.chat_template(False) is None


CHATS = {"num_fewshot": 2, "apply_chat_template": True}
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def evaluated(model, tasks, **options):
    return simple_evaluate(model, tasks=tasks, batch_size=4, log_samples=True, bootstrap_iters=0, **options)


def assert_same_results(theirs, ours):
    for name, samples in theirs["samples"].items():
        for one, other in zip(samples, ours["samples"][name], strict=True):
            assert other["arguments"] == one["arguments"]
            if name == "local_asks":
                assert other["resps"] == one["resps"]
                continue
            for (expected,), (found,) in zip(one["resps"], other["resps"], strict=True):
                expected, found = (value if isinstance(value, tuple) else (value, None) for value in (expected, found))
                # PyTorch's softmax in float32 is off by some 1e-5 a token, ours by 1e-7: not for texts of 100 tokens
                assert found == (pytest.approx(expected[0], abs=1e-3), expected[1])
    for name, metrics in theirs["results"].items():
        for metric, value in metrics.items():
            found = ours["results"][name][metric]
            if metric.removesuffix(",none") in PERPLEXITIES:
                # exactly what the log-likelihoods give, which were compared above
                for result, of in ((value, theirs), (found, ours)):
                    assert result == pytest.approx(perplexity(metric, of["samples"][name]), rel=1e-12)
                continue
            assert found == value


def perplexity(metric, samples):
    """A metric of whole texts, from the harness's log-likelihoods of them."""
    texts = [sample["doc"]["text"] for sample in samples]
    total = sum(sample["resps"][0][0] for sample in samples)
    words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
    if metric.startswith("bits"):
        return -total / size / math.log(2)
    return math.exp(-total / (words if metric.startswith("word") else size))


def test_local_tasks_of_a_tiny_decoder_give_the_hf_results(models, tmp_path):
    theirs, ours = (evaluated(model, write_harness_tasks(tmp_path)) for model in models)
    assert set(ours["samples"]) == {"local_quiz", "local_texts", "local_asks"}
    assert_same_results(theirs, ours)


@pytest.mark.parametrize(("n_tasks", "options"), [(3, {}), (1, CHATS)], ids=["plain", "chats"])
def test_local_tasks_of_smollm2_give_the_hf_results(smollm2_folder, tmp_path, n_tasks, options):
    tasks = write_harness_tasks(tmp_path)[:n_tasks]
    arguments = {"pretrained": str(smollm2_folder), "dtype": "float32"}
    theirs = evaluated("hf", tasks, model_args=arguments, device="cpu", **options)
    ours = evaluated("dyntok", tasks, model_args={"pretrained": "smollm2"}, **options)
    assert len(ours["samples"]) == n_tasks
    assert_same_results(theirs, ours)

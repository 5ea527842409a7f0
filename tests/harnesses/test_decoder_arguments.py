"""Arguments that come from a command line: known, in range, and of some effect."""

import jaxtyping
import pytest

from dyntok_jax.decoding import SamplingConfig
from dyntok_jax.errors import InputError, ModelNotFoundError
from dyntok_jax.harnesses import DecoderArguments, GenerationSettings, LmEvalDecoder
from dyntok_jax.merging import MergeList, load_merges
from dyntok_jax.options import STATIC, Budget, Merges, Merging, Share


@pytest.fixture(autouse=True)
def _without_our_checks_of_types(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have none


def test_contexts_are_static_unless_a_goal_is_given():
    assert DecoderArguments().merging == STATIC
    assert DecoderArguments.of({"merges": 5}).merging == Merging(Merges(5))
    assert DecoderArguments.of({"share": "none", "hypernet": "none"}) == DecoderArguments(hypernet=None)
    assert DecoderArguments.of({"budget": 90, "boundary": "word"}).merging == Merging(Budget(90), boundary="word")
    staged = DecoderArguments.of({"share": 50, "pretoken_merges": 3, "positions": "subwords"}).merging
    assert staged == Merging(Share(50), pretoken_merges=3, positions="subwords")


@pytest.fixture
def merge_list(tmp_path):
    """Three merges learnt within words."""
    learnt = MergeList((((3,), (4,)), ((3, 4), (5,)), ((6,), (7,))), "fingerprint", "word", 7)
    learnt.save(tmp_path / "merges.jsonl", str)
    return tmp_path / "merges.jsonl"


def test_a_merge_list_brings_its_boundary(merge_list):
    merging = DecoderArguments.of({"merge_list": str(merge_list), "protect": "none"}).merging
    assert merging == Merging(boundary="word", merge_list=load_merges(merge_list), protect=None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 50}, "share and merge_list are different goals"),
        ({"boundary": "pretoken"}, "was learnt with boundary=word, not pretoken: leave out boundary"),
        ({"max_subwords": 4}, "decides how long tokens get: leave out max_subwords"),
        ({"pretoken_merges": 2}, "give it without pretoken_merges"),
    ],
)
def test_what_contradicts_a_merge_list_is_told(merge_list, given, said):
    with pytest.raises(InputError, match=said):
        LmEvalDecoder.create_from_arg_obj({"merge_list": str(merge_list), **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shares": 50}, "has no argument shares: did you mean share"),
        ({"peft": "x", "revision": "main"}, "has no argument peft, revision: .*takes pretrained, hypernet"),
        ({"share": 101}, "share of the maximum reduction must be from 0 to 100 %, got 101"),
        ({"share": "half"}, "must be from 0 to 100 %, got 'half'"),
        ({"merges": 1.5}, "number of merges must be a whole number"),
        ({"share": 50, "budget": 9}, "share and budget are different goals"),
        ({"boundary": "word"}, "boundary would have no effect"),
        ({"positions": "subwords"}, "positions would have no effect"),
        ({"merge_list": "nowhere.jsonl"}, "The merge list nowhere.jsonl cannot be read"),
        ({"share": 50, "positions": "words"}, "positions must be one of tokens, subwords"),
        ({"language": "de", "protect": None}, "protect and language would have no effect"),
        ({"hypernet": "folder"}, "hypernet would have no effect"),
        ({"share": 50, "boundary": "letter"}, "boundary must be one of pretoken"),
        ({"share": 50, "protect": "("}, "protect must be a regular expression"),
        ({"share": 50, "max_subwords": 0}, "max_subwords must be 1 or more"),
        ({"share": 50, "merge_last": "yes"}, "merge_last must be one of True, False, auto"),
        ({"pretrained": None}, "pretrained must be a text, got None"),
        ({"pretrained": 7}, "pretrained must be a text, got 7: on a command line, put it in quotes"),
        ({"dtype": "auto"}, "dtype must be one of float32, bfloat16, float16, got 'auto'"),
        ({"batch_size": "auto:4"}, "batch_size must be a whole number, 1 or more, or auto"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"max_length": 1}, "max_length must be 2 or more"),
        ({"max_gen_toks": "many"}, "max_gen_toks must be a whole number"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"device": "tpu"}, r"device=tpu is not what JAX runs on here \(cpu\)"),
    ],
)
def test_wrong_arguments_are_told_by_name(given, said):
    with pytest.raises(InputError, match=said):
        LmEvalDecoder.create_from_arg_obj(given)


def test_a_model_that_is_not_there_is_told():
    with pytest.raises(ModelNotFoundError, match="There is no folder nowhere"):
        LmEvalDecoder.create_from_arg_string("pretrained=./nowhere")


def test_batch_sizes_and_devices_are_what_the_harness_passes():
    assert [DecoderArguments(batch_size=size).batch_size for size in ("4", 4, "auto")] == [4, 4, 8]
    for device in (None, "cuda:0", "cpu", "cpu:0"):
        assert DecoderArguments(device=device).device == device


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, GenerationSettings(256, (), SamplingConfig())),
        ({"until": "\n"}, GenerationSettings(256, ("\n",), SamplingConfig())),
        ({"until": ["", "a"], "max_tokens": 5}, GenerationSettings(5, ("a",), SamplingConfig())),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, GenerationSettings(256, (), SamplingConfig())),
        ({"temperature": 0.7, "top_p": 0.9}, GenerationSettings(256, (), SamplingConfig(0.7, top_p=0.9))),
        ({"repetition_penalty": 1.1}, GenerationSettings(256, (), SamplingConfig(repetition_penalty=1.1))),
    ],
)
def test_generation_arguments_mean_what_they_mean_to_other_models(given, expected):
    assert GenerationSettings.of(given, 256) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4}, "has no generation argument num_beams"),
        ({"max_length": 90}, "has no generation argument max_length"),
        ({"do_sample": True}, "do_sample=True needs a temperature above 0"),
        ({"temperature": 0.5, "top_p": 2}, "top_p must be more than 0"),
        ({"until": [3]}, "until must be strings, got 3"),
        ({"max_gen_toks": 0}, "max_gen_toks must be 1 or more"),
        ({"max_gen_toks": "many"}, "cannot be read"),
    ],
)
def test_other_generation_arguments_are_refused_by_name(given, said):
    with pytest.raises(InputError, match=said):
        GenerationSettings.of(given, 256)

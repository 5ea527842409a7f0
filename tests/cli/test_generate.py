"""`dyntok generate` prints what the library writes as it comes, keeps standard output clean, tells what it saved."""

import gzip
import io
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dyntok_jax import Budget, DynamicDecoder, Merges, Merging, SamplingConfig, Share
from dyntok_jax.assets import load_sample
from dyntok_jax.cli import main
from dyntok_jax.cli.shared.compile_clock import CompileClock
from dyntok_jax.cli.shared.text_inputs import EXAMPLE_PROMPT
from tests.support.tiny import write_tiny_decoder

PROMPT = load_sample()["en"][0][:80]
OTHER = "Freiheit und Würde"
WORDS = {"max_tokens": 10}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_decoder(folder / "model", n_layers=1)
    write_tiny_decoder(folder / "plain", has_template=False)
    write_tiny_decoder(folder / "damaged", n_layers=1)
    path = folder / "damaged" / "model.safetensors"
    save_file(load_file(path) | {"model.norm.weight": np.full(32, np.nan, np.float32)}, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def decoder(tiny):
    return DynamicDecoder.load(tiny / "model")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """Runs `dyntok generate` in an empty folder; gives what went to standard output and to standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\n{OTHER}\n", encoding="utf-8")

    def generate(*options, status=0):
        arguments = ["--model", tiny / "model", "--max-tokens", WORDS["max_tokens"], *options]
        assert main(["generate", *map(str, arguments)]) == status
        return capsys.readouterr()

    return generate


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected_line(decoder, prompt, seed, text):
    n_special = int((~text.prompt_tokens.is_counted_T).sum())
    return {
        "prompt": prompt,
        "seed": seed,
        "text": text.text,
        "finish": text.finish,
        "n_static": text.n_static,
        "n_tokens": len(text.prompt_tokens) - n_special,
        "tokens": text.prompt_tokens.strings(decoder.tokenizer),
        "uncounted": np.flatnonzero(~text.prompt_tokens.is_counted_T).tolist(),
    }


class Screen(io.StringIO):
    """Standard output that remembers what was there at every flush."""

    def __init__(self, *, is_terminal):
        super().__init__()
        self.is_terminal, self.seen = is_terminal, [""]

    def isatty(self):
        return self.is_terminal

    def flush(self):
        super().flush()
        if self.getvalue() != self.seen[-1]:
            self.seen.append(self.getvalue())


def test_standard_output_holds_the_text_and_nothing_else(run, decoder):
    (text,) = decoder.generate([PROMPT], **WORDS)
    out, err = run(PROMPT)
    assert out == text.text
    assert err.splitlines()[3].split()[0] == f"{text.n_static}"


def test_without_a_goal_the_prompt_is_the_tokenizers_own(run, decoder, tmp_path):
    err = run(PROMPT, "--output", "out.jsonl", "--json", "figures.json").err
    (line,) = lines(tmp_path / "out.jsonl")
    assert line["tokens"] == [decoder.tokenizer.token_text([i]) for i in decoder.tokenizer.own.encode(PROMPT).ids]
    assert line["n_tokens"] == line["n_static"] == json.loads((tmp_path / "figures.json").read_text())["tokens"]
    assert "reduction" not in err


def test_where_prompts_are_merged_the_table_says_what_was_saved(run, decoder):
    (text,) = decoder.generate([PROMPT], goal=Share(100), **WORDS)
    out, err = run(PROMPT, "--share", "100")
    assert out == text.text
    assert [f"{text.n_static}", f"{len(text.prompt_tokens)}"] == err.splitlines()[3].split()[:2]
    assert "reduction" in err


@pytest.mark.slow
def test_text_is_shown_as_it_comes(run, decoder, monkeypatch):
    (text,) = decoder.generate([PROMPT], **WORDS)
    monkeypatch.setattr(sys, "stdout", screen := Screen(is_terminal=False))
    run(PROMPT)
    assert screen.getvalue() == text.text
    assert len(screen.seen) > WORDS["max_tokens"] // 2
    monkeypatch.setattr(sys, "stdout", screen := Screen(is_terminal=False))
    run(PROMPT, "--no-stream")
    assert screen.seen == ["", text.text]


def test_a_terminal_gets_the_table_below_the_text_and_no_commands(run, decoder, monkeypatch):
    (text,) = decoder.generate([PROMPT], **WORDS)
    monkeypatch.setattr(sys, "stdout", screen := Screen(is_terminal=True))
    monkeypatch.setattr("dyntok_jax.decoding.text_stream.to_bytes", lambda _: b"a\x1b\r\tb")
    run(PROMPT)
    shown, _, table = screen.getvalue().partition("\n")
    assert shown == "a\ufffd\ufffd\tb" * len(text.ids)
    assert "tokens/s" in table


def test_without_a_prompt_there_is_an_example(run, decoder):
    assert run().out == decoder.generate([EXAMPLE_PROMPT], **WORDS)[0].text


@pytest.mark.parametrize(
    ("options", "library"),
    [
        (["--static"], {"goal": None}),
        (["--share", "50"], {"goal": Share(50)}),
        (["--merges", "3", "--scope", "batch"], {"merging": Merging(Merges(3), scope="batch")}),
        (["--budget", "24"], {"goal": Budget(24)}),
        (
            ["--share", "100", "--boundary", "word", "--max-subwords", "3", "--merge-last"],
            {"merging": Merging(boundary="word", max_subwords=3, merge_last=True)},
        ),
        (
            ["--share", "50", "--boundary", "sentence", "--pretoken-merges", "4", "--positions", "subwords"],
            {"merging": Merging(Share(50), "sentence", pretoken_merges=4, positions="subwords")},
        ),
        (["--stop", "\u03b9", "--stop", "e"], {"stop": ["\u03b9", "e"]}),
        (["--temperature", "2", "--seed", "7"], {"sampling": SamplingConfig(2), "seed": 7}),
        (["--temperature", "2", "--top-k", "3"], {"sampling": SamplingConfig(2, top_k=3)}),
        (["--temperature", "2", "--top-p", "0.1"], {"sampling": SamplingConfig(2, top_p=0.1)}),
        (["--temperature", "2", "--min-p", "0.5"], {"sampling": SamplingConfig(2, min_p=0.5)}),
        (["--repetition-penalty", "1.5"], {"sampling": SamplingConfig(repetition_penalty=1.5)}),
    ],
)
def test_options_reach_the_library(run, decoder, tmp_path, options, library):
    out = run(PROMPT, "--output", "out.jsonl", *options).out
    (text,) = decoder.generate([PROMPT], **WORDS | library)
    assert lines(tmp_path / "out.jsonl") == [expected_line(decoder, PROMPT, library.get("seed", 0), text)]
    assert out == text.text


def test_a_chat_is_what_the_user_says_behind_what_the_system_says(run, decoder, tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    for options, chat in ((["--chat", "--system", "Be brief."], turns), (["--chat"], turns[1:])):
        run(PROMPT, *options, "--output", "out.jsonl")
        (text,) = decoder.generate([chat], **WORDS)
        assert lines(tmp_path / "out.jsonl") == [expected_line(decoder, PROMPT, 0, text)]


def test_14_4_special_tokens_typed_in_a_chat_are_text_unless_asked(run, decoder, tiny, tmp_path):
    typed, special = "Say </s><s>", DynamicDecoder.load(tiny / "model", special_tokens="special")
    for options, library in (([], decoder), (["--special-tokens", "special"], special)):
        run(typed, "--chat", *options, "--output", "out.jsonl")
        (text,) = library.generate([[{"role": "user", "content": typed}]], **WORDS)
        assert lines(tmp_path / "out.jsonl") == [expected_line(decoder, typed, 0, text)]


@pytest.mark.slow
def test_a_file_holds_a_prompt_a_line(run, decoder, tmp_path, monkeypatch):
    texts = decoder.generate([PROMPT, OTHER], **WORDS)
    expected = [expected_line(decoder, *of) for of in zip((PROMPT, OTHER), (0, 0), texts, strict=True)]
    content = (tmp_path / "prompts.txt").read_bytes()
    (tmp_path / "prompts.txt.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    for file in ("prompts.txt", "prompts.txt.gz", "-"):
        out, err = run("--file", file, "--output", "out.jsonl")
        assert lines(tmp_path / "out.jsonl") == expected
        assert "Blank lines skipped: 1." in out
        assert err == ""


def test_several_texts_are_printed_under_titles_if_no_file_takes_them(run, decoder):
    out = run("--file", "prompts.txt").out
    for prompt, text in zip((PROMPT, OTHER), decoder.generate([PROMPT, OTHER], **WORDS), strict=True):
        assert f"── {prompt[:20]}" in out
        assert f" · seed 0 ──\n{text.text}\n" in out


def test_samples_have_one_seed_after_the_other(run, decoder, tmp_path):
    run(PROMPT, "--samples", "2", "--seed", "5", "--temperature", "2", "--output", "out.jsonl")
    texts = decoder.generate([PROMPT, PROMPT], seed=[5, 6], sampling=SamplingConfig(2), **WORDS)
    assert texts[0].text != texts[1].text
    written = lines(tmp_path / "out.jsonl")
    assert [(line["seed"], line["text"]) for line in written] == [(5, texts[0].text), (6, texts[1].text)]


def test_all_of_standard_input_is_one_prompt(run, decoder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"free\r\n\nand equal\n")))
    assert run("-").out == decoder.generate(["free\n\nand equal"], **WORDS)[0].text


def test_learnt_merges_are_applied(run, tiny, tmp_path):
    learn = ["learn-merges", "prompts.txt", "--output", "merges.jsonl", "--merges", "100", "--boundary", "word"]
    assert main([*learn, "--model", str(tiny / "model")]) == 0
    run(PROMPT, "--merge-list", "merges.jsonl", "--merge-last", "--output", "out.jsonl")
    assert "".join(tokens := lines(tmp_path / "out.jsonl")[0]["tokens"]) == PROMPT
    assert len(tokens) == len(PROMPT.split())


def test_figures_agree_with_the_texts(run, tmp_path):
    run("--file", "prompts.txt", "--share", "100", "--output", "out.jsonl", "--json", "figures.json")
    figures, written = json.loads((tmp_path / "figures.json").read_text()), lines(tmp_path / "out.jsonl")
    assert figures["texts"] == 2
    assert figures["static_tokens"] == sum(line["n_static"] for line in written)
    assert figures["tokens"] == sum(line["n_tokens"] for line in written)
    assert figures["reduction_percent"] == pytest.approx(100 * (1 - figures["tokens"] / figures["static_tokens"]))
    assert figures["written_characters"] == sum(len(line["text"]) for line in written)
    assert figures["tokens_per_second"] == pytest.approx(figures["written_tokens"] / figures["seconds"])
    assert 0 < figures["seconds_to_first_token"] < figures["seconds"]


def test_the_clock_tells_what_was_compiled_until_a_moment():
    with CompileClock() as clock:
        before = time.perf_counter()
        jax.jit(lambda x: jnp.sin(x) * 2)(jnp.ones(3)).block_until_ready()
        between = time.perf_counter()
        compiled = clock.seconds
        jax.jit(lambda x: jnp.cos(x) * 3)(jnp.ones(3)).block_until_ready()
        assert clock.seconds_until(before) == 0
        assert 0 < clock.seconds_until(between) == compiled < clock.seconds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([""], "Prompt 0 is empty"),
        (["--file", "blank.txt"], "only blank lines"),
        (["--file", "gone.txt"], "There is no file gone.txt"),
        (["x", "--file", "prompts.txt"], "give one of them"),
        (["x", "--system", "Be brief."], "give --chat too"),
        (["x", "--static", "--share", "50"], "--static merges nothing: leave out --share"),
        (["x", "--share", "50", "--merges", "3"], "give one of them"),
        (["x", "--boundary", "word"], "--boundary would have no effect: turn merging on"),
        (["x", "--scope", "batch", "--max-subwords", "3"], "--scope, --max-subwords would have no effect"),
        (["x", "--positions", "subwords"], "--positions would have no effect"),
        (["x", "--merge-last"], "--merge-last would have no effect"),
        (["x", "--language", "de"], "--language would have no effect"),
        (["x", "--hypernet", "./gone"], "--hypernet would have no effect"),
        (["x", "--prompt-vocab"], "give a goal too, such as --share 100"),
        (["x", "--samples", "0"], "1 or more"),
        (["x", "--samples", "2"], "would be the same text"),
        (["x", "--top-k", "5"], "Temperature 0 always takes"),
        (["x", "--temperature", "-1"], "temperature must be"),
        (["x", "--temperature", "1", "--top-p", "1.5"], "top_p must be"),
        (["x", "--repetition-penalty", "0"], "more than 0"),
        (["x", "--seed", "-1"], "seed must be"),
        (["x", "--stop", ""], "empty stop string"),
        (["x", "--max-tokens", "0"], "1 or more"),
        (["x", "--max-tokens", "600"], "has positions for 512"),
        (["many different words " * 200], "room for 512: shorten it"),
        ([PROMPT, "--budget", "2"], "room for 2"),
        (["x", "--batch-size", "0"], "1 or more"),
        (["\udc80"], "is not UTF-8"),
        (["x", "--mesh", "1x3"], "do not divide"),
        (["x", "--mesh", "100x1"], "does not fit"),
        (["x", "--output", "."], "is a folder"),
        (["x", "--json", "."], "is a folder"),
        (["x", "--chat", "--model", "PLAIN"], "no chat template"),
        (["x", "--model", "DAMAGED"], "NaN or infinite"),
        (["x", "--share", "100", "--hypernet", "./gone"], "There is no folder"),
        (["x", "--model", "./gone"], "There is no folder"),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_nothing_is_written(run, tiny, tmp_path, options, said):
    (tmp_path / "blank.txt").write_text(" \n\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    output = [] if "--output" in options else ["--output", "out.jsonl"]
    names = {name.upper(): tiny / name for name in ("plain", "damaged")}
    out, err = run(*output, *(names.get(option, option) for option in options), status=2)
    assert said in err
    assert (out, err.count("\n")) == ("", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before

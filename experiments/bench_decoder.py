"""Speed of the decoder compared with PyTorch transformers: decoding, prefill, first tokens of merged prompts.

    python -m experiments.bench_decoder --json bench_decoder.json --table bench_decoder.md

SmolLM2 in float32 on all cores; prompts from the packaged sample. Rivals take turns for `--rounds` rounds, and all
programs are compiled before the clock starts. The table shows best times and the medians over rounds.

- Decoding: greedy, after prompts of 64 tokens, in batches of 1 and 8. Ours is `DynamicDecoder.generate`, static, text
  included; theirs is `generate` (sdpa, key/value cache) on the same ids. The time of a step is that of a long call
  minus that of a short one, which excludes prefill; neither stops before its last token.
- Memory: a step at batch 1 must read every weight once. The machine's bandwidth is the best of numpy, PyTorch and JAX
  summing a large float32 array on all cores, in turns in the same run.
- Prefill: 512 tokens to the first new one. Ours is `generate` for one token, theirs the bare forward pass with a cache
  and the logits of the last position.
- Time to the first token: prompts of some 600, 1,000 and 1,400 static tokens in three languages, static and with full
  merging (pretokens, at most 7 subwords, FVT), including tokenization and merging.
- Programs: how many a session of 50 merged prompts of different lengths compiles, with a tiny random decoder and the
  real tokenizer: the cache entries of all jitted steps, and everything that XLA compiled.

Two CPU cores: some 8 minutes for 5 rounds.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import track

from dyntok_jax import DynamicDecoder
from dyntok_jax.assets import load_sample
from dyntok_jax.decoding import COMPILED_STEPS
from dyntok_jax.embedding import TokenEmbedder
from dyntok_jax.errors import InputError
from dyntok_jax.files import find_model
from dyntok_jax.models import Decoder, unstacked
from dyntok_jax.options import DEFAULT_DECODER, FULL
from dyntok_jax.text import TextEncoder
from experiments.shared import (
    Figures,
    Rounds,
    best_seconds,
    clear_programs,
    count_programs,
    ratio,
    report,
    round_seconds,
    run_script,
    take_turns,
)

COMPILED = "/jax/core/compile/backend_compile_duration"
PARAGRAPH_BREAK = "\n\n"


@dataclass(frozen=True)
class Options:
    """Speed of the decoder.

    Attributes:
      model: a folder, a Hub id, or a packaged model.
      rounds: how often each rival runs.
      batches: batch sizes of decoding.
      prompt_tokens: length of the prompts that decoding continues.
      new_tokens: the lengths of the short and the long call.
      prefill_tokens: of the prompt that is read.
      languages: of the prompts that are merged.
      merged_prompts: their static tokens, roughly.
      session: prompts of the session; 0 skips it.
      bandwidth_megabytes: size of the array that is summed.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    model: str = DEFAULT_DECODER
    rounds: int = 5
    batches: tuple[int, ...] = (1, 8)
    prompt_tokens: int = 64
    new_tokens: tuple[int, int] = (33, 129)
    prefill_tokens: int = 512
    languages: tuple[str, ...] = ("el", "de", "en")
    merged_prompts: tuple[int, ...] = (600, 1000, 1400)
    session: int = 50
    bandwidth_megabytes: int = 512
    json: Path | None = None
    table: Path | None = None


def texts_of_length(encoder: TextEncoder, language: str, n_tokens: int, count: int) -> list[str]:
    """Different texts of the sample with exactly `n_tokens` static tokens.

    Raises:
      InputError: the sample does not have that many.
    """
    paragraphs, texts = load_sample()[language], []
    for first in range(len(paragraphs)):
        whole = PARAGRAPH_BREAK.join(paragraphs[first:])
        static = encoder.encode_static([whole])
        if len(texts) == count or len(static.ids_N) < n_tokens:
            break
        text = whole[: static.span_N2[n_tokens - 1, 1]]
        # a text cut within a word or a character may be tokenized differently
        if encoder.encode_static([text]).lengths[0] == n_tokens:
            texts.append(text)
    if len(texts) < count:
        raise InputError(
            f"The sample has {len(texts)} texts of {n_tokens} tokens in {language}, fewer than {count}: ask for less."
        )
    return texts


class TorchDecoder:
    """PyTorch transformers' decoder, loaded from the folder, on all cores."""

    def __init__(self, folder: Path):
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        torch.set_num_threads(os.cpu_count() or 1)
        logging.disable_progress_bar()
        self._torch = torch
        loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
        self._model: Any = loaded.eval()  # the class that it is typed as has no `generate`
        # it must not stop early, nor warn that there is no padding token
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def generate(self, ids: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Greedy new tokens after prompts of equal length."""
        tensor = self._torch.tensor(ids)
        mask = self._torch.ones_like(tensor)
        with self._torch.inference_mode():
            whole = self._model.generate(tensor, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return whole[:, tensor.shape[1] :].tolist()

    def first_token(self, ids: Sequence[Sequence[int]]) -> list[int]:
        """The most probable token after each prompt."""
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor(ids), use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1).tolist()

    def total(self, values: Float32[np.ndarray, "N"]) -> Callable[[], float]:
        """A function that sums the values in place."""
        tensor = self._torch.from_numpy(values)
        return lambda: float(tensor.sum())


def endless(decoder: DynamicDecoder) -> DynamicDecoder:
    """The same decoder without tokens that end a text."""
    return DynamicDecoder(decoder.config, decoder.decoder, decoder.embedder, end_ids=())


def static_ids(decoder: DynamicDecoder, texts: Sequence[str]) -> list[list[int]]:
    return [of_text.subword_L.tolist() for of_text in decoder.read(texts, goal=None).tokens]


def bench_decode(decoder: DynamicDecoder, rival: TorchDecoder, options: Options) -> Figures:
    """Seconds per step at each batch size, ours and theirs."""
    short, long = options.new_tokens
    figures: Figures = {"prompt_tokens": options.prompt_tokens, "decode_steps": long - short}
    for n_batch in options.batches:
        texts = texts_of_length(decoder.text_encoder, "en", options.prompt_tokens, n_batch)
        ids = static_ids(decoder, texts)

        def ours(count, texts=texts):
            generated = decoder.generate(texts, goal=None, max_tokens=count, batch_size=len(texts))
            return [text.ids for text in generated]

        modes = {"ours": ours, "torch": lambda count, ids=ids: rival.generate(ids, count)}
        take_turns(modes, [short, long], 1, "compiling")
        runs = take_turns(modes, [short, long], options.rounds, f"decoding, batch {n_batch}")
        name = f"decode_batch{n_batch}"
        steps = {mode: step_seconds(rounds, long - short) for mode, rounds in runs.items()}
        for mode, (best, of_rounds) in steps.items():
            figures[f"{name}_{mode}_step_milliseconds"] = 1e3 * best
            figures[f"{name}_{mode}_step_milliseconds_median"] = 1e3 * median(of_rounds)
            figures[f"{name}_{mode}_tokens_per_second"] = n_batch / best
        figures[f"{name}_throughput_ours_per_torch"] = steps["torch"][0] / steps["ours"][0]
        figures[f"{name}_throughput_ours_per_torch_median"] = median(
            theirs / mine for theirs, mine in zip(steps["torch"][1], steps["ours"][1], strict=True)
        )
        written = [np.array(runs[mode][0][1][1]) for mode in ("ours", "torch")]
        figures[f"{name}_same_tokens_percent"] = 100 * float((written[0] == written[1]).mean())
    return figures


def step_seconds(rounds: Rounds, n_steps: int) -> tuple[float, list[float]]:
    """Seconds per step, from rounds of a short and a long call: by best times, and for each round."""
    short, long = (min(seconds for seconds, _ in of_item) for of_item in zip(*rounds, strict=True))
    return (long - short) / n_steps, [(of_round[1][0] - of_round[0][0]) / n_steps for of_round in rounds]


def bench_bandwidth(rival: TorchDecoder, megabytes: int, rounds: int) -> Figures:
    """How fast the machine reads memory: all cores sum an array, each rival its own copy."""
    values = np.random.default_rng(0).random(megabytes * 250_000, np.float32)
    n_cores = os.cpu_count() or 1
    pool, parts = ThreadPoolExecutor(n_cores), np.array_split(values, n_cores)
    on_device = jax.device_put(values.reshape(-1, 1000))
    total = jax.jit(jnp.sum)
    torch_total = rival.total(values)
    readers = {
        "numpy": lambda _: sum(pool.map(np.sum, parts)),
        "torch": lambda _: torch_total(),
        "jax": lambda _: float(total(on_device)),
    }
    take_turns(readers, [None], 1, "compiling")
    runs = take_turns(readers, [None], 3 * rounds, "reading memory")
    rates = {reader: values.nbytes / best_seconds(of_reader) / 1e9 for reader, of_reader in runs.items()}
    pool.shutdown()
    figures: Figures = {f"memory_{reader}_gigabytes_per_second": rate for reader, rate in rates.items()}
    return figures | {"memory_gigabytes_per_second": max(rates.values())}


def bench_prefill(decoder: DynamicDecoder, rival: TorchDecoder, options: Options) -> Figures:
    """From a static prompt to its first new token."""
    texts = texts_of_length(decoder.text_encoder, "en", options.prefill_tokens, 1)
    ids = static_ids(decoder, texts)

    def ours(_):
        return [text.ids[0] for text in decoder.generate(texts, goal=None, max_tokens=1)]

    modes = {"ours": ours, "torch": lambda _: rival.first_token(ids)}
    take_turns(modes, [None], 1, "compiling")
    runs = take_turns(modes, [None], 2 * options.rounds, f"prefill of {options.prefill_tokens}")
    figures: Figures = {"prefill_tokens": options.prefill_tokens}
    for mode, rounds in runs.items():
        figures[f"prefill_{mode}_seconds"] = best_seconds(rounds)
        figures[f"prefill_{mode}_seconds_median"] = median(round_seconds(rounds))
    figures["prefill_same_token"] = int(runs["ours"][0][0][1] == runs["torch"][0][0][1])
    best, of_rounds = ratio(runs["torch"], runs["ours"])
    return figures | {"prefill_throughput_ours_per_torch": best, "prefill_throughput_ours_per_torch_median": of_rounds}


def bench_first_token(decoder: DynamicDecoder, options: Options) -> Figures:
    """Time to the first token of whole calls, static and merged, and how many tokens the prompts have in each form."""
    modes = {
        "static": lambda text: decoder.generate([text], goal=None, max_tokens=1)[0],
        "dynamic": lambda text: decoder.generate([text], goal=FULL, max_tokens=1)[0],
    }
    figures: Figures = {}
    for language in options.languages:
        texts = [texts_of_length(decoder.text_encoder, language, n, 1)[0] for n in options.merged_prompts]
        take_turns(modes, texts, 1, "compiling")
        runs = take_turns(modes, texts, options.rounds, f"first tokens, {language}")
        for at, n_static in enumerate(options.merged_prompts):
            of_prompt = {mode: [[of_round[at]] for of_round in rounds] for mode, rounds in runs.items()}
            name = f"first_token_{language}_{n_static}"
            n_tokens: dict[str, int] = {}
            for mode, rounds in of_prompt.items():
                n_tokens[mode] = len(rounds[0][0][1].prompt_tokens)
                figures[f"{name}_{mode}_tokens"] = n_tokens[mode]
                figures[f"{name}_{mode}_seconds"] = best_seconds(rounds)
                figures[f"{name}_{mode}_seconds_median"] = median(round_seconds(rounds))
            tokens = n_tokens["static"] / n_tokens["dynamic"]
            best, of_rounds = ratio(of_prompt["static"], of_prompt["dynamic"])
            figures[f"{name}_token_ratio"] = tokens
            figures[f"{name}_time_ratio"] = best
            figures[f"{name}_time_ratio_median"] = of_rounds
            figures[f"{name}_time_ratio_per_token_ratio"] = best / tokens
    return figures


def bench_session(decoder: DynamicDecoder, n_prompts: int) -> Figures:
    """Programs compiled in a session: one prompt per call, short and long ones in mixed order, 40 new tokens each."""
    config = replace(decoder.config, width=32, n_layers=1, n_heads=2, n_kv_heads=1, head_width=16, ffn_width=32)
    body = unstacked(Decoder(config, jax.random.key(0)))
    tiny = DynamicDecoder(config, body, TokenEmbedder(decoder.tokenizer, body.word_embeddings[...]))
    sample = load_sample()
    whole = {language: PARAGRAPH_BREAK.join(sample[language]) for language in ("en", "de", "el")}
    random = np.random.default_rng(0)
    prompts = []
    for number, length in enumerate(random.permutation(np.geomspace(20, 4000, n_prompts).astype(int)).tolist()):
        text = whole[list(whole)[number % len(whole)]]
        start = int(random.integers(len(text) - length))
        prompts.append(text[start : start + length])
    clear_programs(COMPILED_STEPS)
    compiled: list[str] = []

    def note(event: str, *_: Any, **__: Any) -> None:
        compiled.extend([event] * (event == COMPILED))

    jax.monitoring.register_event_duration_secs_listener(note)
    lengths = []
    for prompt in track(prompts, description="session", transient=True):
        lengths.append(len(tiny.generate([prompt], goal=FULL, max_tokens=40)[0].prompt_tokens))
    jax.monitoring.unregister_event_duration_listener(note)
    return {
        "session_prompts": n_prompts,
        "session_different_lengths": len(set(lengths)),
        "session_longest_prompt_tokens": max(lengths),
        "session_compiled_programs": count_programs(COMPILED_STEPS),
        "session_compiled_by_xla": len(compiled),
    }


def weight_bytes(model: Decoder) -> int:
    """Bytes of the weights that a step of decoding must read: all but an untied input table."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    return whole - (0 if model.output_embeddings is None else model.word_embeddings[...].nbytes)


def markdown_table(figures: Figures, options: Options) -> str:
    """Ours and theirs with the targets, then the merged prompts."""
    lines = ["| | ours | PyTorch | ours ÷ PyTorch | median | target |", "|:--|--:|--:|--:|--:|--:|"]
    for n_batch in options.batches:
        name, target = f"decode_batch{n_batch}", "≥ 1.5" if n_batch > 1 else "≥ 1.3"
        rates = " | ".join(f"{figures[f'{name}_{mode}_tokens_per_second']:.1f} tokens/s" for mode in ("ours", "torch"))
        ratios = " | ".join(f"{figures[f'{name}_throughput_ours_per_torch{of}']:.2f}" for of in ("", "_median"))
        lines.append(f"| decoding, batch {n_batch} | {rates} | {ratios} | {target} |")
    rates = " | ".join(f"{figures[f'prefill_{mode}_seconds']:.3f} s" for mode in ("ours", "torch"))
    ratios = " | ".join(f"{figures[f'prefill_throughput_ours_per_torch{of}']:.2f}" for of in ("", "_median"))
    lines.append(f"| prefill of {figures['prefill_tokens']} tokens | {rates} | {ratios} | ≥ 0.95 |")
    if "decode_batch1_percent_of_memory_bandwidth" in figures:
        read, bandwidth = figures["decode_batch1_gigabytes_per_second"], figures["memory_gigabytes_per_second"]
        share = figures["decode_batch1_percent_of_memory_bandwidth"]
        lines += ["", "| | weights read | memory bandwidth | share | target |", "|:--|--:|--:|--:|--:|"]
        lines.append(f"| decoding, batch 1 | {read:.1f} GB/s | {bandwidth:.1f} GB/s | {share:.0f} % | ≥ 70 % |")
    lines += ["", "| first token | static | merged | static | merged | tokens | time | target |"]
    lines += ["|:--|--:|--:|--:|--:|--:|--:|--:|"]
    for language in options.languages:
        for n_static in options.merged_prompts:
            name = f"first_token_{language}_{n_static}"
            tokens = " | ".join(f"{figures[f'{name}_{mode}_tokens']} tokens" for mode in ("static", "dynamic"))
            times = " | ".join(f"{figures[f'{name}_{mode}_seconds']:.3f} s" for mode in ("static", "dynamic"))
            token_ratio, time_ratio = float(figures[f"{name}_token_ratio"]), figures[f"{name}_time_ratio"]
            ratios = f"{token_ratio:.2f} × fewer | {time_ratio:.2f} × faster | ≥ {0.7 * token_ratio:.2f}"
            lines.append(f"| {language} | {tokens} | {times} | {ratios} |")
    if "session_prompts" in figures:
        lines += ["", "| session | different lengths | longest | programs compiled | target |"]
        lengths = f"{figures['session_different_lengths']} | {figures['session_longest_prompt_tokens']} tokens"
        lines += ["|:--|--:|--:|--:|--:|"]
        lines.append(
            f"| {figures['session_prompts']} prompts | {lengths} | {figures['session_compiled_programs']} | ≤ 10 |"
        )
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    started = time.perf_counter()
    decoder = endless(DynamicDecoder.load(options.model, None))
    rival = TorchDecoder(find_model(options.model))
    figures: Figures = {"model": Path(options.model).name, "rounds": options.rounds, "cores": os.cpu_count() or 1}
    figures |= bench_decode(decoder, rival, options)
    figures |= bench_bandwidth(rival, options.bandwidth_megabytes, options.rounds)
    if 1 in options.batches:
        rate = weight_bytes(decoder.decoder) / float(figures["decode_batch1_ours_step_milliseconds"]) / 1e6
        figures["weights_megabytes"] = weight_bytes(decoder.decoder) / 1e6
        figures["decode_batch1_gigabytes_per_second"] = rate
        figures["decode_batch1_percent_of_memory_bandwidth"] = (
            100 * rate / float(figures["memory_gigabytes_per_second"])
        )
    figures |= bench_prefill(decoder, rival, options)
    figures |= bench_first_token(decoder, options)
    if options.session:
        figures |= bench_session(decoder, options.session)
    figures["run_seconds"] = time.perf_counter() - started
    table = markdown_table(figures, options)
    return report(figures, table, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)

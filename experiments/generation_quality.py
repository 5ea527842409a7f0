"""The quality of generation in a large vocabulary: bits per byte, share of new tokens, speed, variety.

    python -m experiments.generation_quality VOCAB TABLE INDEX --json quality.json --table quality.md

The folders are those of `dyntok build-vocab`, `embed-vocab` and `build-index`.

Scores: paragraphs of the packaged sample, after the end-of-text token. *own* writes them in the model's own tokens and
normalises over its vocabulary; *own tokens, large softmax* is the same text normalised over all entries, which shows
the probability that new entries take away; *large* tokenizes the text by the longest entries that fit. Only one
tokenization of a text is scored, so all are upper bounds. The softmax is exact.

Texts: each paragraph's first words are a prompt, fully merged, and the model continues it, greedily and by sampling, in
its own vocabulary, in that and the prompt's tokens, and in the large one through the index. distinct-2 is the share of
different pairs among all pairs of words; repeated, the share of four-word sequences that occurred earlier in the same
text.

Agreement, for some numbers of blocks read: the share of texts that greedy generation writes alike through the index and
by exact search; and, at the steps of the latter, the share of hidden states for which the index finds the same token.
Reading a text again, all tokens at once, gives hidden states that differ by rounding from those of generation: the
first line is the share of tokens chosen again then, a limit that has nothing to do with the index.

Two CPU cores, a million entries: some 20 minutes; with `--paragraphs 0`, which measures only agreement, 12.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from jaxtyping import Bool
from rich.console import Console
from rich.progress import track

from dyntok_jax import DynamicDecoder, SamplingConfig
from dyntok_jax.assets import load_sample
from dyntok_jax.decoding import GeneratedText, LargeVocabulary, LoadedVocabulary
from dyntok_jax.models import forward
from dyntok_jax.options import DEFAULT_DECODER, FULL, PROBES
from dyntok_jax.text import bucket
from experiments.shared import Figures, report, run_script

POSITIONS = 16
"""Positions whose logits over the large vocabulary are in memory at a time."""
LENGTHS = (64, 128, 256, 512, 1024)
SAMPLED = SamplingConfig(0.8, top_p=0.95)
SETTINGS = {"greedy": SamplingConfig(), "sampled": SAMPLED}


@dataclass(frozen=True)
class Options:
    """The quality of generation in a large vocabulary.

    Attributes:
      vocabulary: folder of `dyntok build-vocab`.
      rows: folder of `dyntok embed-vocab`.
      index: folder of `dyntok build-index`.
      model: a packaged decoder, a folder or a Hub id.
      hypernet: what embeds prompts; none for FVT.
      languages: of the sample's texts.
      paragraphs: per language, to score and to continue; 0 skips both.
      prompt_words: words of each paragraph that are the prompt.
      max_tokens: per text.
      batch_size: texts per batch.
      agreement_prompts: texts to write for the agreement of index and exact search; 0 for none.
      agreement_after: paragraphs per language to skip for these prompts: by default `dyntok build-index` uses 24 of
        each language.
      agreement_steps: their tokens.
      agreement_probes: blocks of the index read for them; 0 for all.
      json: where the figures go.
      table: where the Markdown tables go.
    """

    vocabulary: tyro.conf.Positional[str]
    rows: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="rows", metavar="TABLE")]
    index: tyro.conf.Positional[str]
    model: str = DEFAULT_DECODER
    hypernet: str | None = None
    languages: tuple[str, ...] = ("en", "de", "es", "fr")
    paragraphs: int = 4
    prompt_words: int = 16
    max_tokens: int = 64
    batch_size: int = 8
    agreement_prompts: int = 100
    agreement_after: int = 24
    agreement_steps: int = 32
    agreement_probes: tuple[int, ...] = (PROBES, 56, 64, 0)
    json: Path | None = None
    table: Path | None = None


@jax.jit
def log_probabilities(model, input_VD, output_VD, ids_T, n_tokens):
    """Natural logarithm of the probability of each token but the first, over all rows; 0 for padding."""
    is_token_T = jnp.arange(len(ids_T)) < n_tokens
    hidden_TD = read(model, input_VD, ids_T, n_tokens)

    def score(block):
        hidden_PD, next_P = block
        logits_PV = jnp.einsum("PD,VD->PV", hidden_PD, output_VD, preferred_element_type=jnp.float32)
        chosen_P = jnp.take_along_axis(logits_PV, next_P[:, None], axis=1)[:, 0]
        return chosen_P - jax.nn.logsumexp(logits_PV, axis=1)

    next_T = jnp.roll(ids_T, -1)
    blocks = hidden_TD.reshape(-1, POSITIONS, hidden_TD.shape[1]), next_T.reshape(-1, POSITIONS)
    return jnp.where(jnp.roll(is_token_T, -1) & is_token_T, lax.map(score, blocks).reshape(-1), 0)[:-1]


def bits(model, tables, start: int, ids: Sequence[int]) -> float:
    """Bits of a text after the token `start`."""
    whole = [start, *ids]
    padded = np.zeros(bucket(len(whole), LENGTHS), np.int32)
    padded[: len(whole)] = whole
    found = np.asarray(log_probabilities(model, *tables, padded, len(whole)), np.float64)
    return -float(found.sum()) / np.log(2)


def score(decoder: DynamicDecoder, loaded: LoadedVocabulary, texts: Sequence[str]) -> list[Figures]:
    """Bits per byte and bytes per token of texts, in the three ways."""
    model, large = decoder.decoder, loaded.large
    own = [encoding.ids for encoding in decoder.tokenizer.own.encode_batch(texts, add_special_tokens=False)]
    split = loaded.entries.encode(texts, add_special_tokens=False)
    longest = [split.ids_N[begin:end].tolist() for begin, end in pairwise(split.offsets.tolist())]
    own_out = model.word_embeddings if model.output_embeddings is None else model.output_embeddings
    own_tables = model.word_embeddings[...], own_out[...]
    large_tables = large.input_VD, large.input_VD if large.output_VD is None else large.output_VD
    n_bytes, start = sum(len(text.encode()) for text in texts), decoder.end_ids[0]
    ways = {
        "own": (own_tables, own),
        "own tokens, large softmax": (large_tables, own),
        "large": (large_tables, longest),
    }
    found = []
    for way, (tables, ids_of) in ways.items():
        total = sum(bits(model, tables, start, ids) for ids in track(ids_of, way, transient=True))
        n_tokens, n_new = sum(map(len, ids_of)), sum(index >= loaded.entries.n_own for ids in ids_of for index in ids)
        found.append(
            {
                "way": way,
                "bits_per_byte": total / n_bytes,
                "bytes_per_token": n_bytes / n_tokens,
                "new_percent": 100 * n_new / n_tokens,
            }
        )
    return found


def describe(texts: Sequence[GeneratedText], seconds: float) -> Figures:
    """Speed and variety of generated texts."""
    words = [text.text.split() for text in texts]
    pairs = [pair for of_text in words for pair in pairwise(of_text)]
    fours = [list(zip(*(of_text[at:] for at in range(4)), strict=False)) for of_text in words]
    n_repeated = sum(len(of_text) - len(set(of_text)) for of_text in fours)
    n_tokens, n_characters = sum(len(text.ids) for text in texts), sum(len(text.text) for text in texts)
    return {
        "tokens_per_second": n_tokens / seconds,
        "characters_per_second": n_characters / seconds,
        "characters_per_token": n_characters / max(1, n_tokens),
        "new_percent": 100 * sum(text.n_new or 0 for text in texts) / max(1, n_tokens),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "repeated_percent": 100 * n_repeated / max(1, sum(map(len, fours))),
    }


def write(decoder: DynamicDecoder, loaded: LoadedVocabulary, prompts: Sequence[str], options: Options) -> list[Figures]:
    """Texts in every vocabulary and setting; each is written twice, and the second run counts."""
    found = []
    vocabularies = {"own": None, "own + prompt": "prompt", "large": loaded}
    for setting, sampling in SETTINGS.items():
        for name, vocabulary in vocabularies.items():
            generate = partial(
                decoder.generate,
                prompts,
                max_tokens=options.max_tokens,
                sampling=sampling,
                vocabulary=vocabulary,
                goal=FULL,
                batch_size=options.batch_size,
            )
            generate()
            started = time.perf_counter()
            texts = generate()
            described = describe(texts, time.perf_counter() - started)
            found.append({"setting": setting, "vocabulary": name, "example": texts[0].text} | described)
    return found


def first_words(texts: Sequence[str], count: int) -> list[str]:
    return [" ".join(text.split()[:count]) for text in texts]


def agree(decoder: DynamicDecoder, loaded: LoadedVocabulary, prompts: Sequence[str], options: Options) -> list[Figures]:
    """How often the index finds what exact search finds; prompts are static, so comparing ids is enough."""
    steps = {"max_tokens": options.agreement_steps, "batch_size": options.batch_size, "goal": None}
    exact = replace(loaded, large=replace(loaded.large, index=None))
    texts = decoder.generate(prompts, vocabulary=exact, **steps)
    hidden_ND = np.concatenate([states(decoder, exact, *pair) for pair in zip(prompts, texts, strict=True)])
    true_N = choices(decoder, exact.large, hidden_ND, options.batch_size)
    written_N = np.concatenate([text.ids for text in texts])
    rows: list[Figures] = [agreement("every row, the text read again", true_N == written_N, [True] * len(texts))]
    assert loaded.large.index is not None  # `options.index` names it
    n_blocks = len(loaded.large.index.blocks)
    for n_probe in options.agreement_probes:
        large = replace(loaded.large, n_probe=min(n_probe or n_blocks, n_blocks))
        found = decoder.generate(prompts, vocabulary=replace(loaded, large=large), **steps)
        same_texts = [a.ids == b.ids for a, b in zip(texts, found, strict=True)]
        name = f"{n_probe or 'all'} blocks"
        rows.append(agreement(name, choices(decoder, large, hidden_ND, options.batch_size) == true_N, same_texts))
    return rows


def agreement(search: str, same_steps: Bool[np.ndarray, "N"], same_texts: Sequence[bool]) -> Figures:
    return {
        "search": search,
        "steps": len(same_steps),
        "same_steps_percent": 100 * float(np.mean(same_steps)),
        "texts": len(same_texts),
        "same_texts_percent": 100 * float(np.mean(same_texts)),
    }


def states(decoder: DynamicDecoder, loaded: LoadedVocabulary, prompt: str, text: GeneratedText) -> np.ndarray:
    """The hidden states from which the tokens of a text were chosen, by reading it again."""
    own = decoder.tokenizer.own.encode(prompt).ids
    whole = [*own, *text.ids]
    padded = np.zeros(bucket(len(whole), LENGTHS), np.int32)
    padded[: len(whole)] = whole
    hidden_TD = np.asarray(read(decoder.decoder, loaded.large.input_VD, padded, len(whole)))
    return hidden_TD[len(own) - 1 : len(whole) - 1]


@jax.jit
def read(model, input_VD, ids_T, n_tokens):
    """The hidden state at each token of a text."""
    embeddings_TD = input_VD[ids_T].astype(model.word_embeddings.dtype)
    return forward(model, embeddings_TD[None], (jnp.arange(len(ids_T)) < n_tokens)[None])[0]


def choices(decoder: DynamicDecoder, large: LargeVocabulary, hidden_ND: np.ndarray, batch_size: int) -> np.ndarray:
    """The best token that a search finds for each hidden state."""
    n_states = len(hidden_ND)
    padded_ND = np.pad(hidden_ND, ((0, -n_states % batch_size), (0, 0)))
    found = [
        propose(decoder.decoder, large, batch_BD) for batch_BD in np.split(padded_ND, len(padded_ND) // batch_size)
    ]
    return np.concatenate(found)[:n_states]


@jax.jit
def propose(model, large, hidden_BD):
    return large.propose(model, hidden_BD, None)[0][:, 0]


def markdown_tables(scored: list[Figures], written: list[Figures], agreements: list[Figures]) -> str:
    lines = ["| a text written in | bits per byte | bytes per token | new tokens |", "|:--|--:|--:|--:|"]
    for row in scored:
        figures = f"{row['bits_per_byte']:.3f} | {row['bytes_per_token']:.2f} | {row['new_percent']:.1f} %"
        lines.append(f"| {row['way']} | {figures} |")
    head = (
        "| setting | vocabulary | tokens/s | characters/s | characters per token | new tokens | distinct-2 | repeated |"
    )
    lines += ["", head, "|:--|:--|--:|--:|--:|--:|--:|--:|"]
    for row in written:
        speed = f"{row['tokens_per_second']:.1f} | {row['characters_per_second']:.0f}"
        shape = f"{row['characters_per_token']:.2f} | {row['new_percent']:.1f} %"
        variety = f"{row['distinct_2']:.2f} | {row['repeated_percent']:.1f} %"
        lines.append(f"| {row['setting']} | {row['vocabulary']} | {speed} | {shape} | {variety} |")
    lines += ["", "| search | steps with the token of exact search | texts |", "|:--|--:|--:|"]
    for row in agreements:
        lines.append(f"| {row['search']} | {row['same_steps_percent']:.2f} % | {row['same_texts_percent']:.0f} % |")
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes the files that were asked for, and returns the figures."""
    decoder = DynamicDecoder.load(options.model, options.hypernet)
    loaded = decoder.load_vocabulary(options.vocabulary, options.rows, options.index)
    sample = load_sample()
    texts = [text for language in options.languages for text in sample[language][: options.paragraphs]]
    scored = score(decoder, loaded, texts) if texts else []
    written = write(decoder, loaded, first_words(texts, options.prompt_words), options) if texts else []
    more = [text for language in options.languages for text in sample[language][options.agreement_after :]]
    more = more[:: max(1, len(more) // max(1, options.agreement_prompts))][: options.agreement_prompts]
    agreements = agree(decoder, loaded, first_words(more, options.prompt_words), options) if more else []
    figures: Figures = {"entries": loaded.entries.size, "texts": len(texts), "max_tokens": options.max_tokens}
    for rows, names in ((scored, ("way",)), (written, ("setting", "vocabulary")), (agreements, ("search",))):
        for row in rows:
            name = "_".join(str(row[part]) for part in names)
            for sign in (", ", " + ", " "):
                name = name.replace(sign, "_")
            figures |= {f"{name}_{what}": value for what, value in row.items() if what not in names}
    tables = markdown_tables(scored, written, agreements)
    return report(figures, tables, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)

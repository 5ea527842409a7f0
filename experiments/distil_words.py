"""Rows for merged words, distilled from what the decoder says after their subwords.

    python -m experiments.fit_states --output fitted --prefix The
    python -m experiments.distil_words --start-from fitted --output distilled en.txt.gz=2 de.txt.gz es.txt.gz ...
    python -m experiments.meaning --hypernet distilled/hypernet --part dev

Words of 2 to 7 subwords are taken from running text with a few subwords before and after them, each distinct word at
most a few times, so that frequent words do not count for more than rare ones. The decoder reads a word once as its
subwords and once as the one row that the hypernetwork predicts; the loss is the divergence of its next-token
distributions, and the relative error of its last hidden states, at the word and at the tokens after it. What lies
before the word is read once: no gradient passes through it.

Two CPU cores, SmolLM2: 5 to 8 seconds a step of 64 words beside other work; 280 steps with a learning rate of 6e-5
(3e-4 is too much) take the divergence at the words from 2.0 to 1.4 nats. A hypernetwork is written every `--save-every`
steps.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32
from rich.console import Console
from tyro.conf import Positional

from dyntok_jax.convert import save_hypernet
from dyntok_jax.embedding import Hypernet, predict_embeddings
from dyntok_jax.errors import InputError
from dyntok_jax.files import load_model, new_folder
from dyntok_jax.models import Decoder, embed_ids, empty_cache, extend, logits
from dyntok_jax.options import DEFAULT_DECODER
from dyntok_jax.text import TextEncoder, read_lines
from dyntok_jax.training import OptimizerConfig, init_state, make_optimizer, make_step
from dyntok_jax.types import ArrayT
from experiments.shared import Figures, report, run_script

N_BEFORE, N_AFTER = 6, 5
"""The most subwords of context before a word, and after it."""
SHORTEST = 3
"""Letters of a word."""
WORD_BUCKETS = (4, 7)
"""Subwords that words are padded to."""
WORD_WEIGHT = 3.0
"""Weight of the place at the word; those after it have 1."""
FIRST_SHARE = 0.07
"""Share of words that are read without what stands before them, as the first of a text."""
TEXTS_AT_ONCE = 512
SHOWN = ("word_kl", "after_kl", "error")


@dataclass(frozen=True)
class Options:
    """Distils rows of merged words.

    Attributes:
      texts: plain text files, one text a line, .gz or not; FILE=N takes N times as many words from it.
      output: folder for the run; OUTPUT/hypernet is the last hypernetwork, written anew every so many steps.
      start_from: folder of the hypernetwork to start from.
      model: a folder, a Hub id, or a packaged model, with tied tables.
      words: how many words with their context from a file of weight 1.
      contexts: the most contexts of one distinct word.
      steps: of the optimizer.
      batch_size: words a step.
      optimizer: AdamW's options.
      save_every: steps between exports.
      seed: of the choice and order of words.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    texts: Positional[tuple[str, ...]]
    output: Path
    start_from: str
    model: str = DEFAULT_DECODER
    words: int = 12_000
    contexts: int = 4
    steps: int = 280
    batch_size: int = 64
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=6e-5, warmup=15))
    save_every: int = 20
    seed: int = 0
    json: Path | None = None
    table: Path | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WordsInContext(Generic[ArrayT]):
    """Words with the subwords around them, each part padded on the right; `count_N3` is the length of each part."""

    before_NP: Int32[ArrayT, "N P"]
    word_NS: Int32[ArrayT, "N S"]
    after_NA: Int32[ArrayT, "N A"]
    count_N3: Int32[ArrayT, "N 3"]

    @property
    def parts(self) -> tuple[ArrayT, ArrayT, ArrayT, ArrayT]:
        """All four arrays."""
        return self.before_NP, self.word_NS, self.after_NA, self.count_N3


def words_in_context(
    encoder: TextEncoder, texts: Sequence[str], limit: int, contexts: int, random: np.random.Generator
) -> WordsInContext[np.ndarray]:
    """Words of several subwords, in the order of the texts, each at most `contexts` times."""
    seen: dict[tuple[int, ...], int] = {}
    found: list[tuple[list[int], ...]] = []
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        subwords = encoder.encode(texts[first : first + TEXTS_AT_ONCE], boundary="pretoken")
        for begin, end in zip(subwords.offsets[:-1], subwords.offsets[1:], strict=True):
            ids_L = subwords.ids_N[begin:end]
            starts = np.flatnonzero(np.diff(subwords.segment_N[begin:end], prepend=-2))
            for start, stop in zip(starts, [*starts[1:], len(ids_L)], strict=True):
                word = tuple(ids_L[start:stop].tolist())
                if not 1 < len(word) <= WORD_BUCKETS[-1] or seen.get(word, 0) == contexts:
                    continue
                if word not in seen and not _is_word(encoder.tokenizer.token_text(list(word))):
                    seen[word] = contexts
                    continue
                seen[word] = seen.get(word, 0) + 1
                n_before = 0 if random.random() < FIRST_SHARE else min(start, int(random.integers(1, N_BEFORE + 1)))
                found.append(
                    (ids_L[start - n_before : start].tolist(), list(word), ids_L[stop : stop + N_AFTER].tolist())
                )
        if len(found) >= limit:
            break
    parts = list(zip(*found[:limit], strict=True)) or [(), (), ()]
    widths = (N_BEFORE, WORD_BUCKETS[-1], N_AFTER)
    count_N3 = np.array([[len(each) for each in part] for part in parts], np.int32).reshape(3, -1).T
    before, word, after = (_padded(part, width) for part, width in zip(parts, widths, strict=True))
    return WordsInContext(before, word, after, count_N3)


def _is_word(text: str) -> bool:
    return text.strip().isalpha() and len(text.strip()) >= SHORTEST


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int32[np.ndarray, "N W"]:
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int32).reshape(-1, width)


def batches(
    words: WordsInContext[np.ndarray], size: int, random: np.random.Generator
) -> Iterator[WordsInContext[np.ndarray]]:
    """Batches for ever, each of words that fall into one bucket of lengths."""
    lengths_N = words.count_N3[:, 1]
    shorter, members = 0, {}
    for width in WORD_BUCKETS:
        members[width] = np.flatnonzero((lengths_N > shorter) & (lengths_N <= width))
        shorter = width
    while True:
        rows = []
        for width, inside in members.items():
            drawn = random.permutation(inside)
            rows += [(width, drawn[at : at + size]) for at in range(0, len(drawn) - size + 1, size)]
        if not rows:
            raise InputError(f"The texts hold too few words for a batch of {size}: give more text or --batch-size.")
        for at in random.permutation(len(rows)):
            width, some = rows[at]
            before, word, after, count = (part[some] for part in words.parts)
            yield WordsInContext(before, word[:, :width], after, count)


def distillation_loss(
    hypernet: Hypernet, model: Decoder, batch: WordsInContext[Array]
) -> tuple[Float32[Array, ""], dict[str, Float32[Array, ""]]]:
    """Divergence plus hidden error at the word and the tokens after it; and its parts."""
    before, word, after, count = batch.parts
    n_words, n_subwords = word.shape
    n_after = after.shape[1]
    is_before, is_subword, is_after = (
        jnp.arange(part.shape[1])[None] < count[:, index, None] for index, part in enumerate(batch.parts[:3])
    )
    cache = empty_cache(model, n_words, before.shape[1] + n_subwords + n_after)
    _, cache = extend(model, embed_ids(model, before), is_before, cache)
    # word and what follows it, padded on the right
    place = jnp.arange(n_subwords + n_after)[None]
    from_after = jnp.clip(place - count[:, 1:2], 0, n_after - 1)
    whole = jnp.where(
        place < count[:, 1:2],
        jnp.pad(word, ((0, 0), (0, n_after))),
        jnp.take_along_axis(after, from_after, axis=1),
    )
    static, _ = extend(model, embed_ids(model, whole), place < count[:, 1:2] + count[:, 2:], cache)
    at = count[:, 1:2] - 1 + jnp.arange(n_after + 1)[None]
    static, cache = jax.lax.stop_gradient((jnp.take_along_axis(static, at[..., None], axis=1), cache))
    row = predict_embeddings(hypernet, word, is_subword, model.word_embeddings[...], reader=model).input_UD
    embeddings = jnp.concatenate([row[:, None], embed_ids(model, after)], axis=1)
    is_token = jnp.concatenate([jnp.ones((n_words, 1), bool), is_after], axis=1)
    merged, _ = extend(model, embeddings, is_token, cache)

    error = jnp.square(merged - static).sum(axis=-1) / jnp.square(static).sum(axis=-1)
    divergence = _divergence(model, merged, static)
    weight = jnp.where(jnp.arange(n_after + 1)[None] == 0, WORD_WEIGHT, 1.0) * is_token
    parts = {
        "word_kl": divergence[:, 0].mean(),
        "after_kl": (divergence * is_token)[:, 1:].sum() / jnp.maximum(is_after.sum(), 1).astype(jnp.float32),
        "error": (error * weight).sum() / weight.sum(),
    }
    return (divergence * weight).sum() / weight.sum() + parts["error"], parts


def _divergence(
    model: Decoder, merged_BTD: Float[Array, "B T D"], static_BTD: Float[Array, "B T D"]
) -> Float32[Array, "B T"]:
    merged_BTV = jax.nn.log_softmax(logits(model, merged_BTD), axis=-1)
    static_BTV = jax.nn.log_softmax(logits(model, static_BTD), axis=-1)
    return jnp.sum(jnp.exp(static_BTV) * (static_BTV - merged_BTV), axis=-1)


def read_words(options: Options, encoder: TextEncoder, console: Console) -> WordsInContext[np.ndarray]:
    """The words of all files.

    Raises:
      InputError: a file cannot be read, or its weight is not a whole number of 1 or more.
    """
    random = np.random.default_rng(options.seed)
    collected = []
    for entry in options.texts:
        path, separator, weight = entry.rpartition("=")
        path, weight = (path, weight) if separator else (entry, "1")
        if not weight.isdecimal() or int(weight) < 1:
            raise InputError(f"A text must be FILE or FILE=N with a whole number of 1 or more, got {entry!r}.")
        lines = read_lines(path)
        texts = [lines[at] for at in random.permutation(len(lines)).tolist()]
        collected.append(words_in_context(encoder, texts, options.words * int(weight), options.contexts, random))
        console.print(f"{path}: {len(collected[-1].count_N3):,} words")
    before, word, after, count = (
        np.concatenate(parts) for parts in zip(*(one.parts for one in collected), strict=True)
    )
    return WordsInContext(before, word, after, count)


def run(options: Options, console: Console) -> Figures:
    """Trains, writes the hypernetwork and returns the figures."""
    started = time.perf_counter()
    loaded = load_model(options.model, options.start_from, kind="decoder")
    if loaded.hypernet is None:
        raise InputError(f"--start-from must name a hypernetwork, got {options.start_from!r}.")
    config, hypernet = loaded.hypernet
    model, encoder = loaded.parameters, TextEncoder(loaded.tokenizer)
    words = read_words(options, encoder, console)
    optimizer = make_optimizer(options.optimizer, options.steps)
    state, step = init_state(hypernet, optimizer), make_step(optimizer, distillation_loss)

    options.output.mkdir(parents=True, exist_ok=True)
    recent: list[dict[str, float]] = []
    figures: Figures = {"words": len(words.count_N3), "steps": options.steps}
    stream = batches(words, options.batch_size, np.random.default_rng(options.seed + 1))
    for number in range(1, options.steps + 1):
        state, parts = step(state, model, [next(stream)])
        recent.append({name: float(parts[name]) for name in SHOWN})
        if number % options.save_every == 0 or number == options.steps:
            means = {name: float(np.mean([each[name] for each in recent])) for name in SHOWN}
            figures |= means
            shown = " · ".join(f"{name} {value:.3f}" for name, value in means.items())
            console.print(f"Step {number} of {options.steps}, {time.perf_counter() - started:.0f} s: {shown}")
            recent = []
            exported = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.parameters)
            with new_folder(options.output / "hypernet", overwrite=True) as folder:
                save_hypernet(folder, config, exported)
    figures["run_seconds"] = time.perf_counter() - started
    row = f"| {figures['words']} | {options.steps} | " + " | ".join(f"{figures[name]:.3f}" for name in SHOWN) + " |"
    table = "\n".join(["| words | steps | KL at the word | KL after it | error |", "|--:|--:|--:|--:|--:|", row]) + "\n"
    return report(figures, table, options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)

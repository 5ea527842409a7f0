"""What a decoder still knows of a word whose subwords were merged into one token.

    python -m experiments.meaning --json meaning.json --table meaning.md
    python -m experiments.meaning --part dev --languages en --rows ridge=ridge.safetensors

Words that the model's tokenizer splits into 2 to 4 subwords stand in four templates a language: a definition (*The
word X means*), a cloze (*They talked about X because*), *X is* at the beginning of a text, and a question in a chat.
The word alone is merged; all other tokens are the same. The model continues the unmerged prompt greedily; then it reads
merged prompt and continuation in one pass. Shown are how often the merged prompt's greedy continuation begins with the
same word (all up to the next white space) and with the same five tokens, and the Kullback-Leibler divergence of the
next-token distributions, unmerged from merged, in nats: at the word, and the mean over the 16 places after it.

The words lie in `meaning_words.json`, half of them (`dev`) to choose methods by, the other half (`test`) to report.
They were drawn by their frequency in texts that nothing is trained on. `--rows` adds rows that other programs made:
NAME=FILE of safetensors files with `surface` (the subword ids of each word, padded with -1) and `rows`.

With `--positions subwords` what follows the merged word keeps its place. Two CPU cores, busy with other work, SmolLM2,
the test words in English definitions: 3 to 8 minutes; all else takes some two minutes more a language and template.
Expect there the same first word in 20.0 % with the packaged hypernetwork, 17.5 % with FVT; five tokens in 3.3 %.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dyntok_jax import DynamicDecoder
from dyntok_jax.decoding import end_ids
from dyntok_jax.embedding import TokenEmbedder, average_embeddings, predict_embeddings
from dyntok_jax.errors import InputError
from dyntok_jax.files import load_model
from dyntok_jax.models import Decoder, embed_ids, forward, logits
from dyntok_jax.options import AUTO, DEFAULT_DECODER, Positions
from dyntok_jax.text import ChatTemplate
from experiments.shared import Figures, report, run_script

Template = Literal["definition", "cloze", "is", "chat"]
WORDS = Path(__file__).parent / "meaning_words.json"
SLOT = "X"
TEMPLATES: dict[str, dict[Template, str]] = {
    "en": {
        "definition": "The word X means",
        "cloze": "They talked about X because",
        "is": "X is",
        "chat": "What does the word X mean?",
    },
    "de": {
        "definition": "Das Wort X bedeutet",
        "cloze": "Sie sprachen über X, weil",
        "is": "X ist",
        "chat": "Was bedeutet das Wort X?",
    },
    "es": {
        "definition": "La palabra X significa",
        "cloze": "Hablaban de X porque",
        "is": "X es",
        "chat": "¿Qué significa la palabra X?",
    },
    "fr": {
        "definition": "Le mot X signifie",
        "cloze": "Ils parlaient de X parce que",
        "is": "X est",
        "chat": "Que signifie le mot X ?",
    },
    "el": {
        "definition": "Η λέξη X σημαίνει",
        "cloze": "Μιλούσαν για X επειδή",
        "is": "X είναι",
        "chat": "Τι σημαίνει η λέξη X;",
    },
    "ru": {
        "definition": "Слово X означает",
        "cloze": "Они говорили о X, потому что",
        "is": "X это",
        "chat": "Что означает слово X?",
    },
}
N_CONTINUED = 16
N_SAME = 5
FEWEST, MOST = 2, 4
"""Subwords of a word."""
BATCH = 32
LENGTH_STEP = 16
"""Lengths are padded to a multiple of this, so that few programs are compiled."""
MEASURES = ("first_word_percent", "five_tokens_percent", "word_kl_nats", "after_kl_nats")


@dataclass(frozen=True)
class Options:
    """What a decoder still knows of merged words.

    Attributes:
      words: JSON file with the words of each part and language, separated by spaces.
      part: `dev` to choose methods by, `test` to report.
      languages: which languages.
      templates: which templates.
      limit: the most words a language.
      model: a folder, a Hub id, or a packaged model.
      hypernet: a folder or Hub id; by default the one that comes with the model.
      rows: NAME=FILE of safetensors files with rows for the words, from other programs.
      positions: what the model's positions count after a merged word.
      json: where the figures go.
      table: where the Markdown table goes.
    """

    words: Path = WORDS
    part: Literal["dev", "test"] = "test"
    languages: tuple[str, ...] = ("en", "de", "es", "fr", "el", "ru")
    templates: tuple[Template, ...] = ("definition", "cloze", "is", "chat")
    limit: int | None = None
    model: str = DEFAULT_DECODER
    hypernet: str | None = AUTO
    rows: tuple[str, ...] = ()
    positions: Positions = "tokens"
    json: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class WordPrompt:
    """A prompt with one word that may be merged, and its greedy continuation.

    Attributes:
      text: the whole prompt.
      before: token ids before the word.
      word: its subwords.
      after: token ids of the rest.
      continuation: what the model writes when nothing is merged; the token that ends a text included.
      n_first_word: its tokens up to the next white space.
    """

    text: str
    before: tuple[int, ...]
    word: tuple[int, ...]
    after: tuple[int, ...]
    continuation: tuple[int, ...] = ()
    n_first_word: int = 0

    @property
    def n_places(self) -> int:
        """Places with a next token: the word, those after it, and the continuation's but its last."""
        return len(self.after) + len(self.continuation)


Predict = Callable[[Int32[Array, "U S"], Bool[Array, "U S"]], Array]
"""Subwords of words and which entries are subwords, to their rows."""


def read_words(path: Path, part: str, languages: Sequence[str], limit: int | None) -> dict[str, list[str]]:
    """The words of each language.

    Raises:
      InputError: the file is not there or not such JSON, or lacks a language.
    """
    try:
        by_language = json.loads(path.read_text(encoding="utf-8"))[part]
        return {language: by_language[language].split()[:limit] for language in languages}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} gives no words of {part} in {', '.join(languages)} ({error}): it must be JSON of the form "
            '{"dev": {"en": "words with spaces between"}, "test": …}.'
        ) from error


def word_prompts(decoder: DynamicDecoder, words: Sequence[str], template: Template, language: str) -> list[WordPrompt]:
    """The prompts of those words that have 2 to 4 subwords where they stand: a text begins with a capital letter."""
    pattern = TEMPLATES[language][template]
    at = pattern.index(SLOT)
    cased = [word[:1].upper() + word[1:] if at == 0 else word for word in words]
    texts = [pattern.replace(SLOT, word) for word in cased]
    if template == "chat":
        if decoder.chat is None:
            raise InputError("The model has no chat template: leave the template chat out.")
        asked = texts
        texts = [decoder.chat.render([{"role": "user", "content": text}]) for text in asked]
        starts = [text.index(question) + at for text, question in zip(texts, asked, strict=True)]
    else:
        starts = [at] * len(texts)
    subwords = decoder.text_encoder.encode(texts, boundary="pretoken", add_special_tokens=template != "chat")
    prompts = []
    for text, start, begin, end in zip(texts, starts, subwords.offsets[:-1], subwords.offsets[1:], strict=True):
        ids, span_L2 = subwords.ids_N[begin:end].tolist(), subwords.span_N2[begin:end]
        segment_L = subwords.segment_N[begin:end]
        first = int(np.flatnonzero((span_L2[:, 0] <= start) & (span_L2[:, 1] > start))[0])
        inside = np.flatnonzero(segment_L == segment_L[first])
        if FEWEST <= len(inside) <= MOST:
            left, right = int(inside[0]), int(inside[-1]) + 1
            prompts.append(WordPrompt(text, tuple(ids[:left]), tuple(ids[left:right]), tuple(ids[right:])))
    return prompts


def continued(decoder: DynamicDecoder, prompts: Sequence[WordPrompt]) -> list[WordPrompt]:
    """The prompts with their unmerged greedy continuations."""
    written = decoder.generate([prompt.text for prompt in prompts], max_tokens=N_CONTINUED, batch_size=BATCH)
    done = []
    for prompt, text in zip(prompts, written, strict=True):
        ids = [*text.ids, *decoder.end_ids[:1]][:N_CONTINUED]
        done.append(replace(prompt, continuation=tuple(ids), n_first_word=_first_word(decoder, ids)))
    return done


def _first_word(decoder: DynamicDecoder, ids: Sequence[int]) -> int:
    texts = [decoder.tokenizer.token_text([token]) for token in ids]
    begun = False
    for number, text in enumerate(texts):
        if begun and text[:1].isspace():
            return number
        begun = begun or bool(text.strip())
    return len(ids)


def laid_out(
    model: Decoder, prompts: Sequence[WordPrompt], rows_UD: Float[Array, "U D"] | None
) -> tuple[Float[Array, "B T D"], Bool[np.ndarray, "B T"], Int[np.ndarray, "B"]]:
    """Embeddings of prompts and continuations, the word as its subwords or as one row; and where the word ends."""
    ends_B = np.array([len(p.before) + (len(p.word) if rows_UD is None else 1) - 1 for p in prompts])
    words = [p.word if rows_UD is None else p.word[:1] for p in prompts]
    ids = [[*p.before, *word, *p.after, *p.continuation[:-1]] for p, word in zip(prompts, words, strict=True)]
    longest = max(len(p.before) + len(p.word) + p.n_places for p in prompts)
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    ids_BT, mask_BT = _padded(ids, length)
    embeddings_BTD = embed_ids(model, jnp.asarray(ids_BT))
    if rows_UD is not None:
        embeddings_BTD = embeddings_BTD.at[np.arange(len(prompts)), ends_B].set(rows_UD)
    return embeddings_BTD, mask_BT, ends_B


def _padded(rows: Sequence[Sequence[int]], length: int) -> tuple[Int32[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    ids_BL = np.array([[*row, *[0] * (length - len(row))] for row in rows], np.int32)
    return ids_BL, np.arange(length)[None] < np.array([len(row) for row in rows])[:, None]


@jax.jit
def _read(
    model: Decoder,
    embeddings_BTD: Float[Array, "B T D"],
    mask_BT: Bool[Array, "B T"],
    step_BT: Int32[Array, "B T"] | None,
    at_BP: Int[Array, "B P"],
) -> Float[Array, "B P D"]:
    hidden_BTD = forward(model, embeddings_BTD, mask_BT, step_BT)
    return jnp.take_along_axis(hidden_BTD, at_BP[..., None], axis=1)


@jax.jit
def _compare(
    model: Decoder, merged_PD: Float[Array, "P D"], static_PD: Float[Array, "P D"]
) -> tuple[Int32[Array, "P"], Float32[Array, "P"]]:
    """The most probable next token after merging, and the divergence, at each place of a text."""
    merged_PV = jax.nn.log_softmax(logits(model, merged_PD), axis=-1)
    static_PV = jax.nn.log_softmax(logits(model, static_PD), axis=-1)
    return merged_PV.argmax(axis=-1).astype(jnp.int32), jnp.sum(jnp.exp(static_PV) * (static_PV - merged_PV), axis=-1)


def hidden_at_places(
    model: Decoder,
    prompts: Sequence[WordPrompt],
    rows_UD: Float[Array, "U D"] | None = None,
    positions: Positions = "tokens",
) -> list[Float[Array, "P D"]]:
    """Final hidden states at the word's last token and at all places after it, for each prompt."""
    found = []
    n_places = -(-max(prompt.n_places for prompt in prompts) // LENGTH_STEP) * LENGTH_STEP
    for first in range(0, len(prompts), BATCH):
        some = prompts[first : first + BATCH]
        padded = [*some, *([some[0]] * (BATCH - len(some)))]
        rows = None if rows_UD is None else rows_UD[np.minimum(np.arange(first, first + BATCH), len(prompts) - 1)]
        embeddings_BTD, mask_BT, ends_B = laid_out(model, padded, rows)
        at_BP = np.minimum(ends_B[:, None] + np.arange(n_places), mask_BT.shape[1] - 1)
        step_BT = np.ones(mask_BT.shape, np.int32) if rows is not None and positions == "subwords" else None
        if step_BT is not None:
            step_BT[np.arange(len(padded)), ends_B] = [len(prompt.word) for prompt in padded]
        found += list(_read(model, embeddings_BTD, mask_BT, step_BT, at_BP))[: len(some)]
    return found


def measured(
    model: Decoder,
    prompts: Sequence[WordPrompt],
    static: Sequence[Float[Array, "P D"]],
    rows_UD: Float[Array, "U D"],
    positions: Positions = "tokens",
) -> dict[str, float]:
    """The figures of one way to make rows, the mean over prompts."""
    outcomes, merged = [], hidden_at_places(model, prompts, rows_UD, positions)
    for prompt, merged_PD, static_PD in zip(prompts, merged, static, strict=True):
        best_P, divergence_P = (
            np.asarray(each)[: prompt.n_places + 1] for each in _compare(model, merged_PD, static_PD)
        )
        written = np.array(prompt.continuation)
        is_same = best_P[len(prompt.after) :][: len(written)] == written
        n_same = len(written) if is_same.all() else int(is_same.argmin())
        after = divergence_P[1 : min(1 + N_CONTINUED, prompt.n_places)]
        n_first, n_five = prompt.n_first_word, min(N_SAME, len(written))
        outcomes.append((100 * (n_same >= n_first), 100 * (n_same >= n_five), divergence_P[0], after.mean()))
    return dict(zip(MEASURES, map(float, np.mean(outcomes, axis=0)), strict=True))


def methods(model: Decoder, embedder: TokenEmbedder, rows: Sequence[str]) -> dict[str, Predict]:
    """The ways to make rows, by the names that their figures have.

    Raises:
      InputError: an entry of `rows` is not NAME=FILE, or the file does not hold rows.
    """
    table_VD = model.word_embeddings[...]
    found: dict[str, Predict] = {"fvt": lambda ids, mask: average_embeddings(ids, mask, table_VD)}
    if embedder.hypernet is not None:
        _, parameters = embedder.hypernet
        found["hypernet"] = lambda ids, mask: _predicted(parameters, ids, mask, table_VD, model)
    for entry in rows:
        name, separator, path = entry.partition("=")
        if not separator or not name:
            raise InputError(f"--rows must be given NAME=FILE, got {entry!r}.")
        found[name] = rows_of_file(Path(path))
    return found


@jax.jit
def _predicted(hypernet, ids_US, is_subword_US, source_VD, reader) -> Float[Array, "U D"]:
    return predict_embeddings(hypernet, ids_US, is_subword_US, source_VD, reader=reader).input_UD


def rows_of_file(path: Path) -> Predict:
    """Looks words up in a file of rows.

    Raises:
      InputError: the file is not there or not such a file; when called, a word is not in it.
    """
    try:
        arrays = load_file(path)
        surface_US, rows_UD = arrays["surface"], arrays["rows"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is no safetensors file with surface and rows ({error}).") from error
    row_of = {tuple(ids[ids >= 0].tolist()): row for ids, row in zip(surface_US, rows_UD, strict=True)}

    def look_up(ids_US, is_subword_US):
        pairs = zip(np.asarray(ids_US), np.asarray(is_subword_US), strict=True)
        forms = [tuple(ids[mask].tolist()) for ids, mask in pairs]
        if missing := [form for form in forms if form not in row_of]:
            raise InputError(f"{path} has no row for the subwords {missing[0]}, and {len(missing) - 1} more words.")
        return jnp.asarray(np.stack([row_of[form] for form in forms]))

    return look_up


def markdown_table(figures: dict[str, Any], options: Options, names: Sequence[str]) -> str:
    """One row a language and template, four columns a method."""
    head = [f"{name}: first word | five tokens | KL at the word | KL after it" for name in names]
    lines = [f"| words | {' | '.join(head)} |", "|:--|" + "--:|" * 4 * len(names)]
    for language in options.languages:
        for template in options.templates:
            key = f"{language}_{template}"
            cells = []
            for name in names:
                first, five, at_word, after = (figures[f"{name}_{key}_{measure}"] for measure in MEASURES)
                cells += [f"{first:.1f} %", f"{five:.1f} %", f"{at_word:.2f}", f"{after:.3f}"]
            lines.append(f"| {figures[f'words_{key}']} {language}, {template} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def run(options: Options, console: Console) -> Figures:
    """Measures, writes what was asked for, and returns the figures."""
    started = time.perf_counter()
    if unknown := [language for language in options.languages if language not in TEMPLATES]:
        raise InputError(f"There are no templates in {', '.join(unknown)}: choose among {', '.join(TEMPLATES)}.")
    words = read_words(options.words, options.part, options.languages, options.limit)
    loaded = load_model(options.model, options.hypernet, kind="decoder")
    model = loaded.parameters
    embedder = TokenEmbedder(loaded.tokenizer, model.word_embeddings[...], loaded.hypernet, reader=model)
    ends, chat = end_ids(loaded.folder, loaded.tokenizer), ChatTemplate.load(loaded.folder)
    decoder = DynamicDecoder(loaded.config, model, embedder, end_ids=ends, chat=chat)
    by_name = methods(model, embedder, options.rows)
    figures: Figures = {"model": Path(options.model).name, "part": options.part, "positions": options.positions}
    for language in options.languages:
        for template in options.templates:
            key = f"{language}_{template}"
            prompts = word_prompts(decoder, words[language], template, language)
            figures[f"words_{key}"] = len(prompts)
            if not prompts:
                raise InputError(f"No word of {language} has {FEWEST} to {MOST} subwords in the template {template}.")
            prompts = continued(decoder, prompts)
            static = hidden_at_places(model, prompts)
            forms = [jnp.asarray(each) for each in _padded([prompt.word for prompt in prompts], MOST)]
            for name, predict in by_name.items():
                found = measured(model, prompts, static, predict(*forms), options.positions)
                figures |= {f"{name}_{key}_{measure}": value for measure, value in found.items()}
            console.print(f"{key}: {len(prompts)} words, {time.perf_counter() - started:.0f} s")
    figures["run_seconds"] = time.perf_counter() - started
    return report(figures, markdown_table(figures, options, list(by_name)), options, console)


if __name__ == "__main__":
    run_script(run, Options, __doc__)

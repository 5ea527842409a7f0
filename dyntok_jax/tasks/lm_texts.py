"""What a decoder is trained to read and to write: prompts and the answers that follow them, from files of JSON lines.

{"text": "…"}                              cut where a segment begins: one half is read, the other is the answer
{"prompt": "…", "completion": " …"}        the completion is the answer, and the text ends after it
{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}      the last turn is
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32

from dyntok_jax.decoding import continuation_ids
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.options import Boundary
from dyntok_jax.tasks.examples import evenly_spaced, example_rows
from dyntok_jax.text import ChatTemplate, Message, TextEncoder

LmExample = str | tuple[str, str] | list[Message]
"""A plain text, a prompt and its completion, or the turns of a chat."""
CHUNK = 1000
"""Texts tokenized at a time."""


@dataclass(frozen=True)
class LmTexts:
    """Prompts with their answers.

    Attributes:
      prompts: to be tokenized and merged anew each time.
      answers: ids in the model's own vocabulary; they are never merged.
      text_encoder: that the prompts are read by; for chats in which special tokens are written, its twin.
      adds_special: whether special tokens are added around the prompts, as for all but chats.
      n_tokens: of each prompt, unmerged, and its answer.

    >>> from dyntok_jax.text import TextEncoder
    >>> encoder = TextEncoder(decoder.tokenizer)
    >>> texts = lm_texts([("All human", " beings")], encoder, None, end_ids=(1,), boundary="pretoken", max_length=32)
    >>> texts.prompts, decoder.tokenizer.own.decode(texts.answers[0]), int(texts.answers[0][-1])
    (['All human'], ' beings', 1)
    """

    prompts: list[str]
    answers: list[Int32[np.ndarray, "_"]]
    text_encoder: TextEncoder
    adds_special: bool
    n_tokens: list[int]

    def evenly(self, count: int) -> "LmTexts":
        """At most `count` of them, evenly spaced."""
        rows = evenly_spaced(len(self.prompts), count)
        lists = ([one[row] for row in rows] for one in (self.prompts, self.answers, self.n_tokens))
        prompts, answers, n_tokens = lists
        return replace(self, prompts=prompts, answers=answers, n_tokens=n_tokens)


def read_lm_examples(files: Sequence[str]) -> list[LmExample]:
    r"""Reads the examples of all files, in order; blank lines are skipped.

    Args:
      files: of JSON lines, .gz or not; `hf:NAME:CONFIG:SPLIT` is a data set with such columns.

    Raises:
      InputError: a file cannot be read or holds no example; or, with file and line: it has none of the fields, or they
        do not hold what they should.

    >>> path = folder / "texts.jsonl"
    >>> _ = path.write_text('{"text": "All human beings"}\n{"prompt": "All human", "completion": " beings"}')
    >>> read_lm_examples([str(path)])
    ['All human beings', ('All human', ' beings')]
    """
    return [_example(row, where) for where, row in example_rows(files)]


def _example(row: Any, where: str) -> LmExample:
    if not isinstance(row, dict):
        raise InputError(f"{where} must be a JSON object with text, prompt and completion, or messages.")
    if row.get("messages") is not None:
        return _chat(row["messages"], where)
    if row.get("prompt") is not None:
        return _text(row, "prompt", where), _text(row, "completion", where)
    if row.get("text") is None:
        raise InputError(
            f"{where} lacks text, prompt and completion, or messages, which lm reads: it has "
            f"{', '.join(row) or 'none'}."
        )
    return _text(row, "text", where)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text:
        raise InputError(f"{where}: {field} must be text, and not empty.")
    return text


def _chat(turns: Any, where: str) -> list[Message]:
    told = '{"role": "user", "content": "Hello"}'
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("role", "content"))
        for turn in turns
    ):
        raise InputError(f"{where}: messages must be a list of turns with a role and a content, both text: {told}.")
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise InputError(f"{where}: messages must end with a turn of the role assistant, after one or more others.")
    return turns


def lm_texts(
    examples: Sequence[LmExample],
    text_encoder: TextEncoder,
    chat: ChatTemplate | None,
    *,
    end_ids: Sequence[int],
    boundary: Boundary,
    max_length: int,
) -> LmTexts:
    """Prompts and answers of examples.

    Plain texts are cut into as many windows as fit, each at the border of segments next to its middle; a window of a
    single segment is left out. A completion and an answer in a chat end with a token that ends a text, if the model
    has one. Answers are cut where prompt and answer, unmerged, have `max_length` tokens.

    Args:
      examples: all chats, or none.
      text_encoder: of the model.
      chat: its template.
      end_ids: its tokens that end a text.
      boundary: where segments end.
      max_length: the most tokens of a prompt and its answer, special tokens included.

    Raises:
      InputError: chats are mixed with others, the template writes an answer otherwise than it begins one, prompts
        leave no room for their answers, or nothing is left.
      ConfigError: there are chats and no template.

    >>> from dyntok_jax.text import TextEncoder
    >>> encoder, text = TextEncoder(decoder.tokenizer), "All human beings are born free and equal"
    >>> texts = lm_texts([text], encoder, None, end_ids=(), boundary="pretoken", max_length=64)
    >>> texts.prompts[0] + decoder.tokenizer.own.decode(texts.answers[0]) == text
    True
    """
    chats = [example for example in examples if isinstance(example, list)]
    if chats and len(chats) < len(examples):
        raise InputError("The files mix chats with other texts: train on each kind in a run of its own.")
    reader, adds_special = text_encoder, not chats
    if chats:
        names = text_encoder.special_names
        if is_twin_read := names.are_in(chats):
            names.check_free(chats)
            reader = text_encoder.twin
        pairs = [(*_halves(turns, chat, names if is_twin_read else None), True) for turns in chats]
    else:
        pairs = []
        n_special = int(reader.encode_static(["a"]).lengths[0] - reader.encode_static(["a"]).counts[0])
        for example in examples:
            if isinstance(example, str):
                pairs += [(*pair, False) for pair in _windows(example, reader, boundary, max_length - n_special)]
            elif isinstance(example, tuple):
                pairs.append((*example, True))
    if not pairs:
        raise InputError("No text has two segments to be cut between: give longer ones.")
    prompts = [prompt for prompt, _, _ in pairs]
    longest_N = _longest(prompts, reader, boundary, adds_special)
    if empty := int((longest_N < 1).sum()):
        raise InputError(
            f"{empty} of {len(prompts)} prompts have no token, and the model has none to begin with: leave them out."
        )
    room_N = max_length - longest_N
    is_given_N = np.array([is_whole for _, _, is_whole in pairs])
    if (without := np.flatnonzero((room_N < 1) & is_given_N)).size:
        raise InputError(
            f"{without.size} of {len(prompts)} prompts leave no room for an answer: the longest has "
            f"{longest_N.max()} tokens, and max_length is {max_length}. Give a larger one, or leave them out."
        )
    fits_N = room_N >= 1  # alone, a window may have a token more than within its text
    pairs = [pair for pair, fits in zip(pairs, fits_N, strict=True) if fits]
    prompts, longest_N, room_N = [prompt for prompt, _, _ in pairs], longest_N[fits_N], room_N[fits_N]
    answers = []
    for (prompt, answer, is_whole), room in zip(pairs, room_N.tolist(), strict=True):
        ids = continuation_ids(reader.tokenizer, prompt, answer)
        if is_whole and end_ids and (not ids or ids[-1] not in end_ids):
            ids = [*ids, end_ids[0]]
        answers.append(np.array(ids[:room], np.int32))
    n_tokens = [n + len(ids) for n, ids in zip(longest_N.tolist(), answers, strict=True)]
    return LmTexts(prompts, answers, reader, adds_special, n_tokens)


def _halves(turns: list[Message], chat: ChatTemplate | None, names: Any) -> tuple[str, str]:
    """A chat up to where its last answer begins, and that answer with the token that ends it.

    With `names` special tokens that are written in the turns are text: the template's own go by their disguises.
    """
    if chat is None:
        raise ConfigError(
            "The files hold chats, and the model has no chat template: give prompts with completions, or use a model "
            "that was tuned on chats."
        )
    given = turns if names is None else names.swap(turns)
    prompt, whole = chat.render(given[:-1]), chat.render(given, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InputError(
            f"The model's chat template begins an answer with {prompt[-40:]!r} and does not write a given one so: give "
            "prompts with completions."
        )
    if names is not None:
        prompt, whole = names.swap(prompt), names.swap(whole)
    return prompt, whole[len(prompt) :].rstrip()


def _windows(text: str, encoder: TextEncoder, boundary: Boundary, room: int) -> Iterator[tuple[str, str]]:
    """Both halves of each window of at most `room` subwords; windows and halves begin where segments begin."""
    # where the whole text is one segment, it is cut between pretokens
    cut_at: Boundary = "pretoken" if boundary == "sentence" else boundary
    subwords = encoder.encode([text], boundary=cut_at, add_special_tokens=False)
    n_subwords = len(subwords.ids_N)
    border_S = np.flatnonzero(np.diff(subwords.segment_N)) + 1
    edge_S = np.concatenate([[0], border_S, [n_subwords]])
    place_S = np.append(subwords.span_N2[edge_S[:-1], 0], len(text))
    begin = 0
    while begin < len(edge_S) - 1:
        end = int(np.searchsorted(edge_S, edge_S[begin] + room, side="right")) - 1
        if end > begin + 1:
            between_S = edge_S[begin + 1 : end]
            middle = begin + 1 + int(np.abs(between_S - (edge_S[begin] + edge_S[end]) / 2).argmin())
            yield text[place_S[begin] : place_S[middle]], text[place_S[middle] : place_S[end]]
        begin = max(end, begin + 1)


def _longest(
    prompts: list[str], encoder: TextEncoder, boundary: Boundary, adds_special: bool
) -> Int32[np.ndarray, "prompts"]:
    """Tokens of each prompt, unmerged, by the model's own tokenizer or in byte-level form, whichever has more."""
    lengths = []
    for first in range(0, len(prompts), CHUNK):
        some = prompts[first : first + CHUNK]
        own = encoder.encode_static(some, add_special_tokens=adds_special)
        byte_level = encoder.encode(some, boundary=boundary, add_special_tokens=adds_special)
        lengths.append(np.maximum(own.lengths, byte_level.lengths))
    return np.concatenate(lengths).astype(np.int32)

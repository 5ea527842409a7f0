"""Prompts as a decoder reads them: plain text or chats, tokenized and merged; and the tokens of continuations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TypeGuard

import numpy as np
from jaxtyping import Int, Int32

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.merging import RaggedTokens, merge_texts
from dyntok_jax.options import Merging, Positions, SpecialTokens
from dyntok_jax.storage import read_json
from dyntok_jax.text import (
    CANNOT_WRITE,
    ByteLevelTokenizer,
    ChatTemplate,
    Message,
    RaggedSubwords,
    TextEncoder,
    refused_by_rust,
    subwords_of_ids,
)

Prompt = str | Sequence[Message] | Sequence[int]
"""Plain text, which gets the special tokens that the model's tokenizer adds; the turns of a chat; or ids of the model's
own tokens, special ones and all, which are read as they are and never merge."""
GUARD = "\n"
"""Text that merges with nothing after it, put before a continuation to tokenize it as if within a text."""


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts, tokenized and merged.

    Attributes:
      texts: the text of each; of a chat, the rendered template; of ids, what they decode to.
      tokens: their tokens after merging.
      language_N: index of each one's language, for a hypernetwork.
      is_static: whether they have the tokens of the model's own tokenizer.
      positions: what the model's positions count.
      text_encoder: of the model.
      inputs: what was tokenized: the texts, or the form that its twin reads (see `SpecialNames`).
      is_twin_read: whether the twin read them.
      special_are_text: whether special tokens that a user wrote are text.
      adds_special: whether special tokens were added around the texts.

    >>> read = decoder.read(["Freiheit und Gleichheit"])
    >>> read.is_static, bool((read.n_tokens >= read.n_static).all())
    (True, True)
    """

    texts: Sequence[str]
    tokens: RaggedTokens
    language_N: Int32[np.ndarray, "prompts"]
    is_static: bool
    positions: Positions
    text_encoder: TextEncoder
    inputs: Sequence[str]
    is_twin_read: bool
    special_are_text: bool
    adds_special: bool

    @property
    def n_tokens(self) -> Int[np.ndarray, "prompts"]:
        """Tokens of each after merging, special tokens included."""
        return self.tokens.lengths

    @property
    def n_positions(self) -> Int[np.ndarray, "prompts"]:
        """Positions that each takes: its tokens or their subwords, special tokens included."""
        return self.tokens.n_subwords if self.positions == "subwords" else self.tokens.lengths

    @cached_property
    def n_static(self) -> Int[np.ndarray, "prompts"]:
        """Tokens of each by the model's own tokenizer, special tokens not counted; computed on first use."""
        if self.is_static:
            return self.tokens.subwords.counts
        text_encoder = self.text_encoder.twin if self.is_twin_read else self.text_encoder
        return text_encoder.encode_static(self.inputs, add_special_tokens=self.adds_special).counts

    def continuation_ids(self, row: int, text: str | Sequence[int]) -> list[int]:
        """The ids of a text after a prompt, by the model's own tokenizer; special tokens are read as in the prompt.

        Raises:
          InputError: special tokens are text, and it has a character that stands for one; or it is given as ids, and
            one is not an id of the model's own tokens.
        """
        if not isinstance(text, str):
            return checked_ids(text, self.text_encoder.tokenizer, "A continuation")
        names, prompt = self.text_encoder.special_names, self.inputs[row]
        if not self.is_twin_read and not (self.special_are_text and names.are_in(text)):
            return continuation_ids(self.text_encoder.tokenizer, prompt, text)
        names.check_free(text)
        prompt = prompt if self.is_twin_read else names.swap(prompt)
        return continuation_ids(self.text_encoder.twin.tokenizer, prompt, text)


def read_prompts(
    text_encoder: TextEncoder,
    prompts: Sequence[Prompt],
    merging: Merging,
    chat: ChatTemplate | None,
    *,
    special_tokens: SpecialTokens,
    language_N: Int32[np.ndarray, "prompts"],
    batch_size: int,
    limit: int,
) -> ReadPrompts:
    """Tokenizes and merges prompts.

    Args:
      text_encoder: of the model.
      prompts: plain texts, chats, or ids; one kind at a time.
      merging: how, resolved; if static, the ids are exactly those of the model's own tokenizer.
      chat: the model's template, for chats.
      special_tokens: how special tokens written in prompts are read.
      language_N: index of each prompt's language.
      batch_size: prompts whose pairs are counted together in scope `batch`.
      limit: the most tokens a prompt.

    Raises:
      InputError: prompts are missing, empty, of an unknown type or of mixed types, or are ids and are to be merged.
      ConfigError: a prompt is a chat and the model has no template.
      TooLongError: a prompt is longer than `limit`.
    """
    if any(map(is_ids, prompts)):
        return _read_ids(text_encoder, prompts, merging, language_N, limit)
    chats = chats_of(prompts, chat)
    special_are_text = special_tokens == "text" or (special_tokens == "auto" and chats is not None)
    names = text_encoder.special_names
    if is_twin_read := special_are_text and names.are_in(prompts):  # else both would give the same
        names.check_free(prompts)
    if chats is None:
        inputs = [prompt for prompt in prompts if isinstance(prompt, str)]
    else:
        assert chat is not None, "`chats_of` asks for it"
        # users' special tokens go through the template in disguise; then those that are bare are its own
        inputs = [chat.render(names.swap(turns) if is_twin_read else turns) for turns in chats]
        inputs = [names.swap(text) for text in inputs] if is_twin_read else inputs
    reader = text_encoder.twin if is_twin_read else text_encoder
    if merging.is_static:
        subwords = reader.encode_static(inputs, add_special_tokens=chats is None)
    else:
        subwords = reader.encode(
            inputs, boundary=merging.boundary, add_special_tokens=chats is None, protect=merging.protect
        )
    _check_not_empty(subwords)
    tokens = merge_texts(subwords, merging, batch_size=batch_size, limit=limit, truncate=None)
    return ReadPrompts(
        texts=[names.show(text) for text in inputs] if is_twin_read else inputs,
        tokens=tokens,
        language_N=language_N,
        is_static=merging.is_static,
        positions=merging.positions,
        text_encoder=text_encoder,
        inputs=inputs,
        is_twin_read=is_twin_read,
        special_are_text=special_are_text,
        adds_special=chats is None,
    )


def _read_ids(
    text_encoder: TextEncoder,
    prompts: Sequence[Prompt],
    merging: Merging,
    language_N: Int32[np.ndarray, "prompts"],
    limit: int,
) -> ReadPrompts:
    """The same for prompts that are given as ids."""
    if not merging.is_static:
        raise InputError("Prompts that are given as ids are read as they are: give their texts, or no goal of merging.")
    tokenizer = text_encoder.tokenizer
    given = []
    for number, prompt in enumerate(prompts):
        if not is_ids(prompt):
            raise InputError("The prompts mix ids with texts or chats: give each kind in a call of its own.")
        given.append(checked_ids(prompt, tokenizer, f"Prompt {number}"))
    subwords = subwords_of_ids(given, tokenizer.special_ids)
    _check_not_empty(subwords)
    texts = [tokenizer.own.decode(ids, skip_special_tokens=False) for ids in given]
    return ReadPrompts(
        texts=texts,
        tokens=merge_texts(subwords, merging, batch_size=1, limit=limit, truncate=None),
        language_N=language_N,
        is_static=True,
        positions=merging.positions,
        text_encoder=text_encoder,
        inputs=texts,
        is_twin_read=False,
        special_are_text=False,
        adds_special=False,
    )


def _check_not_empty(subwords: RaggedSubwords) -> None:
    if empty := np.flatnonzero(subwords.lengths == 0).tolist():
        raise InputError(f"Prompt {empty[0]} is empty and the model has no token to begin a text with: add some text.")


def is_ids(prompt: object) -> TypeGuard[Sequence[int]]:
    """Whether a prompt, or a continuation, is given as ids: a list of whole numbers."""
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Integral)


def checked_ids(ids: Sequence[int], tokenizer: ByteLevelTokenizer, what: str) -> list[int]:
    """Ids that a caller gave, as Python's numbers.

    Args:
      ids: of the model's own tokens.
      tokenizer: of the model.
      what: whose ids they are, for the error.

    Raises:
      InputError: an id is not a whole number, or is not one of the model's own tokens.
    """
    for index in ids:
        if not isinstance(index, Integral) or isinstance(index, bool) or not 0 <= index < tokenizer.n_own:
            raise InputError(
                f"{what} has the id {index!r}: ids are whole numbers from 0 to {tokenizer.n_own - 1}, those of the "
                "model's own tokens."
            )
    return [int(index) for index in ids]


def chats_of(prompts: Sequence[Prompt], chat: ChatTemplate | None) -> list[Sequence[Message]] | None:
    """The prompts as chats, whose template writes the special tokens itself; None where they are plain texts.

    Raises:
      InputError, ConfigError: as `read_prompts`.
    """
    if len(prompts) == 0:
        raise InputError("There is no prompt: give one or more.")
    plain = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(plain) == len(prompts):
        return None
    if plain:
        raise InputError("The prompts mix plain texts and chats: give each kind in a call of its own.")
    if chat is None:
        raise ConfigError(
            "The model has no chat template (tokenizer_config.json has no chat_template, and there is no "
            "chat_template.jinja): give plain text, or use a model that was tuned on chats."
        )
    chats = []
    for number, turns in enumerate(prompts):
        if isinstance(turns, str | Mapping) or not isinstance(turns, Sequence) or len(turns) == 0:
            raise InputError(f'Chat {number} must be a list of turns: [{{"role": "user", "content": "Hello"}}].')
        chats.append(turns)
    return chats


def continuation_ids(tokenizer: ByteLevelTokenizer, prompt: str, continuation: str) -> list[int]:
    """The ids of a text that follows another one, by the model's own tokenizer.

    Both are tokenized together if that leaves the prompt's tokens unchanged. If a token would cross the border, the
    continuation is tokenized alone, but as text within a text: no space is put before it.

    >>> whole = decoder.tokenizer.own.encode("All human beings", add_special_tokens=False).ids
    >>> whole[-1:] == continuation_ids(decoder.tokenizer, "All human", " beings")[-1:]
    True
    """

    def encode(text: str) -> list[int]:
        with refused_by_rust(CANNOT_WRITE):
            return tokenizer.own.encode(text, add_special_tokens=False).ids

    for before in (prompt, GUARD):
        ids, whole = encode(before), encode(before + continuation)
        if whole[: len(ids)] == ids:
            return whole[len(ids) :]
    return encode(continuation)


def end_ids(folder: Path, tokenizer: ByteLevelTokenizer) -> tuple[int, ...]:
    """The tokens at which generation ends, from the config files of the model's folder.

    Raises:
      ConfigError: a file is not a JSON object.

    >>> ids = end_ids(decoder_folder, decoder.tokenizer)
    >>> [decoder.tokenizer.own.id_to_token(index) for index in ids]
    ['</s>']
    """
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        ids = read_json(path, ConfigError, "repair it, or download it again").get("eos_token_id")
        found += [index for index in (ids if isinstance(ids, list) else [ids]) if isinstance(index, int)]
        if found:
            break
    index = _special_id(folder, tokenizer, "eos_token")
    found += [] if index is None else [index]
    return tuple(dict.fromkeys(found))


def begin_id(folder: Path, tokenizer: ByteLevelTokenizer) -> int | None:
    """The token before a text that has no prompt: the tokenizer's `bos_token`, or else its `eos_token`; None without.

    Raises:
      ConfigError: the tokenizer's config is not a JSON object.

    >>> decoder.tokenizer.own.id_to_token(begin_id(decoder_folder, decoder.tokenizer))
    '<s>'
    """
    index = _special_id(folder, tokenizer, "bos_token")
    return _special_id(folder, tokenizer, "eos_token") if index is None else index


def _special_id(folder: Path, tokenizer: ByteLevelTokenizer, name: str) -> int | None:
    """The id of the token that the tokenizer's config has by this name."""
    path = folder / "tokenizer_config.json"
    token = read_json(path, ConfigError, "mend it, or fetch it again").get(name) if path.is_file() else None
    token = token.get("content") if isinstance(token, dict) else token
    return tokenizer.own.token_to_id(token) if isinstance(token, str) else None

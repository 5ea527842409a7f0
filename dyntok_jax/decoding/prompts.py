"""Prompts as a decoder reads them: plain text or chats, tokenized, merged, and what may follow them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.merging import RaggedTokens, merge_texts
from dyntok_jax.options import Merging
from dyntok_jax.storage import read_json
from dyntok_jax.text import (
    CANNOT_WRITE,
    ByteLevelTokenizer,
    ChatTemplate,
    Message,
    RaggedSubwords,
    TextEncoder,
    refused_by_rust,
)

Prompt = str | Sequence[Message]
"""Plain text, which gets the special tokens that the model's tokenizer adds; or the turns of a chat."""
GUARD = "\n"
"""Text that merges with nothing behind it, put before a continuation to tokenize it in the middle of a text."""


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts, tokenized and merged.

    Attributes:
      texts: the text of each, chats by their template.
      tokens: their tokens after merging.
      language_N: index of each one's language, for a hypernetwork.
      is_static: whether they were left to the model's own tokenizer.
      encode_static: what tokenizes them so.
    """

    texts: Sequence[str]
    tokens: RaggedTokens
    language_N: Int32[np.ndarray, "prompts"]
    is_static: bool
    encode_static: Callable[[Sequence[str]], RaggedSubwords]

    @property
    def n_tokens(self) -> Int[np.ndarray, "prompts"]:
        """Tokens of each after merging, special tokens included."""
        return self.tokens.lengths

    @cached_property
    def n_static(self) -> Int[np.ndarray, "prompts"]:
        """How many tokens each is to the model's own tokenizer, special tokens not counted; found when first asked."""
        return self.tokens.subwords.counts if self.is_static else self.encode_static(self.texts).counts


def read_prompts(
    text_encoder: TextEncoder,
    prompts: Sequence[Prompt],
    merging: Merging,
    chat: ChatTemplate | None,
    *,
    language_N: Int32[np.ndarray, "prompts"],
    batch_size: int,
    limit: int,
) -> ReadPrompts:
    """Tokenizes and merges prompts.

    Args:
      text_encoder: of the model.
      prompts: plain texts, or chats; one kind at a time.
      merging: how, resolved; if static, the ids are exactly those of the model's own tokenizer.
      chat: the model's template, for chats.
      language_N: index of each prompt's language.
      batch_size: prompts whose pairs are counted together in scope `batch`.
      limit: the most tokens a prompt.

    Raises:
      InputError: no prompts, one without a token, of two kinds, or what is no text or chat.
      ConfigError: a chat, and the model has no template.
      TooLongError: a prompt is longer than `limit`.
    """
    texts, adds_special = prompt_texts(prompts, chat)
    encode_static = partial(text_encoder.encode_static, add_special_tokens=adds_special)
    if merging.is_static:
        subwords = encode_static(texts)
    else:
        subwords = text_encoder.encode(texts, boundary=merging.boundary, add_special_tokens=adds_special)
    if empty := np.flatnonzero(subwords.lengths == 0).tolist():
        raise InputError(f"Prompt {empty[0]} is empty and the model has no token that begins a text: write something.")
    tokens = merge_texts(subwords, merging, batch_size=batch_size, limit=limit, truncate=None)
    return ReadPrompts(texts, tokens, language_N, merging.is_static, encode_static)


def prompt_texts(prompts: Sequence[Prompt], chat: ChatTemplate | None) -> tuple[list[str], bool]:
    """The text of each prompt, and whether the tokenizer is to add its special tokens.

    Raises:
      InputError, ConfigError: as `read_prompts`.
    """
    if isinstance(prompts, str):
        raise InputError("This is one prompt, not a sequence of prompts: put it in a list.")
    if len(prompts) == 0:
        raise InputError("There is no prompt: give one or more.")
    plain = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(plain) == len(prompts):
        return plain, True
    if plain:
        raise InputError("Plain texts and chats in one call: ask for each kind by itself.")
    if chat is None:
        raise ConfigError(
            "The model has no chat template (tokenizer_config.json has no chat_template, and there is no "
            "chat_template.jinja): give plain text, or take a model that was tuned on chats."
        )
    chats = []
    for number, turns in enumerate(prompts):
        if isinstance(turns, str | Mapping) or not isinstance(turns, Sequence) or len(turns) == 0:
            raise InputError(f'Chat {number} must be a list of turns: [{{"role": "user", "content": "Hello"}}].')
        chats.append(turns)
    return [chat.render(turns) for turns in chats], False


def continuation_ids(tokenizer: ByteLevelTokenizer, prompt: str, continuation: str) -> list[int]:
    """A text as the model's own tokenizer writes it behind another one.

    What it makes of both together, where that leaves the prompt's tokens as they are. Where the border lies within a
    token of both, the continuation is tokenized alone, but as text within a text: without a space put before it.
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
    """The tokens at which generation ends: what the model's folder says, in the files that may say so.

    Raises:
      ConfigError: a file is no JSON object.
    """
    found: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        ids = read_json(path, ConfigError, "mend it, or fetch it again").get("eos_token_id")
        found += [index for index in (ids if isinstance(ids, list) else [ids]) if isinstance(index, int)]
        if found:
            break
    path = folder / "tokenizer_config.json"
    if path.is_file():
        token = read_json(path, ConfigError, "mend it, or fetch it again").get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        index = tokenizer.own.token_to_id(token) if isinstance(token, str) else None
        found += [] if index is None else [index]
    return tuple(dict.fromkeys(found))

"""Chats as the text that a model was tuned on, by the template that its tokenizer carries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dyntok_jax.errors import ConfigError, InputError

Message = Mapping[str, str]
"""One turn: `{"role": "user", "content": "…"}`."""
TURN = ("role", "content")
TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the special tokens that it may name.

    Attributes:
      source: the template, in Jinja.
      special_tokens: `bos_token`, `eos_token` and so on, with their texts.
      where: the file it came from, for errors.

    >>> template = ChatTemplate.load(decoder_folder)
    >>> print(template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=False))
    <s>user
    Hello</s>
    <BLANKLINE>
    """

    source: str
    special_tokens: Mapping[str, str]
    where: str

    @classmethod
    def load(cls, folder: Path) -> "ChatTemplate | None":
        """Reads the template of a model folder, from a file of its own or the tokenizer's config; None if it has none.

        Raises:
          ConfigError: the config is not a JSON object.
        """
        path, config = folder / CONFIG_FILE, {}
        if path.is_file():
            try:
                config = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path} is not a JSON object ({error}): repair or delete it.") from error
        source = config.get("chat_template")
        if (folder / TEMPLATE_FILE).is_file():
            path = folder / TEMPLATE_FILE
            source = path.read_text(encoding="utf-8")
        if isinstance(source, list):  # older files have several, by name
            source = next((one["template"] for one in source if one.get("name") == "default"), None)
        if not isinstance(source, str):
            return None
        tokens = {name: value for name, value in config.items() if name.endswith("_token")}
        tokens = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
        named = {name: token for name, token in tokens.items() if isinstance(token, str)}
        return cls(source, named, str(path))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Writes a chat as text, with its special tokens: do not add them again when you tokenize it.

        Args:
          messages: the turns, the oldest first.
          add_generation_prompt: end with the start of the model's own turn.

        Raises:
          InputError: a turn lacks its role or content, or the template refuses the chat.
          ConfigError: the template itself is broken.
        """
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in TURN):
                raise InputError(
                    f"Turn {number} of the chat must have a role and a content, both text: "
                    '{"role": "user", "content": "Hello"}.'
                )
        try:
            return (
                _environment()
                .from_string(self.source)
                .render(messages=list(messages), add_generation_prompt=add_generation_prompt, **self.special_tokens)
            )
        except _RefusedError as error:
            raise InputError(f"The model's chat template refuses this chat: {error}.") from error
        except TemplateError as error:
            raise ConfigError(f"The chat template in {self.where} cannot be used ({error}).") from error


class _RefusedError(Exception):
    """Raised by a template itself, for example where roles do not alternate."""


def _environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face's templates expect, in a sandbox: a template comes with the model and is not trusted."""

    def raise_exception(message: str) -> NoReturn:
        raise _RefusedError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment

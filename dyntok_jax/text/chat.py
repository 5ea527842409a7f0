"""Chats as the text that a model was tuned on, by the template that its tokenizer carries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
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
            given = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
            # templates ask whether these are none, not whether they are defined
            given |= {"tools": None, "documents": None} | dict(self.special_tokens)
            return _environment().from_string(self.source).render(given)
        except _RefusedError as error:
            raise InputError(f"The model's chat template refuses this chat: {error}.") from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            # a template is a program that came with the model: what it gets wrong is not ours to trace
            raise ConfigError(f"The chat template in {self.where} cannot be used ({error}).") from error


class _RefusedError(Exception):
    """Raised by a template itself, for example where roles do not alternate."""


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`, which mark what the model wrote: here, only what they hold."""

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # what is set within is not seen behind


def _environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face's templates expect, in a sandbox: a template comes with the model and is not trusted."""

    def raise_exception(message: str) -> NoReturn:
        raise _RefusedError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON with the arguments, and in the order, that Hugging Face's `tojson` has; Jinja's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

"""Chats as the text that a model was tuned on, by the template that its tokenizer carries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.storage import check_not_lfs_pointer, read_json

Message = Mapping[str, str]
"""One turn: `{"role": "user", "content": "…"}`."""
TURN = ("role", "content")
TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
MOST_STEPS = 1_000_000
"""Rounds of loops and calls that the rendering of a chat may take; a long one takes some thousands."""
MOST_CHARACTERS = 10_000_000
"""Of a text that a template multiplies or adds up."""
STEPS_OF_A_CALL = 5
_LAST = "DYNTOK_END_OF_LAST_TURN "
"""Appended to the last turn to find its end in the rendered text; its space shows whether the template keeps spaces."""
_COUNTED = "dyntok_counted"


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
          ConfigError: the config is not a JSON object, or the template no text.
        """
        path, config = folder / CONFIG_FILE, {}
        if path.is_file():
            config = read_json(path, ConfigError, "repair or delete it")
        source = config.get("chat_template")
        if (folder / TEMPLATE_FILE).is_file():
            path = folder / TEMPLATE_FILE
            check_not_lfs_pointer(path, ConfigError)
            try:
                source = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{path} cannot be read ({error}): fetch it again.") from error
        if isinstance(source, list):  # older files have several, by name
            named = [one for one in source if isinstance(one, dict)]
            source = next((one.get("template") for one in named if one.get("name") == "default"), None)
        if not isinstance(source, str):
            return None
        tokens = {name: value for name, value in config.items() if name.endswith("_token")}
        tokens = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
        named = {name: token for name, token in tokens.items() if isinstance(token, str)}
        return cls(source, named, str(path))

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, continue_last: bool = False
    ) -> str:
        """Writes a chat as text, with its special tokens: do not add them again when you tokenize it.

        Args:
          messages: the turns, the oldest first.
          add_generation_prompt: end with the start of the model's own turn.
          continue_last: end with the content of the last turn, which is to be continued; not with a generation prompt.

        Raises:
          InputError: a turn lacks its role or content, the template refuses the chat, or leaves out the last turn that
            is to be continued, or there is none.
          ConfigError: the template itself is broken, or has no end.
        """
        if continue_last:
            return self._render_open(messages)
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
        except Exception as error:  # a template is a program: whatever it raises is a fault of its own
            said = f"{type(error).__name__}: {error}" if not isinstance(error, TemplateError) else str(error)
            raise ConfigError(f"The chat template in {self.where} cannot be used ({said}).") from error

    def _render_open(self, messages: Sequence[Message]) -> str:
        """The chat up to the end of its last turn's content, as Hugging Face's `continue_final_message` has it."""
        if not messages or not isinstance(messages[-1].get("content"), str):
            raise InputError("The chat has no last turn to continue: end it with a turn whose content is text.")
        last = {**messages[-1], "content": messages[-1]["content"] + _LAST}
        text = self.render([*messages[:-1], last], add_generation_prompt=False)
        end = text.rfind(_LAST.strip())
        if end < 0:
            raise InputError("The model's chat template leaves out the last turn, so that it cannot be continued.")
        # a template that strips turns drops the white space at the end of the last one, too
        return text[:end] if text[end:].startswith(_LAST) else text[:end].rstrip()


class _RefusedError(Exception):
    """Raised by a template itself, for example where roles do not alternate."""


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`, which mark what the model wrote: here, only what they hold."""

    tags = {"generation"}  # noqa: RUF012  (as the base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)  # what is set within is not seen behind


class _TooMuchError(Exception):
    """A template takes more steps, or makes more text, than any chat needs."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that also counts: loops within loops, and macros that call themselves, would go on for ever."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._n_steps = 0
        self.filters[_COUNTED] = self._counted

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:
        """The hook of Jinja that turns a parsed template into code: what every loop runs over is counted first."""
        for loop in source.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno, environment=self)
        return super()._generate(source, *arguments, **options)

    @pass_context  # so that it is not run when the template is compiled
    def _counted(self, _: Context, items: Iterable[Any]) -> list[Any]:
        listed = list(items)
        self._step(len(listed))
        return listed

    def call(self, *arguments: Any, **options: Any) -> Any:
        """Calls a function or macro for the template."""
        self._step(STEPS_OF_A_CALL)
        return super().call(*arguments, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes what the template writes between two values."""
        self._step(1)
        n_made = 0
        if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
            n_made = len(left) * right
        elif operator == "*" and isinstance(right, str | list | tuple) and isinstance(left, int):
            n_made = len(right) * left
        elif operator == "+" and isinstance(left, str | list | tuple):
            n_made = len(left)
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            n_made = left.bit_length() * (right if operator == "**" else 1) + right.bit_length()
        elif operator == "%" and isinstance(left, str):
            raise _TooMuchError("texts are not formatted by %")
        if n_made > MOST_CHARACTERS:
            raise _TooMuchError(f"it makes a value of {n_made:,} parts")
        return super().call_binop(context, operator, left, right)

    def _step(self, n_steps: int) -> None:
        self._n_steps += n_steps
        if self._n_steps > MOST_STEPS:
            raise _TooMuchError(f"it takes more than {MOST_STEPS:,} steps: it may have no end")


def _environment() -> ImmutableSandboxedEnvironment:
    """What Hugging Face's templates expect, in a sandbox: a template comes with the model and is not trusted."""

    def raise_exception(message: str) -> NoReturn:
        raise _RefusedError(message)

    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: Any = False,  # templates pass what they like, such as the indent
    indent: Any = None,
    separators: Any = None,
    sort_keys: Any = False,
) -> str:
    """JSON with the arguments, and in the order, that Hugging Face's `tojson` has; Jinja's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

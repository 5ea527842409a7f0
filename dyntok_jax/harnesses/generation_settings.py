"""Generation arguments of a harness's task (`generation_kwargs`, `--gen_kwargs`) as the decoder takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from dyntok_jax.decoding import SamplingConfig
from dyntok_jax.errors import InputError
from dyntok_jax.options import whole_number

CUTS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True)
class GenerationSettings:
    r"""How a request is to be continued.

    Attributes:
      max_tokens: the most tokens.
      stop: strings that end the text.
      sampling: how tokens are chosen.

    >>> GenerationSettings.of({"until": ["\n"], "max_gen_toks": 8, "do_sample": False, "top_p": 0.9}, 256)
    GenerationSettings(max_tokens=8, stop=('\n',), sampling=SamplingConfig(temperature=0.0, ...))
    """

    max_tokens: int
    stop: tuple[str, ...]
    sampling: SamplingConfig

    @classmethod
    def of(cls, given: Mapping[str, Any], default_tokens: int) -> "GenerationSettings":
        """The settings that a task gives.

        As in the harness's other models, greedy choice leaves temperature and cuts out of account. The empty string
        stops nothing.

        Args:
          given: `until`, `max_gen_toks` (or one of its other names), `do_sample`, `temperature`, `top_k`, `top_p`,
            `min_p`, `repetition_penalty`.
          default_tokens: the most tokens where the task does not say.

        Raises:
          InputError: another argument is given, or a value cannot be used.
        """
        try:
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), default_tokens))
            stop = handle_stop_sequences(kwargs.pop("until"), eos=None)
        except (TypeError, ValueError) as error:
            raise InputError(f"The generation arguments {dict(given)} cannot be read: {error}.") from error
        if wrong := [text for text in stop if not isinstance(text, str)]:
            raise InputError(f"until must be strings, got {wrong[0]!r}.")
        max_tokens = whole_number("max_gen_toks", kwargs.pop("max_gen_toks"))
        samples = kwargs.pop("do_sample")
        options = {name: kwargs.pop(name) for name in ("temperature", *CUTS) if name in kwargs}
        options = {name: value for name, value in options.items() if value is not None}
        penalty = kwargs.pop("repetition_penalty", None)
        if kwargs:
            raise InputError(
                f"The model dyntok has no generation argument {', '.join(kwargs)}: it takes until, max_gen_toks, "
                f"do_sample, temperature, {', '.join(CUTS)} and repetition_penalty."
            )
        if not samples:
            options = {}
        elif not options.get("temperature"):
            raise InputError("do_sample=True needs a temperature above 0: give one, or do_sample=False.")
        if penalty is not None:
            options["repetition_penalty"] = penalty
        return cls(max_tokens, tuple(text for text in stop if text), SamplingConfig(**options))

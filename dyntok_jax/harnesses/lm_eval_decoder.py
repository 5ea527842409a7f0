"""`DynamicDecoder` as a model of lm-evaluation-harness, which knows it as `dyntok`.

Tokens of contexts and continuations are those that the harness's own `hf` model takes, so that static results are equal
to its results. Merging changes what the decoder reads of a context, and nothing of what is scored after it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import jax
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from dyntok_jax.decoding import DynamicDecoder
from dyntok_jax.errors import ConfigError, InputError
from dyntok_jax.harnesses.contexts import Answer, ContextDecoder, Request
from dyntok_jax.harnesses.decoder_arguments import DecoderArguments
from dyntok_jax.harnesses.generation_settings import GenerationSettings
from dyntok_jax.options import Merging
from dyntok_jax.text import CANNOT_WRITE, ChatTemplate, check_text, refused_by_rust

LOGGER = logging.getLogger(__name__)
MOST_SEEDS = 2**32


@register_model("dyntok")
class LmEvalDecoder(TemplateLM):
    """A decoder that reads contexts statically or merged, for `lm_eval.simple_evaluate`.

    Contexts that are too long lose their beginning, with a warning, as in the harness's other models; merged ones only
    if they are too long after merging.

    Attributes:
      decoder: the model.
      arguments: how contexts are merged, batches and limits.
      contexts: reads them.

    >>> lm = LmEvalDecoder(decoder, DecoderArguments(share=50))
    >>> request = Instance("loglikelihood", {}, ("All human beings", " are born free."), 0)
    >>> [(log_probability, is_greedy)] = lm.loglikelihood([request], disable_tqdm=True)
    >>> round(log_probability), is_greedy  # weights are random here
    (-57, False)
    """

    def __init__(self, decoder: DynamicDecoder, arguments: DecoderArguments | None = None):
        super().__init__()
        self.decoder = decoder
        self.arguments = DecoderArguments() if arguments is None else arguments
        self.contexts = ContextDecoder(decoder, self.arguments)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "LmEvalDecoder":
        """Loads a model, as the harness asks for it.

        Args:
          arg_dict: `--model_args`, by name.
          additional_config: what the harness adds; None stands for nothing.

        Raises:
          DyntokError: an argument is unknown or cannot be used, or the model cannot be loaded.
        """
        added = {name: value for name, value in (additional_config or {}).items() if value is not None}
        arguments = DecoderArguments.of({**arg_dict, **added})
        return cls(arguments.load(), arguments)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "LmEvalDecoder":
        """The same for arguments in one string (`pretrained=smollm2,share=50`)."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def merging(self) -> Merging:
        """How contexts are merged, if they are."""
        return self.arguments.merging

    @property
    def max_length(self) -> int:
        """The most tokens a sequence."""
        return self.contexts.max_length

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context.

        Raises:
          ConfigError: the tokenizer names none.
        """
        if self.decoder.begin_id is None:
            raise ConfigError(
                "A text without a context needs a token before it, and the model's tokenizer_config.json has neither a "
                "bos_token nor an eos_token: add one."
            )
        return self.decoder.begin_id

    @property
    def eot_token_id(self) -> int:
        """The first of the tokens that end a text; the one that begins a text where there is none."""
        return self.decoder.end_ids[0] if self.decoder.end_ids else self.prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells its caches of requests apart by."""
        return f"{Path(self.arguments.pretrained).name}-{self.decoder.tokenizer.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text by the model's own tokenizer.

        Args:
          string: the text.
          add_special_tokens: put the tokenizer's special tokens around it; None: unless it begins with the first of
            them already, as a rendered chat does.
        """
        if add_special_tokens is None:
            add_special_tokens = not self.contexts.begins(string)
        with refused_by_rust(CANNOT_WRITE):
            return self.decoder.tokenizer.own.encode(string, add_special_tokens=add_special_tokens).ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Scores continuations after contexts.

        Raises:
          InputError: a text is not Unicode, or a continuation is empty.
          TooLongError: a continuation has more tokens than the model has positions.
          NotANumberError: the model's logits are NaN or infinite.
        """
        for request in requests:
            texts: tuple[Any, ...] = request.args
            context, continuation = texts
            check_text(context, "A context")
            if check_text(continuation, "A continuation") == "":
                raise InputError(f"The task {request.task_name} asks for the probability of an empty text.")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a context, and those that follow them when context and continuation are tokenized as one text.

        Where nothing is left, because the last token of the context took the continuation in, it is tokenized alone.
        """
        before, after = super()._encode_pair(context, continuation)
        if not after:
            space = context[len(context.rstrip()) :]
            after = self.tok_encode(space + continuation, add_special_tokens=False)
        return before, after

    def _loglikelihood_tokens(self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any) -> list[Answer]:
        """Scores requests whose ids are known; those with one context share its reading."""
        requests = [(texts, before or [self.prefix_token_id], after) for texts, before, after in requests]

        def context_of(row: int) -> tuple[int, list[int]]:
            return -len(requests[row][1]), requests[row][1]

        rows = sorted(range(len(requests)), key=lambda row: (*context_of(row), -len(requests[row][2])))
        together = [list(members) for _, members in groupby(rows, context_of)]
        batches = [list(chain.from_iterable(some)) for some in _parts(together, self.arguments.n_batch)]
        return self._answers(requests, batches, "Running loglikelihood requests", disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of whole texts, in windows of `max_length` tokens, each token once.

        Raises:
          InputError: contexts are to be merged: a whole text has none. Or a text is not Unicode.
          NotANumberError: the model's logits are NaN or infinite.
        """
        if not self.merging.is_static:
            tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
            raise InputError(
                f"{tasks}: a whole text is scored without a context, so there is nothing to merge, and the result "
                "would be that of static tokenization: run these tasks without share, merges and budget."
            )
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(check_text(request.args[0], "A text"))
            found = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in found]
            owners += [number] * (len(windows) - len(owners))
        rows = sorted(range(len(windows)), key=lambda row: -len(windows[row][2]))
        batches = list(_parts(rows, self.arguments.n_batch))
        totals = [0.0] * len(requests)
        answers = self._answers(windows, batches, "Running loglikelihood_rolling requests", disable_tqdm)
        for owner, (log_probability, _) in zip(owners, answers, strict=True):
            totals[owner] += log_probability
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continues contexts until a stop string, an end token, or the most tokens.

        Raises:
          InputError: a text is not Unicode, or a generation argument is unknown or cannot be used.
          TooLongError: more tokens are asked for than the model has positions.
          NotANumberError: the model's logits are NaN or infinite.
        """
        asked: list[tuple[Any, ...]] = [request.args for request in requests]
        settings = [GenerationSettings.of(given, self.arguments.max_gen_toks) for _, given in asked]
        contexts = [check_text(context, "A context") for context, _ in asked]
        ids = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        written: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for alike in dict.fromkeys(settings):
                rows = [row for row, of_row in enumerate(settings) if of_row == alike]
                for some in _parts(sorted(rows, key=lambda row: -len(ids[row])), self.arguments.n_batch):
                    seeds = [(self.arguments.seed + row) % MOST_SEEDS for row in some]
                    texts = self.contexts.write(
                        [contexts[row] for row in some], [ids[row] for row in some], alike, seeds=seeds
                    )
                    for row, text in zip(some, texts, strict=True):
                        written[row] = text
                        self.cache_hook.add_partial("generate_until", requests[row].args, text)
                    bar.update(len(some))
        return [written[row] for row in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as text.

        Args:
          chat_history: the turns.
          add_generation_prompt: end with the start of the model's turn; otherwise the last turn is the model's own and
            is continued.

        Raises:
          ConfigError: the model has no chat template, or it is broken.
          InputError: the template refuses the chat, also without its system turn.
        """
        template, options = self._template(), {"add_generation_prompt": add_generation_prompt}
        options["continue_last"] = not add_generation_prompt
        try:
            return template.render(chat_history, **options)
        except InputError as error:
            without = [turn for turn in chat_history if turn.get("role") != "system"]
            if len(without) == len(chat_history):
                raise
            LOGGER.warning("The system turn is left out: %s", error)
            return template.render(without, **options)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the model's chat template; None where none is to be applied.

        Raises:
          ConfigError: the model has none.
          InputError: one is asked for by name.
        """
        if isinstance(chat_template, str):
            raise InputError(
                f"The model dyntok applies the model's default chat template, not {chat_template!r}: give "
                "--apply_chat_template without a name."
            )
        return self._template().source if chat_template else None

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results: the model, and the tokens of merged contexts.

        `dyntok_tokens` counts those that were read, `dyntok_static_tokens` what static tokenization makes of the same
        contexts, special tokens left out.
        """
        merging, reduction = self.merging, None
        n_static, n_tokens = self.contexts.n_static, self.contexts.n_tokens
        if n_static:
            reduction = 100 * (1 - n_tokens / n_static)
        return {
            "model_num_parameters": sum(leaf.size for leaf in jax.tree.leaves(self.decoder.decoder)),
            "model_dtype": self.arguments.dtype,
            "dyntok_merging": "static" if merging.is_static else repr(merging),
            "dyntok_static_tokens": n_static,
            "dyntok_tokens": n_tokens,
            "dyntok_reduction_percent": reduction,
        }

    def _template(self) -> ChatTemplate:
        if self.decoder.chat is None:
            raise ConfigError("The model has no chat template: leave out --apply_chat_template.")
        return self.decoder.chat

    def _answers(
        self, requests: Sequence[Request], batches: Sequence[list[int]], description: str, disable_tqdm: bool
    ) -> list[Answer]:
        """Scores batches of requests, given by their numbers."""
        found: dict[int, Answer] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc=description) as bar:
            for rows in batches:
                for row, answer in zip(rows, self.contexts.score([requests[row] for row in rows]), strict=True):
                    found[row] = answer
                    if (texts := requests[row][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, answer)
                bar.update(len(rows))
        return [found[row] for row in range(len(requests))]


def _parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(items), size):
        yield list(items[at : at + size])

"""The contexts of a harness's requests, as a decoder reads them: cut to the room there is, static or merged."""

import logging
import sys
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from dyntok_jax.decoding import DynamicDecoder, Prompt, ReadPrompts
from dyntok_jax.errors import InputError, TooLongError
from dyntok_jax.harnesses.decoder_arguments import DecoderArguments
from dyntok_jax.harnesses.generation_settings import GenerationSettings
from dyntok_jax.options import STATIC, Merging

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""What a harness asks to score: context and continuation as texts (None for a window of a long text), and as ids."""
Answer = tuple[float, bool]
"""The log-probability of a continuation, and whether greedy decoding would have written it."""
LOGGER = logging.getLogger(__name__)


class ContextDecoder:
    """Scores and continues batches of contexts.

    A static context is read as the ids that the harness made of it, a merged one as its text. Contexts that are too
    long lose their beginning, with a warning; merged ones only if they are too long after merging.

    Attributes:
      decoder: the model.
      arguments: how contexts are merged, and limits.
      n_tokens: tokens of all merged contexts so far, special tokens left out.
      n_static: what static tokenization makes of the same.

    >>> contexts = ContextDecoder(decoder, DecoderArguments())
    >>> ids = [decoder.tokenizer.own.encode(text).ids for text in ("All human beings", " are born free.")]
    >>> [(log_probability, is_greedy)] = contexts.score([(None, *ids)])
    >>> round(log_probability), is_greedy  # weights are random here
    (-57, False)
    """

    def __init__(self, decoder: DynamicDecoder, arguments: DecoderArguments):
        self.decoder, self.arguments = decoder, arguments
        self.n_static = self.n_tokens = 0
        self._ending = cache(self._make_ending)

    @property
    def max_length(self) -> int:
        """The most tokens a sequence."""
        longest = self.decoder.config.max_positions
        return longest if self.arguments.max_length is None else min(longest, self.arguments.max_length)

    def begins(self, text: str) -> bool:
        """Whether a text begins with the token that begins texts."""
        index = self.decoder.begin_id
        begin = None if index is None else self.decoder.tokenizer.own.id_to_token(index)
        return bool(begin) and text.startswith(begin)

    def score(self, requests: Sequence[Request]) -> list[Answer]:
        """Scores a batch of continuations.

        Args:
          requests: what to score; no context has no ids.

        Raises:
          InputError: a continuation has no tokens.
          TooLongError: a continuation has more tokens than there is room for.
          NotANumberError: the model's logits are NaN or infinite.
        """
        prompts, continuations = [], []
        for texts, context, continuation in requests:
            if not continuation:
                raise InputError(f"The continuation {'' if texts is None else texts[1]!r} has no tokens to score.")
            room = self.max_length + 1 - len(continuation)  # the last token is scored, but never read
            if room < 1:
                raise TooLongError(
                    f"A continuation has {len(continuation)} tokens, and there is room for {self.max_length}: "
                    f"{'' if texts is None else texts[1][:80]!r}."
                )
            # the harness moves white space from a context's end to its continuation
            text = "" if texts is None else texts[0].rstrip()
            prompts.append(self.prompt(text, context, room))
            continuations.append(continuation)
        answers: dict[int, Answer] = {}
        for rows, merging in self._kinds(prompts):
            scored = self.decoder.score(
                [prompts[row] for row in rows],
                [continuations[row] for row in rows],
                merging=merging,
                language=None if merging.is_static else self.arguments.language,
                batch_size=len(rows),
            )
            self._count(scored[0].prompts)
            for row, text in zip(rows, scored, strict=True):
                answers[row] = text.total, bool((text.greedy_O == text.ids).all())
        return [answers[row] for row in range(len(requests))]

    def write(
        self,
        contexts: Sequence[str],
        ids: Sequence[list[int]],
        settings: GenerationSettings,
        *,
        seeds: Sequence[int],
    ) -> list[str]:
        """Continues a batch of contexts.

        Args:
          contexts: their texts.
          ids: their ids; none is empty.
          settings: how they are continued.
          seeds: of each one's sampling.

        Raises:
          TooLongError: more tokens are asked for than there is room for.
          NotANumberError: the model's logits are NaN or infinite.
        """
        room = self.max_length - settings.max_tokens
        if room < 1:
            raise TooLongError(
                f"A task asks for {settings.max_tokens} tokens, and there is room for {self.max_length} with the "
                "context: ask for fewer (--gen_kwargs max_gen_toks=…)."
            )
        prompts = [self.prompt(text, of_text, room) for text, of_text in zip(contexts, ids, strict=True)]
        decoder = self._ending(self._special_ids(settings.stop))
        texts: dict[int, str] = {}
        for rows, merging in self._kinds(prompts):
            found = decoder.generate(
                [prompts[row] for row in rows],
                merging=merging,
                language=None if merging.is_static else self.arguments.language,
                max_tokens=settings.max_tokens,
                stop=settings.stop or None,
                sampling=settings.sampling,
                seed=[seeds[row] for row in rows],
                batch_size=len(rows),
            )
            self._count(found[0].prompts)
            texts |= {row: one.text for row, one in zip(rows, found, strict=True)}
        return [texts[row] for row in range(len(prompts))]

    def prompt(self, text: str, ids: list[int], room: int) -> Prompt:
        """A context as the decoder takes it: as text to be merged, or else as ids.

        Args:
          text: the context; an empty one is read as its ids.
          ids: of the context.
          room: the most tokens; what is longer loses its beginning.

        Raises:
          TooLongError: its special tokens alone take the room.
        """
        if self.arguments.merging.is_static or not text:
            if len(ids) > room:
                LOGGER.warning("A context has %d tokens: only its last %d are read.", len(ids), room)
            return ids[-room:]
        special = self.decoder.tokenizer.own.encode("").tokens  # the tokenizer puts it there itself
        if special and self.begins(text):
            text = text.removeprefix(special[0])
        while True:
            read = self.decoder.read(
                [text], merging=self.arguments.merging, language=self.arguments.language, limit=sys.maxsize
            )
            n_positions, (tokens,) = int(read.n_positions[0]), read.tokens
            if n_positions <= room:
                return text
            LOGGER.warning("A context takes %d positions after merging: only its last %d are read.", n_positions, room)
            is_text_T = tokens.text_T >= 0
            start_T, length_T = tokens.span_T2[is_text_T, 0], tokens.length_T[is_text_T]
            taken_T = length_T if read.positions == "subwords" else np.ones_like(length_T)
            freed_T = np.cumsum(taken_T) - taken_T
            # a character may be several tokens, which all begin where it does
            later_T = start_T[(freed_T >= n_positions - room) & (start_T > 0)]
            if not later_T.size:
                raise TooLongError(f"There is room for {room} tokens of a context, which its special tokens take.")
            text = text[int(later_T[0]) :]

    def _kinds(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], Merging]]:
        """The rows of prompts that are texts, to be merged, and of those that are ids, to be read as they are."""
        for kind, merging in ((str, self.arguments.merging), (list, STATIC)):
            if rows := [row for row, prompt in enumerate(prompts) if isinstance(prompt, kind)]:
                yield rows, merging

    def _special_ids(self, stop: Sequence[str]) -> tuple[int, ...]:
        """Stop strings that are special tokens, which have no text."""
        tokenizer = self.decoder.tokenizer
        ids = [tokenizer.own.token_to_id(text) for text in stop]
        return tuple(index for index in ids if index in tokenizer.special_ids and index not in self.decoder.end_ids)

    def _make_ending(self, ids: tuple[int, ...]) -> DynamicDecoder:
        """The decoder, with more tokens that end a text."""
        one = self.decoder
        if not ids:
            return one
        return DynamicDecoder(
            one.config,
            one.decoder,
            one.embedder,
            end_ids=(*one.end_ids, *ids),
            begin_id=one.begin_id,
            chat=one.chat,
            special_tokens=one.special_tokens,
            mesh=one.mesh,
        )

    def _count(self, read: ReadPrompts) -> None:
        if not read.is_static:
            self.n_static += int(read.n_static.sum())
            self.n_tokens += int(read.tokens.counts.sum())

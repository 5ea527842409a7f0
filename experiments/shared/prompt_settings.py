"""The settings in which a decoder's prompts are compared: static, merged by two methods, and those of the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dyntok_jax import DynamicDecoder, Merging, Share
from experiments.shared.decoders import entries_of, predicting_all, with_embedder
from experiments.shared.recorded import METHODS
from experiments.shared.settings import STATIC


@dataclass(frozen=True)
class PromptSetting:
    """How prompts are read.

    Attributes:
      name: of its figures.
      title: in tables.
      reference: the name that the reference implementation has for it.
      decoder: what reads.
      merging: how it merges.
    """

    name: str
    title: str
    reference: str
    decoder: DynamicDecoder = field(repr=False)
    merging: Merging

    def language(self, code: str) -> str | None:
        """The language to give: None where there is no hypernetwork that wants one."""
        return code if self.decoder.embedder.languages and self.name != STATIC else None


def share_settings(
    decoders: dict[str, DynamicDecoder], shares: Sequence[float], merging: Merging
) -> list[PromptSetting]:
    """Static tokenization, and each method at shares of the maximum reduction; all else is as `merging` has it."""
    found = [PromptSetting(STATIC, "static", "plain", next(iter(decoders.values())), replace(merging, goal=None))]
    for method, decoder in decoders.items():
        for share in shares:
            name, title = f"{method}_share{share:g}", f"{METHODS[method]}, share {share:g} %"
            found.append(PromptSetting(name, title, "dynamic_bpe", decoder, replace(merging, goal=Share(share))))
    return found


def reference_settings(decoder: DynamicDecoder, merging: Merging) -> list[PromptSetting]:
    """The reference's other settings, in which a hypernetwork predicts the rows of single subwords, too."""
    embedder = predicting_all(decoder)
    predicted = with_embedder(decoder, embedder)
    prefix = with_embedder(decoder, embedder, entries_of(None, decoder.tokenizer))
    words = replace(merging, goal=Share(100), max_subwords=None)
    unmerged = replace(merging, goal=Share(0))
    return [
        PromptSetting("words", "words", "word_tk_hypernet", predicted, words),
        PromptSetting("all_predicted", "all predicted", "original_tk_hypernet", predicted, unmerged),
        PromptSetting("longest_prefix", "longest prefix", "lp_tk_hypernet", prefix, unmerged),
    ]


def large_vocabulary_setting(decoders: dict[str, DynamicDecoder], vocabulary: Path, merging: Merging) -> PromptSetting:
    """Prompts in the tokens of a folder of `dyntok build-vocab`, by longest prefix."""
    decoder = decoders.get("hypernet") or decoders["fvt"]
    embedder = predicting_all(decoder) if "hypernet" in decoders else decoder.embedder
    entries = entries_of(vocabulary, decoder.tokenizer)
    title = f"large vocabulary, {entries.size:,} entries"
    reading = with_embedder(decoder, embedder, entries)
    return PromptSetting("large_vocabulary", title, "lp_tk_hypernet, 1M", reading, replace(merging, goal=Share(0)))

"""`resolve_merging`: the one place where a caller's options are checked against the model that the texts are for."""

from dataclasses import replace

from dyntok_jax.errors import InputError
from dyntok_jax.options import Merging, Scope


def resolve_merging(
    merging: Merging,
    *,
    tokenizer: str,
    scope: Scope,
    merge_last: bool,
    longest: int,
    is_longest_strict: bool,
    protect: str | None = None,
) -> Merging:
    """Fills in every `auto`, and checks a merge list against the model.

    Args:
      merging: the caller's options.
      tokenizer: fingerprint of the model's tokenizer.
      scope: the meaning of `auto`.
      merge_last: the meaning of `auto`.
      longest: the longest token that embeddings are made for, in subwords.
      is_longest_strict: whether longer tokens cannot be embedded well (by a hypernetwork; the mean takes any length).
      protect: the meaning of `auto`.

    Returns:
      The options without any `auto`; with a merge list, its limit.

    Raises:
      InputError: a merge list of another tokenizer or boundary, or with longer tokens than can be embedded.

    >>> model = {"tokenizer": tokenizer.fingerprint, "longest": 7, "is_longest_strict": True}
    >>> merging = resolve_merging(Merging(), scope="batch", merge_last=True, **model)
    >>> merging.scope, merging.max_subwords, merging.merge_last
    ('batch', 7, True)
    """
    scope = scope if merging.scope == "auto" else merging.scope
    merge_last = merge_last if merging.merge_last == "auto" else merging.merge_last
    protect = protect if merging.protect == "auto" else merging.protect
    listed = merging.merge_list
    if listed is None:
        limit = longest if merging.max_subwords == "auto" else merging.max_subwords
        return replace(merging, scope=scope, merge_last=merge_last, max_subwords=limit, protect=protect)
    if listed.tokenizer != tokenizer:
        raise InputError("The merge list was learnt with another tokenizer: learn one with this model's.")
    if listed.boundary != merging.boundary:
        raise InputError(
            f"The merge list was learnt with boundary {listed.boundary!r}, not {merging.boundary!r}: use that."
        )
    if is_longest_strict and (listed.max_subwords is None or listed.max_subwords > longest):
        raise InputError(
            f"The merge list makes tokens of {listed.max_subwords or 'any number of'} subwords and the hypernetwork "
            f"knows at most {longest}: learn one with max_subwords={longest}."
        )
    return replace(merging, scope=scope, merge_last=merge_last, max_subwords=listed.max_subwords, protect=protect)

from .device import (
    merge_batch as merge_batch,
)
from .full import merge_fully as merge_fully
from .goals import (
    FirstMerges as FirstMerges,
    MergeLimits as MergeLimits,
    limits_of as limits_of,
    longest_token as longest_token,
)
from .host import (
    merge_batch_on_host as merge_batch_on_host,
)
from .merge_list import (
    MergeList as MergeList,
    learn_merges as learn_merges,
    load_merges as load_merges,
)
from .ragged_tokens import (
    RaggedTokens as RaggedTokens,
    TextTokens as TextTokens,
    common_beginning as common_beginning,
    first_tokens as first_tokens,
    fit_tokens as fit_tokens,
    merge_texts as merge_texts,
    segments_to_merge as segments_to_merge,
    tokens_of_lengths as tokens_of_lengths,
    unmerged_tokens as unmerged_tokens,
)
from .resolve import resolve_merging as resolve_merging
from .segments import (
    count_fewest as count_fewest,
    count_mergeable as count_mergeable,
    merge_segments as merge_segments,
)
from .truncate import (
    truncate_tokens as truncate_tokens,
)

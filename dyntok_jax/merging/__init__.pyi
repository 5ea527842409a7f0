from .device import (
    merge_batch as merge_batch,
)
from .goals import (
    FirstMerges as FirstMerges,
    MergeLimits as MergeLimits,
    limits_of as limits_of,
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
    merge_texts as merge_texts,
    unmerged_tokens as unmerged_tokens,
)
from .resolve import resolve_merging as resolve_merging
from .segments import (
    merge_segments as merge_segments,
)
from .truncate import (
    truncate_tokens as truncate_tokens,
)

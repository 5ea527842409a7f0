from .device import (
    merge_batch as merge_batch,
)
from .goals import (
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
from .segments import (
    merge_segments as merge_segments,
)
from .text_tokens import (
    MergeRules as MergeRules,
    TextTokens as TextTokens,
    join_tokens as join_tokens,
    merge_rules as merge_rules,
    merge_texts as merge_texts,
    split_tokens as split_tokens,
)
from .truncate import (
    truncate_tokens as truncate_tokens,
)

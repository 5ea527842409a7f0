from .covering import (
    split_at_random as split_at_random,
    split_by_longest as split_by_longest,
    split_by_merges as split_by_merges,
    split_by_score as split_by_score,
)
from .growing import (
    N_ENTRIES as N_ENTRIES,
    STOP as STOP,
    grow as grow,
)
from .hash_tables import (
    NONE as NONE,
    as_kernel_arrays as as_kernel_arrays,
)
from .listed_merges import (
    apply_pairs as apply_pairs,
    index_pairs as index_pairs,
)
from .longest_prefix import (
    join_texts as join_texts,
    split_segments as split_segments,
)
from .merge_pairs import (
    merge_rows as merge_rows,
)
from .segment_table import (
    count_rows as count_rows,
    index_segments as index_segments,
    take_segments as take_segments,
)
from .trie import (
    FIRST as FIRST,
    REST as REST,
    build_trie as build_trie,
)

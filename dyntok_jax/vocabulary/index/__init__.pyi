from .building import (
    RECALL_AT as RECALL_AT,
    build_index as build_index,
    measure_recall as measure_recall,
    recall_of as recall_of,
    zero_rows as zero_rows,
)
from .index_folder import (
    load_index as load_index,
    save_index as save_index,
    table_identity as table_identity,
)
from .inner_products import (
    BLOCK_ROWS as BLOCK_ROWS,
    MipsIndex as MipsIndex,
    RowBlocks as RowBlocks,
    best as best,
    exact_search as exact_search,
    place_index as place_index,
    rescore as rescore,
    search as search,
)

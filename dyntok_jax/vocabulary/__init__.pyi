from .byte_pairs import (
    grow_entries as grow_entries,
    word_texts as word_texts,
)
from .grown_vocabulary import (
    GrownVocabulary as GrownVocabulary,
    readable as readable,
)
from .row_prediction import (
    RowSource as RowSource,
    embed_vocabulary as embed_vocabulary,
)
from .row_table import (
    TableConfig as TableConfig,
    VocabularyTable as VocabularyTable,
    open_table as open_table,
    readable_bytes as readable_bytes,
)
from .segment_counts import (
    count_segments as count_segments,
)
from .vocabulary_folder import (
    load_vocabulary as load_vocabulary,
    read_vocabulary_config as read_vocabulary_config,
    save_vocabulary as save_vocabulary,
)
from .word_list import (
    WordList as WordList,
    load_word_list as load_word_list,
)

from .aligned import (
    KEY_FIELD as KEY_FIELD,
    read_aligned as read_aligned,
    read_rows as read_rows,
)
from .batches import (
    RaggedSubwords as RaggedSubwords,
    cut_padding as cut_padding,
    group_by_length as group_by_length,
    pad_batch as pad_batch,
    pad_ragged as pad_ragged,
    pad_to as pad_to,
    rows_end_to_end as rows_end_to_end,
    subwords_of_ids as subwords_of_ids,
    token_spans as token_spans,
)
from .boundaries import (
    number_segments as number_segments,
)
from .buckets import (
    BATCH_BUCKETS as BATCH_BUCKETS,
    CAPACITY_BUCKETS as CAPACITY_BUCKETS,
    CONTINUATION_BUCKETS as CONTINUATION_BUCKETS,
    DECODER_BATCH_BUCKETS as DECODER_BATCH_BUCKETS,
    LENGTH_BUCKETS as LENGTH_BUCKETS,
    PREDICTED_ROW_BUCKETS as PREDICTED_ROW_BUCKETS,
    SURFACE_BUCKETS as SURFACE_BUCKETS,
    TRAINING_ROW_BUCKETS as TRAINING_ROW_BUCKETS,
    TRAINING_SUBWORD_BUCKETS as TRAINING_SUBWORD_BUCKETS,
    TRAINING_TOKEN_BUCKETS as TRAINING_TOKEN_BUCKETS,
    bucket as bucket,
    buckets_up_to as buckets_up_to,
    divided_buckets as divided_buckets,
)
from .byte_characters import (
    BYTE_CHARACTERS as BYTE_CHARACTERS,
    CHARACTER_BYTES as CHARACTER_BYTES,
    spell_bytes as spell_bytes,
    to_bytes as to_bytes,
)
from .byte_level import (
    ByteLevelTokenizer as ByteLevelTokenizer,
    refused_by_rust as refused_by_rust,
)
from .byte_level_spec import (
    FILLER_SCORE as FILLER_SCORE,
    PRETOKEN_REGEX as PRETOKEN_REGEX,
)
from .chat import (
    ChatTemplate as ChatTemplate,
    Message as Message,
)
from .lines import (
    STDIN as STDIN,
    decode_line as decode_line,
    read_bytes as read_bytes,
    read_lines as read_lines,
    stream_byte_lines as stream_byte_lines,
    stream_lines as stream_lines,
)
from .special_tokens import (
    SpecialNames as SpecialNames,
)
from .spellings import (
    continues as continues,
    piece_bytes as piece_bytes,
    piece_texts as piece_texts,
)
from .text_encoder import (
    CANNOT_WRITE as CANNOT_WRITE,
    Text as Text,
    TextEncoder as TextEncoder,
    check_text as check_text,
)

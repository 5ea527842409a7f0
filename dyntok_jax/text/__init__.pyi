from .aligned import (
    KEY_FIELD as KEY_FIELD,
    read_aligned as read_aligned,
    read_rows as read_rows,
)
from .batches import (
    RaggedSubwords as RaggedSubwords,
    bucket as bucket,
    cut_padding as cut_padding,
    group_by_length as group_by_length,
    pad_batch as pad_batch,
    pad_ragged as pad_ragged,
    pad_to as pad_to,
    rows_end_to_end as rows_end_to_end,
    token_spans as token_spans,
    token_words as token_words,
    unmerged as unmerged,
)
from .boundaries import (
    number_segments as number_segments,
)
from .byte_characters import (
    BYTE_CHARACTERS as BYTE_CHARACTERS,
    CHARACTER_BYTES as CHARACTER_BYTES,
    spell_bytes as spell_bytes,
    to_bytes as to_bytes,
)
from .byte_level import (
    ByteLevelTokenizer as ByteLevelTokenizer,
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
from .spellings import (
    continues as continues,
    piece_bytes as piece_bytes,
    piece_texts as piece_texts,
)
from .text_encoder import (
    Text as Text,
    TextEncoder as TextEncoder,
)

from .comparison import (
    encode_columns as encode_columns,
)
from .compile_clock import (
    keep_compiled_programs as keep_compiled_programs,
)
from .decoder_options import (
    MergingOptions as MergingOptions,
    ModelOptions as ModelOptions,
    VocabularyOptions as VocabularyOptions,
    flattened as flattened,
)
from .encoded_files import (
    write_embeddings as write_embeddings,
    write_tokens as write_tokens,
)
from .figures import (
    run_figures as run_figures,
    run_table as run_table,
    share_table as share_table,
    token_line as token_line,
)
from .one_text import (
    OneText as OneText,
)
from .option_file import (
    with_file_options as with_file_options,
)
from .option_types import (
    DEFAULT_BOUNDARY as DEFAULT_BOUNDARY,
    DEFAULT_HYPERNET as DEFAULT_HYPERNET,
    Count as Count,
    HypernetName as HypernetName,
    MaxSubwords as MaxSubwords,
    Model as Model,
    OptionalBoundary as OptionalBoundary,
    OptionalPath as OptionalPath,
    Percent as Percent,
    Protect as Protect,
    arg as arg,
    goal_of as goal_of,
    hypernet_of as hypernet_of,
    limit_of as limit_of,
    merging_of as merging_of,
    mesh_shape as mesh_shape,
)
from .outputs import (
    write_json as write_json,
    write_json_lines as write_json_lines,
    written_together as written_together,
)
from .parsing import (
    parse as parse,
)
from .scored_rows import (
    read_rows as read_rows,
)
from .scoring import (
    score_rows as score_rows,
)
from .screen import (
    make_console as make_console,
    print_beside_text as print_beside_text,
    print_out as print_out,
    progress_bar as progress_bar,
    text_out as text_out,
    waiting as waiting,
)
from .text_inputs import (
    ALIGNED_SUFFIXES as ALIGNED_SUFFIXES,
    TextColumn as TextColumn,
    read_columns as read_columns,
    read_prompts as read_prompts,
)
from .training_run import (
    run_training as run_training,
)
from .writing import (
    as_chats as as_chats,
    text_rows as text_rows,
    titled as titled,
    write_texts as write_texts,
    writing_figures as writing_figures,
    writing_table as writing_table,
)

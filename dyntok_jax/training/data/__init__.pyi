from .data_config import (
    DataConfig as DataConfig,
)
from .held_out import (
    PIVOT as PIVOT,
    batches_held_out as batches_held_out,
    batches_of_files as batches_of_files,
    digest_of as digest_of,
    with_pieces as with_pieces,
)
from .sources import (
    DATASET as DATASET,
    open_dataset as open_dataset,
)
from .training_batch import (
    PieceBatch as PieceBatch,
    SurfaceForms as SurfaceForms,
    TextBatch as TextBatch,
    TrainingBatch as TrainingBatch,
)
from .training_data import (
    training_batches as training_batches,
)
from .written_options import (
    Count as Count,
    Number as Number,
    OptionalPath as OptionalPath,
    Unlisted as Unlisted,
    by_language as by_language,
    named_numbers as named_numbers,
    several as several,
)

from .folder_conversion import (
    convert_folder as convert_folder,
)
from .folders import (
    check_free as check_free,
    new_folder as new_folder,
)
from .hub import (
    PACKAGED_MODELS as PACKAGED_MODELS,
    find_hypernet as find_hypernet,
    find_model as find_model,
)
from .model_loading import (
    Tables as Tables,
    load_model as load_model,
)
from .orbax_checkpoint import (
    is_checkpoint as is_checkpoint,
    load_checkpoint as load_checkpoint,
    read_shapes as read_shapes,
    save_checkpoint as save_checkpoint,
)
from .unpacked import (
    cache_folder as cache_folder,
)

from .array_files import (
    save_arrays as save_arrays,
)
from .new_files import (
    check_writable as check_writable,
    written as written,
    written_together as written_together,
)
from .new_folders import (
    written_folder as written_folder,
)

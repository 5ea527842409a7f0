from .array_files import (
    save_arrays as save_arrays,
)
from .json_files import (
    check_no_lfs_pointers as check_no_lfs_pointers,
    check_not_lfs_pointer as check_not_lfs_pointer,
    json_kind as json_kind,
    parse_json as parse_json,
    read_json as read_json,
)
from .new_files import (
    check_writable as check_writable,
    written as written,
    written_together as written_together,
)
from .new_folders import (
    written_folder as written_folder,
)

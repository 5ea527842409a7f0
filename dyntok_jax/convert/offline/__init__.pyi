from .gguf_file import (
    write_gguf as write_gguf,
)
from .gguf_reader import (
    is_gguf as is_gguf,
)
from .nano_e5 import (
    write_e5_small as write_e5_small,
)

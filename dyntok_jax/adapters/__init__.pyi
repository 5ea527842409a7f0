from .adapter import (
    Adapter as Adapter,
    AdapterMap as AdapterMap,
    Replacement as Replacement,
    fresh_adapter as fresh_adapter,
    n_input_axes as n_input_axes,
)
from .applying import (
    apply_adapters as apply_adapters,
    fold_adapters as fold_adapters,
)
from .lora_config import LoraConfig as LoraConfig
from .merge import (
    add_delta as add_delta,
    delta_of as delta_of,
    merge_adapters as merge_adapters,
    merge_deltas as merge_deltas,
    swap_layers as swap_layers,
)
from .merge_methods import MergeMethod as MergeMethod
from .targets import (
    HEAD as HEAD,
    hf_names as hf_names,
    names_of as names_of,
    rank_and_scale as rank_and_scale,
)

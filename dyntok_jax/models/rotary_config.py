"""The kinds of rotary positions that a config may ask for, read and written under Hugging Face's names.

Names and meanings are those of `modeling_rope_utils` in transformers. `longrope` is refused: it turns all tokens of a
sequence another way as soon as the sequence is longer than in pre-training, which keys in a cache cannot follow.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from dyntok_jax.errors import ConfigError
from dyntok_jax.models.config_fields import read_flag
from dyntok_jax.models.config_numbers import check_at_least, read_numbers

ROPE = "the rope scaling"


@dataclass(frozen=True)
class LinearScaling:
    """Every frequency ÷ `factor` (Chen et al. 2023, *Position Interpolation*).

    >>> LinearScaling(4.0)
    LinearScaling(factor=4.0)
    """

    factor: float

    def __post_init__(self):
        check_at_least(self, {"factor": 1}, of=ROPE)


@dataclass(frozen=True)
class DynamicScaling:
    """A base that grows with the sequence once that is longer than `max_position_embeddings` (NTK-aware scaling).

    Such sequences are refused, since keys in a cache were turned with the base of a shorter one. Up to there all
    frequencies are unscaled, in transformers too.

    >>> DynamicScaling(2.0)
    DynamicScaling(factor=2.0)
    """

    factor: float

    def __post_init__(self):
        check_at_least(self, {"factor": 1}, of=ROPE)


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow frequencies ÷ `factor`, fast ones kept, with a smooth transition (Grattafiori et al. 2024, *Llama 3*).

    Attributes:
      factor: how much slow frequencies are divided by.
      low_freq_factor: waves longer than the original positions ÷ this are slow.
      high_freq_factor: waves shorter than the original positions ÷ this are fast.
      original_max_position_embeddings: positions of the model's pre-training.

    >>> Llama3Scaling(8.0, 1.0, 4.0, original_max_position_embeddings=8192).factor
    8.0
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        check_at_least(self, {"factor": 1, "original_max_position_embeddings": 1}, of=ROPE)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ConfigError(
                f"low_freq_factor {self.low_freq_factor} must be positive and less than high_freq_factor "
                f"{self.high_freq_factor}."
            )


@dataclass(frozen=True)
class YarnScaling:
    """Slow frequencies ÷ `factor`, fast ones kept, in between a ramp; and sharper attention (Peng et al. 2023, *YaRN*).

    Attributes:
      factor: how much slow frequencies are divided by.
      original_max_position_embeddings: positions of the model's pre-training.
      beta_fast: frequencies that turn at least so often in the original positions are fast.
      beta_slow: those that turn at most so often are slow.
      attention_factor: what queries and keys are multiplied by; None: by the formula of the paper.
      mscale: changes that formula if `mscale_all_dim` is given too (DeepSeek-V3).
      mscale_all_dim: see `mscale`.
      truncate: whether the ramp begins and ends at whole numbers.

    >>> YarnScaling(4.0, original_max_position_embeddings=32768).beta_fast
    32.0
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self):
        check_at_least(self, {"factor": 1, "original_max_position_embeddings": 1}, of=ROPE)
        if not 0 < self.beta_slow <= self.beta_fast:
            raise ConfigError(f"beta_slow {self.beta_slow} must be positive and at most beta_fast {self.beta_fast}.")
        if self.attention_factor is not None and not self.attention_factor > 0:
            raise ConfigError(f"attention_factor of {ROPE} is {self.attention_factor}: it must be positive.")


Scaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling
SCALINGS: Mapping[str, type[Scaling]] = {
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
}
ROPE_TYPES = ("default", *SCALINGS)
_COMMON = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
_IDLE = {"linear": ("original_max_position_embeddings",), "yarn": ("finetuned",)}
"""Fields that change nothing in transformers either."""


@dataclass(frozen=True)
class Rope:
    """How positions turn queries and keys.

    Attributes:
      theta: base of the frequencies.
      scaling: how they were scaled after pre-training, or None.
      share: part of a head's numbers that is turned, the first ones (`partial_rotary_factor`).

    >>> Rope(theta=1e6, scaling=LinearScaling(8.0)).to_hf()
    {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1000000.0}
    """

    theta: float = 10_000.0
    scaling: Scaling | None = None
    share: float = 1.0

    def __post_init__(self):
        if not (math.isfinite(self.theta) and self.theta > 0):
            raise ConfigError(f"rope_theta is {self.theta}: it must be positive.")
        if isinstance(self.scaling, YarnScaling) and not self.theta > 1:
            raise ConfigError(f"rope_theta is {self.theta}: with yarn it must be more than 1.")
        if not 0 < self.share <= 1:
            raise ConfigError(f"partial_rotary_factor is {self.share}: it must be more than 0 and at most 1.")

    def turned(self, head_width: int) -> int:
        """How many of a head's numbers are turned.

        Raises:
          ConfigError: they are not pairs.
        """
        width = int(head_width * self.share)
        if width < 2 or width % 2:
            raise ConfigError(
                f"A head width of {head_width}, of which {width} are turned, is odd: rotary positions turn pairs."
            )
        return width

    def to_hf(self) -> dict[str, Any]:
        """The object `rope_parameters` of transformers 5."""
        written: dict[str, Any] = {"rope_type": "default"}
        if self.scaling is not None:
            kind = next(kind for kind, form in SCALINGS.items() if isinstance(self.scaling, form))
            given = {name: value for name, value in asdict(self.scaling).items() if value is not None}
            written = {"rope_type": kind, **given}
        share = {} if self.share == 1 else {"partial_rotary_factor": self.share}
        return {**written, **share, "rope_theta": self.theta}


PLAIN_ROPE = Rope()


def read_rope(config: Mapping[str, Any], max_positions: int, default_theta: float = 10_000.0) -> Rope:
    """The rotary positions of all layers, from either spelling: `rope_parameters`, or `rope_scaling` and `rope_theta`.

    Args:
      config: the JSON object.
      max_positions: its positions, which are those of pre-training where it does not say.
      default_theta: the base where it does not say.

    Raises:
      ConfigError: it asks for what is not supported, is not a number, or contradicts itself.

    >>> read_rope({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}, 4096)
    Rope(theta=500000.0, scaling=LinearScaling(factor=2.0), share=1.0)
    """
    given = {name: _object(name, config[name]) for name in ("rope_parameters", "rope_scaling") if config.get(name)}
    for name, rope in given.items():
        if nested := [key for key, value in rope.items() if isinstance(value, dict)]:
            raise ConfigError(f"{name} differs by kind of layer ({', '.join(nested)}), which is not supported.")
    found = {name: _read_scaling(name, rope, max_positions) for name, rope in given.items()}
    if len(found) > 1 and found["rope_parameters"] != found["rope_scaling"]:
        raise ConfigError("rope_parameters and rope_scaling of config.json disagree: delete the one that is wrong.")
    theta = _one_number("rope_theta", [*given.values(), config], default_theta)
    share = _one_number("partial_rotary_factor", [*given.values(), config], 1.0)
    return Rope(theta, next(iter(found.values()), None), share)


def read_ropes_by_kind(
    config: Mapping[str, Any], max_positions: int, default_thetas: tuple[float, float]
) -> tuple[Rope, Rope]:
    """The rotary positions of layers with full and with sliding attention, in the spellings of Gemma 3.

    In `rope_parameters` each kind has an object of its own. The older spelling has `rope_theta` and `rope_scaling` for
    full attention and `rope_local_base_freq` for sliding attention.

    Args:
      config: the JSON object.
      max_positions: its positions.
      default_thetas: the bases of the two kinds where it does not say.

    Raises:
      ConfigError: see `read_rope`; or an object is not of a kind of layer.

    >>> full, sliding = read_ropes_by_kind({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, 4096, (1e6, 1e4))
    >>> full.theta, sliding.theta
    (1000000.0, 10000.0)
    """
    kinds = ("full_attention", "sliding_attention")
    by_kind = _object("rope_parameters", config.get("rope_parameters") or {})
    if strange := [key for key, value in by_kind.items() if key not in kinds and value is not None]:
        raise ConfigError(
            f"rope_parameters has {', '.join(strange)}: it must have one object for each kind of layer, "
            f"{' and '.join(kinds)}."
        )
    older = (
        {name: config.get(name) for name in ("rope_theta", "rope_scaling")},
        {"rope_theta": config.get("rope_local_base_freq")},
    )
    full, sliding = (
        read_rope({**old, "rope_parameters": by_kind.get(kind)}, max_positions, theta)
        for kind, old, theta in zip(kinds, older, default_thetas, strict=True)
    )
    return full, sliding


def _object(name: str, rope: Any) -> dict[str, Any]:
    if not isinstance(rope, dict):
        raise ConfigError(f"{name} is {rope!r}: it must be an object with a rope_type.")
    return rope


def _one_number(name: str, places: list[Mapping[str, Any]], default: float) -> float:
    """A number that may stand in several places, where it must be the same."""
    found = {str(at): place[name] for at, place in enumerate(places) if place.get(name) is not None}
    _, numbers = read_numbers(found, f"a decoder ({name})", fractions=dict.fromkeys(found, default))
    if len(set(numbers.values())) > 1:
        raise ConfigError(f"config.json has several {name}: {sorted(set(numbers.values()))}. Delete those not meant.")
    return next(iter(numbers.values()), default)


def _read_scaling(name: str, rope: dict[str, Any], max_positions: int) -> Scaling | None:
    """The scaling that one of the two fields asks for."""
    asked = {key: value for key, value in rope.items() if value is not None}
    kind = asked.get("rope_type", asked.get("type"))
    if kind != asked.get("type", kind):
        raise ConfigError(f"{name} has rope_type {kind!r} and type {asked['type']!r}: delete the one that is wrong.")
    scales = asked.keys() - _COMMON
    if kind is None and scales:
        raise ConfigError(
            f"{name} has {', '.join(sorted(scales))} and no rope_type: say which of {', '.join(ROPE_TYPES)}."
        )
    kind = "default" if kind is None else kind
    if kind not in ROPE_TYPES:
        raise ConfigError(f"rope_type {kind!r} is not supported: use one of {', '.join(ROPE_TYPES)}.")
    form = SCALINGS.get(kind)
    wanted = {} if form is None else {field.name: field.default for field in fields(form)}
    if "original_max_position_embeddings" in wanted:  # transformers' own default
        wanted["original_max_position_embeddings"] = max_positions
    if unknown := scales - {*wanted, *_IDLE.get(kind, ())}:
        raise ConfigError(f"{name} of rope_type {kind!r} has {', '.join(sorted(unknown))}, which is not supported.")
    if absent := [field for field, default in wanted.items() if default is MISSING and field not in asked]:
        raise ConfigError(f"rope_type {kind!r} has no {', '.join(absent)}.")
    return None if form is None else form(**_numbers(asked, wanted))


def _numbers(asked: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The fields of a scaling: those asked for, checked, and the defaults of the others."""
    what = "a decoder with scaled rope"
    given = {name for name in wanted if name in asked}
    whole, flags = given & {"original_max_position_embeddings"}, given & {"truncate"}
    numbers, fractions = read_numbers(
        asked, what, needed=sorted(whole), fractions=dict.fromkeys(sorted(given - whole - flags), 0.0)
    )
    read = {name: read_flag(asked, name, True, what) for name in flags}
    return wanted | numbers | fractions | read

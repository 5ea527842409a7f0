"""How long JAX compiled, so that speeds can exclude it: programs compile once, however many texts follow."""

import time
from typing import Any

import jax
import jax.monitoring

from dyntok_jax.files import cache_folder

_STAGES = ("/jaxpr_trace_duration", "/jaxpr_to_mlir_module_duration", "/backend_compile_duration")


class CompileClock:
    """Records when JAX traces, lowers and compiles while the context is active."""

    def __init__(self):
        self._spans: list[tuple[float, float]] = []

    def __enter__(self) -> "CompileClock":
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return self.seconds_until(float("inf"))

    def seconds_until(self, moment: float) -> float:
        """Seconds spent until a moment of `time.perf_counter`.

        Nested stages (a program within a program) are counted once.
        """
        total, covered_until = 0.0, 0.0
        for start, end in sorted(self._spans):
            total += max(0.0, min(end, moment) - max(start, covered_until))
            covered_until = max(covered_until, end)
        return total

    def _note(self, event: str, duration_secs: float, **_: Any) -> None:
        # called when a stage has just ended
        if event.endswith(_STAGES):
            now = time.perf_counter()
            self._spans.append((now - duration_secs, now))


def keep_compiled_programs() -> None:
    """Turns on JAX's cache of compiled programs, unless it is set already.

    The programs are kept in the user's cache folder, beside the packaged models; small ones too, of which a command
    compiles dozens.
    """
    # jax adds its options to `config` at run time
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

"""Tables in the docs of programs compiled for TPUs."""

from experiments.shared.recorded import Figures, figures_of, table

GIB, MIB = 2**30, 2**20


def compiled_programs() -> str:
    """Full-size programs of Mistral-7B compiled for named topologies."""
    figures = figures_of("aot")
    programs = {"prefill": "prefill 8 × 2048", "decode": "decode 32, cache 4096"}
    places = ("v5e:2x4_as_1x8", "v4:2x2x4_as_2x8", "v6e:4x4_as_2x8")
    rows = []
    for place in places:
        for program, title in programs.items():
            of = f"{program}_{place}"
            counts = [value for key, value in figures.items() if key.startswith(of) and key.endswith("_count")]
            whole = sum(figures[f"{of}_{kind}_bytes"] for kind in _collectives(figures, of))
            topology, mesh = place.split("_as_")
            rows.append(
                [
                    f"{title}, {topology}",
                    mesh.replace("x", " × "),
                    *(_gib(figures[f"{of}_{part}_bytes"]) for part in ("parameters", "cache", "temporary")),
                    f"{figures[f'{of}_largest_temporary_bytes'] / MIB:.0f}",
                    f"{_gib(figures[f'{of}_total_bytes'])} of {_gib(figures[f'{of}_memory_bytes'])}",
                    f"{figures[f'{of}_flops'] / 1e9:,.0f}",
                    f"{figures[f'{of}_memory_traffic_bytes'] / 1e9:.1f}",
                    f"{sum(counts):,}, {whole / MIB:,.0f} MiB",
                    _time(figures[f"{of}_least_seconds"]),
                ]
            )
    head = ["", "devices", "parameters, GiB", "cache", "temporaries", "the largest, MiB", "in all, of the chip's"]
    return table([*head, "GFLOP", "GB moved", "collectives", "at least"], rows)


def compiled_large_vocabularies() -> str:
    """The same in a vocabulary of a million and of ten million."""
    figures = figures_of("aot_large")
    rows = []
    v4, v5e = "v4:2x2x4_as_2x8", "v5e:2x4_as_1x8"
    for title, of in (
        ("decode 32, cache 4096, v5e:2x4", f"decode-large_{v5e}"),
        ("… its search alone", f"search_{v5e}"),
        ("… the same by exact search", f"search-exact_{v5e}"),
        ("decode 32, cache 4096, v4:2x2x4", f"decode-large_{v4}"),
        ("… its search alone", f"search_{v4}"),
        ("… the same by exact search", f"search-exact_{v4}"),
        ("decode with 10 million, v4:2x2x4", f"decode-large_10000000_{v4}"),
    ):
        memory = ["", "", ""]
        if of.startswith("decode"):
            memory = [_gib(figures[f"{of}_{part}_bytes"]) for part in ("tables", "index")]
            memory.append(f"{_gib(figures[f'{of}_total_bytes'])} of {_gib(figures[f'{of}_memory_bytes'])}")
        moved = f"{figures[f'{of}_memory_traffic_bytes'] / 1e9:.2f}"
        rows.append([title, of.rsplit("_as_", 1)[1].replace("x", " × "), *memory, moved])
        estimate = figures.get(f"{of}_cost_analysis_seconds")
        rows[-1] += [
            _time(figures[f"{of}_least_seconds"]),
            f"{figures[f'{of}_compiler_cycles'] / 1e6:.1f}",
            "" if estimate is None else _time(estimate),
        ]
    head = ["", "devices", "tables, GiB", "index", "in all, of the chip's", "GB moved", "at least"]
    return table([*head, "million cycles", "compiler's estimate"], rows)


def compiled_training() -> str:
    """Steps of training Mistral-7B's hypernetwork, and adapters beside XLM-R base and Mistral-7B."""
    figures, rows = figures_of("aot"), []
    for of, title, devices, trained in (
        ("train-hypernet_v5e:4x4_as_2x8", "train-hypernet, v5e:4x4", "2 × 8", "hypernet"),
        ("train-task_v5e:2x4_as_8x1", "train-task of XLM-R base, v5e:2x4", "8 × 1", "adapter"),
        ("train-task-lm_v5e:2x4_as_4x2", "train-task of Mistral-7B, v5e:2x4", "4 × 2", "adapter"),
        ("train-task-lm_v5e:2x4_as_1x8", "… on another mesh", "1 × 8", "adapter"),
    ):
        parts = [_gib(figures[f"{of}_{part}_bytes"]) for part in ("parameters", trained, "moments", "temporary")]
        rows.append(
            [
                title,
                devices,
                *parts,
                f"{figures[f'{of}_largest_temporary_bytes'] / MIB:.0f}",
                f"{_gib(figures[f'{of}_total_bytes'])} of {_gib(figures[f'{of}_memory_bytes'])}",
                f"{figures[f'{of}_flops'] / 1e9:,.0f}",
                f"{figures[f'{of}_memory_traffic_bytes'] / 1e9:.1f}",
                _time(figures[f"{of}_least_seconds"]),
            ]
        )
    head = ["", "devices", "model, GiB", "trained", "moments", "temporaries", "the largest, MiB"]
    return table([*head, "in all, of the chip's", "GFLOP", "GB moved", "at least"], rows)


def compiled_encoding() -> str:
    """The one program from subwords to embeddings, by how many new tokens are not in the cache."""
    figures, rows = figures_of("aot"), []
    for predicted in (512, 768, 3072):
        of = f"encode-{predicted}_v5e:2x4_as_8x1"
        rows.append(
            [
                f"{predicted:,}",
                f"{_gib(figures[f'{of}_total_bytes'])} of {_gib(figures[f'{of}_memory_bytes'])}",
                f"{figures[f'{of}_flops'] / 1e9:,.0f}",
                f"{figures[f'{of}_memory_traffic_bytes'] / 1e9:.2f}",
                _time(figures[f"{of}_least_seconds"]),
                f"{figures[f'{of}_compiler_cycles'] / 1e6:.1f}",
                f"{figures[f'{of}_side_share']:.1%}".replace("%", " %"),
            ]
        )
    head = ["tokens predicted, of 3,072", "GiB a device, of the chip's", "GFLOP", "GB moved", "at least"]
    return table([*head, "million cycles", "merging and embedding"], rows)


def _collectives(figures: Figures, of: str) -> list[str]:
    keys = [key for key in figures if key.startswith(f"{of}_") and key.endswith("_count")]
    return [key.removeprefix(f"{of}_").removesuffix("_count") for key in keys]


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


COMPILED_TABLES = {
    "compiled_programs": compiled_programs,
    "compiled_large_vocabularies": compiled_large_vocabularies,
    "compiled_training": compiled_training,
    "compiled_encoding": compiled_encoding,
}
"""A part of the tables that `tables.py` knows by name."""

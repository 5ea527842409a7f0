"""Tables in the docs of large vocabularies: growing them, writing in them, searching them."""

from experiments.shared.recorded import figures_of, table

GIB, MIB = 2**30, 2**20


def vocabulary_steps() -> str:
    """A step of decoding in the model's own vocabulary and in a large one."""
    figures = figures_of("bench_vocabulary")
    ways = ("own", "own + prompt", "48 blocks", "56 blocks", "64 blocks", "exact")
    rows = []
    for way in ways:
        name = way.replace(" ", "_")
        cells = [
            (f"{figures[f'batch{n}_{name}_milliseconds']:.1f} ms", f"{figures[f'batch{n}_{name}_ratio']:.2f} ×")
            for n in (1, 8)
        ]
        rows.append([way, *cells[0], *cells[1]])
    return table(["chosen from", "batch 1", "÷ own", "batch 8", "÷ own"], rows)


def vocabulary_growth() -> str:
    """Time and memory to grow a vocabulary, and its effect on tokens."""
    figures = figures_of("vocabulary_growth")
    rows = [
        [
            title,
            f"{figures[f'{name}_entries']:,}",
            f"{figures[f'{name}_seconds']} s",
            f"{figures[f'{name}_peak_gigabytes']} GB",
            f"{figures['static_tokens_a_text']}",
            f"{figures[f'{name}_tokens_a_text']}",
        ]
        for name, title in (
            ("pairs_that_come_twice", "pairs that come twice"),
            ("all_pairs_and_words", "all pairs, and wordfreq's lists of 16 languages"),
        )
    ]
    return table(["", "entries", "time", "peak memory", "static tokens a text", "tokens"], rows)


def written_bits() -> str:
    """Bits per byte of a text in the model's own tokens and in a large vocabulary."""
    by_method = [figures_of("generation_quality"), figures_of("generation_quality_hypernet")]
    ways = {
        "own": "own tokens",
        "own_tokens_large_softmax": "own tokens, softmax over a million",
        "large": "the longest entries that fit",
    }
    rows = [
        [
            title,
            *(f"{figures[f'{way}_bits_per_byte']:.3f}" for figures in by_method),
            f"{by_method[0][f'{way}_bytes_per_token']:.2f}",
            f"{by_method[0][f'{way}_new_percent']:.1f} %",
        ]
        for way, title in ways.items()
    ]
    head = ["a text written in", "bits per byte, FVT", "hypernetwork", "bytes per token", "new tokens"]
    return table(head, rows)


def written_texts(name: str) -> str:
    """Speed and make-up of what a decoder writes in each vocabulary."""
    figures = figures_of(name)
    rows = []
    for setting in ("greedy", "sampled"):
        for way in ("own", "own_prompt", "large"):
            of = f"{setting}_{way}"
            rows.append(
                [
                    f"{setting}, {way.replace('_', ' + ')}",
                    f"{figures[f'{of}_tokens_per_second']:.1f}",
                    f"{figures[f'{of}_characters_per_second']:.0f}",
                    f"{figures[f'{of}_characters_per_token']:.2f}",
                    f"{figures[f'{of}_new_percent']:.1f} %",
                    f"{figures[f'{of}_distinct_2']:.2f}",
                    f"{figures[f'{of}_repeated_percent']:.1f} %",
                ]
            )
    head = ["vocabulary", "tokens/s", "characters/s", "characters per token", "new tokens", "distinct-2", "repeated"]
    return table(head, rows)


def index_agreement() -> str:
    """How often the index chooses what exact search chooses."""
    figures = figures_of("generation_quality_hypernet")
    searches = ("every row, the text read again", "48 blocks", "56 blocks", "64 blocks")
    rows = []
    for search in searches:
        name = search.replace(",", "").replace(" ", "_")
        steps, texts = figures[f"{name}_same_steps_percent"], figures[f"{name}_same_texts_percent"]
        rows.append([search, f"{steps:.2f} %", f"{texts:.0f} %"])
    return table(["search", "steps with the token of exact search", "texts that are the same"], rows)


def index_search() -> str:
    """Recall, speed and size of the index and its rivals."""
    figures = figures_of("bench_index")
    names = [key.removesuffix("_recall") for key in figures if key.endswith("_recall")]
    exact = {n: figures[f"exact_batch{n}_milliseconds"] for n in (1, 32)}
    rows = []
    for name in names:
        times = [
            f"{figures[f'{name}_batch{n}_milliseconds']:.1f} ms, "
            f"{exact[n] / figures[f'{name}_batch{n}_milliseconds']:.1f} ×"
            for n in (1, 32)
        ]
        size, build = figures.get(f"{name}_megabytes"), figures[f"{name}_build_seconds"]
        rows.append(
            [
                _search_title(name),
                f"{figures[f'{name}_recall']:.3f}",
                *times,
                f"{build:.0f} s" if build else "",
                f"{size:,.0f} MB" if size else "",
            ]
        )
    return table(["search", "recall@20", "batch 1, exact ÷", "batch 32, exact ÷", "build", "memory"], rows)


def entry_costs() -> str:
    """The cost of entries for a width of 4096 on 8 devices, from the formulas beside the table."""
    width, devices, probes = 4096, 8, 32 * 64
    rows = []
    for entries, title in ((10**6, "1 million"), (10**7, "10 million"), (10**8, "100 million")):
        blocks = entries * 434 // 100_000  # of 256 rows, nine tenths full
        ranking, tables = 4 * width * blocks, 4 * width * entries
        index = blocks * 256 * (width + 8) + ranking
        each = (tables + index) / devices / GIB
        sizes = [f"{size / GIB:,.{0 if size > 100 * GIB else 1}f} GiB" for size in (tables, index)]
        read = [f"{size / devices / 1e6:,.0f} MB" for size in (ranking, probes * 256 * width)]
        rows.append([title, f"{blocks:,}", *sizes, f"{each:.{0 if each > 100 else 1}f}", *read])
    head = ["entries", "blocks", "tables", "index and ranking", "GiB a device", "ranking read a step, a device"]
    return table([*head, "blocks read, 32 × 64, a device"], rows)


def _search_title(name: str) -> str:
    kind, *rest = name.replace("ours_8-bit", "ours, 8-bit").replace("ours_", "ours, ").rsplit("_cells", 1)
    words = kind.replace("_", " ") + (" cells" if rest else "")
    for family in ("ScaNN", "FAISS IVF-Flat", "FAISS IVF-PQ", "(cosine)", "8-bit"):
        words = words.replace(f"{family} ", f"{family}, ")
    return words


VOCABULARY_TABLES = {
    "vocabulary_steps": vocabulary_steps,
    "vocabulary_growth": vocabulary_growth,
    "written_bits": written_bits,
    "written_texts_fvt": lambda: written_texts("generation_quality"),
    "written_texts_hypernet": lambda: written_texts("generation_quality_hypernet"),
    "index_agreement": index_agreement,
    "index_search": index_search,
    "entry_costs": entry_costs,
}
"""A part of the tables that `tables.py` knows by name."""

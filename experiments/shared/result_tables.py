"""The tables in the docs, each made from one or two files of `experiments/results`."""

from collections.abc import Sequence

from experiments.shared.recorded import METHODS, SHARES, Figures, figures_of, table as _table

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "el": "Greek", "ru": "Russian"}
GIB, MIB = 2**30, 2**20


def retention_summary() -> str:
    """Bits per byte and the share kept of a context's value, at half and full merging."""
    figures = figures_of("retention_udhr")
    rows = []
    for code, language in LANGUAGES.items():
        bits = [
            f"{figures[f'{method}_share{share}_bits_per_byte_{code}']:.3f}" for method in METHODS for share in (50, 100)
        ]
        saved = [f"{figures[f'fvt_share{share}_reduction_percent_{code}']:.0f} %" for share in (50, 100)]
        kept = [
            f"{figures[f'fvt_share{share}_kept_percent_{code}']:.0f} → "
            f"{figures[f'hypernet_share{share}_kept_percent_{code}']:.0f} %"
            for share in (50, 100)
        ]
        ends = [f"{figures[f'{setting}_bits_per_byte_{code}']:.3f}" for setting in ("static", "floor")]
        rows.append([language, *saved, ends[0], *bits, ends[1], *kept])
    head = ["", "saved at 50 %", "at 100 %", "static", "FVT, 50 %", "100 %", "hypernetwork, 50 %", "100 %"]
    return _table([*head, "no context", "kept at 50 %, FVT → hypernetwork", "at 100 %"], rows)


def retention_shares(method: str) -> str:
    """Bits per byte, the share kept, and agreement of the most probable token, at all shares."""
    figures = figures_of("retention_udhr")
    rows = []
    for code, language in LANGUAGES.items():
        settings = [f"{method}_share{share}" for share in SHARES]

        def cells(name: str, digits: int, settings: Sequence[str] = settings, code: str = code) -> list[str]:
            return [f"{figures[f'{setting}_{name}_{code}']:.{digits}f}" for setting in settings]

        static, floor = (figures[f"{end}_bits_per_byte_{code}"] for end in ("static", "floor"))
        rows.append([f"{language}, bits a byte", f"{static:.3f}", *cells("bits_per_byte", 3), f"{floor:.3f}"])
        rows.append(["… tokens saved, %", "0.0", *cells("reduction_percent", 1), ""])
        rows.append(["… kept, %", "100.0", *cells("kept_percent", 1), "0.0"])
        floor = figures[f"floor_agreement_percent_{code}"]
        rows.append(["… same next token, %", "100.0", *cells("agreement_percent", 1), f"{floor:.1f}"])
    return _table([METHODS[method], "static", *(f"share {share} %" for share in SHARES), "no context"], rows)


def merged_words() -> str:
    """How a decoder continues English definitions of merged words, by what made the words' rows."""
    figures = figures_of("meaning")
    methods = {
        "FVT": (figures, "fvt"),
        "packaged hypernetwork": (figures, "hypernet"),
        "… and a linear map of states": (figures_of("meaning_fitted"), "hypernet"),
        "… both trained on words in context": (figures_of("meaning_distilled"), "hypernet"),
    }
    rows = []
    for title, (found, method) in methods.items():
        first, five, at_word, after = (
            found[f"{method}_en_definition_{measure}"]
            for measure in ("first_word_percent", "five_tokens_percent", "word_kl_nats", "after_kl_nats")
        )
        rows.append([title, f"{first:.1f} %", f"{five:.1f} %", f"{at_word:.2f}", f"{after:.3f}"])
    head = [f"{figures['words_en_definition']} English words", "first word", "five tokens"]
    return _table([*head, "divergence at the word, nats", "at the 16 places after it"], rows)


def encoder_speed() -> str:
    """Throughput of the whole sample, and where the time goes."""
    figures = figures_of("bench_encoder")
    modes = {
        "static": "static",
        "fvt": "FVT",
        "hypernet_cold": "hypernetwork, empty cache",
        "hypernet_warm": "hypernetwork, full cache",
    }
    rows = []
    for mode, title in modes.items():
        ratio = 1 if mode == "static" else figures[f"throughput_{mode}_per_static"]
        stages = [
            f"{figures[f'{mode}_{stage}_percent_of_time']:.1f} %" for stage in ("tokenize", "merge", "embed", "model")
        ]
        hits = figures.get(f"{mode}_cache_hit_percent")
        rows.append(
            [
                title,
                f"{figures[f'{mode}_texts_per_second']:.1f}",
                f"{ratio:.2f} ×",
                f"{figures[f'{mode}_padded_tokens']:,}",
                *stages,
                "" if hits is None else f"{hits:.0f} %",
            ]
        )
    head = ["", "texts/s", "÷ static", "padded tokens", "tokenize", "merge", "embed", "model", "cache hits"]
    return _table(head, rows)


def stream_programs() -> str:
    """Programs that a stream of batches of random lengths compiles."""
    figures = figures_of("bench_stream")
    modes = {"static": "static", "fvt": "FVT", "fvt_half": "FVT, share 50 %", "hypernet": "hypernetwork"}
    rows = [[title, str(figures[f"stream_{mode}_compiled_programs"])] for mode, title in modes.items()]
    return _table([f"stream of {figures['stream_batches']} batches", "programs compiled"], rows)


def merging_speed() -> str:
    """Merging on the host and the device, compared with plain Python."""
    figures = figures_of("bench_merging")
    rows = []
    for size in ("32x40", "32x128", "128x128", "1024x128"):
        name = f"{size}_100_merges"
        cells = [
            f"{figures[f'{name}_{place}_ms']:.{digits}f} ms, {figures[f'{name}_{place}_times_oracle']:,.0f} ×"
            for place, digits in (("host", 2), ("device", 1))
        ]
        rows.append([size.replace("x", " × "), f"{figures[f'{name}_oracle_ms']:,.0f} ms", *cells])
    return _table(["sequences × subwords", "plain Python", "host (numba)", "device (jitted, on the CPU)"], rows)


def decoder_speed() -> str:
    """Decoding and prefill, compared with PyTorch transformers."""
    figures = figures_of("bench_decoder")
    rows = []
    for n_batch in (1, 8):
        name = f"decode_batch{n_batch}"
        rates = [f"{figures[f'{name}_{mode}_tokens_per_second']:.1f} tokens/s" for mode in ("ours", "torch")]
        ratios = [f"{figures[f'{name}_throughput_ours_per_torch{of}']:.2f} ×" for of in ("", "_median")]
        rows.append([f"decoding, batch {n_batch}", *rates, *ratios])
    seconds = [f"{figures[f'prefill_{mode}_seconds']:.3f} s" for mode in ("ours", "torch")]
    ratios = [f"{figures[f'prefill_throughput_ours_per_torch{of}']:.2f} ×" for of in ("", "_median")]
    rows.append([f"prefill of {figures['prefill_tokens']} tokens", *seconds, *ratios])
    return _table(["", "ours", "PyTorch", "ours ÷ PyTorch", "median of rounds"], rows)


def first_token() -> str:
    """Time to the first token of merged prompts."""
    figures = figures_of("bench_decoder")
    rows = []
    for code in ("el", "de", "en"):
        for n_static in (600, 1000, 1400):
            name = f"first_token_{code}_{n_static}"
            modes = ("static", "dynamic")
            tokens = [f"{figures[f'{name}_{mode}_tokens']:,}" for mode in modes]
            seconds = [f"{figures[f'{name}_{mode}_seconds']:.3f} s" for mode in modes]
            ratios = [f"{figures[f'{name}_{of}_ratio']:.2f} ×" for of in ("token", "time")]
            rows.append([LANGUAGES[code], *tokens, *seconds, *ratios])
    return _table(["", "static tokens", "merged", "static", "merged", "fewer tokens", "faster"], rows)


def start_up() -> str:
    """Seconds from a command's start, with no program compiled yet and with those of the first time."""
    figures = figures_of("bench_startup")
    titles = {
        "generate_first_text": "`dyntok generate`, first text",
        "generate": "`dyntok generate`, 24 tokens",
        "score": "`dyntok score`, one continuation",
        "encode": "`dyntok encode`, one short file",
    }
    moments = ("first", "later")
    rows = [
        [title, *(f"{figures[f'{name}_{when}_seconds']:.1f} s" for when in moments)] for name, title in titles.items()
    ]
    helps = [seconds for name, seconds in figures.items() if name.endswith("help_seconds")]
    rows.append(["`--help`, the slowest command", "", f"{max(helps):.2f} s"])
    return _table(["from the start of the process", "first time", "later"], rows)


def data_speed() -> str:
    """The pipeline of training batches, compared with a step."""
    figures = figures_of("bench_data")
    rows = [
        ["batches a second", f"{figures['batches_per_s']:.0f}"],
        ["… with 256 vocabulary pieces each", f"{figures['with_256_pieces_batches_per_s']:.0f}"],
        ["texts a second", f"{figures['texts_per_s']:,.0f}"],
        ["processor time a batch", f"{figures['batch_cpu_ms']:.1f} ms"],
        ["a training step", f"{figures['step_s']:.2f} s"],
        ["batches in the time of a step", f"{figures['batches_a_step']:.0f}"],
    ]
    return _table(["", ""], rows)


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
    return _table(["chosen from", "batch 1", "÷ own", "batch 8", "÷ own"], rows)


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
    return _table(["", "entries", "time", "peak memory", "static tokens a text", "tokens"], rows)


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
    return _table(head, rows)


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
    return _table(head, rows)


def index_agreement() -> str:
    """How often the index chooses what exact search chooses."""
    figures = figures_of("generation_quality_hypernet")
    searches = ("every row, the text read again", "48 blocks", "56 blocks", "64 blocks")
    rows = []
    for search in searches:
        name = search.replace(",", "").replace(" ", "_")
        steps, texts = figures[f"{name}_same_steps_percent"], figures[f"{name}_same_texts_percent"]
        rows.append([search, f"{steps:.2f} %", f"{texts:.0f} %"])
    return _table(["search", "steps with the token of exact search", "texts that are the same"], rows)


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
    return _table(["search", "recall@20", "batch 1, exact ÷", "batch 32, exact ÷", "build", "memory"], rows)


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
    return _table([*head, "GFLOP", "GB moved", "collectives", "at least"], rows)


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
    return _table([*head, "million cycles", "compiler's estimate"], rows)


def compiled_training() -> str:
    """A step of training Mistral-7B's hypernetwork."""
    figures = figures_of("aot")
    of = "train-hypernet_v5e:4x4_as_2x8"
    parts = [_gib(figures[f"{of}_{part}_bytes"]) for part in ("parameters", "hypernet", "moments", "temporary")]
    row = [
        "train-hypernet, v5e:4x4",
        "2 × 8",
        *parts,
        f"{figures[f'{of}_largest_temporary_bytes'] / MIB:.0f}",
        f"{_gib(figures[f'{of}_total_bytes'])} of {_gib(figures[f'{of}_memory_bytes'])}",
        f"{figures[f'{of}_flops'] / 1e9:,.0f}",
        f"{figures[f'{of}_memory_traffic_bytes'] / 1e9:.1f}",
        _time(figures[f"{of}_least_seconds"]),
    ]
    head = ["", "devices", "model, GiB", "hypernetwork", "moments", "temporaries", "the largest, MiB"]
    return _table([*head, "in all, of the chip's", "GFLOP", "GB moved", "at least"], [row])


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
    return _table([*head, "blocks read, 32 × 64, a device"], rows)


def _collectives(figures: Figures, of: str) -> list[str]:
    keys = [key for key in figures if key.startswith(f"{of}_") and key.endswith("_count")]
    return [key.removeprefix(f"{of}_").removesuffix("_count") for key in keys]


def _search_title(name: str) -> str:
    kind, *rest = name.replace("ours_8-bit", "ours, 8-bit").replace("ours_", "ours, ").rsplit("_cells", 1)
    words = kind.replace("_", " ") + (" cells" if rest else "")
    for family in ("ScaNN", "FAISS IVF-Flat", "FAISS IVF-PQ", "(cosine)", "8-bit"):
        words = words.replace(f"{family} ", f"{family}, ")
    return words


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


RESULT_TABLES = {
    "retention_summary": retention_summary,
    "retention_fvt": lambda: retention_shares("fvt"),
    "retention_hypernet": lambda: retention_shares("hypernet"),
    "merged_words": merged_words,
    "encoder_speed": encoder_speed,
    "stream_programs": stream_programs,
    "merging_speed": merging_speed,
    "decoder_speed": decoder_speed,
    "first_token": first_token,
    "data_speed": data_speed,
    "start_up": start_up,
    "vocabulary_steps": vocabulary_steps,
    "vocabulary_growth": vocabulary_growth,
    "written_bits": written_bits,
    "written_texts_fvt": lambda: written_texts("generation_quality"),
    "written_texts_hypernet": lambda: written_texts("generation_quality_hypernet"),
    "index_agreement": index_agreement,
    "index_search": index_search,
    "compiled_programs": compiled_programs,
    "compiled_large_vocabularies": compiled_large_vocabularies,
    "entry_costs": entry_costs,
    "compiled_training": compiled_training,
}
"""The names that `<!-- table: NAME -->` in a Markdown file may have."""

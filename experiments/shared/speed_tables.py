"""Tables in the docs of times: encoding, merging, decoding, start-up and training data."""

from experiments.shared.recorded import figures_of, table

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "el": "Greek", "ru": "Russian"}


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
    return table(head, rows)


def stream_programs() -> str:
    """Programs that a stream of batches of random lengths compiles."""
    figures = figures_of("bench_stream")
    modes = {"static": "static", "fvt": "FVT", "fvt_half": "FVT, share 50 %", "hypernet": "hypernetwork"}
    rows = [[title, str(figures[f"stream_{mode}_compiled_programs"])] for mode, title in modes.items()]
    return table([f"stream of {figures['stream_batches']} batches", "programs compiled"], rows)


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
    return table(["sequences × subwords", "plain Python", "host (numba)", "device (jitted, on the CPU)"], rows)


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
    return table(["", "ours", "PyTorch", "ours ÷ PyTorch", "median of rounds"], rows)


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
    return table(["", "static tokens", "merged", "static", "merged", "fewer tokens", "faster"], rows)


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
    return table(["from the start of the process", "first time", "later"], rows)


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
    return table(["", ""], rows)


SPEED_TABLES = {
    "encoder_speed": encoder_speed,
    "stream_programs": stream_programs,
    "merging_speed": merging_speed,
    "decoder_speed": decoder_speed,
    "first_token": first_token,
    "start_up": start_up,
    "data_speed": data_speed,
}
"""A part of the tables that `tables.py` knows by name."""

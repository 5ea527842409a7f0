"""Small models with random weights on real text, for tests that need a whole model folder but not its quality."""

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from dyntok_jax.assets import load_sample
from dyntok_jax.convert import save_hypernet
from dyntok_jax.convert.bert_checkpoint import save_encoder
from dyntok_jax.convert.decoder_checkpoint import save_decoder
from dyntok_jax.embedding import HypernetConfig, init_hypernet
from dyntok_jax.models import Decoder, DecoderConfig, Encoder, EncoderConfig

VOCABULARY = 1500
WIDTH = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no role ' + message.role) }}"
    "{% endif %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@cache
def tiny_tokenizer() -> Tokenizer:
    """A Unigram tokenizer of XLM-R's kind, trained on the sample (once, for it takes seconds)."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([text for texts in load_sample().values() for text in texts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def write_tiny_encoder(folder: Path, *, seed: int = 0, max_tokens: int = 64) -> EncoderConfig:
    """An XLM-R of two layers with its tokenizer, as a Hugging Face folder."""
    tokenizer = tiny_tokenizer()
    config = EncoderConfig(
        model_type="xlm-roberta",
        vocab_size=tokenizer.get_vocab_size(),
        width=WIDTH,
        n_layers=2,
        n_heads=4,
        ffn_width=64,
        max_positions=max_tokens + 2,
        n_token_types=1,
        pad_token_id=1,
        norm_eps=1e-5,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder, config, Encoder(config, jax.random.key(seed)))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}), encoding="utf-8")
    return config


def write_sentence_modules(
    folder: Path,
    *,
    pooling: dict[str, Any],
    dense: dict[str, Any] | None = None,
    normalizes: bool = True,
    longest: int | None = None,
    lowers: bool = False,
    kinds: tuple[str, ...] | None = None,
) -> None:
    """Declares in an encoder's folder, as sentence-transformers does, how its embeddings are made.

    `dense` has the `weight`, perhaps a `bias`, and what else the layer's config says; `kinds` replaces the modules that
    follow from the rest.
    """
    kinds = kinds or ("Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalizes else []))
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    contents = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": lowers},
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": False} | pooling,
    }
    if dense is not None:
        options = {name: value for name, value in dense.items() if name not in ("weight", "bias")}
        tensors = {
            f"linear.{name}": np.asarray(dense[name], np.float32) for name in ("weight", "bias") if name in dense
        }
        (out_features, in_features), has_bias = dense["weight"].shape, "bias" in dense
        sizes = {"in_features": in_features, "out_features": out_features, "bias": has_bias}
        identity = {"activation_function": "torch.nn.modules.linear.Identity"}
        contents["2_Dense/config.json"] = sizes | identity | options
        (folder / "2_Dense").mkdir(exist_ok=True)
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def write_tiny_hypernet(
    folder: Path,
    *,
    seed: int = 0,
    n_langs: int = 0,
    residual: bool = False,
    width: int = WIDTH,
    langs: tuple | None = None,
) -> HypernetConfig:
    """A one-layer hypernetwork for the tiny encoder."""
    config = HypernetConfig(
        width=width,
        hidden_width=32,
        ffn_width=64,
        n_layers=1,
        n_heads=4,
        vocab_size=tiny_tokenizer().get_vocab_size(),
        n_extra_tokens=256,
        n_langs=n_langs,
        langs=langs,
        residual=residual,
        predict_bias=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_hypernet(folder, config, init_hypernet(config, jax.random.key(seed)))
    return config


@cache
def tiny_decoder_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of Llama 3's kind, trained on some of the sample; it adds nothing to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = load_sample()
    tokenizer.train_from_iterator([text for code in ("en", "de", "el") for text in sample[code]], trainer)
    return tokenizer


def write_tiny_decoder(
    folder: Path,
    *,
    seed: int = 0,
    n_layers: int = 2,
    max_positions: int = 512,
    model_type: str = "llama",
    sliding_window: int | None = None,
    full_layers: tuple[int, ...] = (),
    ties_embeddings: bool = False,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    begins: bool = False,
    has_template: bool = True,
    n_rows: int | None = None,
) -> DecoderConfig:
    """A small decoder with its tokenizer and chat template, as a Hugging Face folder.

    `</s>` ends a text; with `begins` the tokenizer puts `<s>` before one. `n_rows` makes the tables longer than the
    vocabulary.
    """
    tokenizer = Tokenizer.from_str(tiny_decoder_tokenizer().to_str())
    begin, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
        )
    config = DecoderConfig(
        model_type=model_type,
        vocab_size=n_rows or tokenizer.get_vocab_size(),
        width=WIDTH,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_width=WIDTH // n_heads,
        ffn_width=64,
        max_positions=max_positions,
        norm_eps=1e-5,
        sliding_window=sliding_window,
        full_layers=full_layers,
        ties_embeddings=ties_embeddings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_decoder(folder, config, _random_decoder(config, seed))
    tokenizer.save(str(folder / "tokenizer.json"))
    written = {
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}
        | ({"chat_template": CHAT_TEMPLATE} if has_template else {}),
        "generation_config.json": {"bos_token_id": begin, "eos_token_id": end},
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return config


def _random_decoder(config: DecoderConfig, seed: int) -> Decoder:
    """Weights wide enough that what a decoder writes depends on all that it read; drawn by numpy, which is quick."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(Decoder, config), jax.random.key(0))
    decoder = jax.tree.map(lambda leaf: random.normal(0, WIDTH**-0.5, leaf.shape).astype(leaf.dtype), shapes)
    for norm in (decoder.final_norm, decoder.layers.attention_norm, decoder.layers.ffn_norm):
        norm.scale[...] = np.full_like(norm.scale[...], 0 if norm.adds_one else 1)
    return decoder


def write_tiny_decoder_hypernet(folder: Path, model: Path, *, separate_output: bool = False) -> HypernetConfig:
    """A one-layer hypernetwork for the tiny decoder in `model`."""
    tokenizer = tiny_decoder_tokenizer()
    config = HypernetConfig(
        width=json.loads((model / "config.json").read_text())["hidden_size"],
        hidden_width=32,
        ffn_width=64,
        n_layers=1,
        n_heads=4,
        vocab_size=tokenizer.get_vocab_size(),
        n_extra_tokens=256,
        separate_output=separate_output,
        predict_bias=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_hypernet(folder, config, init_hypernet(config, jax.random.key(0)))
    return config

"""Small models with random weights on real text, for tests that need a whole model folder but not its quality."""

import json
from functools import cache
from pathlib import Path

import jax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from dyntok_jax.assets import load_sample
from dyntok_jax.convert.hypernet import save_hypernet
from dyntok_jax.convert.xlmr import save_encoder
from dyntok_jax.embedding.hypernet import init_hypernet
from dyntok_jax.embedding.hypernet_config import HypernetConfig
from dyntok_jax.models.xlmr import Encoder, EncoderConfig

VOCABULARY = 1500
WIDTH = 32


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

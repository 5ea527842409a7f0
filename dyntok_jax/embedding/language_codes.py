"""Languages of multilingual hypernetworks, by code."""

from collections.abc import Sequence

from dyntok_jax.errors import ConfigError, InputError

ZETT_LANGUAGES = tuple("en ru de es fr it pt el ko fi id tr ar vi bg ca hi et bn ta ur sw te eu ht qu".split())
"""The 26 languages of ZeTT's released multilingual hypernetworks, in the order of their indices.

Minixhofer, Ponti, Vulić, "Zero-Shot Tokenizer Transfer" (arXiv 2405.07883), appendix; the released configs only count
them.
"""


def language_index(code: str, languages: Sequence[str]) -> int:
    """The index of a language, given its code.

    Raises:
      InputError: the hypernetwork was not trained for it.

    >>> language_index("fr", ("en", "de", "fr"))
    2
    """
    if code not in languages:
        raise InputError(
            f"The hypernetwork was not trained for the language {code!r}: choose the closest of {' '.join(languages)}."
        )
    return languages.index(code)


def languages_of(n_languages: int, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The codes of a hypernetwork's languages: those of its config, or ZeTT's 26 if it has that many without names.

    Empty for a hypernetwork that has none.

    Raises:
      ConfigError: the codes are unknown.

    >>> languages_of(2, ["en", "de"]), len(languages_of(26))
    (('en', 'de'), 26)
    """
    if n_languages == 0:
        return ()
    if given is not None and len(given) == n_languages:
        return tuple(given)
    if given is None and n_languages == len(ZETT_LANGUAGES):
        return ZETT_LANGUAGES
    raise ConfigError(
        f"The hypernetwork has {n_languages} languages and its config does not name them: "
        'add "langs": [codes in the order of their indices] to its config.json.'
    )

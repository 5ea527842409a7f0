"""The hypernetwork's index of a text's language."""

from collections.abc import Sequence

from dyntok_jax.errors import InputError
from dyntok_jax.training.data.written_options import UNNAMED


def index_of_language(code: str, languages: Sequence[str]) -> int:
    """The hypernetwork's index of a text's language; 0 where it has none.

    Raises:
      InputError: the hypernetwork has languages, and this one is unknown or not among them.
    """
    if not languages:
        return 0
    if code not in languages:
        found = "the language of a file is not given" if code == UNNAMED else f"a file has the language {code!r}"
        raise InputError(
            f"The hypernetwork is multilingual, and {found}: write CODE=FILE, with one of {' '.join(languages)}."
        )
    return languages.index(code)

"""How the hypernetwork counts the language of a text."""

from collections.abc import Sequence

from dyntok_jax.errors import InputError
from dyntok_jax.training.data.written_options import UNNAMED


def index_of_language(code: str, languages: Sequence[str]) -> int:
    """The index of a text's language as the hypernetwork counts them; 0 where it has none.

    Raises:
      InputError: the hypernetwork has languages, and this is none of them, or it is not known which it is.
    """
    if not languages:
        return 0
    if code not in languages:
        said = "a file does not say which it is in" if code == UNNAMED else f"a file is said to be in {code!r}"
        raise InputError(
            f"The hypernetwork tells languages apart, and {said}: write CODE=FILE, with one of {' '.join(languages)}."
        )
    return languages.index(code)

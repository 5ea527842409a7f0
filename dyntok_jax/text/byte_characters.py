"""The 256 printable characters that stand for bytes, GPT-2's table (Radford et al. 2019)."""

from collections.abc import Callable, Sequence


def _byte_characters() -> list[str]:
    """GPT-2's table: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
"""The character that stands for each byte."""
SPACE = BYTE_CHARACTERS[0x20]


CHARACTER_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
"""The byte that each character stands for."""
_TO_CHARACTER = dict(enumerate(BYTE_CHARACTERS))
_TO_BYTE = {ord(character): byte for character, byte in CHARACTER_BYTES.items()}


def to_byte_level(text: str) -> str:
    """Spells a text in byte characters: `to_byte_level(" é") == "ĠÃ©"`."""
    return spell_bytes(text.encode())


def spell_bytes(data: bytes) -> str:
    """Spells bytes, which may be part of a character, in byte characters.

    >>> spell_bytes(" é".encode())
    'ĠÃ©'
    """
    return data.decode("latin-1").translate(_TO_CHARACTER)


def to_bytes(byte_level: str) -> bytes:
    """The bytes that byte characters stand for: the inverse of `spell_bytes`.

    >>> to_bytes("ĠÃ©").decode()
    ' é'
    """
    return byte_level.translate(_TO_BYTE).encode("latin-1")


def for_all(convert: Callable[[str], str], texts: Sequence[str], separator: str, converted: str) -> list[str]:
    r"""Converts many short texts at once, joined by a separator, which must not change how its neighbours convert.

    Args:
      convert: the function of one text.
      texts: a vocabulary's pieces, say; those that contain the separator are converted alone.
      separator: a character.
      converted: what `convert` makes of it, and of nothing else.

    >>> for_all(to_byte_level, [" é", "a"], "\0", to_byte_level("\0"))
    ['ĠÃ©', 'a']
    """
    if not texts:
        return []
    alone = {index: convert(text) for index, text in enumerate(texts) if separator in text}
    joined = separator.join("" if index in alone else text for index, text in enumerate(texts))
    parts = convert(joined).split(converted)
    return [alone.get(index, part) for index, part in enumerate(parts)]

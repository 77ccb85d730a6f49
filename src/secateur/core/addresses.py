"""Addresses, ``kind://user:password@host/...``, as they may be shown and kept: without what is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Stands where a secret was."""

_BEGIN = r"(?P<before>(?:[A-Za-z][\w+.-]*:|(?<![\w/:]))//"
"""Of an address: its kind and two slashes, or these by themselves."""

_IN_TEXT = re.compile(_BEGIN + r"[^\s:/]*):(?P<value>\S*)@")
"""A password, up to the last @ of the word: it may hold any sign."""

_IN_ARGUMENT = re.compile(_BEGIN + r"[^:/]*):(?P<value>.*)@", re.DOTALL)
"""Likewise up to the last @ at all."""

_USER = re.compile(_BEGIN + r"[^:/]*):(?=.*@)", re.DOTALL)
"""What a password comes after, in each address of a chain."""

_KEY = re.compile(r"[?&;#=](?P<key>[^\s=?&;#'\"]+)=")
"""Of a parameter; in ``?connection=AccountKey=...`` both are."""

_SECRET = re.compile("pass|pwd|secret|token|key|signature|sig|credential", re.IGNORECASE)
"""In the key of a parameter that is not to be seen."""

_SHORTEST_VALUE = re.compile(r"[^&;#\s'\"]*")
"""Where parameters are separated by semicolons, or a fragment follows."""

_VALUE_IN_TEXT, _VALUE_IN_ARGUMENT = re.compile(r"""'[^']*'|"[^"]*"|[^&\s'"]*"""), re.compile(r"[^&]*")


def without_secrets(text: str) -> str:
    """A text with the passwords and keys of all addresses in it hidden.

    A password with blanks is seen by `argument_without_secrets` alone: in a text nothing says where it ends.

    Example:
        >>> without_secrets("cannot open postgresql://me:secret@host/name?sslpassword=secret&port=1")
        'cannot open postgresql://me:***@host/name?sslpassword=***&port=1'
    """
    return _hidden(text, _IN_TEXT, _VALUE_IN_TEXT)


def argument_without_secrets(argument: str) -> str:
    """An argument of a command or a setting likewise: an address in it ends where the argument does, blanks or not.

    Example:
        >>> argument_without_secrets("--store=postgresql://me:a b@host/name")
        '--store=postgresql://me:***@host/name'
    """
    return _hidden(argument, _IN_ARGUMENT, _VALUE_IN_ARGUMENT)


def _hidden(text: str, password: re.Pattern[str], value: re.Pattern[str]) -> str:
    if "//" not in text:
        return text
    shown, end = [], 0
    text = password.sub(rf"\g<before>:{HIDDEN}@", text)
    for begin, stop in _parameters(text, value):
        shown += [text[end:begin], HIDDEN]
        end = stop
    return "".join([*shown, text[end:]])


def _parameters(text: str, value: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where the values of secret parameters begin and end."""
    place = 0
    while match := _KEY.search(text, place):
        place = match.end() - 1  # a value may be a parameter itself
        if _SECRET.search(unquote(match["key"])):
            found = value.match(text, match.end())
            assert found is not None  # it may be empty
            yield found.span()
            place = found.end()


def hidden_secrets(text: str, address: str) -> str:
    """What an error says of an address, with the secrets of that address hidden wherever they are, in any writing.

    Example:
        >>> hidden_secrets("530 login of me with secret", "ftp://me:secret@host")
        '530 login of me with ***'
    """
    for secret in sorted(_writings(address), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return without_secrets(text)


def _writings(address: str) -> set[str]:
    """Secrets of an address as errors may have them: as they are, decoded, encoded, as Python shows them."""
    ends = [place for place, sign in enumerate(address) if sign == "@"]
    begins = [match.end() for match in _USER.finditer(address)]
    found = {address[begin:end] for begin in begins for end in ends if begin < end}
    for value in (_VALUE_IN_ARGUMENT, _VALUE_IN_TEXT, _SHORTEST_VALUE):
        found |= {address[begin:end] for begin, end in _parameters(address, value)}
    found |= {decode(each) for each in found for decode in (unquote, unquote_plus)}
    found |= {encode(each) for each in found for encode in (quote, quote_plus, lambda text: quote(text, safe=""))}
    found |= {repr(each)[1:-1] for each in found}
    return found - {""}


def settings_without_secrets(value: Any) -> Any:
    """Settings as plain values, with the secrets in their texts hidden.

    Example:
        >>> settings_without_secrets({"data": {"source": ["https://me:secret@host/images"]}})
        {'data': {'source': ['https://me:***@host/images']}}
    """
    if isinstance(value, str):
        return argument_without_secrets(value)
    if isinstance(value, Mapping):
        return {key: settings_without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [settings_without_secrets(each) for each in value]
    return value

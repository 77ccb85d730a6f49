"""Addresses, ``kind://user:password@host/...``, as they may be shown and kept: without what is secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
"""Stands where a secret was."""

_PASSWORD = re.compile(r"(?P<before>[A-Za-z][\w+.-]*://[^\s:@/?#]*):\S*@")
"""Up to the last @ of the word: passwords may hold any sign."""

_ARGUMENT = re.compile(r"\A(?P<before>(?:--[\w-]+=)?[A-Za-z][\w+.:-]*://[^\s:@/?#]*):(?P<value>.*)@", re.DOTALL)

_PARAMETER = re.compile(
    r"(?P<before>[?&;][^=&;\s]*(?:pass|pwd|secret|token|key|signature|sig|credential)[^=&;\s]*=)(?P<value>[^&;#\s'\"]*)",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A text with the passwords and keys of all addresses in it hidden.

    Example:
        >>> without_secrets("cannot open postgresql://me:secret@host/name?sslpassword=secret&port=1")
        'cannot open postgresql://me:***@host/name?sslpassword=***&port=1'
    """
    hidden = _PASSWORD.sub(rf"\g<before>:{HIDDEN}@", text) if "://" in text else text
    return _PARAMETER.sub(rf"\g<before>{HIDDEN}", hidden) if "://" in hidden else hidden


def argument_without_secrets(argument: str) -> str:
    """An argument of a command likewise: one that is an address ends where the argument does, blanks or not.

    Example:
        >>> argument_without_secrets("--store=postgresql://me:a b@host/name")
        '--store=postgresql://me:***@host/name'
    """
    return without_secrets(_ARGUMENT.sub(rf"\g<before>:{HIDDEN}@", argument))


def hidden_secrets(text: str, address: str) -> str:
    """What an error says of an address, with the secrets of that address hidden wherever they are.

    Example:
        >>> hidden_secrets("530 login of me with secret", "ftp://me:secret@host")
        '530 login of me with ***'
    """
    found = [match["value"] for pattern in (_ARGUMENT, _PARAMETER) for match in pattern.finditer(address)]
    for secret in {plain for each in found for plain in (each, unquote(each)) if plain}:
        text = text.replace(secret, HIDDEN)
    return without_secrets(text)


def settings_without_secrets(value: Any) -> Any:
    """Settings as plain values, with the secrets in their texts hidden.

    Example:
        >>> settings_without_secrets({"data": {"source": ["https://me:secret@host/images"]}})
        {'data': {'source': ['https://me:***@host/images']}}
    """
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {key: settings_without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [settings_without_secrets(each) for each in value]
    return value

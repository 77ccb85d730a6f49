"""Which Ray cluster may be used: its address, who else reaches it, and the versions of its workers."""

from __future__ import annotations

import ipaddress
import logging
import os
import platform
import secrets
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError, SecateurError
from secateur.core.pool import cores

_PATIENCE = 5.0
"""Seconds for an address to answer."""

AUTHENTICATION = (
    "switch Ray's token authentication on: `ray get-auth-token --generate`, the same token (~/.ray/auth_token, or "
    "RAY_AUTH_TOKEN) and RAY_AUTH_MODE=token on every node and here"
)


def require_token() -> None:
    """Have a cluster that this process starts ask for a token of its own: Ray listens on all addresses of the machine.

    What the environment says of authentication stays. Ray reads it when it is imported.

    Raises:
        RequestError: when Ray was imported before, and without a token.
    """
    if any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    imported = sys.modules.get("ray")
    if imported is None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif not imported.is_initialized():  # else its connection is used
        raise RequestError(
            "Ray was imported before and has no token, so that a cluster of this process would take work from anyone "
            "who reaches the machine; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN before Ray is imported, or import it "
            "later"
        )


def connect(address: str | None) -> None:
    """Connect this process to a cluster.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto`` for the one that was started on this machine; None: start one
            that ends with the connection.

    Raises:
        RequestError: for an address that others could use, or one of another kind.
        SecateurError: when nothing answers.
    """
    if address is not None:
        check_address(address)
        if _has_token():  # releases of Ray differ in whether a token that is at hand is asked for
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")):
        os.environ.setdefault(name, value)
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": None}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is None:
        ray.init(address="local", num_cpus=cores(), **quiet | {"include_dashboard": False})
        return
    try:
        _check_reachable(address)  # Ray would try for minutes
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SecateurError(
            f"no Ray cluster answers at '{address}' ({reason}); start one with `ray start --head`, or leave --address "
            "out for one on this machine; nothing was done"
        ) from error


def check_address(address: str) -> None:
    """Refuse addresses of another kind, and those that others can reach while no token is at hand.

    Raises:
        RequestError: saying what to do.

    Example:
        >>> check_address("auto")
        >>> check_address("127.0.0.1:6379")
        >>> check_address("ray://head:10001")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: Ray address 'ray://head:10001': give HOST:PORT of the cluster's head, or ...
    """
    host, colon, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not colon or not host or not port.isdigit():
        raise RequestError(
            f"Ray address '{address}': give HOST:PORT of the cluster's head, or auto, and start the command on a node "
            "of the cluster; from elsewhere, send it there: `ray job submit --address http://HEAD:8265 -- secateur "
            "study run ... --executor ray --address auto`"
        )
    if not is_loopback(address) and not _has_token():
        raise RequestError(
            f"Ray address '{address}' is not of this machine alone, and no token is set: {AUTHENTICATION}"
        )


def versions() -> dict[str, str]:
    """Of what results come from, in this process."""
    return {"secateur": version("secateur"), "torch": version("torch"), "Python": platform.python_version()}


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.1:6379"), is_loopback("localhost:6379"), is_loopback("10.0.0.5:6379")
        (True, True, False)
    """
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_versions(mine: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    """Refuse workers that would compute something else.

    Raises:
        RequestError: with both versions of the first that differ.

    Example:
        >>> check_versions({"torch": "2.9.0"}, {"torch": "2.9.0"})
    """
    for name, here in mine.items():
        if theirs.get(name) != here:
            raise RequestError(
                f"workers of the Ray cluster have {name} {theirs.get(name, 'missing')}, this process has {here}; "
                "install the same on all nodes"
            )


def _check_reachable(address: str) -> None:
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _has_token() -> bool:
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode:
        return mode != "disabled"
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()

"""Errors that a user can act on: each message says what, where, and the remedy, in one line."""

from __future__ import annotations


class SecateurError(Exception):
    """The work failed (exit code 1): a full disk, a non-finite relevance, an interrupted run."""

    exit_code = 1


class RequestError(SecateurError, ValueError):
    """The request was wrong (exit code 2): an unknown name, an unreachable budget, a broken input file."""

    exit_code = 2

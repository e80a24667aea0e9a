"""What the processes of one training share out: one does what is done once, the others wait and take what it left.

torchrun or `accelerate launch` starts them; where there is one process, nothing here does anything.
"""

import os
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

from dear.blocks import fastest_device

LONGEST = timedelta(hours=12)  # that one process may work while the others wait; a process that dies ends all at once


def count() -> int:
    """Number of processes, this one included."""
    return 1 if os.environ.get("WORLD_SIZE", "1") == "1" else _state().num_processes


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return count() == 1 or _state().is_main_process


@contextmanager
def main_first():
    """Let the main process do the block before the others begin it, who then find the files that it wrote."""
    if count() == 1:
        yield
        return
    with _state().main_process_first():
        yield


def on_main(write: Callable[[], object]) -> None:
    """Call `write` on the main process; all go on when it is done."""
    if is_main():
        write()
    if count() > 1:
        _state().wait_for_everyone()


def from_main(make: Callable[[], object]):
    """What `make` gives on the main process, on all of them; it travels by pickle."""
    made = [make() if is_main() else None]
    if count() > 1:
        from accelerate.utils import broadcast_object_list

        _state()
        broadcast_object_list(made)
    return made[0]


def _state():
    """Accelerate's state, which `dear.training.train` goes on with; the first call meets the other processes."""
    from accelerate import PartialState

    return PartialState(cpu=fastest_device().type == "cpu", timeout=LONGEST)

"""The two settings of strict nbval that it has no option for; loaded by `make test` with -p."""

import pytest
from nbval.plugin import IPyNbCell, IPyNbFile


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Leave stderr out of the comparison: progress bars and warnings of other libraries are not the lesson."""
    collectors = yield
    for collector in collectors:
        if isinstance(collector, IPyNbFile):
            collector.skip_compare += ("stderr",)
    return collectors


def pytest_collection_modifyitems(items):
    """Wait 60 s, not 5 s, for the output of a finished cell: two kernels on a busy machine need it."""
    for item in items:
        if isinstance(item, IPyNbCell):
            item.output_timeout = 60

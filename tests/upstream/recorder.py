"""A pytest plugin: one line for each test as soon as it ends, and one when it begins.

What a run that dies or hangs has done is known, so that the run can go on behind the test that broke it.
"""

import os

RESULTS = os.environ["UPSTREAM_RESULTS"]
OUTCOMES = {}


def write(word, test):
    with open(RESULTS, "a") as file:
        print(word, test, file=file, flush=True)


def pytest_collection_modifyitems(config, items):
    """Leaves out what has been run, or keeps only what is to be run again."""
    done = os.environ.get("UPSTREAM_DONE")
    only = os.environ.get("UPSTREAM_ONLY")
    for path, keep in ((done, False), (only, True)):
        if path:
            with open(path) as file:
                named = set(file.read().splitlines())
            items[:] = [item for item in items if (item.nodeid in named) == keep]


def pytest_runtest_logstart(nodeid):
    OUTCOMES[nodeid] = "pass"
    write("begin", nodeid)


def pytest_runtest_logreport(report):
    if report.failed:
        OUTCOMES[report.nodeid] = "fail"
    elif report.skipped and OUTCOMES[report.nodeid] == "pass":
        OUTCOMES[report.nodeid] = "skip"


def pytest_runtest_logfinish(nodeid):
    write(OUTCOMES[nodeid], nodeid)


def pytest_sessionfinish():
    write("end", "-")

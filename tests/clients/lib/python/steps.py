"""Prints the steps of a client program as tests/clients/README.md asks for. Standard library only."""

import asyncio
import os
import sys
import threading
import time
import traceback

MODE = os.environ["MODE"]
URL = os.environ["DATABASE_URL"]

#: A step that takes longer hangs.
STEP_SECONDS_MAX = 40

_refused = set()


def sqlstate(error):
    """SQLSTATE of an exception of any driver, also of one that an ORM has wrapped."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for name in ("sqlstate", "pgcode"):
            code = getattr(error, name, None)
            if code:
                return code
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None


def message(error):
    """First line of the innermost message."""
    while getattr(error, "orig", None) is not None or error.__cause__ is not None:
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is error:
            break
        error = inner
    lines = str(error).strip().splitlines()
    return lines[0] if lines else ""


def class_of(error):
    """The exception's class with its module, as users name it in `except`."""
    return f"{type(error).__module__.split('.')[0]}.{type(error).__name__}"


class Ids:
    """Numbers for generated ids, in order of first appearance."""

    def __init__(self):
        self.numbers = {}

    def __call__(self, value):
        return self.numbers.setdefault(value, len(self.numbers) + 1)


def text(result):
    """One line: rows as `a,b; c,d`."""
    if isinstance(result, (list, tuple)):
        result = "; ".join(
            ",".join(str(cell) for cell in row) if isinstance(row, (list, tuple)) else str(row) for row in result
        )
    return str(result).replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def emit(name, result):
    print(f"{name}\t{text(result)}", flush=True)


def outcome(name, error):
    """Prints how a step failed."""
    code = sqlstate(error)
    if code == "0A000":
        _refused.add(name)
        print(f"{name}\tREFUSED 0A000 {text(message(error))}", flush=True)
    else:
        print(f"{name}\tERROR {code} {class_of(error)} {text(message(error))}", flush=True)
        print(f"--- {name}", file=sys.stderr)
        traceback.print_exception(error)


def skipped(name, needs):
    """Prints that a step is skipped, when one of those it needs was refused."""
    for need in needs:
        if need in _refused:
            _refused.add(name)
            print(f"{name}\tSKIPPED after {need}", flush=True)
            return True
    return False


def _timed(name, begun):
    print(f"# {name} {time.monotonic() - begun:.2f} s", file=sys.stderr)


def otherwise(function, other):
    """A step that, when it is refused, makes the same rows in another way: later steps find what they expect."""

    def step():
        return function()

    step.otherwise = other
    return step


def chosen(name):
    """Whether to run the step: all, unless STEPS=a,b says which."""
    only = os.environ.get("STEPS")
    return not only or name in only.split(",")


def bounded(function):
    """Runs a step in a thread of its own, so that one that hangs ends with its time and not the whole run."""
    result = []

    def run():
        try:
            result.append((function(), None))
        except Exception as error:  # whatever a step meets is its result
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(STEP_SECONDS_MAX)
    return result[0] if result else (None, TimeoutError(f"nothing came in {STEP_SECONDS_MAX} s"))


def _complain(name, error):
    """Says on stderr why the rows of a refused step could not be made in the other way either."""
    if error is not None:
        print(f"--- {name}, otherwise", file=sys.stderr)
        traceback.print_exception(error)


def walk(steps, recover=lambda stuck: None):
    """Runs (name, function, names of steps it needs); `recover` puts the connection right after a failure."""
    for name, function, *needs in steps:
        if not chosen(name) or skipped(name, needs):
            continue
        begun = time.monotonic()
        result, error = bounded(function)
        if error is None:
            emit(name, result)
        else:
            outcome(name, error)
            recover(isinstance(error, TimeoutError))
            if name in _refused and hasattr(function, "otherwise"):
                _, error = bounded(function.otherwise)
                _complain(name, error)
        _timed(name, begun)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without waiting for a thread that hangs


async def walk_async(steps, recover):
    """The same for coroutines."""
    for name, function, *needs in steps:
        if not chosen(name) or skipped(name, needs):
            continue
        begun = time.monotonic()
        try:
            emit(name, await asyncio.wait_for(function(), STEP_SECONDS_MAX))
        except Exception as error:  # whatever a step meets is its result
            outcome(name, error)
            await recover(isinstance(error, TimeoutError))
            if name in _refused and hasattr(function, "otherwise"):
                try:
                    await asyncio.wait_for(function.otherwise(), STEP_SECONDS_MAX)
                except Exception as error:
                    _complain(name, error)
        _timed(name, begun)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

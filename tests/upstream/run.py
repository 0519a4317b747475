#!/usr/bin/env python3
"""Runs one upstream suite directly and through the proxy, and compares.

    run.py SUITE --parts DIRECTORY --binary OSTRAKON [--modes transaction,session] [--keep DIRECTORY]

Ends with 1 when a test fares worse through the proxy and is not in expected/SUITE-MODE.txt, or is there and
does not. With UPDATE=1 in the environment the figures go to docs/reference/upstream.md.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys
import time

import compare
import document
import servers
import suites

# Some tests hang on timing; on a busy machine they fail directly, too.
TRIES = 3

HERE = pathlib.Path(__file__).resolve().parent


def run_once(suite, mode, arguments):
    """All results of one mode (`direct`, or a pool mode); what failed is tried again."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(servers.directory())
        stack.callback(keep, arguments.keep, home, f"{suite.name}-{mode}")
        node = stack.enter_context(servers.postgres(home, suite.programs(arguments.parts), suite.database))
        suite.prepare(node)
        port = node
        if mode != "direct":
            port = stack.enter_context(servers.proxy(home, arguments.binary, suite.database, node, mode))
        began = time.monotonic()
        results = suite.run(arguments.parts, home, port)
        for number in range(2, TRIES + 1):
            failed = {test for test, result in results.items() if result == "fail"}
            again = suite.run(arguments.parts, home, port, only=failed) if failed else {}
            for test in (test for test, result in again.items() if result == "pass"):
                results[test] = "pass"
                print(f"  passed at try {number}: {test}")
        print(f"{suite.name} {mode}: {compare.counts(results)} in {time.monotonic() - began:.0f} s", flush=True)
        return results


def keep(target, home, name):
    """Saves outputs, diffs and logs for a reader."""
    target = pathlib.Path(target) / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in ("output", "diffs", "ostrakon.log", "postgres.log"):
        if (home / file).exists():
            shutil.copy(home / file, target / file)


def report(name, mode, verdict):
    for test in verdict.unlisted:
        print(f"  DIFFERENCE {name} {mode}: {test}")
    for test in verdict.stale:
        print(f"  listed, but no difference any more, {name} {mode}: {test}")
    for reason, count in compare.reasons(verdict.listed):
        print(f"  {count} listed: {reason}")
    for test in verdict.only_through_proxy:
        print(f"  passes only through the proxy: {test}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", choices=suites.SUITES)
    parser.add_argument("--parts", type=pathlib.Path, required=True)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--modes", default="transaction,session")
    parser.add_argument("--keep", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.parts = arguments.parts.resolve()
    suite = suites.SUITES[arguments.suite]
    direct = run_once(suite, "direct", arguments)
    figures, holds = {"direct": compare.counts(direct)}, True
    for mode in filter(None, arguments.modes.split(",")):
        expected = HERE / "expected" / f"{suite.name}-{mode}.txt"
        listed = compare.read_list(expected.read_text() if expected.exists() else "")
        proxied = run_once(suite, mode, arguments)
        verdict = compare.judge(direct, proxied, listed)
        report(suite.name, mode, verdict)
        holds &= verdict.holds
        figures[mode] = compare.counts(proxied) | {"listed": verdict.listed}
    if os.environ.get("UPDATE") == "1":
        document.update(suite.name, suite.described(arguments.parts), figures)
    print(json.dumps({mode: {k: v for k, v in f.items() if k != "listed"} for mode, f in figures.items()}))
    sys.exit(not holds)


if __name__ == "__main__":
    main()

"""Judges a suite's results through the proxy by its results without.

A difference is a test that passes directly and not through the proxy, or that is skipped directly and
fails through the proxy. Differences that are accepted are listed one by one with their reason; a listed
one that is none any more is a fault of the list, unless its reason begins with "by chance": it hangs on which
connection of the pool is met, or on timing.
"""

import dataclasses

BY_CHANCE = "by chance"


@dataclasses.dataclass
class Verdict:
    """What a comparison found."""

    unlisted: list
    stale: list
    listed: dict
    only_through_proxy: list

    @property
    def holds(self):
        return not self.unlisted and not self.stale


def read_list(text):
    """Accepted differences: one a line, `test  # reason`; blank lines and comments apart."""
    listed = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        test, separator, reason = line.rpartition("  # ")
        if not separator or not test.strip() or len(reason.split()) < 3:
            raise ValueError(f"line {number} is not `test  # reason`: {line}")
        if test in listed:
            raise ValueError(f"line {number}: {test} is there twice")
        listed[test] = reason
    return listed


def differences(direct, proxied):
    """Tests that fare worse through the proxy, and those that fare better."""
    worse, better = [], []
    for test in sorted(direct.keys() | proxied.keys()):
        one, other = direct.get(test, "missing"), proxied.get(test, "missing")
        if one == other or {one, other} == {"missing", "skip"}:
            continue
        if one == "pass" or other == "fail" or other == "missing":
            worse.append(test)
        elif other == "pass":
            better.append(test)
    return worse, better


def judge(direct, proxied, listed):
    if not direct:
        raise ValueError("nothing ran directly: there is nothing to compare with")
    worse, better = differences(direct, proxied)
    unlisted = [test for test in worse if test not in listed]
    stale = [test for test, reason in listed.items() if test not in worse and not reason.startswith(BY_CHANCE)]
    return Verdict(unlisted, stale, {test: listed[test] for test in worse if test in listed}, better)


def counts(results):
    return {word: sum(1 for result in results.values() if result == word) for word in ("pass", "fail", "skip")}


def heading(reason):
    """What a reason begins with, up to a colon: differences of one kind share it."""
    return reason.partition(": ")[0]


def reasons(listed):
    """How many listed differences have each reason, most first."""
    tally = {}
    for reason in map(heading, listed.values()):
        tally[reason] = tally.get(reason, 0) + 1
    return sorted(tally.items(), key=lambda item: (-item[1], item[0]))

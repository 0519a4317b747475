"""The comparer finds what is planted, and nothing else."""

import unittest

import compare
import document
import suites

DIRECT = {"a": "pass", "b": "pass", "c": "fail", "d": "skip"}


class Judging(unittest.TestCase):
    def test_equal_results_hold(self):
        self.assertTrue(compare.judge(DIRECT, dict(DIRECT), {}).holds)

    def test_a_planted_failure_is_found(self):
        verdict = compare.judge(DIRECT, DIRECT | {"b": "fail"}, {})
        self.assertFalse(verdict.holds)
        self.assertEqual(verdict.unlisted, ["b"])

    def test_a_test_that_is_only_skipped_or_missing_through_the_proxy_is_a_difference(self):
        self.assertEqual(compare.judge(DIRECT, DIRECT | {"a": "skip"}, {}).unlisted, ["a"])
        without = {test: result for test, result in DIRECT.items() if test != "a"}
        self.assertEqual(compare.judge(DIRECT, without, {}).unlisted, ["a"])

    def test_a_failure_of_what_is_skipped_or_unknown_directly_is_a_difference(self):
        self.assertEqual(compare.judge(DIRECT, DIRECT | {"d": "fail"}, {}).unlisted, ["d"])
        self.assertEqual(compare.judge(DIRECT, DIRECT | {"e": "fail"}, {}).unlisted, ["e"])

    def test_what_fails_on_both_sides_is_none(self):
        self.assertTrue(compare.judge(DIRECT, DIRECT | {"c": "pass"}, {}).holds)
        self.assertEqual(compare.judge(DIRECT, DIRECT | {"c": "pass"}, {}).only_through_proxy, ["c"])

    def test_a_listed_difference_is_accepted_and_no_other(self):
        listed = {"a": "a reason of words"}
        self.assertTrue(compare.judge(DIRECT, DIRECT | {"a": "fail"}, listed).holds)
        self.assertEqual(compare.judge(DIRECT, DIRECT | {"a": "fail", "b": "fail"}, listed).unlisted, ["b"])

    def test_a_listed_difference_that_is_none_any_more_fails(self):
        verdict = compare.judge(DIRECT, dict(DIRECT), {"a": "a reason of words"})
        self.assertFalse(verdict.holds)
        self.assertEqual(verdict.stale, ["a"])
        self.assertTrue(compare.judge(DIRECT, dict(DIRECT), {"a": "by chance: a reason"}).holds)

    def test_nothing_that_ran_directly_is_no_base(self):
        with self.assertRaises(ValueError):
            compare.judge({}, {}, {})


class Lists(unittest.TestCase):
    def test_lines_are_tests_with_reasons(self):
        text = "# words\n\nx.py::t[a  # b]  # the reason in words\n"
        self.assertEqual(compare.read_list(text), {"x.py::t[a  # b]": "the reason in words"})

    def test_a_line_without_a_reason_is_refused(self):
        for line in ("x.py::t", "x.py::t  # ", "x.py::t  # because", "x  # the same words\nx  # the same words"):
            with self.assertRaises(ValueError):
                compare.read_list(line)

    def test_every_list_in_the_tree_is_read(self):
        lists = list((suites.HERE / "expected").glob("*.txt"))
        self.assertTrue(lists)
        for file in lists:
            name, mode = file.stem.rsplit("-", 1)
            self.assertIn(name, suites.SUITES)
            self.assertIn(mode, ("transaction", "session"))
            compare.read_list(file.read_text())


class Reading(unittest.TestCase):
    def test_results_of_pg_regress_are_read(self):
        text = (
            "test tablespace                   ... ok          279 ms\n"
            "parallel group (2 tests):  char boolean\n"
            "     boolean                      ... FAILED      199 ms\n"
            "     random                       ... failed (ignored)    9 ms\n"
        )
        self.assertEqual(suites.read_pg_regress(text), {"tablespace": "pass", "boolean": "fail", "random": "fail"})

    def test_a_test_that_began_and_never_ended_has_failed(self):
        self.assertEqual(suites.read_recorded("begin a\npass a\nbegin b c\n"), {"a": "pass", "b c": "fail"})


class Page(unittest.TestCase):
    def test_a_section_replaces_its_own_and_leaves_others(self):
        page = document.with_section("", "b", "## b\n\nold\n")
        page = document.with_section(page, "a", "## a\n\nwords\n")
        page = document.with_section(page, "b", "## b\n\nnew\n")
        self.assertTrue(page.startswith(document.INTRODUCTION))
        self.assertTrue(page.endswith("\n## a\n\nwords\n\n## b\n\nnew\n"))


if __name__ == "__main__":
    unittest.main()

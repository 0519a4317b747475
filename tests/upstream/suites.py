"""How each upstream suite is run against one address, and what its tests' results are.

A result is `pass`, `fail` or `skip` by the test's id. Knows nothing of what stands behind the address.
"""

import os
import pathlib
import re
import shutil
import subprocess

import servers

HERE = pathlib.Path(__file__).resolve().parent

# One test may take this long; whole suites finish in minutes.
TEST_SECONDS = 30
SUITE_SECONDS = 1800
# A run that hangs or dies goes on behind the test that did it, this often.
RESTARTS_MAX = 40


class Pytest:
    """A driver's tests under pytest."""

    def __init__(self, name, title, source, database, arguments, variables, setup=()):
        self.name = name
        self.title = title
        self.source = source
        self.database = database
        self.arguments = arguments
        self.variables = variables
        self.setup = setup

    def described(self, parts):
        """What is run: its title, unless its source says that it is something else."""
        own = parts / self.source / ".description"
        return own.read_text().strip() if own.exists() else self.title

    @staticmethod
    def programs(_parts):
        """Any server will do: the machine's."""
        return servers.BIN

    def prepare(self, port):
        answer = servers.psql(port, self.database, *self.setup)
        if answer.returncode:
            raise RuntimeError(answer.stderr)

    def run(self, parts, home, port, only=None):
        tests = home / "tests"
        if not tests.exists():
            shutil.copytree(parts / self.source / "tests", tests)
        results, done = home / "results", home / "done"
        results.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        environment |= {name: value.format(port=port) for name, value in self.variables.items()}
        environment |= {"UPSTREAM_RESULTS": str(results), "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
        if only is not None:
            (home / "only").write_text("\n".join(sorted(only)))
            environment["UPSTREAM_ONLY"] = str(home / "only")
        command = [parts / f"{self.name}-env/bin/python", "-m", "pytest", "-q", "--tb=short", "-c", "/dev/null", "--rootdir", home]
        # psycopg's tests note in pytest's cache that a run has begun, and refuse another after one that died.
        command += ["-p", "recorder", "--cache-clear", "--timeout", str(TEST_SECONDS), "--timeout-method", "thread"]
        command += [*self.arguments, "tests"]
        found = {}
        with open(home / "output", "a") as output:
            for _ in range(RESTARTS_MAX):
                subprocess.run(
                    list(map(str, command)), cwd=home, env=environment, stdout=output, stderr=output, timeout=SUITE_SECONDS
                )
                before, found = len(found), read_recorded(results.read_text())
                done.write_text("\n".join(found))
                environment["UPSTREAM_DONE"] = str(done)
                if results.read_text().endswith("end -\n") or len(found) == before:
                    break
        if not found and only is None:
            raise RuntimeError(f"{self.name}: no test ran\n{(home / 'output').read_text()[-4000:]}")
        return found


def read_recorded(text):
    """Results by test; one that began and never ended has failed."""
    found = {}
    for line in text.splitlines():
        word, test = line.split(" ", 1)
        if word == "end":
            continue
        found[test] = "fail" if word == "begin" else word
    return found


class Regress:
    """PostgreSQL's own regression suite under pg_regress."""

    name = "regress"
    title = "PostgreSQL's own regression suite (Debian's source package postgresql-15; server and psql of its version)."
    database = "regression"

    def described(self, _parts):
        """What is run."""
        return self.title

    @staticmethod
    def programs(parts):
        """The expected outputs are those of one version's server and psql."""
        return parts / "programs/usr/lib/postgresql/15/bin"

    def prepare(self, port):
        # What pg_regress sets itself when it makes the database.
        settings = "lc_messages TO 'C'", "lc_monetary TO 'C'", "lc_numeric TO 'C'", "lc_time TO 'C'"
        settings += "bytea_output TO 'hex'", "timezone_abbreviations TO 'Default'"
        answer = servers.psql(port, "postgres", *(f"ALTER DATABASE regression SET {setting}" for setting in settings))
        if answer.returncode:
            raise RuntimeError(answer.stderr)

    def run(self, parts, home, port, only=None):
        if only is not None:
            # A test of this suite stands on those before it: none can be run again alone.
            return {}
        work = home / "regress"
        work.mkdir()
        shutil.copytree(parts / "postgresql-15/src/test/regress", work / "input")
        programs = self.programs(parts)
        library = programs.parent / "lib"
        for module in (parts / "programs/regress.so", library / "autoinc.so", library / "refint.so"):
            shutil.copy(module, work)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "postgres:postgres", work], check=True)
        pg_regress = library / "pgxs/src/test/regress/pg_regress"
        command = [pg_regress, "--use-existing", "--dbname", "regression", "--host", "127.0.0.1", "--port", port, "--user", "postgres"]
        command += ["--bindir", programs, "--dlpath", work, "--inputdir", work / "input", "--outputdir", work]
        command += ["--max-concurrent-tests", "20", "--schedule", work / "input/parallel_schedule"]
        outcome = subprocess.run(
            list(map(str, command)), cwd=work, capture_output=True, text=True, timeout=SUITE_SECONDS, **servers.as_server()
        )
        (home / "output").write_text(outcome.stdout + outcome.stderr)
        if (work / "regression.diffs").exists():
            shutil.copy(work / "regression.diffs", home / "diffs")
        found = read_pg_regress(outcome.stdout)
        if not found:
            raise RuntimeError(outcome.stdout + outcome.stderr)
        return found


def read_pg_regress(text):
    """Results by test from what pg_regress prints; a failure that the schedule ignores is a failure here."""
    found = re.findall(r"^(?:test)? +(\S+) +\.\.\. (ok|FAILED|failed)", text, re.MULTILINE)
    return {test: "pass" if word == "ok" else "fail" for test, word in found}


ADDRESS = {"PGHOST": "127.0.0.1", "PGPORT": "{port}", "PGUSER": "postgres"}

SUITES = {
    suite.name: suite
    for suite in (
        Regress(),
        Pytest(
            "psycopg",
            "psycopg 3, the tests of Debian's source package psycopg3; pure Python over the system's libpq.",
            "psycopg3",
            "psycopg_test",
            ["--test-dsn", "host=127.0.0.1 user=postgres dbname=psycopg_test", "-m", "not slow and not mypy"]
            + ["-o", "asyncio_mode=auto"],
            {**ADDRESS, "PSYCOPG_IMPL": "python"},
            ["CREATE EXTENSION hstore"],
        ),
        Pytest(
            "psycopg2",
            "psycopg2, the tests of its source archive on PyPI.",
            "psycopg2",
            "psycopg2_test",
            # Functions of this name give unittest its tests; they are none.
            ["-k", "not test_suite"],
            {**ADDRESS, "PSYCOPG2_TESTDB": "psycopg2_test"},
            ["CREATE EXTENSION hstore"],
        ),
        Pytest(
            "asyncpg",
            "asyncpg, the tests of its source archive on PyPI.",
            "asyncpg",
            "postgres",
            # Not asked: the checkout's own sources, the versions of a continuous integration, and tests that connect
            # to servers of their own only.
            ["--import-mode", "importlib", "--ignore", "tests/test__sourcecode.py", "--ignore", "tests/test__environment.py"]
            + ["--deselect", "tests/test_connect.py::TestConnectionAttributes"],
            {**ADDRESS, "PGDATABASE": "postgres"},
        ),
    )
}


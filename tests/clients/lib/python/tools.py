"""Runs PostgreSQL's own programs. They print no SQLSTATE: refusals are known by their words."""

import glob
import os
import re
import subprocess

#: Directory of the newest installed version.
BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))[-1]

REFUSALS = re.compile(r"(?:not supported|cannot be used in transaction pooling|is not kept in PostgreSQL)")


class ToolFailed(Exception):
    """A program that ended with an error."""

    def __init__(self, words):
        super().__init__(words)
        self.sqlstate = "0A000" if REFUSALS.search(words) else None


def tool(*command, stdin=None, binary=False):
    """Runs it and gives what it wrote on stdout."""
    program = os.path.join(BIN, command[0])
    done = subprocess.run([program, *command[1:]], input=stdin, capture_output=True, text=not binary, timeout=60)
    if done.returncode:
        stderr = done.stderr if not binary else done.stderr.decode()
        errors = [line for line in stderr.splitlines() if "rror" in line or "FATAL" in line]
        raise ToolFailed((errors or stderr.splitlines() or ["no words"])[0])
    return done.stdout


def psql(script):
    """Runs a script that has to succeed."""
    return tool("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", stdin=script)

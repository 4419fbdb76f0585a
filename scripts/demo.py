"""demo.py: the story that ./demo tells, and its proof."""
import collections
import hashlib
import os
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "e2e"))
import lib  # noqa: E402  (the end-to-end tests' helper: nodes, free ports, a clean end)

SECONDS = 3  # that publishing is made to take, so that there is a middle to kill in


def say(what, text):
    print("%-9s %s" % (what, text), flush=True)


def real_input(test):
    """(path, where it is from, field that is the tag)"""
    if len(sys.argv) > 1:
        path = sys.argv[1]
        with open(path, "rb") as file:
            lines = file.read().splitlines()
        third = sum(len(line.split()) >= 3 for line in lines)
        return path, path, 3 if third * 2 > len(lines) else 1
    path = "/var/log/dpkg.log"
    if os.access(path, os.R_OK):
        with open(path, "rb") as file:
            if sum(1 for _ in file) >= 1000:
                return path, path, 3
    path = test.path("include-files")
    with open(path, "wb") as out:
        subprocess.run(["find", "/usr/include", "-printf", "%TY-%Tm-%Td %TH:%TM %y %s %p\\n"],
                       stdout=out, check=True)
    return path, "find /usr/include", 3


def feed(write_end, lines):
    with open(write_end, "wb", buffering=0) as out:
        step = max(1, len(lines) // (SECONDS * 100))
        for first in range(0, len(lines), step):
            out.write(b"".join(line + b"\n" for line in lines[first:first + step]))
            time.sleep(0.01)


def checksum(lines):
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def bodies(path):
    with open(path, "rb") as file:
        return file.read().split(b"\n")[:-1]

#!/usr/bin/python3
"""golden: directories that older code wrote, read by today's.

  golden.py OPEN QLOG             each of tests/assets must give what its `expected` says
  golden.py OPEN QLOG --write     … and `expected` is written anew: look at the difference
  golden.py OPEN QLOG --make MAKE the directories, too, are made anew, by golden-make
  golden.py OPEN QLOG --add NAME MAKE   one that golden-make has learnt; the others stay

An asset NAME is NAME/files.tar.xz, the directory, and NAME/expected: commands that are run on it, in
this order, with all that they print and their exit codes. One that begins with should-fail- must be
refused or called damaged.
"""
import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ASSETS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "assets")
CORRUPT = 8


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("open")
    parser.add_argument("qlog")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--make")
    parser.add_argument("--add", nargs=2)
    return parser.parse_args()


def pack(directory, archive):
    """The same bytes each time."""
    def plain(info):
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    os.makedirs(os.path.dirname(archive), exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9, format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(os.listdir(directory)):
            tar.add(os.path.join(directory, name), name, filter=plain)


def make(program, only):
    """All of them, in the place of those that are there; or one."""
    with tempfile.TemporaryDirectory(prefix="qmq-golden-") as work:
        subprocess.run([program, work], check=True)
        if only is None:
            shutil.rmtree(ASSETS, ignore_errors=True)
        for name in os.listdir(work) if only is None else [only]:
            pack(os.path.join(work, name), os.path.join(ASSETS, name, "files.tar.xz"))


def said(shown, command, directory):
    """A command as it is typed, what it prints, its exit code."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = run.stdout.decode().replace(directory, "DIR")
    text = re.sub(r"\b\d+(\.\d+)? ms\b", "N ms", text)
    return "$ %s\n%sexit %d\n\n" % (shown, text, run.returncode), run.returncode


def transcript(args, name, directory):
    store = "store" in name or "record" in name
    kind = "store" if store else "log"
    text = ""
    codes = []
    for command in (["dump", "--log", log, "-o", "json"]
                    for log in (("message", "action") if store else ("log",))):
        told, code = said("qlog %s" % " ".join(command), [args.qlog] + command + [directory], directory)
        text += told
        codes.append(code)
    told, code = said("qlog verify --deep", [args.qlog, "verify", "--deep", directory], directory)
    text += told
    told, opened = said("open as a %s" % kind, [args.open, directory, kind], directory)
    text += told
    codes += [code, opened]
    told, code = said("qlog verify --deep", [args.qlog, "verify", "--deep", directory], directory)
    text += told
    refused = opened != 0 or CORRUPT in codes
    if name.startswith("should-fail-") and not refused:
        text += "it was neither refused nor called damaged\n"
    if not name.startswith("should-fail-") and opened != 0:
        text += "it was refused\n"
    return text


def check(args, name, directory):
    """True: it came out as expected."""
    with tarfile.open(os.path.join(ASSETS, name, "files.tar.xz")) as tar:
        tar.extractall(directory)
    got = transcript(args, name, directory)
    path = os.path.join(ASSETS, name, "expected")
    if args.write or args.make or (args.add and args.add[0] == name):
        with open(path, "w", encoding="utf-8") as file:
            file.write(got)
        return True
    with open(path, encoding="utf-8") as file:
        expected = file.read()
    if got == expected:
        return True
    print("%s:" % name)
    print("\n".join(difflib.unified_diff(expected.splitlines(), got.splitlines(), "expected", "got",
                                         lineterm="")))
    return False


def main():
    args = arguments()
    if args.make:
        make(args.make, None)
    if args.add:
        make(args.add[1], args.add[0])
    names = sorted(os.listdir(ASSETS))
    wrong = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="qmq-golden-") as directory:
            wrong += not check(args, name, directory)
    print("%d directories, %d wrong" % (len(names), wrong))
    return 1 if wrong or not names else 0


sys.exit(main())

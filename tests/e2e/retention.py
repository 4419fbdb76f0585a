#!/usr/bin/python3
"""What retention drops is in the archive, once and in order, through kill -9; below the hard level
publishes are refused by name, and consuming goes on."""
import os
import time

import lib

COUNT = 60000
SEGMENT = 1024 * 1024


def bodies(t, directory):
    """All messages that a store or an archive has, in the order of their subject."""
    return t.run("qlog", "cat", directory, "lines")[0].split(b"\n")[:-1]


with lib.Test() as t:
    archive = t.path("archive")
    kept = ("--segment-size", str(SEGMENT), "--retention-size", str(3 * SEGMENT), "--archive", archive)
    node = t.node(program=("qmqd",) + kept)
    node.start()
    lines = t.make_lines(COUNT)
    for part in range(4):
        path = t.write_lines("part-%d" % part, lines[part * COUNT // 4:(part + 1) * COUNT // 4])
        t.qmq(node, "pub", "lines", "--from", path)
        if part < 3:
            node.kill9()
            node.start()

    def archived():
        return [n for n in os.listdir(os.path.join(archive, "message")) if not n.endswith(".part")]

    deadline = time.monotonic() + 60
    while len(archived()) < 2:
        t.check(time.monotonic() < deadline, "%d files are in the archive" % len(archived()))
        time.sleep(0.1)
    node.stop()
    node.verify({0})
    gone = bodies(t, archive)
    there = bodies(t, node.store)
    t.check(len(gone) > COUNT / 4, "only %d messages are in the archive" % len(gone))
    # A segment that is copied and not dropped yet is in both.
    first = lines.index(there[0])
    t.check(first <= len(gone), "%d messages are in neither" % (first - len(gone)))
    t.same_lines(gone[:first] + there, lines, "archive and store")
    t.same_lines(gone, lines[:len(gone)], "archive")
    t.run("qlog", "verify", archive)
    t.say("%d messages of %d are in the archive" % (len(gone), COUNT))

    # A disk that counts as full.
    node.program = ("qmqd", "--segment-size", str(SEGMENT), "--disk-hard", "1TiB", "--disk-soft", "2TiB")
    node.start()
    deadline = time.monotonic() + 30
    while "DISK_LEVEL" not in node.said():
        t.check(time.monotonic() < deadline, "no line says that the disk is full")
        time.sleep(0.05)
    _, said, code = t.qmq(node, "pub", "lines", "one more", codes=None)
    t.check(code != 0 and "STORAGE_FULL" in said, "a publish onto a full disk: %s, %r" % (code, said))
    t.check(len(t.qmq(node, "sub", "lines", "-g", "late", "-e")[0]) > 0, "nothing can be consumed")
    node.stop()
    node.verify({0})

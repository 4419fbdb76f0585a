#!/usr/bin/python3
"""Each way in which a start can fail has its own exit code and one clear line, and harms nothing."""
import os
import socket

import lib

USAGE, PERMISSION, LOCKED, ADDRESS, FOREIGN, NOT_DIRECTORY, IS_DIRECTORY = 2, 5, 10, 11, 12, 13, 14


def listing(directory):
    """Everything below, with sizes, times and contents of small files."""
    found = {}
    for path, names, files in os.walk(directory):
        for name in names + files:
            full = os.path.join(path, name)
            about = os.lstat(full)
            small = os.path.isfile(full) and about.st_size < 65536
            found[full] = (about.st_mode, about.st_size, about.st_mtime_ns,
                           open(full, "rb").read() if small else None)
    return found


with lib.Test() as t:
    _, spare = lib.free_port_base(), lib.free_port_base()[0]

    def refused(code, *words, directory=None, port_base=spare, wrap=(), more=()):
        """It ends with this code, and one line has all the words."""
        argv = [*wrap, "qmq", "dev", "--port-base", str(port_base), *more]
        if directory:
            argv += ["--dir", directory]
        _, said, got = t.run(*argv, codes=None)
        lines = said.strip().splitlines()
        t.check(got == code, "exit code %d, not %d: %s" % (got, code, said))
        t.check(len(lines) == 1, "not one line but %d:\n%s" % (len(lines), said))
        for word in words:
            t.check(word in lines[0], "%r is not in: %s" % (word, lines[0]))
        t.say("%2d  %s" % (code, lines[0].replace(t.directory, "…")))

    node = t.node()
    node.start()
    t.qmq(node, "pub", "kept", "still here")

    refused(USAGE, "--port-bas", "--port-base", more=("--port-bas", "1"), directory=t.path("x"))

    refused(USAGE, "--durability", "'always'", "sync", "async", more=("--durability", "always"),
            directory=t.path("x"))

    # A second process on the same data; the first one goes on.
    refused(LOCKED, node.directory, str(node.process.pid), directory=node.directory)
    # A port in use: nothing is left behind.
    refused(ADDRESS, str(node.port_base), directory=t.path("unborn"), port_base=node.port_base)
    t.check(not os.path.exists(t.path("unborn")), "a failed start left a directory")
    with socket.socket() as other:
        other.bind(("127.0.0.1", spare + 1))
        other.listen()
        refused(ADDRESS, str(spare + 1), directory=t.path("unborn"))
        t.check(not os.path.exists(t.path("unborn")), "a failed start left a directory")
    # Nobody has asked for this one.
    with socket.socket() as other:
        other.bind(("127.0.0.1", spare + 3))
        other.listen()
        refused(ADDRESS, str(spare + 3), "--one-way none", directory=t.path("unborn"))
        t.check(not os.path.exists(t.path("unborn")), "a failed start left a directory")

    # A file where the directory should be.
    t.write_lines("file", [b"mine"])
    refused(NOT_DIRECTORY, t.path("file"), directory=t.path("file"))
    t.check(open(t.path("file")).read() == "mine\n", "the file was changed")

    # Somebody else's directory.
    os.makedirs(t.path("foreign", "sub"))
    t.write_lines("foreign/photo.jpg", [b"precious"])
    before = listing(t.path("foreign"))
    refused(FOREIGN, t.path("foreign"), "photo.jpg", directory=t.path("foreign"))
    t.check(listing(t.path("foreign")) == before, "a foreign directory was changed")

    # No permission to write. Root may write everywhere, so somebody else tries.
    os.makedirs(t.path("readonly"), mode=0o555)
    wrap = ()
    if os.getuid() == 0:
        wrap = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        os.chmod(t.directory, 0o755)
    if wrap and t.run(*wrap, "qmq", "version", codes=None)[2] != 0:
        t.say(" 5  left to the unprivileged run: nobody may not execute the programs here")
    else:
        refused(PERMISSION, t.path("readonly"), directory=t.path("readonly"), wrap=wrap)
        refused(PERMISSION, t.path("readonly"), directory=t.path("readonly", "sub"), wrap=wrap)

    # A directory where a file should be: the marker, meta's database, the store's first file.
    os.makedirs(t.path("odd-1", "qmq-node"))
    refused(IS_DIRECTORY, t.path("odd-1", "qmq-node"), directory=t.path("odd-1"))
    for number, name in enumerate(("meta/meta.db", "broker/superblock")):
        odd = t.node("odd-%d" % (number + 2), port_base=spare)
        odd.start()
        odd.stop()
        os.rename(os.path.join(odd.directory, name), t.path("aside"))
        os.mkdir(os.path.join(odd.directory, name))
        refused(IS_DIRECTORY, os.path.join(odd.directory, name), directory=odd.directory)
        os.rmdir(os.path.join(odd.directory, name))
        os.rename(t.path("aside"), os.path.join(odd.directory, name))
        odd.start()
        odd.stop()

    # What it was told it says.
    t.check("sync: a publish is acknowledged after it is flushed" in node.said(), node.said())
    quick = t.node("quick", program=("qmq", "dev", "--durability", "async"))
    quick.start()
    t.check("async: a publish is acknowledged when it is written" in quick.said(), quick.said())
    t.qmq(quick, "pub", "seen", "early")
    out, _, _ = t.qmq(quick, "sub", "seen", "-g", "g", "-e")
    t.check(out == b"early\n", "the message does not come: %r" % out)
    quick.stop()

    # Less memory than its limits need: the line says what takes how much; with more it starts.
    low = t.node("low", port_base=spare)
    low.start()
    low.stop()
    refused(1, "64 MiB", "subjects", "frames", directory=low.directory, more=("--memory-max", "64MiB"))
    low.start()
    low.stop()

    # After all of that the node is as it was.
    out, _, _ = t.qmq(node, "sub", "kept", "-g", "g", "-e")
    t.check(out == b"still here\n", "the message is not there any more: %r" % out)
    node.stop()
    node.verify({0})

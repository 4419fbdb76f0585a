"""demo.py: the story that ./demo tells, and its proof."""
import collections
import hashlib
import os
import re
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


def grouped(count):
    return format(count, ",")


def tag_of(line, field):
    """As --tag-field finds it; None: the line has no such word."""
    words = [word for word in re.split(rb"[ \t\r]+", line) if word]
    if len(words) < field or len(words[field - 1]) > 255 or b"\0" in words[field - 1]:
        return None
    return words[field - 1]


def checksum(lines):
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def lines_of(path):
    with open(path, "rb") as file:
        text = file.read()
    return text.removesuffix(b"\n").split(b"\n") if text else []


def by_id(path):
    """What a consumer printed with --id: ([body of each message, once], how many came twice)."""
    found = {}
    lines = lines_of(path)
    for line in lines:
        name, _, body = line.partition(b"\t")
        if found.setdefault(name, body) != body:
            raise lib.Failure("message %s has two bodies" % name.decode())
    return list(found.values()), len(lines) - len(found)


def wait_for_lines(path, count, processes):
    """Until there are so many; returns how many there are."""
    end = time.monotonic() + 60
    found = 0
    with open(path, "rb") as file:
        while True:
            found += file.read().count(b"\n")
            if found >= count:
                return found
            for process in processes:
                if process.poll() is not None:
                    raise lib.Failure("%s ended: %s" % (process.title, process.stderr_text().strip()))
            if time.monotonic() > end:
                raise lib.Failure("no progress in 60 s")
            time.sleep(0.01)


def main(t):
    path, source, field = real_input(t)
    lines = lines_of(path)
    tags = collections.Counter(tag_of(line, field) for line in lines)
    tags.pop(None, None)
    if not lines or not tags:
        raise lib.Failure("%s has no lines with words" % source)
    tag = b"install" if tags.get(b"install") else tags.most_common()[len(tags) // 2][0]
    tagged = [line for line in lines if tag_of(line, field) == tag]
    say("input", "%s: %s lines; word %d is the tag, of %s kinds" % (
        source, grouped(len(lines)), field, grouped(len(tags))))

    node = t.node()
    took = node.start()
    io = node.io_line("io_uring") or node.io_line("plain") or ""
    say("node", "qmq dev --port-base %d, ready in %.0f ms; %s; every ack is flushed to disk first" % (
        node.port_base, took * 1000, " ".join(io.split())))

    # A producer that is fed slowly enough to have a middle; a consumer that takes all the time.
    read_end, write_end = os.pipe()
    publisher = t.spawn("qmq", "pub", "demo", "--tag-field", str(field), "--from", "-",
                        "--meta", node.meta, stdin=read_end)
    os.close(read_end)
    threading.Thread(target=feed, args=(write_end, lines), daemon=True).start()
    consumer = t.spawn("qmq", "sub", "demo", "-g", "all", "--id", "--meta", node.meta)
    say("publish", "qmq pub demo --tag-field %d --from -" % field)
    say("consume", "qmq sub demo -g all")

    consumed = wait_for_lines(consumer.out_path, len(lines) // 2, [publisher, consumer])
    node.kill9()
    say("kill -9", "the node, while both are at work: %s lines have been consumed" % grouped(consumed))
    code = node.verify({0, 7})
    say("verify", "qlog verify: %s" % (
        "a torn tail, nothing acknowledged in it is missing" if code == 7 else "every byte is right"))
    took = node.start()
    say("restart", "ready in %.0f ms; producer and consumer go on by themselves" % (took * 1000))

    if publisher.wait() != 0:
        raise lib.Failure("the producer failed: %s" % publisher.stderr_text().strip())
    say("", publisher.stderr_text().strip().splitlines()[-1])
    consumer.stop(codes=(0, 130, 143))
    rest = t.path("rest")
    t.spawn("qmq", "sub", "demo", "-g", "all", "-e", "--id", "--meta", node.meta, stdout=rest).wait()
    with open(consumer.out_path, "ab") as out, open(rest, "rb") as more:
        out.write(more.read())
    by_tag = t.path("by-tag")
    t.spawn("qmq", "sub", "demo", "-g", "by-tag", "-t", os.fsdecode(tag), "-e", "--id",
            "--meta", node.meta, stdout=by_tag).wait()
    node.stop()
    node.verify({0})

    # The proof. Every message has an id that is never used again, so it is known what came twice:
    # an answer was on the way when the node died, and the request was made again.
    print()
    holds = True
    say("input", "%-7s %7s lines, sha256 %s" % ("", grouped(len(lines)), checksum(lines)[:32]))
    name = tag.decode("ascii", "backslashreplace")[:20]
    for group, file, want in (("all", consumer.out_path, lines), (name, by_tag, tagged)):
        got, twice = by_id(file)
        same = got == want
        holds = holds and same
        say("group", "%-7s %7s lines, sha256 %s %s%s" % (
            group, grouped(len(got)), checksum(got)[:32],
            "the same" if want is lines and same else "as in the input" if same else "WRONG",
            ", %s came twice" % grouped(twice) if twice else ""))
    if not holds:
        raise lib.Failure("an acknowledged line did not arrive, or a wrong one did")
    print("""
Everything acknowledged arrived, in both groups. Try next:

  . scripts/env.sh                    the programs of build/ on PATH
  qmq dev                             a node of your own, then in another terminal:
  qmq pub hello "first message"
  qmq sub hello
  qlog dump qmq-data/broker           what is on the disk
  ./check --quick                     the tests""")


try:
    with lib.Test(quiet=True) as test:
        main(test)
except (lib.Failure, OSError) as failure:
    print("\nThis does not hold: %s" % failure)
    sys.exit(1)

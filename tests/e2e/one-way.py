#!/usr/bin/python3
"""One-way messages: whoever sends them is never kept waiting, and each is counted.

A broker is killed and started again while lines are shipped, more of them than the memory of the sender holds.
What came to a broker, what was dropped and what may be lost are together what was sent. What was stored is in
order, each once, and nothing that was stored before the kill is gone. A broker that is too old to take
one-way messages, or was told not to, is named with its remedy.
"""
import json
import os
import re
import threading
import time

import lib

FIRST = 5000
LATER = 5000
WIDE = 1024  # bytes of a line while the broker is away
AWAY = 40000  # lines then: more than 32 MiB
LAST = 100
ALL = re.compile(r"one way: (\d+) messages came to a broker in .* s; dropped (\d+)"
                 r"(?: \(no room (\d+), too late (\d+), refused (\d+)\))?; lost on the way, or not, (\d+)")


class Shipper:
    """`qmq pub --one-way` that gets its lines bit by bit."""

    def __init__(self, t, meta):
        # nng 1.5.2 loses a message when its connection is closed just before it is handed over.
        with open(t.path("suppressions"), "w", encoding="ascii") as file:
            file.write("leak:libnng.so\n")
        self.t = t
        read_end, write_end = os.pipe()
        self.process = t.spawn(
            "qmq", "pub", "logs", "--one-way", "--from", "-", "--meta", meta, stdin=read_end,
            environment={"LSAN_OPTIONS": "print_suppressions=0:suppressions=" + t.path("suppressions")})
        os.close(read_end)
        self.out = open(write_end, "wb", buffering=0)
        self.count = 0

    def feed(self, count, size=40):
        lines = []
        for _ in range(count):
            lines.append(b"%08d " % self.count + b"x" * (size - 10) + b"\n")
            self.count += 1
        view = memoryview(b"".join(lines))
        while view:
            view = view[self.out.write(view):]

    def end(self):
        """(came, dropped, no room, no broker, refused, unknown)"""
        self.out.close()
        code = self.process.wait()
        said = self.process.stderr_text()
        match = ALL.search(said)
        self.t.check(match, "it ended with %d and said: %s" % (code, said[-2000:]))
        return [int(word or 0) for word in match.groups()]


def stored(t, node):
    """Numbers of the stored lines, in their order."""
    out = t.run("qlog", "cat", node.store, "logs", codes=None)[0]
    return [int(line[:8]) for line in out.split(b"\n")[:-1]]


def wait_until(t, what, condition):
    deadline = time.monotonic() + lib.PATIENCE
    while not condition():
        t.check(time.monotonic() < deadline, what)
        time.sleep(0.1)


def killed(t):
    node = t.node(program=("qmqd", "--roles", "meta,broker"))
    node.start()
    shipper = Shipper(t, node.meta)
    shipper.feed(FIRST)
    wait_until(t, "the first lines are not stored", lambda: len(stored(t, node)) == FIRST)
    feeding = threading.Thread(target=shipper.feed, args=(LATER,))
    feeding.start()
    time.sleep(t.random.uniform(0, 0.1))
    node.kill9()
    feeding.join(lib.PATIENCE)
    t.check(not feeding.is_alive(), "a dead broker keeps up who writes lines")
    # All of them go into the pipe while nobody is there.
    shipper.feed(AWAY, WIDE)
    node.start()
    wait_until(t, "nothing comes after a restart",
               lambda: os.path.exists(node.store) and stored(t, node)[-1] >= FIRST + LATER)
    wait_until(t, "what waits is not sent", lambda: one_way(t, node)["came"] > 0)
    shipper.feed(LAST)
    came, dropped, no_room, too_late, refused, unknown = shipper.end()

    t.check(came + dropped + unknown == shipper.count, "%d came, %d were dropped, %d may be lost: of %d" % (
        came, dropped, unknown, shipper.count))
    t.check(no_room + too_late + refused == dropped, "the reasons are not the sum")
    t.check(no_room > 0, "more fit into memory than it has")
    wait_until(t, "a broker has one-way messages in hand for ever", lambda: one_way(
        t, node)["came"] == sum(one_way(t, node)[name] for name in ("stored", "busy", "full", "refused")))
    counts = one_way(t, node)
    node.stop()
    numbers = stored(t, node)
    t.check(numbers == sorted(set(numbers)), "lines are stored twice or out of order")
    t.check(numbers[:FIRST] == list(range(FIRST)), "what was stored before the kill is gone")
    t.check(len(numbers) <= came + unknown, "more is stored than came")
    # A broker that is killed takes with it what it had in hand: some of what was sent just before.
    gone = came - len(numbers)
    t.check(gone <= LATER, "%d lines that came are not stored" % gone)
    t.check(counts["full"] + counts["refused"] + counts["invalid_calls"] == 0, "it dropped some: %r" % counts)
    t.say("%d lines: %d came, %d of them are stored; %d found no room, %d came too late, %d were refused, %d may be lost" % (
        shipper.count, came, len(numbers), no_room, too_late, refused, unknown))


def one_way(t, node):
    """What the broker counts."""
    out = t.run("qmq", "brokers", "-o", "json", "--meta", node.meta)[0]
    return json.loads(out)["one_way"]


def refused(t):
    node = t.node("none", program=("qmqd", "--roles", "meta,broker", "--one-way", "none"))
    node.start()
    _, err, code = t.run("qmq", "pub", "logs", "line", "--one-way", "--meta", node.meta, codes=None)
    t.check(code != 0, "a broker without one-way messages takes one")
    t.check("takes one-way messages" in err and "--one-way none" in err, "it does not say why: " + err)
    node.stop()


with lib.Test() as t:
    refused(t)
    killed(t)

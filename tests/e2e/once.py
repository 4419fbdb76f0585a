#!/usr/bin/python3
"""Each message of a producer is stored once, in order, whatever becomes of its calls.

One broker group: it is killed and started again, is away for a while, its answers are lost with the
connection, and its answers are lost while the connection stays. Two broker groups, one of which is
killed for good while its answers are on their way: each message is stored at least once, and no more of
them are stored twice than the producer called `maybe duplicate`.

    QMQ_TEST_MESSAGES  how many messages (200,000)
    QMQ_TEST_AWAY      how many seconds there is no broker (3)
"""
import collections
import os
import re
import socket
import threading
import time

import lib

MESSAGES = int(os.environ.get("QMQ_TEST_MESSAGES", "200000"))
AWAY = float(os.environ.get("QMQ_TEST_AWAY", "3"))
TIME_OUT = 7  # more than a call waits for its answer
PROXY = "127.0.0.2"  # where brokers say that they are


class Proxy:
    """In front of a broker. Its answers can be lost on the way."""

    def __init__(self, port):
        self.port = port
        self.deaf = False  # bytes from the broker go nowhere
        self.lock = threading.Lock()
        self.connections = set()
        self.listener = socket.create_server((PROXY, port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client = self.listener.accept()[0]
            try:
                broker = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                client.close()
                continue
            for end in (client, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections.update((client, broker))
            for source, to in ((client, broker), (broker, client)):
                threading.Thread(
                    target=self.carry, args=(source, to, source is broker), daemon=True).start()

    def carry(self, source, to, is_answer):
        try:
            while data := source.recv(65536):
                if not (is_answer and self.deaf):
                    to.sendall(data)
        except OSError:
            pass
        for end in (source, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        with self.lock:
            connections, self.connections = self.connections, set()
        for end in connections:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Publisher:
    """`qmq pub` that gets its lines bit by bit."""

    def __init__(self, t, meta, subject):
        # nng 1.5.2 loses a message when its connection is closed just before it is handed over.
        with open(t.path("suppressions"), "w") as file:
            file.write("leak:libnng.so\n")
        self.t = t
        read_end, write_end = os.pipe()
        self.process = t.spawn(
            "qmq", "pub", subject, "--from", "-", "--meta", meta, stdin=read_end, environment={
                "LSAN_OPTIONS": "print_suppressions=0:suppressions=" + t.path("suppressions")})
        os.close(read_end)
        self.out = open(write_end, "wb", buffering=0)

    def feed(self, lines):
        view = memoryview(b"".join(line + b"\n" for line in lines))
        while view:
            view = view[self.out.write(view):]

    def end(self):
        """How many messages it calls `maybe twice`."""
        self.out.close()
        code = self.process.wait()
        said = self.process.stderr_text()
        self.t.check(code == 0, "the producer ended with %d: %s" % (code, said[-2000:]))
        maybe = re.search(r"(\d+) maybe twice", said)
        return int(maybe[1]) if maybe else 0


def stored(t, node, subject):
    """All messages that a stopped broker has, in their order."""
    return t.run("qlog", "cat", node.store, subject)[0].split(b"\n")[:-1]


def one_group(t):
    node = t.node(program=("qmqd", "--advertise", PROXY))
    proxy = Proxy(node.port_base + 1)
    node.start()
    publisher = Publisher(t, node.meta, "once")

    def killed():
        node.kill9()
        node.start()

    def away():
        node.kill9()
        time.sleep(AWAY)
        node.start()

    def lost_with_connection():
        proxy.deaf = True
        time.sleep(0.3)
        proxy.cut()
        proxy.deaf = False

    def lost():
        proxy.deaf = True
        time.sleep(TIME_OUT)
        proxy.cut()
        proxy.deaf = False

    def lost_and_killed():
        proxy.deaf = True
        time.sleep(0.3)
        node.kill9()
        proxy.cut()
        proxy.deaf = False
        node.start()

    faults = [killed, lost_with_connection, lost, away, lost_and_killed, lost_with_connection, killed]
    lines = t.make_lines(MESSAGES)
    part = MESSAGES // (2 * len(faults)) + 1
    at = 0
    for fault in faults:
        # What is on its way when it happens, and what comes meanwhile.
        publisher.feed(lines[at:at + part])
        feeding = threading.Thread(target=publisher.feed, args=(lines[at + part:at + 2 * part],))
        feeding.start()
        time.sleep(t.random.uniform(0, 0.1))
        fault()
        feeding.join(lib.PATIENCE)
        at += 2 * part
    maybe = publisher.end()
    t.check(maybe == 0, "with one broker group %d messages are called maybe twice" % maybe)
    got = t.qmq(node, "sub", "once", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.same_lines(got, lines, "what a consumer gets")
    node.stop()
    node.verify({0})
    t.same_lines(stored(t, node, "once"), lines, "what is stored")
    t.say("%d messages, %d faults: each is stored once, in order" % (len(lines), len(faults)))


def two_groups(t):
    meta = t.node("meta", program=("qmqd", "--roles", "meta"))
    brokers = [t.node(name, program=("qmq-broker", "--meta", meta.meta, "--broker-group", name,
                                     "--advertise", PROXY)) for name in ("one", "two")]
    proxies = {node: Proxy(node.port_base + 1) for node in brokers}
    meta.start()
    for node in brokers:
        node.start()
    publisher = Publisher(t, meta.meta, "twice")
    lines = [b"%d" % number for number in range(60000)]
    publisher.feed(lines[:20000])

    def sizes():
        return [len(t.run("qlog", "cat", node.store, "twice", codes=None)[0]) for node in brokers]

    deadline = time.monotonic() + lib.PATIENCE
    while max(now := sizes()) == 0:
        t.check(time.monotonic() < deadline, "nothing is stored")
        time.sleep(0.1)
    dead = brokers[now.index(max(now))]
    proxies[dead].deaf = True
    publisher.feed(lines[20000:40000])
    time.sleep(1)
    dead.kill9()
    proxies[dead].cut()
    publisher.feed(lines[40000:])
    maybe = publisher.end()
    alive = brokers[1 - brokers.index(dead)]
    alive.stop()
    meta.stop()
    # As its next start finds it.
    t.run("qlog", "verify", dead.store, codes=(0, 7))
    copies = collections.Counter(stored(t, dead, "twice") + stored(t, alive, "twice"))
    missing = [line for line in lines if line not in copies]
    t.check(not missing, "%d messages are missing, %r the first" % (len(missing), missing[:1]))
    t.check(max(copies.values()) <= 2, "a message is stored %d times" % max(copies.values()))
    twice = sum(count > 1 for count in copies.values())
    t.check(0 < twice <= maybe, "%d messages are stored twice, the producer called %d so" % (
        twice, maybe))
    t.say("a group is gone for good: %d messages are stored twice, %d were called so" % (twice, maybe))


with lib.Test() as t:
    one_group(t)
    two_groups(t)

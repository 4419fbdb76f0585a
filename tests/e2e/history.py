#!/usr/bin/python3
"""The history of two groups, while everybody who takes part comes, goes and is killed.

Producers publish lines with order keys. Consumers with stable ids work in two groups, are stopped or
killed with -9, and started again; one rejects what it gets; the broker is killed with -9. All
consumers of a group append to one file, in one write for each batch, before they acknowledge it: so
the file has the deliveries in their true order. It must show that

  - every acknowledged publish was delivered to each group at least once, and nothing else was;
  - what was acknowledged did not come again (there is no seek here);
  - the first deliveries of each key came in order; in the strict group also what came again.

Duplicates are counted: they are allowed where a consumer was killed between print and ack, rejected,
or where the producer says `maybe twice`.

    QMQ_TEST_SECONDS  how long (4)
"""
import collections
import json
import os
import random
import re
import signal
import threading
import time

import lib

SECONDS = float(os.environ.get("QMQ_TEST_SECONDS", "4"))
KEYS = 20
BATCH = 10  # messages of one pull
GROUPS = {"loose": "best-effort", "strict": "strict"}
CONSUMERS = 3


class Feeder(threading.Thread):
    """Feeds one producer with lines "KEY PRODUCER NUMBER"."""

    def __init__(self, name, seed, write_end):
        super().__init__(daemon=True)
        self.name = name
        self.random = random.Random(seed)
        self.write_end = write_end
        self.enough = threading.Event()
        self.lines = []

    def run(self):
        with open(self.write_end, "wb", buffering=0) as out:
            while not self.enough.wait(0.02):
                for _ in range(self.random.choice((1, 3, 20))):
                    line = "k%d %s %d" % (self.random.randrange(KEYS), self.name, len(self.lines))
                    self.lines.append(line)
                    out.write(line.encode() + b"\n")


class Consumer:
    """One id of a group, and the process that has it now."""

    def __init__(self, test, node, group, name, *more):
        self.test, self.node, self.group, self.name, self.more = test, node, group, name, more
        self.lives = []  # (first byte, last byte, said) of the group's file
        self.start()

    @property
    def file(self):
        return self.test.path("history-" + self.group)

    def size(self):
        return os.path.getsize(self.file) if os.path.exists(self.file) else 0

    def start(self):
        # O_APPEND: a write of one is not torn by another's.
        command = "exec qmq sub history -g %s --consumer %s --batch %d -o json --meta %s %s >>%s" % (
            self.group, self.name, BATCH, self.node.meta, " ".join(self.more), self.file)
        self.began = self.size()
        self.process = self.test.spawn("sh", "-c", command, environment=ENVIRONMENT)

    def end(self, how):
        os.kill(self.process.pid, how)
        self.process.wait()
        self.lives.append((self.began, self.size(), self.process.stderr_text()))


class Delivery:
    def __init__(self, at, line):
        told = json.loads(line)
        self.at = at
        self.consumer = told["consumer"]
        self.sequence = told["sequence"]
        self.attempt = told["attempt"]
        self.body = told["body"]
        self.key = self.body.split()[0]


def deliveries_of(test, group):
    found, at = [], 0
    with open(test.path("history-" + group), "rb") as file:
        for line in file:
            found.append(Delivery(at, line))
            at += len(line)
    return found


def check_order(test, group, deliveries):
    """The first deliveries of a key rise; in a strict group, nothing comes after a later one of its key
    unless that one comes again, too."""
    highest = collections.defaultdict(lambda: -1)
    seen = set()
    for one in deliveries:
        if one.sequence not in seen:
            test.check(one.sequence > highest[one.key], "%s: message %d of %s came first after %d" % (
                group, one.sequence, one.key, highest[one.key]))
        seen.add(one.sequence)
        highest[one.key] = max(highest[one.key], one.sequence)
    if GROUPS[group] != "strict":
        return
    last = {one.sequence: index for index, one in enumerate(deliveries)}
    highest = collections.defaultdict(lambda: -1)
    for sequence, _ in sorted(last.items(), key=lambda item: item[1]):
        key = deliveries[last[sequence]].key
        test.check(sequence > highest[key], "%s: the last delivery of %d came after that of %d" % (
            group, sequence, highest[key]))
        highest[key] = sequence


def check_acked(test, group, deliveries, consumers):
    """A batch is printed, then acknowledged, then the next is printed. So what was printed BATCH
    lines before another line of the same process was acknowledged: it must not come afterwards."""
    by_place = {}
    for consumer in consumers:
        for begin, end, said in consumer.lives:
            lines = [one for one in deliveries
                     if begin <= one.at < end and one.consumer == consumer.name]
            if "--ack" in consumer.more or "EXPIRED" in said:
                continue
            for index, one in enumerate(lines[:-BATCH]):
                by_place.setdefault(one.sequence, lines[index + BATCH].at)
    for one in deliveries:
        acked_at = by_place.get(one.sequence)
        test.check(acked_at is None or one.at <= acked_at,
                   "%s: message %d was acknowledged and came again, attempt %d, to %s" % (
                       group, one.sequence, one.attempt, one.consumer))
    return len(by_place)


with lib.Test() as t:
    # See kill.py.
    with open(t.path("suppressions"), "w") as file:
        file.write("leak:libnng.so\n")
    ENVIRONMENT = {"LSAN_OPTIONS": "print_suppressions=0:suppressions=" + t.path("suppressions")}
    node = t.node()
    node.start()

    feeders, publishers = [], []
    for name in ("p0", "p1"):
        read_end, write_end = os.pipe()
        publishers.append(t.spawn("qmq", "pub", "history", "--from", "-", "--order-key-field", "1",
                                  "--meta", node.meta, stdin=read_end, environment=ENVIRONMENT))
        os.close(read_end)
        feeders.append(Feeder(name, t.random.random(), write_end))
    for group, order in GROUPS.items():
        t.qmq(node, "sub", "history", "-g", group, "-e")
        t.qmq(node, "group", "set", group, "--order", order, "--backoff", "50ms", "--attempts", "250")
    for feeder in feeders:
        feeder.start()
    consumers = {group: [Consumer(t, node, group, "c%d" % number) for number in range(CONSUMERS)]
                 for group in GROUPS}
    for group in GROUPS:
        consumers[group].append(Consumer(t, node, group, "rejects", "--ack", "reject"))

    until = time.monotonic() + SECONDS
    kills = collections.Counter()
    while time.monotonic() < until:
        time.sleep(t.random.uniform(0.1, 0.5))
        # A start takes its time: a short history has two.
        may_kill = kills["broker"] < max(2, SECONDS / 2)
        if may_kill and (t.random.random() < 0.25 or not kills["broker"]):
            node.kill9()
            kills["broker"] += 1
            node.start()
            continue
        one = t.random.choice(consumers[t.random.choice(list(GROUPS))])
        how = t.random.choice((signal.SIGTERM, signal.SIGKILL))
        kills[how.name] += 1
        one.end(how)
        one.start()
    for feeder in feeders:
        feeder.enough.set()
        feeder.join(lib.PATIENCE)
    said = []
    for publisher in publishers:
        t.check(publisher.wait() == 0, "a producer: " + publisher.stderr_text()[-2000:])
        said += publisher.stderr_text().strip().splitlines()[-1:]
    for group in GROUPS:
        consumers[group][-1].end(signal.SIGTERM)

    def state(group):
        out = t.qmq(node, "group", "lag", group, "--interval", "0", "-o", "json")[0]
        return json.loads(out.splitlines()[0])

    def is_done(lag):
        return lag["waiting"] == 0 and lag["in_flight"] == 0 and sum(lag["pending"].values()) == 0

    patience = time.monotonic() + lib.PATIENCE
    for group in GROUPS:
        while not is_done(state(group)):
            t.check(time.monotonic() < patience, "%s is never done: %s" % (group, state(group)))
            time.sleep(0.2)
    for group in GROUPS:
        for one in consumers[group][:-1]:
            one.end(signal.SIGTERM)

    published = [line for feeder in feeders for line in feeder.lines]
    maybe = sum(int(count) for line in said for count in re.findall(r"(\d+) maybe twice", line))
    stored = [json.loads(line)["body"]
              for line in t.qmq(node, "sub", "history", "--peek", "-e", "-o", "json")[0].splitlines()]
    t.check(set(stored) == set(published), "%d are stored, %d were published" % (
        len(set(stored)), len(published)))
    t.check(len(stored) - len(published) <= maybe, "%d are stored twice, %d maybe" % (
        len(stored) - len(published), maybe))
    t.say("%d messages, %d maybe twice; kills: %s" % (
        len(published), maybe, ", ".join("%s %d" % item for item in sorted(kills.items()))))
    for group in GROUPS:
        deliveries = deliveries_of(t, group)
        bodies = {one.body for one in deliveries}
        t.check(not set(published) - bodies, "%s: %d messages were never delivered: %s" % (
            group, len(set(published) - bodies), sorted(set(published) - bodies)[:5]))
        t.check(not bodies - set(published), "%s: %s was never published" % (
            group, sorted(bodies - set(published))[:5]))
        sequences = collections.Counter(one.sequence for one in deliveries)
        t.check(len(sequences) == len(stored), "%s: %d of %d sequences" % (
            group, len(sequences), len(stored)))
        check_order(t, group, deliveries)
        acked = check_acked(t, group, deliveries, consumers[group])
        t.say("%s: %d deliveries, %d of them again, %d surely acknowledged" % (
            group, len(deliveries), len(deliveries) - len(sequences), acked))

#!/usr/bin/python3
"""Two brokers register by themselves at a meta, and a route lists both.

A broker that dies leaves the routes, the other one serves, and it comes back into them; a consumer
gets everything from both.
"""
import json
import time

import lib
import wire


def route(meta, subject):
    """{broker group: address} of a subject, as meta says it."""
    answer = wire.Connection(meta).call(wire.META_ROUTE, wire.text(1, subject) + wire.number(2, 1))
    groups = [wire.decode(group) for group in answer.get(2, [])]
    return {group[1][0].decode(): group[3][0].decode() for group in groups}


def wait_for_route(meta, subject, count):
    end = time.monotonic() + lib.PATIENCE
    while True:
        groups = route(meta, subject)
        if len(groups) == count:
            return groups
        if time.monotonic() > end:
            raise lib.Failure("the route has %s, not %d broker groups" % (groups, count))
        time.sleep(0.1)


def stored(t, broker):
    """Messages in a broker's store, as qlog sees them."""
    dump = t.run("qlog", "dump", broker.store, "-o", "json")[0]
    records = [json.loads(line) for line in dump.splitlines()]
    return sum(record["messages"] for record in records if record["kind"] == "BATCH")


with lib.Test() as t:
    meta = t.node("meta", program=("qmqd", "--roles", "meta"))
    brokers = [t.node(name, program=("qmq-broker", "--meta", meta.meta, "--broker-group", name))
               for name in ("one", "two")]
    # A broker waits for meta, and does not end because it is not there.
    brokers[0].begin()
    time.sleep(0.3)
    t.check(brokers[0].process.poll() is None, "a broker without meta ended: " + brokers[0].said())
    t.check(not brokers[0].is_ready(), "a broker without meta says that it is ready")
    meta.start()
    brokers[0].wait_ready()
    brokers[1].start()

    groups = wait_for_route(meta.meta, "orders", 2)
    t.check(set(groups) == {"one", "two"}, "the route lists %s" % groups)
    t.say("route of orders: " + ", ".join("%s at %s" % item for item in sorted(groups.items())))

    lines = [b"%d" % index for index in range(20000)]
    t.qmq(meta, "pub", "orders", "--from", t.write_lines("in", lines))
    got = t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.same_lines(sorted(got), sorted(lines), "a group")

    # The broker that the producer used dies: it leaves the routes, and the other one serves.
    while not (used := [broker for broker in brokers if stored(t, broker)]):
        time.sleep(0.1)  # qlog sees what is below the durable mark of a running store
    dead = used[0]
    dead.kill9()
    dead.verify({0, 7})
    wait_for_route(meta.meta, "orders", 1)
    more = [b"more %d" % index for index in range(1000)]
    t.qmq(meta, "pub", "orders", "--from", t.write_lines("more", more))
    got = t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.same_lines(got, more, "while one broker was dead")

    # Back again, it is listed again, and a new group gets everything from both.
    dead.start()
    wait_for_route(meta.meta, "orders", 2)
    got = t.qmq(meta, "sub", "orders", "-g", "new", "-e")[0].split(b"\n")[:-1]
    t.same_lines(sorted(got), sorted(lines + more), "from two brokers")

    for node in (*brokers, meta):
        node.stop()
    counts = [stored(t, broker) for broker in brokers]
    t.say("stored: %d and %d" % tuple(counts))
    t.check(min(counts) > 0, "one broker was never used")
    t.check(sum(counts) == len(lines) + len(more), "stored are %d, not %d" % (
        sum(counts), len(lines) + len(more)))
    for broker in brokers:
        broker.verify({0})

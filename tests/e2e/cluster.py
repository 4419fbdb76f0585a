#!/usr/bin/python3
"""Two brokers register by themselves at a meta, and a route lists both.

A producer uses both, a consumer gets everything from both, and a broker that dies leaves the routes
and comes back into them.
"""
import time

import lib
import wire


def route(t, meta, subject):
    """{broker group: address} of a subject, as meta says it."""
    answer = wire.Connection(meta).call(wire.META_ROUTE, wire.text(1, subject) + wire.number(2, 1))
    groups = [wire.decode(group) for group in answer.get(2, [])]
    return {group[1][0].decode(): group[3][0].decode() for group in groups}


def wait_for_route(t, meta, subject, count):
    end = time.monotonic() + lib.PATIENCE
    while True:
        groups = route(t, meta, subject)
        if len(groups) == count:
            return groups
        if time.monotonic() > end:
            raise lib.Failure("the route has %s, not %d broker groups" % (groups, count))
        time.sleep(0.1)


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

    groups = wait_for_route(t, meta.meta, "orders", 2)
    t.check(set(groups) == {"one", "two"}, "the route lists %s" % groups)
    t.say("route of orders: " + ", ".join("%s at %s" % item for item in sorted(groups.items())))

    lines = [b"%d" % index for index in range(20000)]
    t.qmq(meta, "pub", "orders", "--from", t.write_lines("in", lines))
    got = t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.same_lines(sorted(got), sorted(lines), "from two brokers")
    for broker in brokers:
        dump = t.run("qlog", "dump", broker.store)[0]
        t.check(b"BATCH" in dump, "nothing was published to %s" % broker.name)

    # A dead broker leaves the routes, the other serves; back again it is listed again.
    brokers[1].kill9()
    wait_for_route(t, meta.meta, "orders", 1)
    more = [b"more %d" % index for index in range(1000)]
    t.qmq(meta, "pub", "orders", "--from", t.write_lines("more", more))
    brokers[1].start()
    wait_for_route(t, meta.meta, "orders", 2)
    got = t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.same_lines(sorted(got), sorted(more), "while one broker was dead")

    for node in (*brokers, meta):
        node.stop()
    for broker in brokers:
        broker.verify({0})

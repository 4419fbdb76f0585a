#!/usr/bin/python3
"""`qmq bench` counts every message, and says everything that a script relies on."""
import json

import lib

FIELDS = ("msgs_per_s", "bytes_per_s", "server_cpu_us_per_msg", "client_cpu_us_per_msg")
LATENCY = ("p50_us", "p99_us", "p999_us", "max_us")
RIGHT = ("lost", "duplicate", "out_of_order")

with lib.Test() as t:
    node = t.node()
    node.start()

    def bench(*argv, zeros=RIGHT, latency=True):
        out, _, _ = t.qmq(node, "bench", *argv, "-o", "json")
        told = json.loads(out)
        for name in FIELDS:
            t.check(told[name] > 0, "%s: %s is %r" % (argv, name, told[name]))
        for name in zeros:
            t.check(told[name] == 0, "%s: %s is %r" % (argv, name, told[name]))
        t.check(all((name in told) == latency for name in LATENCY), "%s: latency: %r" % (argv, told))
        return told

    published = bench("pub", "--duration", "200ms", zeros=("failed", "maybe_duplicate"))
    more = bench("pub", "--duration", "200ms", "--ack", "async", "--size", "1KiB", zeros=("failed",))
    drained = bench("sub")
    t.check(drained["messages"] == published["messages"] + more["messages"], "%r" % drained)

    # Two producers share the rate, two consumers the messages; the first second is not measured.
    live = bench("e2e", "--duration", "2s", "--rate", "500", "--clients", "2")
    t.check(live["messages"] == live["published"] == 1000, "%r" % live)
    bench("e2e", "--duration", "2s", "--rate", "100", "--subjects", "3")

    backlog = bench("backlog", "--duration", "100ms", latency=False)
    t.check(backlog["messages"] == backlog["published"] > 0, "%r" % backlog)
    fanout = bench("fanout", "--duration", "50ms", "--groups", "3", latency=False)
    t.check(fanout["messages"] == 3 * fanout["published"] > 0, "%r" % fanout)

    # One way; at most once.
    bench("pub", "--duration", "100ms", "--ack", "none", zeros=("failed",))
    bench("sub", "--ack", "none")
    bench("e2e", "--duration", "2s", "--rate", "100", "--ack", "none")

    # Against an earlier run.
    old = t.path("old.json")
    with open(old, "w") as file:
        json.dump(dict(backlog, msgs_per_s=backlog["msgs_per_s"] / 1e6), file, separators=(",", ":"))
    again = bench("backlog", "--duration", "100ms", "--compare", old, latency=False)
    t.check(again["msgs_per_s_ratio"] > 100 and "p50_us_ratio" not in again, "%r" % again)
    said = t.qmq(node, "bench", "backlog", "--duration", "50ms", "--compare", old)[0].decode()
    t.check("msgs_per_s x " in said and old in said, said)
    for argv, words in ((("pub", "--compare", old), "not what `qmq bench pub"),
                        (("pub", "--compare", old + ".not"), "can be read")):
        _, said, code = t.qmq(node, "bench", *argv, codes=None)
        t.check(code == 2 and words in said, "%s: %d %s" % (argv, code, said))

    # Wrong words.
    for argv in (("e2e", "--ack", "maybe"), ("fanout", "--groups", "0"), ("backlog", "--size", "8")):
        _, said, code = t.qmq(node, "bench", *argv, codes=None)
        t.check(code == 2 and argv[1] in said, "%s: %d %s" % (argv, code, said))

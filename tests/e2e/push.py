#!/usr/bin/python3
"""A push consumer goes on through kill -9 of its broker: every message is handled, none twice, in order.

`qmq bench sub` is one, and counts. What was pulled and acknowledged survives the end of the broker's
process, so not even a kill is a reason for a second time.
"""
import json
import os
import time

import lib

PUBLISH = os.environ.get("QMQ_TEST_PUSH_PUBLISH", "200ms")
KILLS = 3

with lib.Test() as t:
    node = t.node()
    node.start()
    published = json.loads(
        t.qmq(node, "bench", "pub", "--duration", PUBLISH, "--size", "64", "-o", "json")[0])["messages"]
    # Few are held, so that it takes a while.
    sub = t.spawn("qmq", "bench", "sub", "--batch", "40", "-o", "json", "--duration", "600s",
                  "--meta", node.meta)
    kills = 0
    while kills < KILLS and sub.poll() is None:
        time.sleep(0.1 + t.random.random() / 4)
        node.kill9()
        kills += sub.poll() is None
        node.start()
    sub.wait(600)
    said = sub.stdout_bytes()
    t.check(said, "it said nothing: " + sub.stderr_text())
    result = json.loads(said)
    for name in ("lost", "duplicate", "out_of_order", "foreign"):
        t.check(result[name] == 0, "%s: %d, after %d kills" % (name, result[name], kills))
    t.check(result["messages"] == published, "%d messages" % result["messages"])
    t.check(kills > 0, "it was drained before the first kill")
    node.stop()
    node.verify((0,))
    t.say("%d messages, %d kills" % (published, kills))

#!/usr/bin/python3
"""An idle node has at most 16 MB of memory of its own, and is ready in at most 300 ms.

Memory is a count and is held to its limit. Time belongs to the machine as much as to the program:
it fails at 2 s, and the figures are printed. For a release build.
"""
import time

import lib

MEMORY_MAX = 16 * 1000 * 1000
READY_MAX = 2.0

with lib.Test() as t:
    fresh = []
    for round in range(5):
        node = t.node("fresh-%d" % round)
        fresh.append(node.start())
        if round < 4:
            node.stop()
    time.sleep(1)
    memory = node.memory_bytes()
    t.qmq(node, "pub", "hello", "world")
    node.kill9()
    again = node.start()
    t.say("ready in %s ms (goal 300); after kill -9 in %.0f ms" % (
        ", ".join("%.0f" % (took * 1000) for took in sorted(fresh)), again * 1000))
    t.say("idle: %.1f MB of anonymous and shared memory" % (memory / 1e6))
    t.check(memory <= MEMORY_MAX, "idle memory is %d bytes, more than %d" % (memory, MEMORY_MAX))
    t.check(max(fresh + [again]) <= READY_MAX, "not ready in %.1f s" % READY_MAX)
    node.stop()

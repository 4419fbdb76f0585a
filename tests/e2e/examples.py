#!/usr/bin/python3
"""The examples that want a queue print what they promise, against real servers.

What they show is in examples/NAME.out.
"""
import os
import re

import lib

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")

with lib.Test() as t:
    node = t.node(program=("qmqd", "--roles", "meta,broker,delay"))
    node.start()
    # Nobody is told a promise of examples that are started by examples/run.
    names = [name[:-4] for name in sorted(os.listdir(EXAMPLES))
             if name.endswith(".out") and re.match(r"\d\d-", name) and name >= "05"]
    with open(t.path("12-log-shipping.db"), "wb") as file:
        file.writelines(b"line %d of a log\n" % number for number in range(1000))
    for name in names:
        out = t.run(name, node.meta, t.path(name + ".db"))[0]
        with open(os.path.join(EXAMPLES, name + ".out"), "rb") as file:
            t.same_lines(out.splitlines(), file.read().splitlines(), name)
    node.stop()
    t.say("%d examples" % len(names))

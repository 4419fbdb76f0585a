#!/usr/bin/python3
"""100,000 lines go through `qmq pub --from` and `qmq sub -e` and come back identical, in order."""
import lib

COUNT = 100000

with lib.Test() as t:
    node = t.node()
    node.start()
    lines = t.make_lines(COUNT)
    path = t.write_lines("in", lines)

    def consumed(group, *more):
        return t.qmq(node, "sub", "lines", "-g", group, "-e", *more)[0].split(b"\n")[:-1]

    _, said, _ = t.qmq(node, "pub", "lines", "--from", path)
    t.say(said.strip().splitlines()[-1])
    t.same_lines(consumed("first"), lines, "first group")
    t.same_lines(consumed("second"), lines, "second group, which has progress of its own")
    t.same_lines(consumed("first"), [], "first group, again: all is acknowledged")

    # A group that takes some, and the rest after a restart.
    some = t.qmq(node, "sub", "lines", "-g", "third", "-n", "1234")[0].split(b"\n")[:-1]
    t.same_lines(some, lines[:1234], "third group, 1,234 messages")
    node.stop()
    node.verify({0})
    node.start()
    t.same_lines(consumed("third"), lines[1234:], "third group, the rest after a restart")
    t.same_lines(consumed("first"), [], "first group, after a restart")

    # By tag, on the same subject: only what has the tag.
    tagged = t.make_lines(500)
    t.qmq(node, "pub", "lines", "-t", "red", "--from", t.write_lines("red", tagged))
    t.same_lines(consumed("by-tag", "-t", "red"), tagged, "group by tag")
    t.same_lines(consumed("first"), tagged, "first group, without a filter")
    node.stop()
    node.verify({0})

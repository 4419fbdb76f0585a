#!/usr/bin/python3
"""What a group had in hand when retention dropped it is a dead letter, and can be sent again: as a copy
that only that group is given."""
import json
import time

import lib

SEGMENT = 1024 * 1024
BODIES = [b"first", b"second", b"third"]

with lib.Test() as t:
    node = t.node(program=("qmqd", "--segment-size", str(SEGMENT), "--retention-size", str(4 * SEGMENT)))
    node.start()

    def qmq(*args):
        return t.qmq(node, *args)

    def letters():
        return json.loads(qmq("dlq", "list", "mail", "-g", "post", "-o", "json")[0])["dead_letters"]

    def lag(group):
        return json.loads(qmq("group", "lag", group, "-o", "json")[0])["broker_groups"][0]

    qmq("pub", "mail", "-t", "red", "--key", "k", "--order-key", "o", "--from", t.write_lines("mail", BODIES))
    qmq("sub", "mail", "-g", "post", "-n", "3", "-t", "red", "--ack", "none")
    qmq("group", "set", "post", "--backoff", "10m")
    qmq("group", "seek", "post", "--to", "earliest", "--yes")
    qmq("sub", "mail", "-g", "post", "-n", "3", "-t", "red", "--ack", "reject", "--error", "no such street")
    t.check(letters() == [], "nothing has died")
    other = qmq("sub", "mail", "-g", "other", "-e")[0].splitlines()
    t.same_lines(other, BODIES, "another group")

    # Retention drops them; in small steps, or it drops their dead letters, too.
    flood = t.write_lines("flood", t.make_lines(6000))
    deadline = time.monotonic() + 60
    while len(letters()) < 3:
        t.check(time.monotonic() < deadline, "%d dead letters" % len(letters()))
        qmq("pub", "flood", "--from", flood)
    t.check([(d["sequence"], d["reason"], d["attempts"]) for d in letters()] ==
            [(0, "expired", 1), (1, "expired", 1), (2, "expired", 1)], "%s" % letters())
    t.check(b"expired" in qmq("dlq", "list")[0], "no line tells the reason")
    # They outlive the node.
    node.kill9()
    node.start()
    t.check(len(letters()) == 3, "%s" % letters())

    # The originals are gone: copies come, once, and to this group alone.
    said = qmq("dlq", "resend", "-g", "post")[1]
    t.check("sent again  3 messages; 3 of them as copies" in said, said)
    t.check("sent again  0 messages" in qmq("dlq", "resend", "-g", "post")[1], "none is left")
    again = [json.loads(line) for line in
             qmq("sub", "mail", "-g", "post", "-t", "red", "-n", "3", "-o", "json")[0].splitlines()]
    t.check([(m["body"], m["attempt"], m["tags"]) for m in again] ==
            [(b.decode(), 1, ["red"]) for b in BODIES], "%s" % again)
    t.check(qmq("sub", "mail", "-g", "other", "-e")[0] == b"", "another group was given copies")
    node.stop()
    node.verify({0})

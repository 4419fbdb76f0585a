#!/usr/bin/python3
"""What `qmq sub`, `qmq group` and `qmq dlq` do with groups, as a user meets it."""
import json
import os
import time

import lib


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


def rot(node, body):
    """Flip the first byte of where that is stored first."""
    with open(os.path.join(node.store, "message", "segment-000000"), "r+b") as file:
        at = file.read().index(body)
        file.seek(at)
        file.write(bytes([body[0] ^ 1]))


with lib.Test() as t:
    node = t.node()
    node.start()

    def qmq(*argv, **more):
        return t.qmq(node, *argv, **more)

    def lines(*argv, **more):
        return qmq(*argv, **more)[0].split(b"\n")[:-1]

    def lag(group, *more):
        return objects(qmq("group", "lag", group, "--interval", "0", "-o", "json", *more)[0])[0]

    def wait_for(what, holds):
        until = time.monotonic() + lib.PATIENCE
        while not holds():
            t.check(time.monotonic() < until, "it never came: " + what)
            time.sleep(0.05)

    def refused(code, words, *argv):
        out, err, _ = qmq(*argv, codes=(code,))
        t.check(not out and words in err and "\n  try: " in err, "%s: %s" % (argv, err))

    bodies = [b"order %d" % index for index in range(10)]
    qmq("pub", "orders", "--from", t.write_lines("bodies", bodies))

    # A look leaves nothing behind, and can begin anywhere.
    t.same_lines(lines("sub", "orders", "--peek", "-e"), bodies, "a look")
    t.same_lines(lines("sub", "orders", "--peek", "-e", "--from", "7"), bodies[7:], "from 7")
    t.same_lines(lines("sub", "orders", "--peek", "-e", "--from", "-1h"), bodies, "an hour ago")
    t.same_lines(lines("sub", "orders", "--peek", "-e", "--from", "latest"), [], "the end")
    t.check(json.loads(qmq("group", "list", "-o", "json")[0]) == {"groups": []}, "a look made a group")
    refused(3, "no subject", "sub", "nothing", "--peek", "-e")
    refused(2, "--peek belongs to no group", "sub", "orders", "--peek", "-g", "g")
    refused(2, "is no place to start", "sub", "orders", "--from", "yesterday")

    # A negative ack with a delay, and one without; attempts are counted and told.
    t.check(len(lines("sub", "orders", "-g", "billing", "-n", "4", "--ack", "reject", "--delay", "0s",
                      "--error", "card declined")) == 4, "four are rejected")
    again = objects(qmq("sub", "orders", "-g", "billing", "-n", "4", "--batch", "4", "-o", "json")[0])
    t.check([m["attempt"] for m in again] == [2] * 4, "attempts %s" % [m["attempt"] for m in again])
    t.check([m["sequence"] for m in again] == [0, 1, 2, 3], "the same four come again first")
    lines("sub", "orders", "-g", "billing", "-n", "2", "--ack", "reject", "--delay", "1h")
    state = lag("billing")
    t.check(state["pending"]["retry"] == 2 and state["waiting"] == 4 and state["held"] == "",
            "after a delay of an hour: %s" % state)
    t.check(state["oldest"] == 4 and state["cursor"] == 6 and state["end"] == 10, "%s" % state)

    # Paused: nothing new, and who waits for the end is told.
    qmq("group", "pause", "billing")
    refused(4, "paused", "sub", "orders", "-g", "billing", "-e")
    qmq("group", "resume", "billing")
    t.same_lines(lines("sub", "orders", "-g", "billing", "-e"), bodies[6:], "what was never given out")

    # Seek: never without a word; the preview changes nothing.
    refused(2, "--yes", "group", "seek", "billing", "--to", "earliest")
    said = qmq("group", "seek", "billing", "--to", "2", "--preview")[1]
    t.check("from 10 to 2: 8 messages come again" in said, said)
    t.check(lag("billing")["cursor"] == 10, "a preview sought")
    qmq("group", "seek", "billing", "--to", "2", "--yes")
    t.check(lag("billing")["epoch"] == 1, "no epoch was counted")
    t.same_lines(lines("sub", "orders", "-g", "billing", "-e"), bodies[2:], "after the seek")
    qmq("group", "seek", "billing", "--to", "earliest", "--yes")
    qmq("group", "skip", "billing", "0-4", "--yes")
    t.same_lines(lines("sub", "orders", "-g", "billing", "-e"), bodies[5:], "after the skip")
    t.check(lag("billing")["skipped"] == 5, "skipped %s" % lag("billing")["skipped"])

    # A person answers for each message: the second has failed, of the third there is no word.
    read_end, write_end = os.pipe()
    with open(write_end, "wb", buffering=0) as answers:
        answers.write(b"y\nn\n")
    asked = t.spawn("qmq", "sub", "orders", "-g", "slow", "--ack", "manual", "--delay", "1h",
                    "--meta", node.meta, stdin=read_end)
    os.close(read_end)
    t.check(asked.wait() == 0, "the end of the answers: %s" % asked.stderr_text())
    state = lag("slow")
    t.check(state["in_flight"] == 0 and state["pending"]["retry"] == 1 and state["oldest"] == 1 and
            state["pending"]["released"] == 1, "%s" % state)

    # At most once needs no ack; broadcast is a group of each consumer's own.
    t.same_lines(lines("sub", "orders", "-g", "once", "--ack", "none", "-e"), bodies, "at most once")
    t.check(lag("once")["cursor"] == 10 and lag("once")["in_flight"] == 0, "at most once holds nothing")
    for name in ("left", "right"):
        t.same_lines(lines("sub", "orders", "--broadcast", "--consumer", name, "--from", "start", "-e"),
                     bodies, "broadcast to " + name)
        t.check(lag(name)["broadcast"], "no broadcast group %s" % name)
    qmq("pub", "orders", "last")
    t.same_lines(lines("sub", "orders", "--broadcast", "--consumer", "left", "-e"), [b"last"], "the rest")

    # Members with filters of their own, any-of and all-of.
    for tags in (("red",), ("blue",), ("red", "blue"), ()):
        qmq("pub", "tagged", "+".join(tags) or "none", *[word for tag in tags for word in ("-t", tag)])
    t.same_lines(lines("sub", "tagged", "-g", "f", "-t", "red", "-t", "blue", "--tag-mode", "all", "-e"),
                 [b"red+blue"], "all of two tags")
    t.same_lines(sorted(lines("sub", "tagged", "--peek", "-t", "red", "-e")), [b"red", b"red+blue"],
                 "a look with a tag")

    # Lists, show, settings, errors.
    groups = json.loads(qmq("group", "list", "-o", "json")[0])["groups"]
    t.check({(g["group"], g["subject"]) for g in groups} >= {("billing", "orders"), ("f", "tagged")},
            "%s" % groups)
    t.check(b"billing" in qmq("group", "list", "orders")[0], "no line for billing")
    qmq("group", "set", "billing", "--attempts", "2", "--backoff", "0s", "--order", "strict")
    settings = lag("billing")["settings"]
    t.check(settings["attempts"] == 2 and settings["backoff_ms"] == [0] and settings["order"] == "strict",
            "%s" % settings)
    refused(3, "no broker group knows a group", "group", "lag", "nobody")
    refused(3, "no broker group knows a group", "group", "seek", "nobody", "--to", "end", "--yes")
    qmq("sub", "tagged", "-g", "billing", "-e")
    said = qmq("group", "pause", "billing", codes=(2,))[1]
    t.check("orders" in said and "tagged" in said and "--subject" in said, said)
    qmq("group", "delete", "billing", "--subject", "tagged", "--yes")
    t.check([g["subject"] for g in json.loads(qmq("group", "list", "-o", "json")[0])["groups"]
             if g["group"] == "billing"] == ["orders"], "the other one was deleted")

    # Dead letters: shown, given back once, and readable like any subject.
    qmq("pub", "mail", "--from", t.write_lines("mail", [b"first", b"second"]))
    qmq("sub", "mail", "-g", "post", "-e")
    t.check(json.loads(qmq("dlq", "list", "-o", "json")[0]) == {"dead_letters": []}, "nothing has died")
    t.check("sent again  0" in qmq("dlq", "resend", "-g", "post")[1], "nothing to send again")
    qmq("group", "set", "post", "--attempts", "2", "--backoff", "0s")
    qmq("group", "seek", "post", "--to", "earliest", "--yes")
    qmq("sub", "mail", "-g", "post", "-n", "4", "--batch", "1", "--ack", "reject",
        "--error", "no such street")
    wait_for("dead letters", lambda: lag("post")["dead"] == 2)
    dead = json.loads(qmq("dlq", "list", "mail", "-g", "post", "-o", "json")[0])["dead_letters"]
    t.check([(d["sequence"], d["attempts"], d["failed"], d["reason"], d["error"]) for d in dead] ==
            [(0, 2, 2, "attempts", "no such street"), (1, 2, 2, "attempts", "no such street")], "%s" % dead)
    t.check(b"no such street" in qmq("dlq", "list")[0], "no line for the dead letters")
    t.same_lines(lines("sub", "%DEAD_RETRY%mail%post", "--peek", "-e"), [b"first", b"second"], "the copies")
    t.check("sent again  1 messages" in qmq("dlq", "resend", "-g", "post", "-n", "1")[1], "one again")
    t.check("sent again  1 messages" in qmq("dlq", "resend", "mail", "-g", "post")[1], "the other")
    t.check("sent again  0 messages" in qmq("dlq", "resend", "-g", "post")[1], "none is left")
    again = objects(qmq("sub", "mail", "-g", "post", "-n", "2", "-o", "json")[0])
    t.check([(m["body"], m["attempt"]) for m in again] == [("first", 1), ("second", 1)], "%s" % again)
    t.check("sent again  2 messages" in qmq("dlq", "resend", "-g", "post", "--again")[1], "all again")
    refused(3, "no broker group knows a group", "dlq", "resend", "-g", "nobody")

    # Originals that are cold are read back, and rotten ones come as copies.
    for body in ("cold", "rotten"):
        qmq("pub", "old", body)
    qmq("sub", "old", "-g", "attic", "-n", "2", "--batch", "1", "--ack", "none")
    qmq("group", "set", "attic", "--attempts", "1")
    qmq("group", "seek", "attic", "--to", "earliest", "--yes")
    qmq("sub", "old", "-g", "attic", "-n", "2", "--batch", "1", "--ack", "reject")
    wait_for("dead letters", lambda: lag("attic")["dead"] == 2)
    node.stop()
    rot(node, b"rotten")
    node.start()
    said = qmq("dlq", "resend", "-g", "attic")[1]
    t.check("sent again  2 messages; 1 of them as copies" in said, said)
    again = objects(qmq("sub", "old", "-g", "attic", "-n", "2", "-o", "json")[0])
    t.check([(m["body"], m["attempt"]) for m in again] == [("cold", 1), ("rotten", 1)], "%s" % again)

#!/usr/bin/python3
"""A message is found by its key, by its id and by the time it was stored, also after kill -9."""
import json

import lib


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


with lib.Test() as t:
    node = t.node()
    node.start()

    def qmq(*argv, **more):
        return t.qmq(node, *argv, **more)

    def found(*argv, **more):
        return objects(qmq("find", "orders", "-o", "json", *argv, **more)[0])

    def bodies(*argv, **more):
        return [message["body"] for message in found(*argv, **more)]

    crowd = t.write_lines("crowd", [b"nothing %d" % index for index in range(2000)])
    qmq("pub", "orders", "invoice 17", "--key", "17")
    qmq("pub", "orders", "--from", crowd)
    qmq("pub", "orders", "invoice 18", "--key", "18")
    qmq("pub", "orders", "invoice 17, corrected", "--key", "17")
    qmq("pub", "others", "of another subject", "--key", "17")

    for life in range(2):
        t.check(bodies("--key", "17") == ["invoice 17", "invoice 17, corrected"], "both by key")
        t.check(bodies("--key", "17", "-n", "1") == ["invoice 17"], "the first by key")
        t.check(bodies("--key", "18") == ["invoice 18"], "one by key")
        message = found("--key", "18")[0]
        t.check(found("--id", message["id"]) == [message], "by id")
        t.check(message["sequence"] == 2001, "%s" % message)
        t.check(len(found("--at", "-1h")) == 1, "the first of the last hour")
        t.check(len(found("--at", "-1h", "-n", "3000")) == 2003, "all of the last hour")
        t.check(bodies("--at", "-1h", "--key", "18") == ["invoice 18"], "by key and time")
        qmq("find", "orders", "--key", "19", codes=(3,))
        qmq("find", "orders", "--at", "2100-01-01", codes=(3,))
        qmq("find", "nothing", "--key", "17", codes=(3,))
        qmq("find", "orders", codes=(2,))
        qmq("find", "orders", "--id", "what", codes=(2,))
        groups = json.loads(qmq("group", "list", "-o", "json")[0])
        t.check(groups == {"groups": []}, "looking made a group")
        if life == 0:
            node.kill9()
            node.start()

    out = qmq("find", "orders", "--key", "18")[0]
    t.check(out.endswith(b"invoice 18\n") and out.startswith(b"[2001] "), "for people: %r" % out)
    node.stop()
    node.verify({0})

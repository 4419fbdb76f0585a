#!/usr/bin/python3
"""After a failed write the whole process ends with its own code and one clear line; what was
acknowledged is there after the next start, and nothing that was not is called stored. A read that
fails is an error for who reads."""
import os
import resource

import lib

BROKEN = 17

with lib.Test() as t:
    # Without a delay store, which could be the first to write.
    node = t.node(program=("qmqd", "--roles", "meta,broker"))
    node.start()
    kept = [b"kept %d" % index for index in range(1000)]
    t.qmq(node, "pub", "orders", "--from", t.write_lines("kept", kept))
    before = len(node.said().splitlines())

    # Every write above 4 KiB fails from here on, as on a disk that has died.
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    lost = t.spawn("qmq", "pub", "orders", "lost", "--meta", node.meta)
    code = node.process.wait()
    t.check(code == BROKEN, "exit code %d, not %d: %s" % (code, BROKEN, node.said()))
    lines = node.said().splitlines()[before:]
    t.check(len(lines) == 1, "not one line but %d:\n%s" % (len(lines), "\n".join(lines)))
    t.check(node.store in lines[0], "%s is not in: %s" % (node.store, lines[0]))
    t.say(lines[0].replace(t.directory, "…"))
    t.check(lost.poll() != 0, "a publish that failed is called stored")
    lost.kill9()

    node.start()
    got = t.qmq(node, "sub", "orders", "-g", "all", "-e")[0].split(b"\n")[:-1]
    t.check(got[:1000] == kept, "%d of %d acknowledged lines are there" % (len(got), len(kept)))
    t.check(got[1000:] in ([], [b"lost"]), "and what nobody published: %r" % got[1000:])
    node.stop()

    # A file that does not give its pages any more, as on bad sectors: an error for who asks for
    # those, and nothing else.
    bad = t.node("bad", program=("qmqd", "--segment-size", "1MiB"))
    bad.start()
    t.qmq(bad, "pub", "orders", "--from", t.write_lines("many", t.make_lines(30000)))
    os.truncate(os.path.join(bad.store, "message", "segment-000000"), 8192)
    _, said, code = t.qmq(bad, "sub", "orders", "-g", "all", "-e", codes=None)
    t.check(code not in (0, -9) and "E_IO" in said, "a bad file: code %d, %s" % (code, said))
    t.say(said.strip().splitlines()[0].replace(t.directory, "…"))
    t.check(bad.process.poll() is None, "the node has ended: %s" % bad.said())
    t.check("event=READ_FAILED" in bad.said(), "the node does not tell: %s" % bad.said())
    t.qmq(bad, "pub", "tickets", "goes on")
    t.check(t.qmq(bad, "sub", "tickets", "-g", "all", "-e")[0] == b"goes on\n", "not delivered")
    bad.stop()

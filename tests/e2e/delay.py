#!/usr/bin/python3
"""Delayed messages come once, not before their time, through kill -9 of delay store and broker.

QMQ_TEST_DELAYED=1000000, QMQ_TEST_DELAYED_S=60 and QMQ_TEST_DELAYED_KILLS=12 make it large.
"""
import json
import os
import re
import shutil
import threading
import time

import lib

MESSAGES = int(os.environ.get("QMQ_TEST_DELAYED", "20000"))
SECONDS = int(os.environ.get("QMQ_TEST_DELAYED_S", "10"))
KILLS = int(os.environ.get("QMQ_TEST_DELAYED_KILLS", "4"))  # of either by turns
OTHERS = 1  # messages in the store beside the many


def lag(t, meta):
    out = t.qmq(meta, "delay", "lag", "-o", "json")[0]
    return json.loads(out.splitlines()[0])


def listed(t, meta, *more):
    out = t.qmq(meta, "delay", "list", "-o", "json", *more)[0]
    return [json.loads(line) for line in out.splitlines()]


def wait_for(what, done):
    end = time.monotonic() + lib.PATIENCE
    while not done():
        if time.monotonic() > end:
            raise lib.Failure("never: " + what)
        time.sleep(0.05)


with lib.Test() as t:
    meta = t.node("meta", program=("qmqd", "--roles", "meta"))
    broker = t.node("broker", program=("qmq-broker", "--meta", meta.meta, "--broker-group", "g"))
    delay = t.node("delay", program=("qmq-delay", "--meta", meta.meta, "--broker-group", "d"))
    meta.start()
    broker.start()
    delay.start()

    # One at a time: published, shown, cancelled, moved, delivered.
    begin = time.time()
    said = t.qmq(meta, "pub", "orders", "soon", "--delay", "1s")[1]
    t.check(re.search(r"kept  orders  id \S+  handle \d+-0@d.delay", said), "pub says: " + said)
    t.qmq(meta, "pub", "orders", "never", "--delay", "1h")
    t.qmq(meta, "pub", "orders", "moved", "--at", "2027-12-31T23:59:59Z")
    refused = t.qmq(meta, "pub", "orders", "too late", "--at", "2040-01-01", codes=None)
    t.check(refused[2] == 1 and "limit" in refused[1], "a message for 2040: %s" % refused[1])
    refused = t.qmq(meta, "pub", "orders", "x", "--delay", "1h", "--order-key", "k", codes=None)
    t.check(refused[2] != 0 and "order key" in refused[1], "a delayed message with a key: %s" % refused[1])
    never, moved = listed(t, meta)[-2:]
    shown = json.loads(t.qmq(meta, "delay", "show", never["handle"], "-o", "json")[0])
    t.check(shown == never, "show %s, list %s" % (shown, never))
    by_id = json.loads(t.qmq(meta, "delay", "show", never["id"], "--due", str(never["due_ms"]),
                             "-o", "json")[0])
    t.check(by_id == never, "by id: %s" % by_id)
    # Another delay group may have a message of the same handle.
    for verb in (("show",), ("cancel",), ("reschedule", "--delay", "1s")):
        bare = t.qmq(meta, "delay", verb[0], never["handle"].split("@")[0], *verb[1:], codes=(2,))
        t.check("@DELAY_GROUP" in bare[1], "%s of a handle without group: %s" % (verb[0], bare[1]))
    t.qmq(meta, "delay", "cancel", never["handle"].split("@")[0] + "@nobody.delay", codes=(6,))
    t.qmq(meta, "delay", "cancel", never["handle"])
    t.qmq(meta, "delay", "cancel", never["handle"], codes=(3,))
    handle = t.qmq(meta, "delay", "reschedule", moved["id"], "--due", str(moved["due_ms"]),
                   "--delay", "1s")[0].decode().strip()
    t.check(re.fullmatch(r"\d+-\d+@d.delay", handle) and handle != moved["handle"],
            "the handle becomes " + handle)
    got = []
    wait_for("soon and moved", lambda: got.extend(
        t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0].split()) or len(got) >= 2)
    t.check(sorted(got) == [b"moved", b"soon"] and time.time() - begin >= 1, "got %s" % got)

    # A broker that is away: what is due waits, and is told; then it comes.
    broker.kill9()
    t.qmq(meta, "pub", "orders", "late", "--delay", "100ms")
    wait_for("overdue", lambda: lag(t, meta)["overdue"] + lag(t, meta)["open"] == 1)
    broker.start()
    wait_for("late", lambda: t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0] == b"late\n")

    # One that has lost its store knows nobody: the delay store comes as somebody else.
    broker.kill9()
    t.qmq(meta, "pub", "orders", "after", "--delay", "100ms")
    wait_for("tried", lambda: lag(t, meta)["open"] + lag(t, meta)["failing_groups"] == 2)
    shutil.rmtree(broker.store)
    broker.start()
    wait_for("after", lambda: t.qmq(meta, "sub", "orders", "-g", "all", "-e")[0] == b"after\n")
    t.check(lag(t, meta)["maybe_twice"] == 1, "%s" % lag(t, meta))

    # Many, and some one by one, while both are killed: what is published meanwhile is stored once, by
    # producers that would rather fail than store twice.
    rate = MESSAGES // SECONDS
    bench = t.spawn("qmq", "bench", "delay", "--rate", str(rate), "--duration", "%ds" % SECONDS,
                    "--lead", "1s", "--spread", "%ds" % (SECONDS // 2), "-o", "json",
                    "--meta", meta.meta)
    said = []
    ended = threading.Event()

    def publish_singly():
        while not ended.is_set():
            said.append(t.qmq(meta, "pub", "single", "body", "--delay", "1h", "--duplicates", "never",
                              codes=None)[1:])
            time.sleep(0.02)

    singly = threading.Thread(target=publish_singly, daemon=True)
    singly.start()
    for kill in range(KILLS):
        time.sleep(t.random.uniform(0.5, 1) * SECONDS / KILLS)
        node = (delay, broker)[kill % 2]
        node.kill9()
        time.sleep(t.random.choice((0, 0.3)))
        node.start()
    ended.set()
    singly.join(lib.PATIENCE)
    handles = sorted(re.findall(r"handle (\S+)", err)[0] for err, code in said if code == 0)
    t.check(len(handles) == len(said), "published singly: %s" % [err for err, code in said if code])
    kept = sorted(message["handle"] for message in listed(t, meta, "--subject", "single", "-n", "100000"))
    t.check(kept == handles, "published singly: %d are listed, %d handles were said, %d are both" % (
        len(kept), len(handles), len(set(kept) & set(handles))))
    code = bench.wait(lib.PATIENCE + 4 * SECONDS)
    t.check(bench.stdout_bytes(), "the bench ended with %s: %s" % (code, bench.stderr_text()))
    result = json.loads(bench.stdout_bytes())
    t.say("%d messages, %d kills: p50 %d us, p99 %d us, max %d us late, early %d, lost %d, doubled %d" % (
        result["messages"], KILLS, result["p50_us"], result["p99_us"], result["max_us"],
        result["early"], result["lost"], result["doubled"]))
    t.say("%d published singly meanwhile, each there once, under its handle" % len(handles))
    for what in ("early", "lost", "failed", "doubled"):
        t.check(result[what] == 0, "%s: %d" % (what, result[what]))
    t.check(result["messages"] == rate * SECONDS, "%d messages" % result["messages"])

    wait_for("nothing else waits", lambda: lag(t, meta)["pending"] == len(handles))
    delay.stop()
    broker.stop()
    # In the store itself, too: every message once.
    dump = t.run("qlog", "dump", broker.store, "-o", "json")[0]
    stored = sum(record["messages"] for record in map(json.loads, dump.splitlines())
                 if record["kind"] == "BATCH")
    t.check(stored == result["messages"] + OTHERS, "%d messages are stored" % stored)
    out = t.run("qlog", "verify", os.path.join(delay.directory, "delay"), codes=None)
    t.check(out[2] == 0, "qlog verify of the delay store: %d %s %s" % (out[2], out[0], out[1]))

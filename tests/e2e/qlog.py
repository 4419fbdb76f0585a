#!/usr/bin/python3
"""`qlog` tells what is in a store: of a running node, of a stopped one, and of damaged ones; every
command has text and JSON, and its own exit codes; nothing but --apply changes a byte."""
import base64
import hashlib
import json
import os
import shutil
import time

import lib

OK, USAGE, NOT_FOUND, TORN, CORRUPT, LOCKED = 0, 2, 3, 7, 8, 10
BLOCK = 4096


def sums(directory):
    """Everything that is in the directory."""
    found = {}
    for path, _, files in os.walk(directory):
        for name in files:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.relpath(os.path.join(path, name), directory)] = digest(file)
    return found


def digest(file):
    """Of what was ever written: segments are made larger than what is in them."""
    at, told = 0, hashlib.sha256()
    size = os.fstat(file.fileno()).st_size
    while at < size:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            break
        data = os.pread(file.fileno(), BLOCK * 64, at)
        told.update(b"%d %d" % (at, len(data)))
        told.update(data)
        at += len(data)
    return size, told.hexdigest()


class Qlog:
    def __init__(self, test):
        self.t = test

    def __call__(self, *argv, codes=(OK,)):
        """Returns stdout as text."""
        return self.t.run("qlog", *argv, codes=codes)[0].decode(errors="replace")

    def json(self, *argv, codes=(OK,)):
        """The one object, or the list of objects of all lines."""
        out = self(*argv, "-o", "json", codes=codes)
        lines = [json.loads(line) for line in out.splitlines()]
        return lines[0] if len(lines) == 1 else lines

    def refuses(self, code, *argv, says):
        """It ends with `code` and says what, where and what to do."""
        _, err, got = self.t.run("qlog", *argv, codes=None)
        self.t.check(got == code, "qlog %s ended with %d, not %d: %s" % (argv, got, code, err))
        for text in says:
            self.t.check(text in err, "qlog %s does not say %r:\n%s" % (argv, text, err))


def check_reading(t, qlog, directory, lines, live):
    """What was published and consumed is what every command shows."""
    info = qlog.json("info", directory)
    t.check(info["opens"] and info["live"] == live, "info: %s" % info)
    t.check([log["log"] for log in info["logs"]] == ["message", "action"], "info: %s" % info)
    states = sorted(file["state"] for file in info["files"])
    t.check(states.count("active") == 2 and "superblock" in states, "info: %s" % states)
    for text in ("identity", "generation", "superblock", "message", "active"):
        t.check(text in qlog("info", directory), "info does not say %s" % text)

    # What a group did is flushed a moment after it was answered, and a reader ends at the mark.
    deadline = time.monotonic() + lib.PATIENCE
    listed = qlog.json("ls", directory)
    while not listed["groups"] and time.monotonic() < deadline:
        time.sleep(0.02)
        listed = qlog.json("ls", directory)
    subjects = {subject["subject"]: subject for subject in listed["subjects"]}
    t.check(subjects["orders"]["messages"] == len(lines), "ls: %s" % subjects)
    t.check(subjects["orders"]["next"] == len(lines), "ls: %s" % subjects)
    group = [group for group in listed["groups"] if group["group"] == "all"][0]
    t.check(group["subject"] == "orders" and group["cursor"] == 100 and
            group["waiting"] == len(lines) - 100 and group["in_hand"] == 0, "ls: %s" % group)
    t.check("orders" in qlog("ls", directory), "ls has no orders")

    out = t.run("qlog", "cat", directory, "orders")[0]
    t.same_lines(out.split(b"\n")[:-1], lines, "qlog cat")
    some = t.run("qlog", "cat", directory, "orders", "--from", "10", "--to", "19", "-n", "5")[0]
    t.same_lines(some.split(b"\n")[:-1], lines[10:15], "qlog cat of a range")
    t.check(t.run("qlog", "cat", directory, "orders", "--raw")[0] == b"".join(lines), "cat --raw")
    t.check(qlog("cat", directory, "orders", "--since", "2100-01-01") == "", "cat --since")
    t.check(qlog("cat", directory, "orders", "--until", "-1d") == "", "cat --until")
    t.check(len(qlog("cat", directory, "orders", "--since", "-1h", "-n", "3").splitlines()) == 3,
            "cat --since -1h")
    messages = qlog.json("cat", directory, "orders", "-n", "200")
    for index, message in enumerate(messages):
        body = message["body"].encode() if "body" in message else base64.b64decode(
            message["body_base64"])
        t.check(body == lines[index] and message["sequence"] == index, "cat -o json: %s" % message)
    odd = qlog.json("cat", directory, "odd")
    t.check(base64.b64decode(odd["body_base64"]) == b"gr\xfc\xdfe", "cat of odd bytes: %s" % odd)
    t.check(odd["tags"] == ["latin"], "cat shows no tag: %s" % odd)
    t.check(len(qlog.json("cat", directory, "odd", "-t", "latin", "-t", "x")["id"]) > 20, "-t")
    t.check(qlog("cat", directory, "odd", "-t", "x") == "", "cat with another tag")

    found = qlog("grep", directory, "^needle-[0-9]+$").splitlines()
    t.check(len(found) == 1 and "orders@77 " in found[0] and ":" in found[0].split()[0],
            "grep: %s" % found)
    t.check(qlog("grep", directory, "edle-7", "-F", "-c", "-s", "orders").strip() == "1", "grep -F")
    by_id = qlog.json("grep", directory, messages[5]["id"] + "$", "--in", "id")
    t.check(by_id["sequence"] == 5, "grep for an id: %s" % by_id)
    t.check(qlog.json("grep", directory, "latin", "--in", "tag")["subject"] == "odd", "grep a tag")
    qlog("grep", directory, "no such thing anywhere", codes=(NOT_FOUND,))

    stat = qlog.json("stat", directory, "--deep")
    t.check(stat["all"]["messages"] == len(lines) + 1, "stat --deep: %s" % stat["all"])
    t.check(stat["frame_body_bytes"] <= stat["frame_bytes"], "stat --deep: %s" % stat)
    t.check("bytes for each message" in qlog("stat", directory, "--deep"), "stat --deep")
    short = qlog.json("stat", directory)
    for name in ("messages", "batches", "envelope_bytes"):
        t.check(short["all"][name] == stat["all"][name], "stat: %s is not %s" % (short, stat))
    t.check([(row["subject"], row["messages"]) for row in short["subjects"]] ==
            [(row["subject"], row["messages"]) for row in stat["subjects"]], "stat: %s" % short)
    t.check(short["log_bytes"] >= stat["frame_bytes"], "stat: %s, %s" % (short, stat))
    t.check("bytes for each message" in qlog("stat", directory), "stat")


def overwrite(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def check_verify(t, qlog, node, lines):
    """Damage and torn tails, with any number of threads the same."""
    store = t.path("damaged")
    segment = os.path.join(store, "message", "segment-000000")
    position = qlog.json("grep", node.store, "^needle-77$")["position"]

    def again():
        shutil.rmtree(store, ignore_errors=True)
        t.run("cp", "-r", "--sparse=always", node.store, store)

    again()
    for jobs in ("1", "3"):
        checked = qlog.json("verify", store, "--deep", "--jobs", jobs)
        t.check(checked["result"] == "ok" and checked["finding_count"] == 0, "verify: %s" % checked)
    again()
    with open(segment, "rb") as file:
        body = file.read().index(b"needle-77")
    overwrite(segment, body, b"noodle")
    t.check(qlog("verify", store).endswith("result: ok  (exit 0)\n"), "payloads are not looked at")
    told = [qlog.json("verify", store, "--deep", "-j", jobs, codes=(CORRUPT,)) for jobs in "123"]
    t.check(told[0] == told[1] == told[2], "threads make a difference: %s" % told)
    damage = told[0]["logs"][0]["damages"]
    t.check(len(damage) == 1 and damage[0]["from"] == position, "verify --deep: %s" % damage)
    out, err, _ = t.run("qlog", "cat", store, "orders", codes=(CORRUPT,))
    rest = out.split(b"\n")[:-1]
    t.check(b"noodle-77" not in out and 0 < len(rest) < len(lines) and set(rest) < set(lines),
            "what is damaged is never given: %d lines" % len(rest))
    t.check("damaged payload" in err and "positions %d to " % position in err, "cat: %s" % err)
    t.check(qlog.json("stat", store)["all"]["messages"] == len(lines) + 1, "stat reads no payload")

    again()
    overwrite(segment, BLOCK + position, b"\xff" * 64)
    told = qlog.json("verify", store, codes=(CORRUPT,))
    t.check(told["logs"][0]["damages"][0]["from"] == position, "verify: %s" % told)
    t.check("frame header" in told["logs"][0]["damages"][0]["what"], "verify: %s" % told)
    for command in ("ls", "stat", "dump"):
        qlog(command, store, codes=(CORRUPT,))
    qlog("cat", store, "orders", codes=(CORRUPT,))
    qlog("grep", store, "line", "-c", codes=(CORRUPT,))
    shutil.rmtree(store)


def check_track(t, qlog, directory, messages):
    """The life of a message, as its groups saw it."""
    told = qlog.json("track", directory, messages[5]["id"])
    t.check(told["message"]["sequence"] == 5 and told["message"]["subject"] == "orders", "%s" % told)
    whats = [(action["group"], action["what"]) for action in told["actions"]]
    t.check(whats == [("all", "handed out, attempt 1"), ("all", "acknowledged")], "%s" % whats)
    t.check({group["group"]: group["state"] for group in told["groups"]} == {"all": "done"},
            "track: %s" % told["groups"])
    later = qlog("track", directory, "orders@4000")
    t.check("group all: waits" in later and "stored at" in later, "track: %s" % later)
    t.check("no group consumes" in qlog("track", directory, "odd@0"), "track of odd")
    qlog.refuses(NOT_FOUND, "track", directory, "orders@5000", says=["orders@5000", "qlog ls"])
    qlog.refuses(USAGE, "track", directory, "orders", says=["'orders'", "SUBJECT@SEQUENCE"])


def check_gc(t, qlog, node, live):
    plan = qlog.json("gc", node.directory, "--older-than", "0s", "--consumed")
    held = [segment["held_by"] for segment in plan["segments"]]
    t.check(held == ["it is being written"] * 2 and plan["bytes"] == 0, "gc: %s" % plan)
    t.check("Nothing was changed" in qlog("gc", node.directory), "gc")
    if live:
        qlog.refuses(LOCKED, "gc", node.directory, "--apply", says=[node.store, "stop it"])


def check_repair(t, qlog, node, lines):
    """What can be mended is mended, with a copy of all that goes; what can't be is told."""
    store = t.path("repaired")
    segment = os.path.join(store, "message", "segment-000000")
    end = qlog.json("info", node.directory)["logs"][0]["end"]

    def again():
        shutil.rmtree(store, ignore_errors=True)
        t.run("cp", "-r", "--sparse=always", node.store, store)

    def whole():
        qlog("verify", store, "--deep")
        t.same_lines(t.run("qlog", "cat", store, "orders")[0].split(b"\n")[:-1], lines, "repaired")

    def set_aside():
        """Names and bytes of what a repair has kept."""
        kept = {}
        for path, _, files in os.walk(os.path.join(store, "set-aside")):
            for name in files:
                with open(os.path.join(path, name), "rb") as file:
                    kept[name] = file.read()
        return kept

    def repairs(code, *steps):
        """A dry run tells the steps and changes nothing; --apply takes them."""
        before = sums(store)
        told = qlog.json("repair", store, codes=(code,))
        t.check([step["step"] for step in told["steps"]] == list(steps), "repair: %s" % told)
        t.check(sums(store) == before, "a dry run has changed something")
        qlog("repair", store, "--apply")
        whole()
        t.check(qlog.json("repair", store)["steps"] == [], "a second repair finds more")

    again()
    repairs(OK)

    # A torn tail: the copy holds what was cut. No mark of the superblock says that the log ends here.
    again()
    with open(os.path.join(store, "superblock"), "r+b") as file:
        file.truncate(0)
        file.truncate(4 * BLOCK)
    overwrite(segment, BLOCK + end, b"half a frame")
    qlog("verify", store, codes=(TORN,))
    repairs(CORRUPT, "rebuild the superblock", "cut a torn tail")
    kept = set_aside()
    t.check(kept["superblock"] == bytes(4 * BLOCK), "superblock was not kept: %s" % list(kept))
    t.check(kept["message-segment-000000-tail"].startswith(b"half a frame"), "%s" % list(kept))

    # The superblock is gone altogether.
    again()
    os.unlink(os.path.join(store, "superblock"))
    repairs(CORRUPT, "rebuild the superblock")

    # A file of another store hinders the start.
    again()
    other = t.node("other")
    other.start()
    t.qmq(other, "pub", "x", "not ours")
    other.stop()
    stranger = os.path.join(store, "message", "segment-000009")
    shutil.copy(os.path.join(other.store, "message", "segment-000000"), stranger)
    qlog("verify", store, codes=(CORRUPT,))
    t.check("foreign" in qlog("info", store, codes=(CORRUPT,)), "info does not say foreign")
    with open(stranger, "rb") as file:
        was = file.read()
    repairs(CORRUPT, "set aside")
    t.check(set_aside()["message-segment-000009"] == was, "what was set aside is not what was there")

    # What it does not know stays, unless it is told to.
    again()
    note = os.path.join(store, "message", "notes.txt")
    with open(note, "w", encoding="ascii") as file:
        file.write("mine")
    t.check(qlog.json("repair", store)["steps"] == [], "it takes what it does not know")
    qlog("repair", store, "--unknown", "--apply")
    t.check(set_aside() == {"message-notes.txt": b"mine"} and not os.path.exists(note), "--unknown")
    whole()

    # Damage below the mark is told, and stays.
    again()
    position = qlog.json("grep", store, "^needle-77$")["position"]
    overwrite(segment, BLOCK + position, b"\xff" * 64)
    before = sums(store)
    told = qlog("repair", store, "--apply", codes=(CORRUPT,))
    t.check("can't repair" in told and "positions %d to " % position in told, "repair: %s" % told)
    t.check(sums(store) == before, "a repair that can't do anything has changed something")
    shutil.rmtree(store)


def check_mistakes(t, qlog, directory):
    refuses = qlog.refuses
    refuses(NOT_FOUND, "cat", directory, "ordres", says=["\"ordres\"", directory, "qlog ls"])
    refuses(USAGE, "cat", directory, says=["SUBJECT is missing", "--help"])
    refuses(USAGE, "cat", directory, "orders", "x", says=["'x' is too many"])
    refuses(USAGE, "cat", directory, "orders", "--since", "soon", says=["'soon'", "2026-"])
    refuses(USAGE, "grep", directory, "(", says=["'('", "-F"])
    refuses(USAGE, "grep", directory, "x", "--in", "head", says=["head", "body"])
    refuses(USAGE, "grpe", directory, says=["did you mean: qlog grep"])
    for command in ("info", "ls", "dump", "stat", "verify"):
        refuses(NOT_FOUND, command, t.path("nowhere"), says=["nowhere", "check the path"])
        refuses(USAGE, command, directory, "-o", "xml", says=["xml"])
        refuses(USAGE, command, says=["which directory"])
    for command in ("info", "ls", "dump", "cat", "grep", "stat", "verify", "repair", "track", "gc",
                    "index"):
        help_text = qlog(command, "--help")
        t.check("example:\n  qlog %s " % command in help_text, "no example: %s" % help_text)


with lib.Test() as t:
    qlog = Qlog(t)
    node = t.node()
    node.start()
    lines = [b"line %d" % index for index in range(5000)]
    lines[77] = b"needle-77"
    t.qmq(node, "pub", "orders", "--from", t.write_lines("lines", lines))
    with open(t.path("odd"), "wb") as file:
        file.write(b"gr\xfc\xdfe\n")
    t.qmq(node, "pub", "odd", "-t", "latin", "--from", t.path("odd"))
    t.qmq(node, "sub", "orders", "-g", "all", "-e", "-n", "100")

    check_reading(t, qlog, node.directory, lines, live=True)
    messages = qlog.json("cat", node.directory, "orders", "-n", "10")
    check_track(t, qlog, node.directory, messages)
    check_gc(t, qlog, node, live=True)
    qlog.refuses(LOCKED, "repair", node.directory, says=[node.store, "stop it"])
    check_mistakes(t, qlog, node.directory)
    node.stop()
    before = sums(node.directory)
    check_reading(t, qlog, node.directory, lines, live=False)
    check_track(t, qlog, node.directory, messages)
    check_gc(t, qlog, node, live=False)
    check_verify(t, qlog, node, lines)
    check_repair(t, qlog, node, lines)
    t.check(sums(node.directory) == before, "a look has changed something")

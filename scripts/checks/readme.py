"""readme.py: run the quick start of README.md as it is written. See `readme`."""
import os
import re
import shlex
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PATIENCE = 60


def commands(text):
    """[(command, [shown line, …]), …] of all console blocks, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def script(steps, directory):
    """The quick start as one shell: `qmq dev` is the other terminal, and stays in the background."""
    yield "set -u; NODE=; trap '[ -z \"$NODE\" ] || { kill $NODE; wait $NODE; }' EXIT"
    yield "cd %s" % shlex.quote(TOP)
    for number, (command, _) in enumerate(steps):
        out = shlex.quote(os.path.join(directory, "out-%d" % number))
        if command.split()[:2] == ["qmq", "dev"]:
            yield "cd %s" % shlex.quote(directory)
            yield "%s >%s 2>&1 & NODE=$!" % (command, out)
            yield ("for i in $(seq %d); do grep -q '^ready' %s && break; kill -0 $NODE || exit 1; sleep 0.1; done"
                   % (PATIENCE * 10, out))
        else:
            yield "{ %s\n} >%s || { echo \"exit code $?: \"%s >&2; exit 1; }" % (
                command, out, shlex.quote(command))


def main():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        steps = commands(file.read())
    with tempfile.TemporaryDirectory(prefix="qmq-readme-") as directory:
        environment = dict(os.environ, HOME=directory)
        done = subprocess.run(["timeout", str(PATIENCE * 10), "bash", "-c", "\n".join(script(steps, directory))],
                              env=environment, stdin=subprocess.DEVNULL, check=False)
        bad = done.returncode != 0
        for number, (command, shown) in enumerate(steps):
            path = os.path.join(directory, "out-%d" % number)
            if not os.path.exists(path):
                print("was not reached: %s" % command)
                bad = True
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                came = file.read().splitlines()
            if shown and came != shown:
                print("$ %s\nREADME shows:\n  %s\nbut this came:\n  %s" % (
                    command, "\n  ".join(shown), "\n  ".join(came[:20])))
                bad = True
            elif bad:
                print("$ %s\n  %s" % (command, "\n  ".join(came[-20:])))
    if not bad:
        print("%d commands of README.md do what it says" % len(steps))
    return 1 if bad else 0


sys.exit(main())

"""lib.py: what every end-to-end test needs: a temporary directory, nodes, and a clean end.

    with lib.Test() as t:
        node = t.node()
        node.start()
        t.qmq(node, "pub", "hello", "world")

Programs are found on PATH, in front of which $QMQ_BIN is put. Whatever a test starts dies with it:
every process is killed by its own id on the way out, and by the kernel should the test itself be
killed.

    QMQ_EXPECT_IO  `plain` or `io_uring`: each node must say that it uses it
    QMQ_TEST_SEED  repeats what a test did at random
"""
import atexit
import ctypes
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

os.environ["PATH"] = os.environ.get("QMQ_BIN", "") + ":" + os.environ["PATH"]
SIZE_MAX = 4 * 1024 * 1024  # of one message
PATIENCE = 120  # seconds for anything that takes a moment without sanitizers and load

_libc = ctypes.CDLL(None)


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


class Failure(Exception):
    pass


def free_port_base():
    """A port base whose ports nobody listens on, and the lock that keeps other tests off it."""
    for _ in range(200):
        base = random.SystemRandom().randrange(21000, 32000, 20)
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind("\0qmq-test-ports-%d" % base)
        except OSError:
            lock.close()
            continue
        try:
            for port in (base, base + 1, base + 2, base + 3, base + 10):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        return base, lock
    raise Failure("no free ports")


class Test:
    def __init__(self, quiet=False):
        self.quiet = quiet
        self.name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
        self.seed = int(os.environ.get("QMQ_TEST_SEED") or random.SystemRandom().randrange(10**6))
        self.random = random.Random(self.seed)
        self.processes = []
        self.locks = []
        self.directory = None
        self.began = time.monotonic()

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="qmq-%s-" % self.name)
        atexit.register(self.clean)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self.interrupted)
        return self

    def __exit__(self, kind, error, _):
        if self.quiet:
            pass
        elif kind is None:
            print("%s: holds, %.1f s" % (self.name, time.monotonic() - self.began))
        elif kind is not SystemExit:
            print("%s: FAILED (seed %d): %s: %s" % (self.name, self.seed, kind.__name__, error))
            for process in self.processes[-3:]:
                print("--- %s, exit code %s" % (process.title, process.poll()))
                sys.stdout.write(process.stderr_text()[-2000:])
            sys.stdout.flush()
        self.clean()
        if kind is Failure and not self.quiet:
            sys.exit(1)  # all is said
        return False

    def interrupted(self, *_):
        """At once: who sends this may send worse half a second later."""
        self.clean()
        os._exit(130)

    def clean(self):
        for process in self.processes:
            process.kill9()
        self.processes = []
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None

    def say(self, text):
        print("%s: %s" % (self.name, text), flush=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def node(self, name="node", **more):
        return Node(self, name, **more)

    def spawn(self, *argv, stdin=None, stdout=None, environment=None):
        process = Process(self, argv, stdin, stdout, environment)
        self.processes.append(process)
        return process

    def run(self, *argv, stdin=None, codes=(0,), timeout=PATIENCE):
        """Run to the end. Returns (stdout bytes, stderr text, exit code)."""
        process = self.spawn(*argv, stdin=stdin)
        code = process.wait(timeout)
        out, err = process.stdout_bytes(), process.stderr_text()
        self.processes.remove(process)
        if codes is not None and code not in codes:
            raise Failure("exit code %s of `%s`: %s" % (code, process.title, err.strip()[-2000:]))
        return out, err, code

    def qmq(self, node, *argv, **more):
        return self.run("qmq", *argv, "--meta", node.meta, **more)

    def check(self, holds, text):
        if not holds:
            raise Failure(text)

    def same_lines(self, got, want, what):
        """Both are lists of bytes; the message names the first difference."""
        if got == want:
            return
        for index, (g, w) in enumerate(zip(got, want)):
            if g != w:
                raise Failure("%s: line %d is %r, not %r" % (what, index, g[:80], w[:80]))
        raise Failure("%s: %d lines, not %d" % (what, len(got), len(want)))

    def make_lines(self, count, size=60):
        """Lines as people have them: words, some empty, some with odd bytes, a few long."""
        lines = []
        for index in range(count):
            length = self.random.randrange(size)
            text = b"%d " % index + self.random.randbytes(length).hex().encode()[:length]
            kind = self.random.randrange(1000)
            if kind == 0:
                text = b""
            elif kind == 1:
                text = "%d grüße 消息\t|\\ \"q\" \x01 ".encode() % index
            elif kind == 2:
                text += b"x" * self.random.randrange(20000)
            lines.append(text)
        return lines

    def write_lines(self, name, lines):
        with open(self.path(name), "wb") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        return self.path(name)


class Process:
    """A child whose output goes to files, so that it never waits for us to read."""

    def __init__(self, test, argv, stdin, stdout, environment):
        self.title = " ".join(argv)
        self.argv = argv
        number = "%d" % random.SystemRandom().randrange(10**12)
        self.out_path = stdout or test.path("out-" + number)
        self.err_path = test.path("err-" + number)
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.popen = subprocess.Popen(
                argv, stdin=stdin or subprocess.DEVNULL, stdout=out, stderr=err,
                env=dict(os.environ, **(environment or {})), preexec_fn=_die_with_parent)
        self.pid = self.popen.pid

    def poll(self):
        return self.popen.poll()

    def wait(self, timeout=PATIENCE):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure("still running after %d s: %s" % (timeout, self.title)) from None

    def kill9(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()

    def stop(self, codes=(0,)):
        """An orderly stop. Returns the exit code."""
        self.popen.terminate()
        code = self.wait()
        if code not in codes:
            raise Failure("exit code %s after SIGTERM of `%s`: %s" % (
                code, self.title, self.stderr_text().strip()[-2000:]))
        return code

    def stdout_bytes(self):
        with open(self.out_path, "rb") as file:
            return file.read()

    def stderr_text(self):
        try:
            with open(self.err_path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""


class Node:
    """A server process with a data directory; by default `qmq dev`: meta and broker in one."""

    def __init__(self, test, name, port_base=None, program=("qmq", "dev")):
        self.test = test
        self.name = name
        self.program = program
        if port_base is None:
            port_base, lock = free_port_base()
            test.locks.append(lock)
        self.port_base = port_base
        self.directory = test.path(name)
        self.meta = "tcp://127.0.0.1:%d" % port_base
        self.process = None

    @property
    def store(self):
        return os.path.join(self.directory, "broker")

    @property
    def ready_file(self):
        return self.directory + ".ready"

    def begin(self):
        self.began = time.monotonic()
        if os.path.exists(self.ready_file):
            os.unlink(self.ready_file)  # of a killed process
        self.process = self.test.spawn(
            *self.program, "--dir", self.directory, "--port-base", str(self.port_base),
            "--ready-file", self.ready_file)

    def is_ready(self):
        return os.path.exists(self.ready_file)

    def wait_ready(self):
        """Returns the seconds since begin()."""
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Failure("%s ended with %s before it was ready: %s" % (
                    self.name, self.process.poll(), self.process.stderr_text()[-2000:]))
            if time.monotonic() - self.began > PATIENCE:
                raise Failure("%s is not ready after %d s" % (self.name, PATIENCE))
            time.sleep(0.002)
        took = time.monotonic() - self.began
        expected = os.environ.get("QMQ_EXPECT_IO")
        if expected and os.path.exists(self.store):
            self.test.check(self.io_line(expected), "no line says that the %s backend is in use:\n%s"
                            % (expected, self.said()))
        return took

    def start(self):
        self.begin()
        return self.wait_ready()

    def said(self):
        return self.process.stdout_bytes().decode(errors="replace") + self.process.stderr_text()

    def io_line(self, backend):
        """The one line that names the I/O backend, or None."""
        for line in self.said().splitlines():
            if re.search(r"(^  io |IO_BACKEND ).*\b%s\b" % backend, line):
                return line
        return None

    def kill9(self):
        self.process.kill9()

    def stop(self):
        return self.process.stop()

    def verify(self, codes):
        """`qlog verify` of the broker's store; 0: clean, 7: a torn tail and nothing else."""
        out, err, code = self.test.run("qlog", "verify", self.store, codes=None)
        if code not in codes:
            raise Failure("qlog verify ended with %d, not %s:\n%s%s" % (
                code, " or ".join(map(str, codes)), out.decode(errors="replace")[-2000:], err[-2000:]))
        return code

    def memory_bytes(self):
        """Anonymous and shared memory; pages of mapped files do not count."""
        with open("/proc/%d/status" % self.process.pid, encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))

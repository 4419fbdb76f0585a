/*
 * The two ways to the kernel, where they fail or have nothing: the ring's system call is wrapped, so
 * that it can be refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qbase/clock.h>
#include <qlog/log.h>

/* Of liburing, which nobody but the back end includes. */
struct io_uring;
struct io_uring_cqe;
struct __kernel_timespec;
int io_uring_submit(struct io_uring *ring);

enum {
    OPS = 3,
    SIZE = 4096
};

static char directory[64];
static enum {
    CALLS_WORK,
    CALLS_REFUSED,       /* the kernel gets nothing */
    CALLS_REFUSED_AFTER, /* it takes what it is given, and the call fails all the same */
} calls;

int __real_io_uring_submit_and_wait_timeout(
    struct io_uring *ring,
    struct io_uring_cqe **cqe,
    unsigned wait,
    struct __kernel_timespec *time,
    sigset_t *mask);
int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_wait_timeout(
    struct io_uring *ring,
    struct io_uring_cqe **cqe,
    unsigned wait,
    struct __kernel_timespec *time,
    sigset_t *mask);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);

int
__wrap_io_uring_submit_and_wait_timeout(
    struct io_uring *ring,
    struct io_uring_cqe **cqe,
    unsigned wait,
    struct __kernel_timespec *time,
    sigset_t *mask)
{
    if (calls == CALLS_WORK)
        return __real_io_uring_submit_and_wait_timeout(ring, cqe, wait, time, mask);
    if (calls == CALLS_REFUSED_AFTER) (void)io_uring_submit(ring);
    return -EBADFD;
}

int
__wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
    if (calls == CALLS_WORK) return __real_io_uring_submit_and_get_events(ring);
    return -EBADFD;
}

static void
setup(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/qlog-test-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    calls = CALLS_WORK;
}

static void
teardown(void)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(storage_io, .init = setup, .fini = teardown, .timeout = 60);

struct write {
    struct qlog_io_op op;
    uint8_t data[SIZE];
    unsigned done;
};

static void
on_written(struct qlog_io_op *op)
{
    q_container_of(op, struct write, op)->done++;
}

static void
submit(struct qlog_io *io, int file, struct write *writes)
{
    for (unsigned i = 0; i < OPS; i++) {
        memset(writes[i].data, 'a' + (int)i, SIZE);
        writes[i].done = 0;
        writes[i].op = (struct qlog_io_op){
            .kind = QLOG_IO_WRITE,
            .file = file,
            .buffer = -1,
            .data = writes[i].data,
            .length = SIZE,
            .at = (uint64_t)i * SIZE,
            .done = on_written,
        };
        io->table->submit(io, &writes[i].op);
    }
}

/* No ring here: nothing to be asked. */
static bool
open_ring(struct qlog_io **io, int *file)
{
    if (qlog_io_uring_new(io) < 0) return false;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/file", directory);
    *file = (*io)->table->open(*io, path, QLOG_IO_OPEN_CREATE);
    cr_assert_geq(*file, 0);
    return true;
}

/* Everybody hears of it, at once and later, and the memory is theirs again. */
Test(storage_io, what_the_kernel_never_got_ends_with_the_error)
{
    struct qlog_io *io;
    int file;
    if (!open_ring(&io, &file)) return;
    struct write *writes = calloc(OPS, sizeof(*writes));
    calls = CALLS_REFUSED;
    for (unsigned round = 0; round < 2; round++) {
        submit(io, file, writes);
        cr_assert_eq(io->table->enter(io, Q_NS_PER_S), -EBADFD);
        for (unsigned i = 0; i < OPS; i++) {
            cr_assert_eq(writes[i].done, 1);
            cr_assert_eq(writes[i].op.result, -EBADFD);
        }
        calls = CALLS_WORK;
    }
    free(writes);
    io->table->close(io, file);
    io->table->destroy(io);
}

/* What it has got is waited for: it may read that memory until it is done. */
Test(storage_io, what_the_kernel_has_is_waited_for)
{
    struct qlog_io *io;
    int file;
    if (!open_ring(&io, &file)) return;
    struct write *writes = calloc(OPS, sizeof(*writes));
    calls = CALLS_REFUSED_AFTER;
    submit(io, file, writes);
    cr_assert_eq(io->table->enter(io, Q_NS_PER_S), -EBADFD);
    for (unsigned i = 0; i < OPS; i++) {
        cr_assert_eq(writes[i].done, 1);
        cr_assert_eq(writes[i].op.result, SIZE);
        char byte;
        cr_assert_eq(pread(file, &byte, 1, (off_t)i * SIZE), 1);
        cr_assert_eq(byte, 'a' + (int)i);
    }
    free(writes);
    io->table->close(io, file);
    io->table->destroy(io);
}

struct heard {
    unsigned count;
    enum q_err err;
};

static void
on_appended(struct qlog_append *append, enum q_err err)
{
    struct heard *heard = append->context;
    heard->count++;
    heard->err = err;
}

/* A log whose way to the kernel is gone is broken: appends hear it, and it can be closed. */
Test(storage_io, a_log_without_its_ring_ends)
{
    struct qlog_io *ring;
    if (qlog_io_uring_new(&ring) < 0) return;
    ring->table->destroy(ring);
    static char data[SIZE];
    struct qlog *log;
    const struct qlog_options options = { .segment_bytes = 1024 * 1024, .create = true };
    cr_assert_eq(qlog_open(directory, &options, &log), Q_OK);
    cr_assert_eq(qlog_append(log, data, sizeof(data), NULL), Q_OK);
    struct heard heard = { 0 };
    struct qlog_append append = {
        .data = data, .size = sizeof(data), .done = on_appended, .context = &heard
    };
    cr_assert_eq(qlog_submit(log, &append), Q_OK);
    cr_assert_eq(qlog_turn(log), Q_OK);
    calls = CALLS_REFUSED;
    cr_assert_eq(qlog_wait(log, Q_NS_PER_S), Q_E_IO);
    cr_assert_eq(qlog_close(log), Q_E_BROKEN);
    cr_assert_eq(heard.count, 1);
    cr_assert_eq(heard.err, Q_E_BROKEN);
    calls = CALLS_WORK;
    cr_assert_eq(qlog_open(directory, &options, &log), Q_OK);
    cr_assert_eq(qlog_close(log), Q_OK);
}

static void
count_event(void *context, const struct qlog_event *event)
{
    ((unsigned *)context)[event->kind]++;
}

/* Where there is nothing to register with, nobody is told that it failed. */
Test(storage_io, plain_threads_register_nothing)
{
    struct qlog_io *io;
    cr_assert_eq(qlog_io_plain_new(&io), 0);
    static char data[SIZE];
    cr_assert_eq(io->table->register_buffer(io, data, sizeof(data)), -EOPNOTSUPP);
    unsigned events[QLOG_EVENT_COUNT] = { 0 };
    const struct qlog_observer observer = { .context = events, .on_event = count_event };
    const struct qlog_options options = {
        .io = io, .observer = &observer, .segment_bytes = 1024 * 1024, .create = true
    };
    struct qlog *log;
    cr_assert_eq(qlog_open(directory, &options, &log), Q_OK);
    cr_assert_eq(qlog_append(log, data, sizeof(data), NULL), Q_OK);
    cr_assert_eq(qlog_close(log), Q_OK);
    io->table->destroy(io);
    cr_assert_eq(events[QLOG_EVENT_CREATED], 1);
    cr_assert_eq(events[QLOG_EVENT_BUFFERS_UNREGISTERED], 0);
}

/* Who does not want to make a log leaves no file where there is none. */
Test(storage_io, nothing_is_made_that_was_not_wanted)
{
    struct qlog *log;
    cr_assert_eq(qlog_open(directory, NULL, &log), Q_NOT_FOUND);
    /* Only an empty directory can be removed. */
    cr_assert_eq(rmdir(directory), 0);
    cr_assert_eq(mkdir(directory, 0777), 0);
}

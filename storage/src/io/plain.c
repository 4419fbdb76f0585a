/*
 * io/plain.c: `struct qlog_io` over pread, pwrite and fdatasync in a few threads.
 *
 * For kernels and containers that refuse io_uring, and for tools that cannot model it. The owner
 * puts operations on `queue`; a worker takes one, does it, and puts it on `complete`; enter() takes
 * all of `complete` and calls `done` outside the lock. Workers are started by the first operation,
 * so that a program that only looks has none.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qlog/io.h>

#include "io/posix.h"

enum {
    WORKERS = 4,
    WORKER_STACK = 64 * 1024
};

struct plain_io {
    struct qlog_io io;
    /* Owner. */
    pthread_t workers[WORKERS];
    unsigned worker_count;
    unsigned under_way;
    /* Under the lock. */
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t news;
    struct q_list queue;
    struct q_list complete;
    bool awake; /* wake() was called since the last enter() */
    bool stopping;
};

static const struct qlog_io_table plain_table;
static void plain_start(struct plain_io *self);
static void *plain_worker(void *context);
static int64_t plain_do(const struct qlog_io_op *op);

int
qlog_io_plain_new(struct qlog_io **ret_io)
{
    struct plain_io *self = calloc(1, sizeof(*self));
    if (self == NULL) return -ENOMEM;
    self->io.table = &plain_table;
    q_list_init(&self->queue);
    q_list_init(&self->complete);
    (void)pthread_mutex_init(&self->lock, NULL);
    (void)pthread_cond_init(&self->work, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&self->news, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    *ret_io = &self->io;
    return 0;
}

static struct plain_io *
plain_of(struct qlog_io *io)
{
    return q_container_of(io, struct plain_io, io);
}

static void
plain_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    struct plain_io *self = plain_of(io);
    plain_start(self);
    self->under_way++;
    (void)pthread_mutex_lock(&self->lock);
    if (self->worker_count == 0) {
        /* No thread to be had: do it here, slowly but surely. */
        op->result = plain_do(op);
        q_list_push_back(&self->complete, &op->link);
    } else {
        q_list_push_back(&self->queue, &op->link);
        (void)pthread_cond_signal(&self->work);
    }
    (void)pthread_mutex_unlock(&self->lock);
}

static void
plain_start(struct plain_io *self)
{
    if (self->worker_count > 0) return;
    pthread_attr_t attributes;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, WORKER_STACK);
    while (self->worker_count < WORKERS) {
        pthread_t *worker = &self->workers[self->worker_count];
        if (pthread_create(worker, &attributes, plain_worker, self) != 0) break;
        self->worker_count++;
    }
    (void)pthread_attr_destroy(&attributes);
}

static void *
plain_worker(void *context)
{
    struct plain_io *self = context;
    (void)pthread_mutex_lock(&self->lock);
    for (;;) {
        struct q_list *node = q_list_pop_front(&self->queue);
        if (node == NULL) {
            if (self->stopping) break;
            (void)pthread_cond_wait(&self->work, &self->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&self->lock);
        struct qlog_io_op *op = q_container_of(node, struct qlog_io_op, link);
        op->result = plain_do(op);
        (void)pthread_mutex_lock(&self->lock);
        q_list_push_back(&self->complete, &op->link);
        (void)pthread_cond_signal(&self->news);
    }
    (void)pthread_mutex_unlock(&self->lock);
    return NULL;
}

static int64_t
plain_do(const struct qlog_io_op *op)
{
    struct iovec vector = { .iov_base = op->data, .iov_len = op->length };
    ssize_t rv;
    do {
        switch (op->kind) {
        case QLOG_IO_READ:
            rv = preadv(op->file, &vector, 1, (off_t)op->at);
            break;
        case QLOG_IO_WRITE:
            rv = pwritev2(op->file, &vector, 1, (off_t)op->at, op->durable ? RWF_DSYNC : 0);
            if (rv < 0 && errno == EOPNOTSUPP && op->durable) {
                rv = pwritev(op->file, &vector, 1, (off_t)op->at);
                if (rv >= 0 && fdatasync(op->file) != 0) rv = -1;
            }
            break;
        default:
            rv = fdatasync(op->file);
            break;
        }
    } while (rv < 0 && errno == EINTR);
    return rv < 0 ? -errno : rv;
}

static int
plain_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct plain_io *self = plain_of(io);
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + wait_ns % Q_NS_PER_S;
    until.tv_sec += (time_t)(wait_ns / Q_NS_PER_S + ns / Q_NS_PER_S);
    until.tv_nsec = (long)(ns % Q_NS_PER_S);

    struct q_list complete;
    q_list_init(&complete);
    (void)pthread_mutex_lock(&self->lock);
    while (wait_ns > 0 && q_list_is_empty(&self->complete) && !self->awake) {
        if (pthread_cond_timedwait(&self->news, &self->lock, &until) == ETIMEDOUT) break;
    }
    self->awake = false;
    q_list_splice_back(&complete, &self->complete);
    (void)pthread_mutex_unlock(&self->lock);

    struct q_list *node;
    while ((node = q_list_pop_front(&complete)) != NULL) {
        struct qlog_io_op *op = q_container_of(node, struct qlog_io_op, link);
        self->under_way--;
        op->done(op);
    }
    return 0;
}

static void
plain_wake(struct qlog_io *io)
{
    struct plain_io *self = plain_of(io);
    (void)pthread_mutex_lock(&self->lock);
    self->awake = true;
    (void)pthread_cond_signal(&self->news);
    (void)pthread_mutex_unlock(&self->lock);
}

static int
plain_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    (void)io;
    (void)data;
    (void)size;
    return -EOPNOTSUPP;
}

static void
plain_destroy(struct qlog_io *io)
{
    struct plain_io *self = plain_of(io);
    Q_ASSERT(self->under_way == 0);
    (void)pthread_mutex_lock(&self->lock);
    self->stopping = true;
    (void)pthread_cond_broadcast(&self->work);
    (void)pthread_mutex_unlock(&self->lock);
    for (unsigned i = 0; i < self->worker_count; i++)
        (void)pthread_join(self->workers[i], NULL);
    (void)pthread_cond_destroy(&self->news);
    (void)pthread_cond_destroy(&self->work);
    (void)pthread_mutex_destroy(&self->lock);
    free(self);
}

static void
plain_close(struct qlog_io *io, int file)
{
    (void)io;
    (void)close(file);
}

static const struct qlog_io_table plain_table = {
    .name = "plain",
    .submit = plain_submit,
    .enter = plain_enter,
    .wake = plain_wake,
    .register_buffer = plain_register_buffer,
    .destroy = plain_destroy,
    .open = ql_posix_open,
    .close = plain_close,
    .size = ql_posix_size,
    .allocate = ql_posix_allocate,
    .lock = ql_posix_lock,
    .map = ql_posix_map,
    .unmap = ql_posix_unmap,
    .make_directory = ql_posix_make_directory,
    .sync_directory = ql_posix_sync_directory,
    .list = ql_posix_list,
    .unlink = ql_posix_unlink,
    .space = ql_posix_space,
};

/*
 * io/uring.c: `struct qlog_io` over io_uring. The only file that includes liburing.
 *
 * One ring, made and used by one thread (single issuer, deferred task run), with registered files
 * and, for frame buffers, registered buffers. An operation's way:
 *
 *   submit()  puts it on the list `waiting`
 *   enter()   moves what fits from `waiting` to the ring; one system call hands over all of it,
 *             and waits when asked; completions go to the list `complete`
 *             then `done` of each is called, from the list, so that stack and order stay boring
 *
 * wake() writes an eventfd of which a read is always under way in the ring.
 *
 * When the kernel refuses the system call itself, for anything but want of time or memory, the ring
 * is of no more use: give_up() waits for what the kernel has, and ends everything else.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qlog/io.h>

#include "io/posix.h"

enum {
    RING_ENTRIES = 128,
    FILES_MAX = 1024,
    BUFFERS_MAX = 16,
    GIVE_UP_MS = 30 * 1000
};

struct uring_io {
    struct qlog_io io;
    struct io_uring ring;
    bool files_registered;
    bool buffers_registered;
    int buffer_count;
    struct iovec buffers[BUFFERS_MAX];
    struct q_list waiting;
    struct q_list complete;
    unsigned under_way;
    int given_up; /* the error, or 0 */
    int wake_fd;
    bool wake_armed;
    uint64_t wake_value;
};

static const struct qlog_io_table uring_table;
static int uring_setup(struct uring_io *self);
static void uring_fill(struct uring_io *self);
static void uring_collect(struct uring_io *self);
static int uring_hand_over(struct uring_io *self, uint64_t wait_ns);
static void uring_call_back(struct uring_io *self);
static void uring_give_up(struct uring_io *self, int error);
static void uring_prepare(struct uring_io *self, struct io_uring_sqe *sqe, struct qlog_io_op *op);

int
qlog_io_uring_new(struct qlog_io **ret_io)
{
    struct uring_io *self = calloc(1, sizeof(*self));
    if (self == NULL) return -ENOMEM;
    self->io.table = &uring_table;
    q_list_init(&self->waiting);
    q_list_init(&self->complete);
    self->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (self->wake_fd < 0) {
        int error = -errno;
        free(self);
        return error;
    }
    int rv = uring_setup(self);
    if (rv < 0) {
        (void)close(self->wake_fd);
        free(self);
        return rv;
    }
    *ret_io = &self->io;
    return 0;
}

static int
uring_setup(struct uring_io *self)
{
    int rv = io_uring_queue_init(
        RING_ENTRIES, &self->ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    /* Kernels before 6.1 don't know these flags; the ring works without. */
    if (rv == -EINVAL) rv = io_uring_queue_init(RING_ENTRIES, &self->ring, 0);
    if (rv < 0) return rv;
    /* What the loop relies on: waiting with a time-out in one call. */
    if (!(self->ring.features & IORING_FEAT_EXT_ARG)) {
        io_uring_queue_exit(&self->ring);
        return -ENOSYS;
    }
    self->files_registered = io_uring_register_files_sparse(&self->ring, FILES_MAX) == 0;
    self->buffers_registered = io_uring_register_buffers_sparse(&self->ring, BUFFERS_MAX) == 0;
    return 0;
}

static struct uring_io *
uring_of(struct qlog_io *io)
{
    return q_container_of(io, struct uring_io, io);
}

static void
uring_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    q_list_push_back(&uring_of(io)->waiting, &op->link);
}

static int
uring_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct uring_io *self = uring_of(io);
    if (self->given_up == 0) {
        uring_fill(self);
        uring_collect(self);
        int rv = uring_hand_over(self, wait_ns);
        if (rv < 0)
            uring_give_up(self, rv);
        else
            uring_collect(self);
    }
    uring_call_back(self);
    return self->given_up;
}

/* One system call at most. */
static int
uring_hand_over(struct uring_io *self, uint64_t wait_ns)
{
    int rv = 0;
    if (wait_ns > 0 && q_list_is_empty(&self->complete)) {
        struct __kernel_timespec time = {
            .tv_sec = (int64_t)(wait_ns / Q_NS_PER_S),
            .tv_nsec = (long long)(wait_ns % Q_NS_PER_S),
        };
        struct io_uring_cqe *cqe;
        rv = io_uring_submit_and_wait_timeout(&self->ring, &cqe, 1, &time, NULL);
    } else if (self->under_way > 0 || io_uring_sq_ready(&self->ring) > 0) {
        rv = io_uring_submit_and_get_events(&self->ring);
    }
    /* Interrupted, timed out, or the kernel is short of memory for a moment: the loop comes back. */
    return rv == -EINTR || rv == -ETIME || rv == -EAGAIN || rv == -EBUSY ? 0 : rv;
}

static void
uring_call_back(struct uring_io *self)
{
    struct q_list complete;
    q_list_init(&complete);
    q_list_splice_back(&complete, &self->complete);
    struct q_list *node;
    while ((node = q_list_pop_front(&complete)) != NULL) {
        struct qlog_io_op *op = q_container_of(node, struct qlog_io_op, link);
        op->done(op);
    }
    /* What the kernel never got, and what is submitted from here on. */
    while (self->given_up != 0 && (node = q_list_pop_front(&self->waiting)) != NULL) {
        struct qlog_io_op *op = q_container_of(node, struct qlog_io_op, link);
        op->result = self->given_up;
        op->done(op);
    }
}

/*
 * The kernel takes no more calls. It may still read and write the memory of what it was given, so
 * that is waited for: nobody may free it before.
 */
static void
uring_give_up(struct uring_io *self, int error)
{
    self->given_up = error;
    /* Prepared, and never seen by the kernel. */
    struct io_uring_sq *queue = &self->ring.sq;
    for (unsigned at = *queue->khead; at != queue->sqe_tail; at++) {
        struct io_uring_sqe *sqe = &queue->sqes[at & (RING_ENTRIES - 1)];
        struct qlog_io_op *op = (struct qlog_io_op *)(uintptr_t)sqe->user_data;
        if (op == NULL) continue;
        self->under_way--;
        q_list_push_back(&self->waiting, &op->link);
    }
    uring_collect(self);
    for (unsigned i = 0; i < GIVE_UP_MS && self->under_way > 0; i++) {
        (void)io_uring_get_events(&self->ring);
        (void)nanosleep(&(struct timespec){ .tv_nsec = Q_NS_PER_MS }, NULL);
        uring_collect(self);
    }
    /* Going on would free memory that the kernel writes to. */
    Q_ASSERT(self->under_way == 0);
}

static void
uring_fill(struct uring_io *self)
{
    if (!self->wake_armed) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
        if (sqe != NULL) {
            io_uring_prep_read(sqe, self->wake_fd, &self->wake_value, sizeof(self->wake_value), 0);
            io_uring_sqe_set_data(sqe, NULL);
            self->wake_armed = true;
        }
    }
    while (!q_list_is_empty(&self->waiting)) {
        /* Never more under way than the completion queue (twice the entries) has room for. */
        if (self->under_way >= RING_ENTRIES) break;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
        if (sqe == NULL) break;
        struct q_list *node = q_list_pop_front(&self->waiting);
        uring_prepare(self, sqe, q_container_of(node, struct qlog_io_op, link));
        self->under_way++;
    }
}

static void
uring_prepare(struct uring_io *self, struct io_uring_sqe *sqe, struct qlog_io_op *op)
{
    switch (op->kind) {
    case QLOG_IO_READ:
        io_uring_prep_read(sqe, op->file, op->data, op->length, op->at);
        break;
    case QLOG_IO_WRITE:
        if (op->buffer >= 0)
            io_uring_prep_write_fixed(sqe, op->file, op->data, op->length, op->at, op->buffer);
        else
            io_uring_prep_write(sqe, op->file, op->data, op->length, op->at);
        if (op->durable) sqe->rw_flags = RWF_DSYNC;
        break;
    case QLOG_IO_FLUSH:
        io_uring_prep_fsync(sqe, op->file, IORING_FSYNC_DATASYNC);
        break;
    }
    if (self->files_registered && op->file < FILES_MAX) sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, op);
}

static void
uring_collect(struct uring_io *self)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned seen = 0;
    io_uring_for_each_cqe(&self->ring, head, cqe)
    {
        seen++;
        struct qlog_io_op *op = io_uring_cqe_get_data(cqe);
        if (op == NULL) {
            self->wake_armed = false;
            continue;
        }
        op->result = cqe->res;
        self->under_way--;
        q_list_push_back(&self->complete, &op->link);
    }
    io_uring_cq_advance(&self->ring, seen);
}

static void
uring_wake(struct qlog_io *io)
{
    uint64_t one = 1;
    /* Fails only when the counter is full, and then the sleeper is being woken anyway. */
    ssize_t rv = write(uring_of(io)->wake_fd, &one, sizeof(one));
    (void)rv;
}

static int
uring_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    struct uring_io *self = uring_of(io);
    if (!self->buffers_registered || self->buffer_count >= BUFFERS_MAX) return -ENOSPC;
    struct iovec vector = { .iov_base = data, .iov_len = size };
    __u64 tag = 0;
    int rv = io_uring_register_buffers_update_tag(
        &self->ring, (unsigned)self->buffer_count, &vector, &tag, 1);
    if (rv < 0) return rv;
    self->buffers[self->buffer_count] = vector;
    return self->buffer_count++;
}

static void
uring_destroy(struct qlog_io *io)
{
    struct uring_io *self = uring_of(io);
    Q_ASSERT(self->under_way == 0);
    Q_ASSERT(q_list_is_empty(&self->waiting));
    io_uring_queue_exit(&self->ring);
    (void)close(self->wake_fd);
    free(self);
}

static int
uring_open(struct qlog_io *io, const char *path, unsigned flags)
{
    struct uring_io *self = uring_of(io);
    int fd = ql_posix_open(io, path, flags);
    if (fd < 0) return fd;
    if (self->files_registered && fd < FILES_MAX) {
        int rv = io_uring_register_files_update(&self->ring, (unsigned)fd, &fd, 1);
        if (rv < 0) {
            (void)close(fd);
            return rv;
        }
    }
    return fd;
}

static void
uring_close(struct qlog_io *io, int file)
{
    struct uring_io *self = uring_of(io);
    if (self->files_registered && file < FILES_MAX) {
        int none = -1;
        (void)io_uring_register_files_update(&self->ring, (unsigned)file, &none, 1);
    }
    (void)close(file);
}

static int
uring_lock(struct qlog_io *io, int file)
{
    struct uring_io *self = uring_of(io);
    /* The ring lets go of its files some time after the process is gone, and a lock of one with it.
     * Nobody reads or writes a file that is only there to be locked. */
    if (self->files_registered && file < FILES_MAX) {
        int none = -1;
        (void)io_uring_register_files_update(&self->ring, (unsigned)file, &none, 1);
    }
    return ql_posix_lock(io, file);
}

static const struct qlog_io_table uring_table = {
    .name = "io_uring",
    .submit = uring_submit,
    .enter = uring_enter,
    .wake = uring_wake,
    .register_buffer = uring_register_buffer,
    .destroy = uring_destroy,
    .open = uring_open,
    .close = uring_close,
    .size = ql_posix_size,
    .allocate = ql_posix_allocate,
    .lock = uring_lock,
    .map = ql_posix_map,
    .unmap = ql_posix_unmap,
    .make_directory = ql_posix_make_directory,
    .sync_directory = ql_posix_sync_directory,
    .list = ql_posix_list,
    .unlink = ql_posix_unlink,
    .space = ql_posix_space,
};

#include "slow_io.h"

#include <errno.h>
#include <stdlib.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qbase/list.h>

enum {
    DELAYED_MAX = 64 /* flushes and durable writes under way: a few per log */
};

struct delayed {
    struct qlog_io_op *op;
    qlog_io_done_fn *done; /* the caller's */
    uint64_t due_ns;       /* 0: the disk has not answered yet */
};

struct slow_io {
    struct qlog_io io;
    struct qlog_io_table table;
    struct qlog_io *inner;
    uint64_t cost_ns;
    struct delayed delayed[DELAYED_MAX];
    unsigned count;
};

/* Operations carry no word of ours, so the one wrapper in use is known here. */
static struct slow_io *current;

static uint64_t
now(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

static struct slow_io *
slow_of(struct qlog_io *io)
{
    return q_container_of(io, struct slow_io, io);
}

static void
slow_on_done(struct qlog_io_op *op)
{
    for (unsigned i = 0; i < current->count; i++)
        if (current->delayed[i].op == op) current->delayed[i].due_ns = now() + current->cost_ns;
}

static void
slow_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    struct slow_io *self = slow_of(io);
    bool flushes = op->kind == QLOG_IO_FLUSH || (op->kind == QLOG_IO_WRITE && op->durable);
    if (flushes && self->count < DELAYED_MAX) {
        self->delayed[self->count++] = (struct delayed){ .op = op, .done = op->done };
        op->done = slow_on_done;
    }
    self->inner->table->submit(self->inner, op);
}

static int
slow_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct slow_io *self = slow_of(io);
    uint64_t now_ns = now();
    for (unsigned i = 0; i < self->count; i++) {
        uint64_t due_ns = self->delayed[i].due_ns;
        if (due_ns != 0) wait_ns = q_min_u64(wait_ns, due_ns > now_ns ? due_ns - now_ns : 0);
    }
    int rv = self->inner->table->enter(self->inner, wait_ns);
    now_ns = now();
    for (unsigned i = 0; i < self->count;) {
        struct delayed delayed = self->delayed[i];
        if (delayed.due_ns == 0 || delayed.due_ns > now_ns) {
            i++;
            continue;
        }
        self->delayed[i] = self->delayed[--self->count];
        delayed.op->done = delayed.done;
        delayed.done(delayed.op);
    }
    return rv;
}

static void
slow_wake(struct qlog_io *io)
{
    slow_of(io)->inner->table->wake(slow_of(io)->inner);
}

static int
slow_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    return slow_of(io)->inner->table->register_buffer(slow_of(io)->inner, data, size);
}

static void
slow_destroy(struct qlog_io *io)
{
    struct slow_io *self = slow_of(io);
    self->inner->table->destroy(self->inner);
    current = NULL;
    free(self);
}

static int
slow_open(struct qlog_io *io, const char *path, unsigned flags)
{
    return slow_of(io)->inner->table->open(slow_of(io)->inner, path, flags);
}

static void
slow_close(struct qlog_io *io, int file)
{
    slow_of(io)->inner->table->close(slow_of(io)->inner, file);
}

int
slow_io_new(struct qlog_io *inner, uint64_t flush_cost_ns, struct qlog_io **ret_io)
{
    struct slow_io *self = calloc(1, sizeof(*self));
    if (self == NULL) return -ENOMEM;
    self->inner = inner;
    self->cost_ns = flush_cost_ns;
    /* What does not depend on the io that it is called with passes through as it is. */
    self->table = *inner->table;
    self->table.submit = slow_submit;
    self->table.enter = slow_enter;
    self->table.wake = slow_wake;
    self->table.register_buffer = slow_register_buffer;
    self->table.destroy = slow_destroy;
    self->table.open = slow_open;
    self->table.close = slow_close;
    self->io.table = &self->table;
    current = self;
    *ret_io = &self->io;
    return 0;
}

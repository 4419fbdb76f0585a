#include "raw_beside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qlog/io.h>

enum {
    WRITE_BYTES = 8 * 1024,
    WRITTEN_BYTES = 32 * 1024 * 1024, /* of the file, written once before */
    DEPTH_MAX = 16,
    PATH_BYTES = 4600,
    ALIGNMENT = 4096
};

struct loop {
    struct raw_beside *raw;
    struct qlog_io *io;
    int written;
    int read;
    uint64_t read_size;
    uint64_t write_at;
    uint64_t read_at;
    uint64_t until_ns;
    uint64_t submitted_ns;
    unsigned under_way;
    bool failed;
    struct q_hist *hist;
    uint8_t *data;
    struct qlog_io_op write;
    struct slot {
        struct qlog_io_op op;
        struct loop *loop;
        uint8_t *data;
    } slots[DEPTH_MAX];
};

static bool loop_open(struct loop *loop);
static bool loop_fill(struct loop *loop, const char *path);
static void loop_run(struct loop *loop, unsigned depth);
static void write_next(struct loop *loop);
static void write_on_done(struct qlog_io_op *op);
static void read_next(struct slot *slot);
static void read_on_done(struct qlog_io_op *op);

static uint64_t
now(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

bool
raw_beside_round(struct raw_beside *raw)
{
    static struct loop loop;
    loop = (struct loop){ .raw = raw, .written = -1, .read = -1 };
    if (qlog_io_uring_new(&loop.io) != 0 && qlog_io_plain_new(&loop.io) != 0) return false;
    bool good = loop_open(&loop);
    if (good) {
        loop.hist = raw->alone;
        loop_run(&loop, 0);
        loop.hist = raw->beside;
        uint64_t start_ns = now();
        loop_run(&loop, raw->depth);
        raw->read_ns += now() - start_ns;
        raw->read_rate = (double)raw->moved * Q_NS_PER_S / (double)raw->read_ns;
    }
    if (loop.written >= 0) loop.io->table->close(loop.io, loop.written);
    if (loop.read >= 0) loop.io->table->close(loop.io, loop.read);
    char path[PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/raw-written", raw->directory);
    (void)unlink(path);
    for (unsigned i = 0; i < DEPTH_MAX; i++)
        free(loop.slots[i].data);
    free(loop.data);
    loop.io->table->destroy(loop.io);
    return good && !loop.failed;
}

static bool
loop_open(struct loop *loop)
{
    const struct raw_beside *raw = loop->raw;
    const struct qlog_io_table *table = loop->io->table;
    char path[PATH_BYTES];
    loop->data = aligned_alloc(ALIGNMENT, WRITE_BYTES);
    if (loop->data == NULL) return false;
    memset(loop->data, 'w', WRITE_BYTES);
    for (unsigned i = 0; i < raw->depth; i++) {
        loop->slots[i].loop = loop;
        loop->slots[i].data = aligned_alloc(ALIGNMENT, raw->read_bytes);
        if (loop->slots[i].data == NULL) return false;
        memset(loop->slots[i].data, 1, raw->read_bytes);
    }
    (void)snprintf(path, sizeof(path), "%s/message/segment-000000", raw->directory);
    loop->read = table->open(loop->io, path, QLOG_IO_OPEN_READ | QLOG_IO_OPEN_DIRECT);
    if (loop->read < 0 || table->size(loop->io, loop->read, &loop->read_size) < 0) return false;
    (void)snprintf(path, sizeof(path), "%s/raw-written", raw->directory);
    return loop->read_size >= raw->read_bytes && loop_fill(loop, path);
}

/* Space that was written once, as a log's is. */
static bool
loop_fill(struct loop *loop, const char *path)
{
    const struct qlog_io_table *table = loop->io->table;
    loop->written = table->open(loop->io, path, QLOG_IO_OPEN_CREATE | QLOG_IO_OPEN_DIRECT);
    if (loop->written < 0) return false;
    if (table->allocate(loop->io, loop->written, WRITTEN_BYTES) < 0) return false;
    uint8_t *zeros = aligned_alloc(ALIGNMENT, WRITTEN_BYTES);
    if (zeros == NULL) return false;
    memset(zeros, 0, WRITTEN_BYTES);
    bool good = pwrite(loop->written, zeros, WRITTEN_BYTES, 0) == WRITTEN_BYTES &&
                fsync(loop->written) == 0;
    free(zeros);
    return good;
}

static void
loop_run(struct loop *loop, unsigned depth)
{
    loop->until_ns = now() + loop->raw->ns;
    write_next(loop);
    for (unsigned i = 0; i < depth; i++)
        read_next(&loop->slots[i]);
    while (loop->under_way > 0)
        if (loop->io->table->enter(loop->io, Q_NS_PER_S) < 0) break;
}

static void
write_next(struct loop *loop)
{
    loop->write = (struct qlog_io_op){
        .kind = QLOG_IO_WRITE,
        .durable = true,
        .file = loop->written,
        .buffer = -1,
        .length = WRITE_BYTES,
        .at = loop->write_at,
        .data = loop->data,
        .done = write_on_done,
    };
    loop->write_at = (loop->write_at + WRITE_BYTES) % WRITTEN_BYTES;
    loop->under_way++;
    loop->submitted_ns = now();
    loop->io->table->submit(loop->io, &loop->write);
}

static void
write_on_done(struct qlog_io_op *op)
{
    struct loop *loop = q_container_of(op, struct loop, write);
    uint64_t at_ns = now();
    loop->under_way--;
    loop->failed = loop->failed || op->result != WRITE_BYTES;
    q_hist_record(loop->hist, at_ns - loop->submitted_ns, 1);
    if (at_ns < loop->until_ns && !loop->failed) write_next(loop);
}

static void
read_next(struct slot *slot)
{
    struct loop *loop = slot->loop;
    uint32_t size = loop->raw->read_bytes;
    if (loop->read_at + size > loop->read_size) loop->read_at = 0;
    slot->op = (struct qlog_io_op){
        .kind = QLOG_IO_READ,
        .file = loop->read,
        .buffer = -1,
        .length = size,
        .at = loop->read_at,
        .data = slot->data,
        .done = read_on_done,
    };
    loop->read_at += size;
    loop->under_way++;
    loop->io->table->submit(loop->io, &slot->op);
}

static void
read_on_done(struct qlog_io_op *op)
{
    struct slot *slot = q_container_of(op, struct slot, op);
    struct loop *loop = slot->loop;
    loop->under_way--;
    if (op->result < 0)
        loop->failed = true;
    else
        loop->raw->moved += (uint64_t)op->result;
    if (now() < loop->until_ns && !loop->failed) read_next(slot);
}

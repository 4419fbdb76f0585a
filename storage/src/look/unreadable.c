#include "look/unreadable.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>

#include "format/block.h"
#include "io/transfer.h"

enum {
    PIECE_BYTES = 1024 * 1024,
    TRIES = 5
};

/* A file, and the first failure that says nothing of its bytes. */
struct reading {
    struct qlog_io *io;
    const char *path;
    int file;
    uint64_t size;
    void *buffer;
    enum q_err err;
};

static void reading_begin(
    struct reading *reading, struct qlog_io *io, const char *path, unsigned flags);
static enum q_err reading_end(struct reading *reading);
static bool is_unreadable(struct reading *reading, uint64_t at, uint32_t length, unsigned tries);
static void zero_block(struct reading *reading, uint64_t at);
static void reading_fail(struct reading *reading, uint64_t at, int rv, const char *what);

enum q_err
ql_unreadable_find(struct qlog_io *io, const char *path, ql_unreadable_fn *on_range, void *context)
{
    struct reading reading;
    struct ql_unreadable range = { 0 };
    reading_begin(&reading, io, path, QLOG_IO_OPEN_READ);
    for (uint64_t at = 0; reading.err == Q_OK && at < reading.size; at += PIECE_BYTES) {
        if (!is_unreadable(&reading, at, PIECE_BYTES, 1)) continue;
        uint64_t end = q_min_u64(at + PIECE_BYTES, reading.size);
        for (uint64_t block = at; reading.err == Q_OK && block < end; block += QL_BLOCK) {
            if (!is_unreadable(&reading, block, QL_BLOCK, TRIES)) continue;
            bool follows = range.bytes > 0 && range.from + range.bytes == block;
            if (!follows && range.bytes > 0) on_range(context, &range);
            if (!follows) range = (struct ql_unreadable){ .from = block };
            range.bytes += QL_BLOCK;
        }
    }
    if (reading.err == Q_OK && range.bytes > 0) on_range(context, &range);
    return reading_end(&reading);
}

enum q_err
ql_unreadable_give_up(struct qlog_io *io, const char *path, const struct ql_unreadable *range)
{
    struct reading reading;
    reading_begin(&reading, io, path, 0);
    uint64_t end = q_min_u64(range->from + range->bytes, reading.size);
    for (uint64_t at = range->from; reading.err == Q_OK && at < end; at += QL_BLOCK)
        if (is_unreadable(&reading, at, QL_BLOCK, TRIES)) zero_block(&reading, at);
    struct ql_transfer flush = {
        .op = { .kind = QLOG_IO_FLUSH, .file = reading.file, .buffer = -1 },
    };
    int rv = reading.err == Q_OK ? ql_transfer_wait(io, &flush) : 0;
    if (rv < 0) reading_fail(&reading, range->from, rv, "flush zeros over what can't be read");
    return reading_end(&reading);
}

static void
reading_begin(struct reading *reading, struct qlog_io *io, const char *path, unsigned flags)
{
    *reading = (struct reading){ .io = io, .path = path };
    reading->file = io->table->open(io, path, flags | QLOG_IO_OPEN_DIRECT);
    if (reading->file == -EINVAL) reading->file = io->table->open(io, path, flags);
    int rv = reading->file;
    if (rv >= 0) rv = io->table->size(io, reading->file, &reading->size);
    if (rv < 0)
        reading->err =
            Q_FAIL(q_err_from_errno(-rv), .path = path, .sys = -rv, .what = "open a segment");
    else if (posix_memalign(&reading->buffer, QL_BLOCK, PIECE_BYTES) != 0)
        reading->err = Q_FAIL(Q_E_NOMEM, .what = "a buffer");
}

static enum q_err
reading_end(struct reading *reading)
{
    free(reading->buffer);
    if (reading->file >= 0) reading->io->table->close(reading->io, reading->file);
    return reading->err;
}

static bool
is_unreadable(struct reading *reading, uint64_t at, uint32_t length, unsigned tries)
{
    int rv = -EIO;
    for (unsigned i = 0; i < tries && rv == -EIO; i++) {
        struct ql_transfer read = {
            .op = {
                .kind = QLOG_IO_READ,
                .file = reading->file,
                .buffer = -1,
                .data = reading->buffer,
                .length = length,
                .at = at,
            },
        };
        rv = ql_transfer_wait(reading->io, &read);
    }
    if (rv < 0 && rv != -EIO) reading_fail(reading, at, rv, "read a segment");
    return rv == -EIO;
}

static void
zero_block(struct reading *reading, uint64_t at)
{
    struct ql_transfer write = {
        .op = {
            .kind = QLOG_IO_WRITE,
            .file = reading->file,
            .buffer = -1,
            .data = memset(reading->buffer, 0, QL_BLOCK),
            .length = QL_BLOCK,
            .at = at,
        },
    };
    int rv = ql_transfer_wait(reading->io, &write);
    if (rv < 0) reading_fail(reading, at, rv, "write zeros over what can't be read");
}

static void
reading_fail(struct reading *reading, uint64_t at, int rv, const char *what)
{
    reading->err = Q_FAIL(
        q_err_from_errno(-rv), .path = reading->path, .position = (int64_t)at, .sys = -rv,
        .what = what, .hint = "copy the directory to another disk, and go on there");
}

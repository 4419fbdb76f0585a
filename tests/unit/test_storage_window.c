/*
 * Reading forward gives the bytes of the file, whatever the sizes, and a bad sector takes no more than
 * what lies on it. The disk is this file's own: one block cannot be read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>
#include <qbase/bytes.h>

#include "random.h"
#include "segment/window.h"

enum {
    FILE_BYTES = 24 * 1024 * 1024,
    BASE = 3 * QL_BLOCK
};

static struct {
    struct qlog_io io;
    struct qlog_io_op *queue[QL_WINDOW_PIECES];
    unsigned count;
    bool handed;     /* what was submitted */
    uint64_t bad_at; /* 0: none */
    uint64_t read_bytes;
    uint64_t read_to;
} disk;

static struct ql_segment segment = { .base = BASE, .file_size = FILE_BYTES };

static uint8_t
byte_at(uint64_t at)
{
    return (uint8_t)((at * 2654435761u) >> 13);
}

static void
disk_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    (void)io;
    cr_assert_lt(disk.count, QL_WINDOW_PIECES);
    disk.queue[disk.count++] = op;
    disk.handed = false;
}

/* One operation at a time, the last one first. */
static int
disk_enter(struct qlog_io *io, uint64_t wait_ns)
{
    (void)io;
    (void)wait_ns;
    cr_assert_gt(disk.count, 0, "nobody waits for nothing");
    disk.handed = true;
    struct qlog_io_op *op = disk.queue[--disk.count];
    cr_assert_leq(op->at + op->length, FILE_BYTES);
    cr_assert_eq(op->at % QL_BLOCK, 0);
    cr_assert_eq(op->length % QL_BLOCK, 0);
    disk.read_bytes += op->length;
    disk.read_to = q_max_u64(disk.read_to, op->at + op->length);
    bool bad = disk.bad_at >= op->at && disk.bad_at < op->at + op->length && disk.bad_at != 0;
    uint8_t *data = op->data;
    for (uint32_t i = 0; i < op->length; i += 64)
        data[i] = byte_at(op->at + i);
    /* The second is what a direct read of a bad sector is told. */
    int error = disk.read_bytes / QL_BLOCK % 2 == 0 ? EIO : ENODATA;
    op->result = bad ? -error : (int64_t)op->length;
    op->done(op);
    return 0;
}

static const struct qlog_io_table table = { .submit = disk_submit, .enter = disk_enter };

static void
check(const uint8_t *data, uint64_t position, uint64_t size)
{
    for (uint64_t i = 0; i < size; i += 64)
        cr_assert_eq(data[i], byte_at(ql_segment_offset(&segment, position) + i));
}

static void
setup(void)
{
    memset(&disk, 0, sizeof(disk));
    disk.io.table = &table;
}

TestSuite(storage_window, .init = setup, .timeout = 60);

Test(storage_window, forward_in_frames_of_any_size)
{
    struct random_source random = { .state = 7 };
    struct ql_window window;
    ql_window_init(&window, &disk.io);
    uint64_t limit = ql_segment_limit(&segment);
    for (uint64_t position = BASE; position < limit;) {
        const uint8_t *data;
        uint32_t blocks = random_below(&random, 8) == 0 ? 1200 : 300;
        uint64_t size = (uint64_t)QL_BLOCK * (1 + random_below(&random, blocks));
        size = q_min_u64(size, limit - position);
        /* A header first, then all of it. */
        cr_assert_eq(ql_window_load(&window, &segment, position, QL_BLOCK, limit, &data), 0);
        check(data, position, QL_BLOCK);
        cr_assert_eq(ql_window_load(&window, &segment, position, size, limit, &data), 0);
        check(data, position, size);
        cr_assert(disk.handed, "what was asked for ahead is on its way while this is looked at");
        position += size;
    }
    ql_window_fini(&window);
    cr_assert_eq(disk.count, 0, "nothing is under way behind its end");
}

/* Nothing behind the limit is read ahead, and who reads one place is not read ahead of. */
Test(storage_window, no_further_than_asked)
{
    struct ql_window window;
    const uint8_t *data;
    uint64_t limit = BASE + 5ull * 1024 * 1024;
    ql_window_init(&window, &disk.io);
    for (uint64_t position = BASE; position < limit; position += QL_BLOCK)
        cr_assert_eq(ql_window_load(&window, &segment, position, QL_BLOCK, limit, &data), 0);
    cr_assert_leq(disk.read_to, ql_segment_offset(&segment, limit));
    ql_window_fini(&window);

    disk.read_bytes = 0;
    ql_window_init(&window, &disk.io);
    limit = ql_segment_limit(&segment);
    cr_assert_eq(ql_window_load(&window, &segment, BASE, QL_BLOCK, limit, &data), 0);
    ql_window_fini(&window);
    cr_assert_leq(disk.read_bytes, 2u * 1024 * 1024);
}

Test(storage_window, a_bad_sector_takes_what_lies_on_it)
{
    struct ql_window window;
    const uint8_t *data;
    uint64_t limit = ql_segment_limit(&segment);
    for (unsigned megabytes = 1; megabytes < 12; megabytes++) {
        uint64_t bad = BASE + megabytes * (uint64_t)1024 * 1024;
        disk.bad_at = ql_segment_offset(&segment, bad);
        ql_window_init(&window, &disk.io);
        for (uint64_t position = BASE; position < limit; position += 4 * QL_BLOCK) {
            uint64_t size = q_min_u64(4 * QL_BLOCK, limit - position);
            int rv = ql_window_load(&window, &segment, position, size, limit, &data);
            bool hit = position <= bad && bad < position + size;
            cr_assert_eq(rv, hit ? -EIO : 0);
            if (rv == 0) check(data, position, size);
        }
        ql_window_fini(&window);
    }
}

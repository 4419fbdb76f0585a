/*
 * What a log promises when its disk is slow, fails, or holds what it should not: checks that take a
 * disk which does as it is told. Each is about one line of the engine; see storage/src/planted.h.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qlog/log.h>

#include "format/block.h"
#include "ramdisk.h"
#include "segment/home.h"
#include "store/store.h"
#include "user.h"

static struct ramdisk *disk;
static struct truth truth;
static struct user user;

/* Which operations of a file are meddled with. */
static struct {
    enum qlog_io_op_kind kind;
    enum ramdisk_fate fate;
    unsigned times;
    bool zeros; /* zeros written ahead alone */
} meddling;

static enum ramdisk_fate
meddle(void *context, const struct qlog_io_op *op)
{
    (void)context;
    if (op->kind != meddling.kind || meddling.times == 0) return RAMDISK_DO;
    if (meddling.zeros && q_load_le64(op->data) != 0) return RAMDISK_DO;
    meddling.times--;
    return meddling.fate;
}

static void
set_meddling(enum qlog_io_op_kind kind, enum ramdisk_fate fate, unsigned times)
{
    meddling.kind = kind;
    meddling.fate = fate;
    meddling.times = times;
    meddling.zeros = false;
}

static void
setup(void)
{
    disk = ramdisk_new();
    ramdisk_set_fate(disk, meddle, NULL);
    memset(&truth, 0, sizeof(truth));
    set_meddling(QLOG_IO_READ, RAMDISK_DO, 0);
    user_init(&user, disk, &truth, 1);
}

static void
teardown(void)
{
    if (user.log != NULL || user.store != NULL) user_kill(&user);
    ramdisk_free(disk);
}

TestSuite(log_promises, .init = setup, .fini = teardown, .timeout = 20);

/* An append that is not waited for. */
struct waiting {
    struct qlog_append append;
    bool done;
    enum q_err err;
};

static void
on_appended(struct qlog_append *append, enum q_err err)
{
    struct waiting *waiting = append->context;
    waiting->done = true;
    waiting->err = err;
}

static void
submit(struct waiting *waiting, const void *data, size_t size, enum qlog_mode mode)
{
    *waiting = (struct waiting){
        .append = {
            .data = data,
            .size = size,
            .mode = mode,
            .done = on_appended,
            .context = waiting,
        },
    };
    cr_assert_eq(qlog_submit(user.log, &waiting->append), Q_OK);
}

static void
turn(uint64_t ms)
{
    q_clock_manual_advance_ns(&user.clock, ms * Q_NS_PER_MS);
    enum q_err err = qlog_turn(user.log);
    if (err == Q_OK) err = qlog_wait(user.log, 0);
    cr_assert(err == Q_OK || err == Q_E_BROKEN || err == Q_E_IO);
}

static unsigned
count_told(enum qlog_event_kind kind)
{
    unsigned count = 0;
    for (unsigned i = 0; i < user.told_count; i++)
        if (user.told[i].kind == kind) count++;
    return count;
}

static uint64_t
count_records(void)
{
    struct ql_home *home;
    cr_assert_eq(ql_home_open_to_read(user_directory, ramdisk_io(disk), &home), Q_OK);
    struct ql_recover recover;
    ql_home_recover_init(home, 0, &recover);
    cr_assert_eq(ql_recover(&recover), Q_OK);
    (void)ql_home_close(home);
    return recover.records;
}

/* What the kernel did not write at once is written, before anybody is told. */
Test(log_promises, short_writes_are_finished)
{
    static uint8_t data[20 * 1024];
    memset(data, 0x5a, sizeof(data));
    cr_assert_eq(user_open(&user, false), Q_OK);
    struct waiting waiting;
    submit(&waiting, data, sizeof(data), QLOG_MODE_SYNC);
    set_meddling(QLOG_IO_WRITE, RAMDISK_HALF, 3);
    for (unsigned i = 0; i < 20 && !waiting.done; i++)
        turn(1);
    cr_assert(waiting.done);
    cr_assert_eq(waiting.err, Q_OK);
    user_kill(&user);
    cr_assert_eq(count_records(), 1);
}

/* After a failed flush the kernel may have forgotten the pages: a second one proves nothing. */
Test(log_promises, a_failed_flush_is_final)
{
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(user_append(&user, QLOG_MODE_ASYNC), Q_OK);
    set_meddling(QLOG_IO_FLUSH, RAMDISK_FAIL, 1);
    for (unsigned i = 0; i < 10; i++)
        turn(100);
    cr_assert_eq(meddling.times, 0, "a flush was tried");
    cr_assert_eq(count_told(QLOG_EVENT_BROKEN), 1);
    cr_assert_eq(user_append(&user, QLOG_MODE_SYNC), Q_E_BROKEN);
    cr_assert_eq(user_close(&user), Q_E_BROKEN);
}

/* What was not written is not acknowledged, in no mode. */
Test(log_promises, a_failed_write_is_final)
{
    static const enum qlog_mode modes[] = { QLOG_MODE_ASYNC, QLOG_MODE_SYNC };
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(user_open(&user, false), Q_OK);
        cr_assert_eq(user_sleep(&user, 1000), Q_OK);
        set_meddling(QLOG_IO_WRITE, RAMDISK_FAIL, 1);
        cr_assert_neq(user_append(&user, modes[i]), Q_OK);
        cr_assert_eq(user_close(&user), Q_E_BROKEN);
    }
}

/* A flush covers what was written when it was submitted, and no more. */
Test(log_promises, a_flush_covers_what_was_written_before)
{
    static uint8_t data[9 * 1024];
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(user_sleep(&user, 1000), Q_OK);
    uint64_t before = qlog_durable(user.log).value;
    cr_assert_eq(user_append(&user, QLOG_MODE_ASYNC), Q_OK);
    uint64_t written = qlog_written(user.log).value;
    cr_assert_eq(qlog_durable(user.log).value, before);
    struct waiting held;
    submit(&held, data, sizeof(data), QLOG_MODE_ASYNC);
    set_meddling(QLOG_IO_WRITE, RAMDISK_HOLD, UINT32_MAX);
    for (unsigned i = 0; i < 10; i++)
        turn(100);
    cr_assert_eq(qlog_durable(user.log).value, written);
    cr_assert_not(held.done);
    meddling.times = 0;
    for (unsigned i = 0; i < 10 && !held.done; i++)
        turn(1);
    cr_assert_eq(held.err, Q_OK);
}

/* Zeros that are under way when a segment comes into use are not written over its first frames. */
Test(log_promises, zeros_come_before_frames)
{
    static uint8_t data[8000];
    static struct waiting waiting[16];
    cr_assert_eq(user_open(&user, false), Q_OK);
    set_meddling(QLOG_IO_WRITE, RAMDISK_HOLD, UINT32_MAX);
    meddling.zeros = true;
    memset(data, 0x5a, sizeof(data));
    for (unsigned i = 0; i < 16; i++) {
        submit(&waiting[i], data, sizeof(data), QLOG_MODE_SYNC);
        for (unsigned j = 0; j < 10 && !waiting[i].done; j++)
            turn(10);
    }
    meddling.times = 0;
    for (unsigned i = 0; i < 50; i++)
        turn(10);
    for (unsigned i = 0; i < 16; i++)
        cr_assert(waiting[i].done && waiting[i].err == Q_OK);
    cr_assert_geq(count_told(QLOG_EVENT_ROLLED), 1);
    user_kill(&user);
    cr_assert_eq(count_records(), 16);
}

static unsigned
count_files(void)
{
    static struct image image;
    ramdisk_save(disk, &image);
    unsigned count = 0;
    for (unsigned i = 0; i < image.count; i++)
        if (strstr(image.files[i].path, "/segment-") != NULL) count++;
    image_free(&image);
    return count;
}

/* A log that is trimmed as it grows lives on the files it has. When it is quiet again, it gives back
 * what it does not need. */
Test(log_promises, segments_are_used_again)
{
    static uint8_t data[8000];
    static struct waiting waiting;
    cr_assert_eq(user_open(&user, false), Q_OK);
    unsigned most = 0;
    for (unsigned i = 0; i < 200; i++) {
        submit(&waiting, data, sizeof(data), QLOG_MODE_SYNC);
        for (unsigned j = 0; j < 10 && !waiting.done; j++)
            turn(1);
        cr_assert(waiting.done && waiting.err == Q_OK);
        if (i % 20 == 19) cr_assert_eq(qlog_trim(user.log, qlog_durable(user.log)), Q_OK);
        if (i >= 60) cr_assert_leq(count_files(), most);
        if (count_files() > most) most = count_files();
    }
    cr_assert_geq(count_told(QLOG_EVENT_ROLLED), 10);
    for (unsigned i = 0; i < 70; i++)
        turn(1000);
    cr_assert_eq(count_files(), 2); /* the active one, and a spare */
}

/* In a store whose mode is sync, consumers see what is flushed, also of what was not waited for. */
Test(log_promises, nobody_sees_what_is_not_flushed)
{
    static struct delivered delivered;
    cr_assert_eq(user_open(&user, true), Q_OK);
    cr_assert_eq(user_publish(&user, 0, QLOG_MODE_SYNC), Q_OK);
    uint32_t flushed = truth.ends[0];
    cr_assert_eq(user_publish(&user, 0, QLOG_MODE_ASYNC), Q_OK);
    cr_assert_eq(user_read_all(&user, "early", &delivered), Q_OK);
    cr_assert_eq(delivered.messages[0][flushed - 1], GOT_RIGHT);
    cr_assert_eq(delivered.messages[0][flushed], GOT_NOTHING);
    cr_assert_eq(user_sleep(&user, 300), Q_OK);
    cr_assert_eq(user_read_all(&user, "early", &delivered), Q_OK);
    cr_assert_eq(delivered.messages[0][flushed], GOT_RIGHT);
}

static struct qlog_io_table counting_table;
static int (*sync_uncounted)(struct qlog_io *io, const char *path);
static unsigned directory_syncs;

static int
count_sync(struct qlog_io *io, const char *path)
{
    if (strcmp(path, user_directory) == 0) directory_syncs++;
    return sync_uncounted(io, path);
}

/* How often an open flushes the names in the directory. */
static unsigned
count_syncs_of_open(void)
{
    struct qlog_io *io = ramdisk_io(disk);
    const struct qlog_io_table *table = io->table;
    counting_table = *table;
    counting_table.sync_directory = count_sync;
    sync_uncounted = table->sync_directory;
    directory_syncs = 0;
    io->table = &counting_table;
    cr_assert_eq(user_open(&user, false), Q_OK);
    io->table = table;
    return directory_syncs;
}

/* A superblock that is made again is a new file: without its name it is not there after power loss. */
Test(log_promises, a_new_superblock_has_a_name)
{
    struct image image;
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(user_append(&user, QLOG_MODE_SYNC), Q_OK);
    user_kill(&user);
    unsigned before = count_syncs_of_open();
    cr_assert_eq(user_close(&user), Q_OK);
    char path[RAMDISK_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/superblock", user_directory);
    ramdisk_save(disk, &image);
    image_remove(&image, path);
    ramdisk_load(disk, &image);
    image_free(&image);
    cr_assert_eq(count_syncs_of_open(), before + 1);
    cr_assert_eq(count_told(QLOG_EVENT_ROT), 1);
}

/* --- Frames that are whole, and do not belong where they lie. */

static struct image_file *
segment_file(const struct image *image, const char *log)
{
    char path[RAMDISK_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s/segment-000000", user_directory, log);
    struct image_file *file = image_find(image, path);
    cr_assert_not_null(file);
    return file;
}

static void
append_blocks(unsigned count, enum qlog_mode mode)
{
    static const char data[] = "as long as all the others";
    for (unsigned i = 0; i < count; i++) {
        struct waiting waiting;
        submit(&waiting, data, sizeof(data), mode);
        for (unsigned j = 0; j < 20 && !waiting.done; j++)
            turn(0);
        cr_assert(waiting.done);
        cr_assert_eq(waiting.err, Q_OK);
    }
}

/* Frames behind one that power loss took are never read, however the gap before them was filled and
 * damaged since. */
Test(log_promises, orphans_stay_dead)
{
    struct image image;
    cr_assert_eq(user_open(&user, false), Q_OK);
    append_blocks(4, QLOG_MODE_SYNC);
    append_blocks(4, QLOG_MODE_ASYNC);
    ramdisk_save(disk, &image);
    user_kill(&user);
    memset(segment_file(&image, "log")->data + 6 * QL_BLOCK, 0, QL_BLOCK);
    ramdisk_load(disk, &image);
    image_free(&image);
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(count_told(QLOG_EVENT_TORN_TAIL), 1);
    append_blocks(1, QLOG_MODE_SYNC);
    cr_assert_eq(user_close(&user), Q_OK);
    cr_assert_eq(count_records(), 6);
    ramdisk_save(disk, &image);
    segment_file(&image, "log")->data[6 * QL_BLOCK + 20]++;
    ramdisk_load(disk, &image);
    image_free(&image);
    cr_assert_eq(count_records(), 5);
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(count_told(QLOG_EVENT_ROT), 1);
    cr_assert_eq(count_records(), 5);
}

/* A frame that is not the one its successor followed is no part of this log's history. */
Test(log_promises, frames_follow_each_other)
{
    struct image image;
    cr_assert_eq(user_open(&user, false), Q_OK);
    append_blocks(4, QLOG_MODE_SYNC);
    cr_assert_eq(user_close(&user), Q_OK);
    ramdisk_save(disk, &image);
    uint8_t *at = segment_file(&image, "log")->data + 2 * QL_BLOCK;
    struct ql_frame frame;
    cr_assert_eq(ql_frame_decode(at, &frame), QL_BLOCK_GOOD);
    frame.wall_ms++;
    ql_frame_encode(&frame, at);
    ramdisk_load(disk, &image);
    image_free(&image);
    cr_assert_eq(user_open(&user, false), Q_OK);
    cr_assert_eq(count_told(QLOG_EVENT_ROT), 1);
}

/* The first frames of two logs look alike, and lie at the same position. */
Test(log_promises, a_frame_counts_in_its_own_log_alone)
{
    struct image image;
    cr_assert_eq(user_open(&user, true), Q_OK);
    cr_assert_eq(user_publish(&user, 0, QLOG_MODE_SYNC), Q_OK);
    cr_assert_eq(user_publish(&user, 1, QLOG_MODE_SYNC), Q_OK);
    cr_assert_eq(user_consume(&user, 0, "readers"), Q_OK);
    cr_assert_eq(user_close(&user), Q_OK);
    ramdisk_save(disk, &image);
    memcpy(
        segment_file(&image, "action")->data + QL_BLOCK,
        segment_file(&image, "message")->data + QL_BLOCK, QL_BLOCK);
    ramdisk_load(disk, &image);
    image_free(&image);
    cr_assert_eq(user_open(&user, true), Q_OK);
    cr_assert_eq(count_told(QLOG_EVENT_ROT), 1);
}

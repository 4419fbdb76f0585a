/*
 * Where a log ends after a crash: how far a start looks behind the last frame, and what it finds there.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qlog/log.h>

enum {
    MIB = 1024 * 1024,
    RECORD = MIB - 16 * 1024, /* one for each frame */
    RECORDS = 24,
    FLUSH_BYTES = 16 * MIB,
    READ_AHEAD = 8 * MIB, /* of frames, before their end is known */
    LOOK = 10 * MIB,      /* behind that */
    SMALL = 1 * MIB,      /* superblock, headers of segments */
};

static char directory[64];
static char killed[80]; /* as the process left it */
static struct q_clock_manual the_clock;
static struct qlog_observer observer;
static unsigned told[64];
static uint64_t positions[RECORDS];
static uint64_t read_bytes;
static struct qlog_io *io;
static struct qlog_io_table counting;
static const struct qlog_io_table *counted;

static void
on_event(void *context, const struct qlog_event *event)
{
    (void)context;
    told[event->kind]++;
}

static void
count_submit(struct qlog_io *self, struct qlog_io_op *op)
{
    if (op->kind == QLOG_IO_READ) read_bytes += op->length;
    counted->submit(self, op);
}

static void
setup(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/qlog-end-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(killed, sizeof(killed), "%s.killed", directory);
    q_clock_manual_init(&the_clock);
    observer = (struct qlog_observer){ .on_event = on_event };
    memset(told, 0, sizeof(told));
    cr_assert_eq(qlog_io_plain_new(&io), 0);
    counted = io->table;
    counting = *counted;
    counting.submit = count_submit;
    io->table = &counting;
}

static void
teardown(void)
{
    char command[256];
    io->table->destroy(io);
    (void)snprintf(command, sizeof(command), "rm -rf '%s' '%s'", directory, killed);
    cr_assert_eq(system(command), 0);
}

TestSuite(log_end, .init = setup, .fini = teardown, .timeout = 240);

static struct qlog *
open_log(const char *path)
{
    struct qlog_options options = {
        .io = io,
        .clock = &the_clock.clock,
        .observer = &observer,
        .segment_bytes = 64 * MIB,
        .async_flush_bytes = FLUSH_BYTES,
        .create = true,
    };
    struct qlog *log;
    cr_assert_eq(qlog_open(path, &options, &log), Q_OK);
    return log;
}

static void
on_appended(struct qlog_append *append, enum q_err err)
{
    cr_assert_eq(err, Q_OK);
    *(bool *)append->context = true;
}

/* Frames of nearly 1 MiB that nobody asked to flush: time stands still, so the superblock does not
 * follow, and the mark moves each 16 MiB. Then the process is gone. */
static void
write_and_kill(unsigned count)
{
    static uint8_t data[RECORD];
    struct qlog *log = open_log(directory);
    for (unsigned i = 0; i < count; i++) {
        bool done = false;
        struct qlog_append append = {
            .data = data,
            .size = RECORD,
            .mode = QLOG_MODE_ASYNC,
            .done = on_appended,
            .context = &done,
        };
        memset(data, (int)i + 1, RECORD);
        cr_assert_eq(qlog_submit(log, &append), Q_OK);
        while (!done) {
            cr_assert_eq(qlog_turn(log), Q_OK);
            cr_assert_eq(qlog_wait(log, Q_NS_PER_S), Q_OK);
        }
        positions[i] = append.position.value;
    }
    char command[256];
    (void)snprintf(command, sizeof(command), "cp -r --sparse=always '%s' '%s'", directory, killed);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(qlog_close(log), Q_OK);
}

/* One bit of the header of a frame. */
static void
damage(unsigned number)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/log/segment-000000", killed);
    FILE *file = fopen(path, "r+");
    cr_assert_not_null(file);
    long at = (long)(4096 + positions[number] - positions[0] + 20);
    cr_assert_eq(fseek(file, at, SEEK_SET), 0);
    int byte = fgetc(file);
    cr_assert_eq(fseek(file, at, SEEK_SET), 0);
    cr_assert_neq(fputc(byte ^ 1, file), EOF);
    cr_assert_eq(fclose(file), 0);
}

/* What lies behind the end of a log that ended as most do is looked at for the length of one request,
 * not for all that may have been in flight: a start waits for each byte. */
Test(log_end, a_start_does_not_look_far)
{
    write_and_kill(4);
    read_bytes = 0;
    struct qlog *log = open_log(killed);
    cr_assert_leq(read_bytes, 4 * MIB + READ_AHEAD + LOOK + SMALL, "%zu", (size_t)read_bytes);
    cr_assert_eq(told[QLOG_EVENT_ROT] + told[QLOG_EVENT_TORN_TAIL], 0);
    cr_assert_geq(qlog_written(log).value, positions[3] + RECORD);
    cr_assert_eq(qlog_close(log), Q_OK);
}

/* Where there is more, the look goes on, over further damage too: the mark that says that the damaged
 * frames were flushed stands in one that was written after the next flush, far behind. */
Test(log_end, a_newer_mark_far_behind_damage)
{
    write_and_kill(RECORDS);
    damage(1);
    damage(14);
    struct qlog *log = open_log(killed);
    cr_assert_eq(told[QLOG_EVENT_ROT], 2);
    cr_assert_eq(told[QLOG_EVENT_TORN_TAIL], 0, "nothing that was flushed is cut");
    cr_assert_geq(qlog_written(log).value, positions[RECORDS - 1] + RECORD);
    cr_assert_eq(qlog_close(log), Q_OK);
}

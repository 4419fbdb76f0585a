/*
 * A start while the disk does not give a range of the message log: what groups had in hand of it is not
 * given up, nor passed over. It may be there all the same, and the next start finds it.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "ramdisk.h"
#include "store/store.h"
#include "store_fixture.h"

enum {
    BATCHES = 30,
    HELD = 20,
    BAD =
        64 * 1024 /* of the message log, when its disk is bad: one message of those that are held */
};

static struct store_fixture fixture;
static struct ramdisk *disk;
static uint64_t session;

/* The disk's own calls, with an open() of ours: it tells which file is of the message log. */
static const struct qlog_io_table *real;
static struct qlog_io_table table;
static int message_file;
static bool bad;
static uint64_t bad_at = BAD;

static int
open_noted(struct qlog_io *io, const char *path, unsigned flags)
{
    int file = real->open(io, path, flags);
    if (strstr(path, "/message/segment") != NULL) message_file = file;
    return file;
}

static enum ramdisk_fate
meddle(void *context, const struct qlog_io_op *op)
{
    (void)context;
    bool hit = op->kind == QLOG_IO_READ && op->file == message_file && op->at <= bad_at &&
               op->at + op->length > bad_at;
    return bad && hit ? RAMDISK_FAIL : RAMDISK_DO;
}

static void
reopen(bool is_bad)
{
    if (fixture.store != NULL) cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    bad = is_bad;
    char text[Q_FAULT_LINE_MAX];
    enum q_err err = qlog_store_open("/store", &fixture.options, &fixture.store);
    cr_assert_eq(err, Q_OK, "open: %s", q_fault_format(q_fault_last(), text, sizeof(text)));
}

static void
setup(void)
{
    fixture_open(&fixture);
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    disk = ramdisk_new();
    ramdisk_set_fate(disk, meddle, NULL);
    struct qlog_io *io = ramdisk_io(disk);
    real = io->table;
    table = *real;
    table.open = open_noted;
    io->table = &table;
    fixture.options.log.io = io;
    reopen(false);
    for (unsigned i = 0; i < BATCHES; i++)
        cr_assert_eq(fixture_publish(&fixture, fixture_subject, "a", NULL, NULL), Q_OK);
    session = fixture_join(&fixture, "g", "c", NULL);
    (void)fixture_join(&fixture, "new", "c", NULL);
}

static void
teardown(void)
{
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    fixture.options.log.io->table = real;
    fixture_close(&fixture);
    ramdisk_free(disk);
}

TestSuite(store_unreadable, .init = setup, .fini = teardown, .timeout = 60);

/* What is appended next names the frame before it: one that can't be read is waited for. */
Test(store_unreadable, the_newest_frame)
{
    bad_at = fixture.store->messages->tail; /* behind the header of its file */
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    bad = true;
    cr_assert_eq(qlog_store_open("/store", &fixture.options, &fixture.store), Q_E_IO);
    cr_assert_not_null(strstr(q_fault_last()->what, "can't be read"), "%s", q_fault_last()->what);
    fixture.store = NULL;
    reopen(false);
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "a", NULL, NULL), Q_OK);
    reopen(false);
}

static struct qlog_lag
lag_of(const char *group)
{
    struct qlog_lag lag = {
        .request = { .kind = QLOG_LAG },
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text(group),
    };
    cr_assert_eq(fixture_run(&fixture, &lag.request), Q_OK);
    return lag;
}

/* What all pulls of a session give, each message once; and how they end. */
struct taken {
    unsigned count;
    bool has[BATCHES];
    enum q_err err; /* Q_OK: nothing is left */
};

static struct taken
take(const char *group)
{
    struct taken taken = { 0 };
    uint64_t of_session = fixture_join(&fixture, group, "c", NULL);
    uint64_t received = 0;
    for (unsigned idle = 0; idle < 100; idle++) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", of_session, BATCHES, received);
        taken.err = pulled.err;
        if (pulled.err == Q_E_IO) break;
        cr_assert_eq(pulled.err, Q_OK);
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            const struct qlog_run *run = &pulled.runs[i];
            for (uint64_t j = run->sequence; j < run->sequence + run->count; j++) {
                taken.count += taken.has[j] ? 0 : 1;
                taken.has[j] = true;
            }
            received = run->pull_sequence + run->count;
            idle = 0;
        }
        fixture_settle(&fixture);
    }
    return taken;
}

/* The next start finds everything. */
static void
all_is_there(const char *group, unsigned count)
{
    reopen(false);
    struct taken taken = take(group);
    cr_expect_eq(taken.err, Q_OK);
    cr_expect_eq(taken.count, count);
    cr_expect_eq(lag_of(group).expired, 0);
}

static void
hold(void)
{
    struct pulled first = fixture_pull(&fixture, "g", "c", session, HELD, 0);
    cr_assert_eq(first.err, Q_OK);
    cr_assert_eq(lag_of("g").in_flight, HELD);
}

Test(store_unreadable, what_is_held)
{
    hold();
    reopen(true);
    cr_assert_gt(fixture.events[QLOG_EVENT_ROT], 0, "the range is told of");
    cr_expect_eq(lag_of("g").in_flight, HELD);
    cr_expect_eq(fixture.events[QLOG_EVENT_VOID_ACTIONS], 0);
    struct taken taken = take("g");
    cr_expect_eq(taken.err, Q_E_IO, "the disk is to blame");
    cr_expect(taken.has[0], "what can be read is given");
    cr_expect_lt(taken.count, HELD);
    cr_expect_eq(lag_of("g").in_flight, HELD);
    all_is_there("g", BATCHES);
}

Test(store_unreadable, what_is_pending)
{
    hold();
    cr_assert_eq(fixture_leave(&fixture, "g", "c", session), Q_OK);
    cr_assert_eq(lag_of("g").pending_released, HELD);
    reopen(true);
    cr_expect_eq(lag_of("g").pending_released, HELD);
    struct taken taken = take("g");
    cr_expect_eq(taken.err, Q_E_IO);
    cr_expect_lt(taken.count, HELD);
    /* Retention concludes from what is stored what is gone: not so here. */
    struct qlog_trim trim = { .request = { .kind = QLOG_TRIM }, .messages_before = { INT64_MAX } };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
    cr_expect_eq(lag_of("g").in_flight + lag_of("g").pending_released, HELD);
    all_is_there("g", BATCHES);
}

/* New messages wait behind it, too: the cursor passes nothing that may be there. */
Test(store_unreadable, what_waits)
{
    reopen(true);
    struct taken taken = take("new");
    cr_expect_eq(taken.err, Q_E_IO);
    cr_expect_gt(taken.count, 0);
    cr_expect_lt(taken.count, BATCHES);
    cr_expect_eq(lag_of("new").expired, 0);
    cr_expect_eq(lag_of("new").cursor, taken.count);
    all_is_there("new", BATCHES);
}

/* Who can't wait passes it by, and it is counted as what he wants it to be. */
Test(store_unreadable, skipped_by_hand)
{
    reopen(true);
    uint64_t cursor = take("new").count;
    struct qlog_control skip = {
        .request = { .kind = QLOG_CONTROL },
        .kind = QLOG_CONTROL_SKIP,
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text("new"),
        .range = { cursor, cursor },
    };
    cr_assert_eq(fixture_run(&fixture, &skip.request), Q_OK);
    struct taken taken = take("new");
    cr_expect_eq(taken.err, Q_OK);
    cr_expect_eq(taken.count, BATCHES - 1);
    cr_expect_eq(lag_of("new").skipped, 1);
}

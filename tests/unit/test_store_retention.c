/*
 * Retention: what goes when, what stays whatever the rules say, and what a full disk refuses.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "store/store.h"
#include "store_fixture.h"

enum {
    BATCHES = 400, /* about six segments */
};

static struct store_fixture fixture;

/* A disk of which the test says what is left: the real io with two calls of ours. */
static struct {
    struct qlog_io *io;
    const struct qlog_io_table *real;
    struct qlog_io_table table;
    uint64_t free_bytes;
    bool refuses; /* to allocate, whatever is free: a quota */
    bool slow;    /* a header of a file is kept back for a while, */
    struct qlog_io_op *kept;
    unsigned looks; /* … for so many more looks at what is complete */
} disk;

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
    if (disk.io != NULL) disk.io->table->destroy(disk.io);
}

TestSuite(store_retention, .init = setup, .fini = teardown, .timeout = 60);

static void
publish_many(unsigned batches)
{
    for (unsigned i = 0; i < batches; i++)
        cr_assert_eq(
            fixture_publish(&fixture, fixture_subject, "a,b", NULL, &(uint64_t){ 0 }), Q_OK);
}

/* Retention looks once a second. */
static void
pass(unsigned seconds)
{
    for (unsigned i = 0; i < 2 * seconds; i++) {
        q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S / 2);
        do
            fixture_rest(&fixture);
        while (fixture.store->retention.trimming || fixture.store->retention.passing);
    }
}

static uint32_t
segments(void)
{
    return fixture.store->messages->segments.count;
}

/* Pull and acknowledge all that is there; the first sequence, and how many. */
static uint64_t
consume(const char *group, uint64_t *ret_first)
{
    uint64_t session = fixture_join(&fixture, group, "c", NULL);
    uint64_t received = 0;
    uint64_t count = 0;
    for (;;) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", session, 64, received);
        cr_assert_eq(pulled.err, Q_OK);
        if (pulled.run_count == 0) return count;
        if (count == 0 && ret_first != NULL) *ret_first = pulled.runs[0].sequence;
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            struct qlog_run run = pulled.runs[i];
            received = run.pull_sequence + run.count;
            cr_assert_eq(
                fixture_ack(&fixture, group, "c", session, run.pull_sequence, received - 1), Q_OK);
            count += run.count;
        }
    }
}

/* The oldest go when the log is larger than it may be; sequences and later messages are untouched. */
Test(store_retention, by_size)
{
    fixture.options.retention_bytes = 3 * fixture.options.log.segment_bytes;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    cr_assert_geq(segments(), 5);
    pass(2);
    cr_assert_eq(segments(), 3);
    cr_assert_geq(fixture.events[QLOG_EVENT_DROPPED], 1);
    uint64_t first = 0;
    uint64_t count = consume("g", &first);
    cr_assert_gt(first, 0);
    cr_assert_eq(first + count, 2 * BATCHES);
    fixture_crash(&fixture);
    cr_assert_eq(consume("h", &first), count);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
}

/* By age not more than one in ten seconds: the clock may be what is wrong. */
Test(store_retention, by_age)
{
    fixture.options.retention_ms = 3600ull * Q_MS_PER_S;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    uint32_t before = segments();
    pass(60);
    cr_assert_eq(segments(), before);
    q_clock_manual_advance_ns(&fixture.clock, 2 * 3600ull * Q_NS_PER_S);
    pass(2);
    cr_assert_eq(segments(), before - 1);
    pass(10);
    cr_assert_eq(segments(), before - 2);
    pass(100);
    cr_assert_eq(segments(), 1);
    /* A wall clock that is set back makes nothing young or old. */
    publish_many(BATCHES);
    fixture.clock.wall_ms -= 48 * 3600ull * Q_MS_PER_S;
    pass(20);
    cr_assert_geq(segments(), 5);
}

/* What a group has not consumed stays, and what has no group yet. */
Test(store_retention, what_is_not_consumed_stays)
{
    fixture.options.retention_bytes = fixture.options.log.segment_bytes;
    fixture.options.retention_consumed = true;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    uint32_t before = segments();
    pass(5);
    cr_assert_eq(segments(), before);
    (void)consume("g", NULL);
    uint64_t session = fixture_join(&fixture, "slow", "c", NULL);
    cr_assert_gt(fixture_pull(&fixture, "slow", "c", session, 10, 0).run_count, 0);
    pass(5);
    cr_assert_eq(segments(), before, "the slow group has some in its hands, and most before it");
    cr_assert_eq(fixture_ack(&fixture, "slow", "c", session, 0, 9), Q_OK);
    (void)consume("slow", NULL);
    pass(5);
    cr_assert_leq(segments(), 2);
}

/* When space is short, what is consumed goes before its time, and nothing else does. */
Test(store_retention, pressure)
{
    fixture.options.disk_soft_bytes = UINT64_MAX;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    uint32_t before = segments();
    pass(5);
    cr_assert_eq(fixture.events[QLOG_EVENT_DISK_LEVEL], 1);
    cr_assert_eq(segments(), before);
    (void)consume("g", NULL);
    pass(5);
    cr_assert_leq(segments(), 2);
}

/* A full disk refuses publishes by name, and nothing else; it takes them again by itself. */
Test(store_retention, hard_level)
{
    publish_many(10);
    fixture.options.disk_hard_bytes = UINT64_MAX;
    fixture_reopen(&fixture);
    pass(2);
    uint64_t first;
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "x", NULL, &first), Q_STORAGE_FULL);
    cr_assert_eq(consume("g", &first), 20);
    fixture.store->retention.hard_bytes = 1;
    pass(2);
    cr_assert_eq(fixture_publish(&fixture, fixture_subject, "x", NULL, &first), Q_OK);
    cr_assert_eq(first, 20);
    cr_assert_eq(fixture.events[QLOG_EVENT_DISK_LEVEL], 2);
}

static int
disk_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    (void)io;
    (void)path;
    *ret_free = disk.free_bytes;
    *ret_total = UINT64_C(1) << 40;
    return 0;
}

static int
disk_allocate(struct qlog_io *io, int file, uint64_t size)
{
    return disk.refuses ? -ENOSPC : disk.real->allocate(io, file, size);
}

static void
disk_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    if (disk.slow && disk.kept == NULL && op->kind == QLOG_IO_WRITE && op->at == 0) {
        disk.kept = op;
        disk.looks = 100;
        return;
    }
    disk.real->submit(io, op);
}

static int
disk_enter(struct qlog_io *io, uint64_t wait_ns)
{
    if (disk.kept != NULL && disk.looks-- == 0) {
        disk.real->submit(io, disk.kept);
        disk.kept = NULL;
    }
    return disk.real->enter(io, disk.kept != NULL ? q_min_u64(wait_ns, Q_NS_PER_MS) : wait_ns);
}

static void
use_disk(void)
{
    cr_assert_eq(qlog_io_plain_new(&disk.io), 0);
    disk.real = disk.io->table;
    disk.table = *disk.real;
    disk.table.space = disk_space;
    disk.table.allocate = disk_allocate;
    disk.table.submit = disk_submit;
    disk.table.enter = disk_enter;
    disk.io->table = &disk.table;
    disk.free_bytes = UINT64_C(1) << 40;
    fixture.options.log.io = disk.io;
    fixture_reopen(&fixture);
}

/* How many were taken before one was refused. */
static unsigned
publish_until_refused(void)
{
    for (unsigned i = 0; i < BATCHES; i++) {
        enum q_err err = fixture_publish(&fixture, fixture_subject, "a,b", NULL, NULL);
        if (err == Q_OK) continue;
        cr_assert_eq(err, Q_STORAGE_FULL);
        cr_assert_eq(q_fault_last()->err, Q_STORAGE_FULL);
        cr_assert_neq(q_fault_last()->what[0], '\0');
        return i;
    }
    return BATCHES;
}

/* The message log never takes what the action log may still need: who can't acknowledge can't make
 * room. What is consumed then makes room, whatever the levels say. */
Test(store_retention, messages_yield_to_actions)
{
    use_disk();
    publish_many(BATCHES / 2);
    disk.free_bytes = 4 * fixture.options.log.segment_bytes;
    uint64_t taken = BATCHES / 2 + publish_until_refused();
    cr_assert_lt(taken, BATCHES);
    fixture_crash(&fixture);
    cr_assert_eq(publish_until_refused(), 0);
    cr_assert_eq(consume("g", NULL), 2 * taken);
    pass(3);
    cr_assert_geq(fixture.events[QLOG_EVENT_DISK_LEVEL], 1);
    cr_assert_gt(publish_until_refused(), 0);
}

/* So it is under a quota, of which the free space of the file system says nothing. */
Test(store_retention, quota)
{
    use_disk();
    publish_many(BATCHES / 2);
    disk.refuses = true;
    uint64_t taken = BATCHES / 2 + publish_until_refused();
    cr_assert_lt(taken, BATCHES);
    pass(3);
    cr_assert_eq(publish_until_refused(), 0);
    cr_assert_eq(consume("g", NULL), 2 * taken);
    pass(3);
    cr_assert_gt(publish_until_refused(), 0);
    disk.refuses = false;
    pass(3);
    cr_assert_eq(publish_until_refused(), BATCHES);
    cr_assert_eq(fixture.store->retention.level, QL_DISK_NORMAL);
}

static void
on_join(struct qlog_request *request, enum q_err err)
{
    *(enum q_err *)request->context = err;
}

/* There is room again just when it is closed, and something else to be done: the next segment is begun,
 * and then it is waited for, too. */
Test(store_retention, space_at_the_end)
{
    use_disk();
    publish_many(BATCHES / 2);
    disk.refuses = true;
    cr_assert_lt(publish_until_refused(), BATCHES);
    /* So that nothing else is left to do. */
    pass(3);
    disk.refuses = false;
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    disk.slow = true;
    enum q_err joined = Q_E_INTERNAL;
    struct qlog_join join = {
        .request = { .kind = QLOG_JOIN, .done = on_join, .context = &joined },
        .who = {
            .subject = q_bytes_from_text(fixture_subject),
            .group = q_bytes_from_text("g"),
            .consumer = q_bytes_from_text("c"),
        },
    };
    cr_assert_eq(qlog_store_submit(fixture.store, &join.request), Q_OK);
    unsigned rolled = fixture.events[QLOG_EVENT_ROLLED];
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    cr_assert_eq(joined, Q_OK);
    cr_assert_null(disk.kept, "nothing is under way when it is closed");
    cr_assert_gt(fixture.events[QLOG_EVENT_ROLLED], rolled, "and there was something");
    disk.slow = false;
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    cr_assert_eq(publish_until_refused(), BATCHES);
}

static const struct qlog_io_table *real_table;
static int refused_file;

static void
submit_refusing_headers(struct qlog_io *io, struct qlog_io_op *op)
{
    if (op->kind == QLOG_IO_WRITE && op->file == refused_file) op->file = -1;
    real_table->submit(io, op);
}

/* What can't go is told, and does not stop what can. */
Test(store_retention, failure)
{
    fixture.options.retention_bytes = 3 * fixture.options.log.segment_bytes;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    struct qlog_io *io = fixture.store->home->env.io;
    real_table = io->table;
    static struct qlog_io_table table;
    table = *io->table;
    table.submit = submit_refusing_headers;
    io->table = &table;
    refused_file = fixture.store->messages->segments.segments[0]->file;
    pass(2);
    io->table = real_table;
    cr_assert_eq(fixture.events[QLOG_EVENT_RETENTION_FAILED], 1);
    cr_assert_eq(segments(), 3);
}

static struct archive {
    enum q_err err;
    unsigned asked;
    uint64_t from;
    uint64_t to;
} archive;

static enum q_err
take(void *context, const char *path, uint64_t from, uint64_t to)
{
    struct stat about;
    (void)context;
    archive.asked++;
    cr_assert_eq(stat(path, &about), 0);
    if (archive.err == Q_OK) {
        /* Again, when a reader (the scrubber) kept the file from going. */
        bool again = to <= archive.to;
        cr_assert(archive.to == 0 || archive.to == from || again, "each byte, in order");
        if (!again) archive.to = to;
    }
    return archive.err == Q_E_IO ? Q_FAIL(Q_E_IO, .what = "the other disk is full") : archive.err;
}

/* Nothing goes before the archive has it. */
Test(store_retention, archive)
{
    static const struct qlog_archive taker = { .take = take };
    fixture.options.retention_bytes = fixture.options.log.segment_bytes;
    fixture.options.archive = &taker;
    fixture_reopen(&fixture);
    archive.err = Q_AGAIN;
    publish_many(BATCHES);
    uint32_t before = segments();
    pass(5);
    cr_assert_eq(segments(), before);
    cr_assert_geq(archive.asked, 4);
    archive.err = Q_E_IO;
    pass(3);
    cr_assert_eq(segments(), before);
    cr_assert_geq(fixture.events[QLOG_EVENT_ARCHIVE_FAILED], 2);
    archive.err = Q_OK;
    pass(6);
    cr_assert_eq(segments(), 1);
    cr_assert_eq(archive.to, fixture.store->messages->segments.segments[0]->base);
}

/* The action log stays short, and a restart knows what went with its head. */
Test(store_retention, actions_are_bounded)
{
    for (unsigned i = 0; i < 8; i++) {
        publish_many(60);
        (void)consume("g", NULL);
        pass(2);
    }
    for (unsigned i = 0; i < 500; i++) {
        uint64_t session = fixture_join(&fixture, "g", "c", NULL);
        cr_assert_neq(session, 0);
        if (i % 100 == 0) pass(2);
    }
    pass(5);
    cr_assert_leq(fixture.store->actions->segments.count, 5);
    cr_assert_gt(fixture.store->actions->segments.segments[0]->base, 0);
    uint64_t before = ql_store_state_hash(fixture.store);
    fixture_reopen(&fixture);
    cr_assert_eq(ql_store_state_hash(fixture.store), before);
    cr_assert_eq(consume("g", NULL), 0);
}

/*
 * A start while the disk does not give a range of a log. What a start has to know and can't read is not
 * passed over: it is refused, and changes nothing. What it need not read may be as bad as it likes. And
 * what is given up by hand stays given up.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "look/unreadable.h"
#include "ramdisk.h"
#include "store/store.h"
#include "store_fixture.h"

enum {
    EVER = UINT32_MAX,
    TAKEN_MAX = 1024,
};

static const char first_segment[] = "message/segment-000000";
static struct store_fixture fixture;
static struct ramdisk *disk;

/* The disk's own calls, with an open() of ours: it tells which file is the bad one. */
static const struct qlog_io_table *real;
static struct qlog_io_table table;

/* What is bad: reads of these bytes of the segment, for so many tries. */
static struct {
    char path[64]; /* "": all is well */
    int file;
    uint64_t from;
    uint64_t to;
    unsigned tries;
    unsigned met;
    bool writes; /* are refused, too */
} bad;

static int
open_noted(struct qlog_io *io, const char *path, unsigned flags)
{
    int file = real->open(io, path, flags);
    if (strcmp(path, bad.path) == 0) bad.file = file;
    return file;
}

static enum ramdisk_fate
meddle(void *context, const struct qlog_io_op *op)
{
    (void)context;
    bool inside = op->file == bad.file && op->at < bad.to && op->at + op->length > bad.from;
    if (bad.path[0] == '\0' || !inside) return RAMDISK_DO;
    if (op->kind == QLOG_IO_WRITE && bad.writes) return RAMDISK_FAIL;
    /* As a disk does that has a good sector to put in its place. */
    if (op->kind == QLOG_IO_WRITE) bad.from = q_max_u64(bad.from, op->at + op->length);
    if (op->kind != QLOG_IO_READ || bad.met >= bad.tries) return RAMDISK_DO;
    bad.met++;
    return RAMDISK_FAIL;
}

static void
make_bad(const char *name, uint64_t from, uint64_t to, unsigned tries)
{
    (void)snprintf(bad.path, sizeof(bad.path), "/store/%s", name);
    bad.file = -1;
    bad.from = from;
    bad.to = to;
    bad.tries = tries;
    bad.met = 0;
    bad.writes = false;
}

static void
make_well(void)
{
    bad.path[0] = '\0';
}

static void
close_store(void)
{
    if (fixture.store != NULL) cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
}

static enum q_err
try_open(void)
{
    close_store();
    enum q_err err = qlog_store_open("/store", &fixture.options, &fixture.store);
    if (err != Q_OK) fixture.store = NULL;
    return err;
}

static void
must_open(void)
{
    enum q_err err = try_open();
    char text[Q_FAULT_LINE_MAX];
    cr_assert_eq(err, Q_OK, "open: %s", q_fault_format(q_fault_last(), text, sizeof(text)));
}

static void
setup(void)
{
    fixture_open(&fixture);
    close_store();
    disk = ramdisk_new();
    ramdisk_set_fate(disk, meddle, NULL);
    struct qlog_io *io = ramdisk_io(disk);
    real = io->table;
    table = *real;
    table.open = open_noted;
    io->table = &table;
    fixture.options.log.io = io;
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    must_open();
}

static void
teardown(void)
{
    make_well();
    close_store();
    fixture.options.log.io->table = real;
    fixture_close(&fixture);
    ramdisk_free(disk);
}

TestSuite(store_unreadable, .init = setup, .fini = teardown, .timeout = 60);

/* Each in a frame of its own. Where they lie in the segment's file. */
static struct qlog_range
publish(const char *subject, unsigned count)
{
    uint64_t from = fixture.store->messages->tail;
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(fixture_publish(&fixture, subject, "a", NULL, NULL), Q_OK);
    const struct ql_segment *active = fixture.store->messages->active;
    cr_assert_leq(active->base, from);
    return (struct qlog_range){
        ql_segment_offset(active, from),
        ql_segment_offset(active, fixture.store->messages->tail),
    };
}

static uint64_t
publish_one(const char *subject)
{
    uint64_t first = 0;
    cr_assert_eq(fixture_publish(&fixture, subject, "a", NULL, &first), Q_OK);
    return first;
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
    uint64_t last; /* sequence */
    bool has[TAKEN_MAX];
    enum q_err err; /* Q_OK: nothing is left */
};

static struct taken
take(const char *group)
{
    struct taken taken = { 0 };
    uint64_t session = fixture_join(&fixture, group, "c", NULL);
    uint64_t received = 0;
    for (unsigned idle = 0; idle < 100; idle++) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", session, 64, received);
        taken.err = pulled.err;
        if (pulled.err == Q_E_IO) break;
        cr_assert_eq(pulled.err, Q_OK);
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            const struct qlog_run *run = &pulled.runs[i];
            for (uint64_t j = run->sequence; j < run->sequence + run->count; j++) {
                cr_assert_lt(j, TAKEN_MAX);
                taken.count += taken.has[j] ? 0 : 1;
                taken.has[j] = true;
                taken.last = j;
            }
            received = run->pull_sequence + run->count;
            idle = 0;
        }
        fixture_settle(&fixture);
    }
    return taken;
}

/* The start is refused, says why, and the one on a disk that is well finds everything. */
static void
assert_refused(const char *what)
{
    struct image before;
    struct image after;
    close_store();
    ramdisk_save(disk, &before);
    cr_assert_eq(try_open(), Q_E_IO);
    const struct q_fault *fault = q_fault_last();
    cr_expect_not_null(strstr(fault->what, what), "%s", fault->what);
    cr_expect_not_null(strstr(fault->path, bad.path), "%s", fault->path);
    cr_expect_geq((uint64_t)fault->position, bad.from / 4096 * 4096);
    cr_expect_lt((uint64_t)fault->position, bad.to);
    cr_expect_not_null(strstr(fault->hint, "--give-up"), "%s", fault->hint);
    ramdisk_save(disk, &after);
    for (unsigned i = 0; i < before.count; i++) {
        const struct image_file *file = &before.files[i];
        if (strstr(file->path, "/segment-") == NULL) continue;
        const struct image_file *then = image_find(&after, file->path);
        cr_assert_not_null(then);
        cr_assert_eq(then->size, file->size);
        cr_assert_eq(memcmp(then->data, file->data, file->size), 0);
    }
    image_free(&before);
    image_free(&after);
}

/* The newest messages of a subject, with others behind: their sequences are taken. */
Test(store_unreadable, newest_of_a_subject)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range newest = publish(fixture_subject, 3);
    (void)publish("other", 3);
    make_bad(first_segment, newest.first, newest.last, EVER);
    close_store();
    /* Not what is asserted here, but what follows from it: nothing is stored under their sequences. */
    if (try_open() == Q_OK) (void)publish_one(fixture_subject);
    make_well();
    must_open();
    cr_expect_eq(publish_one(fixture_subject), 8);
    cr_expect_eq(publish_one("other"), 3);
    must_open();
}

Test(store_unreadable, a_start_is_refused)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range middle = publish(fixture_subject, 1);
    (void)publish(fixture_subject, 3);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 9, 0).err, Q_OK);
    make_bad(first_segment, middle.first, middle.last, EVER);
    assert_refused("message");
    assert_refused("message");
    make_well();
    must_open();
    cr_expect_eq(lag_of("g").in_flight, 9);
    cr_expect_eq(take("g").count, 9);
    cr_expect_eq(fixture.events[QLOG_EVENT_VOID_ACTIONS], 0);
}

/* What is appended next names the frame before it. */
Test(store_unreadable, the_newest_frame)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range newest = publish(fixture_subject, 1);
    make_bad(first_segment, newest.first, newest.last, EVER);
    assert_refused("message");
    make_well();
    must_open();
    cr_expect_eq(publish_one(fixture_subject), 6);
    must_open();
}

/* What groups did is told by records that build on each other. */
Test(store_unreadable, actions)
{
    (void)publish(fixture_subject, 5);
    uint64_t from = fixture.store->actions->tail;
    (void)fixture_join(&fixture, "g", "c", NULL);
    uint64_t to = fixture.store->actions->tail;
    (void)fixture_join(&fixture, "other", "c", NULL);
    const struct ql_segment *active = fixture.store->actions->active;
    make_bad(
        "action/segment-000000", ql_segment_offset(active, from), ql_segment_offset(active, to),
        EVER);
    assert_refused("action");
    make_well();
    must_open();
    cr_expect_eq(take("g").count, 5);
    cr_expect_eq(take("other").count, 5);
}

/* A disk that gives it at the second try has nothing to complain of. */
Test(store_unreadable, a_second_try)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range middle = publish(fixture_subject, 1);
    (void)publish(fixture_subject, 3);
    for (unsigned tries = 1; tries <= 2; tries++) {
        make_bad(first_segment, middle.first, middle.last, tries);
        must_open();
        cr_expect_eq(bad.met, tries);
        cr_expect_eq(fixture.events[QLOG_EVENT_ROT], 0);
    }
    cr_expect_eq(take("g").count, 9);
}

/* Nothing tells any more where messages are, but the log itself. */
static void
lose_index_files(void)
{
    struct image image;
    close_store();
    ramdisk_save(disk, &image);
    for (unsigned i = image.count; i-- > 0;)
        if (strstr(image.files[i].path, "/index-") != NULL)
            image_remove(&image, image.files[i].path);
    ramdisk_load(disk, &image);
    image_free(&image);
}

/* What a segment is stands in its header; what follows it is told by its first frame. */
static void
second_segment(uint64_t from, uint64_t to, const char *what)
{
    while (fixture.store->messages->segments.count < 2)
        (void)publish_one(fixture_subject);
    uint64_t next = 0;
    for (unsigned i = 0; i < 40; i++)
        next = publish_one(fixture_subject) + 1;
    lose_index_files();
    make_bad("message/segment-000001", from, to, EVER);
    assert_refused(what);
    make_well();
    must_open();
    struct taken taken = take("g");
    cr_expect_eq(taken.err, Q_OK);
    cr_expect_eq(taken.count, next);
    cr_expect_eq(fixture.events[QLOG_EVENT_ROT], 0);
    cr_expect_eq(publish_one(fixture_subject), next);
}

Test(store_unreadable, a_header)
{
    second_segment(0, 4096, "a segment can't be read");
}

Test(store_unreadable, first_frame_of_a_segment)
{
    second_segment(4096, 8192, "message log");
}

/* --- What an index file knows. */

/* Until a start need not read the first segment. */
static void
fill_segments(void)
{
    const struct qlog_store *store = fixture.store;
    const struct ql_segment_set *segments = &store->messages->segments;
    const struct ql_index_files *files = &store->index.files;
    while (segments->count < 3)
        (void)publish_one(fixture_subject);
    while (store->home->super.producers < segments->segments[1]->base || files->cut_count > 0 ||
           files->step != QL_INDEX_IDLE)
    {
        q_clock_manual_advance_ns(&fixture.clock, 100 * (uint64_t)Q_NS_PER_MS);
        fixture_settle(&fixture);
    }
}

/* Drop the first segment, as soon as nobody reads it any more. */
static void
trim(void)
{
    const struct ql_segment_set *segments = &fixture.store->messages->segments;
    uint64_t second = segments->segments[1]->base;
    while (segments->segments[0]->base < second) {
        struct qlog_trim trim = { .request = { .kind = QLOG_TRIM }, .messages_before = { second } };
        fixture_settle(&fixture);
        cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
    }
}

/* It tells which messages there are: they wait, and nothing else does. */
Test(store_unreadable, known_by_its_index)
{
    uint64_t session = fixture_join(&fixture, "held", "c", NULL);
    (void)publish(fixture_subject, 5);
    struct qlog_range middle = publish(fixture_subject, 1);
    cr_assert_eq(fixture_pull(&fixture, "held", "c", session, 6, 0).err, Q_OK);
    fill_segments();
    uint64_t next = publish_one(fixture_subject) + 1;
    (void)publish("other", 3);
    make_bad(first_segment, middle.first, middle.last, EVER);
    must_open();
    cr_expect_eq(lag_of("held").in_flight + lag_of("held").pending_released, 6);
    cr_expect_eq(fixture.events[QLOG_EVENT_VOID_ACTIONS], 0);
    cr_expect_eq(publish_one(fixture_subject), next++);
    (void)fixture_join(&fixture, "new", "c", NULL);
    struct taken taken = take("new");
    cr_expect_eq(taken.err, Q_E_IO, "the disk is to blame");
    cr_expect_eq(taken.count, 5, "what can be read is given");
    cr_expect_eq(lag_of("new").cursor, 5);
    cr_expect_eq(lag_of("new").expired, 0);

    make_well();
    must_open();
    taken = take("new");
    cr_expect_eq(taken.err, Q_OK);
    cr_expect_eq(taken.count, next);
    cr_expect_eq(publish_one(fixture_subject), next);
}

/* A trim that drops it, or what lies before it, keeps nobody else waiting. */
Test(store_unreadable, trimmed)
{
    (void)publish("other", 3);
    struct qlog_range first = publish(fixture_subject, 5);
    fill_segments();
    (void)publish("other", 3);
    uint64_t next = publish_one(fixture_subject) + 1;
    make_bad(first_segment, first.first, first.last, EVER);
    must_open();
    (void)fixture_join(&fixture, "g", "c", NULL);
    cr_expect_eq(take("g").err, Q_E_IO);
    trim();
    struct taken taken = take("g");
    cr_expect_eq(taken.err, Q_OK);
    cr_expect_gt(taken.count, 0);
    cr_expect_eq(lag_of("g").cursor, next);
    cr_expect_eq(lag_of("g").in_flight, taken.count);
    cr_expect_eq(publish_one("other"), 6);
    must_open();
    cr_expect_eq(publish_one(fixture_subject), next);
}

/* Index files do not tell which requests of producers are stored. */
Test(store_unreadable, requests)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range middle = publish(fixture_subject, 1);
    fill_segments();
    fixture.store->home->super.producers = 0;
    make_bad(first_segment, middle.first, middle.last, EVER);
    assert_refused("message");
    make_well();
    must_open();
}

/* --- What is given up. */

static struct {
    struct ql_unreadable ranges[4];
    unsigned count;
} found;

static void
on_range(void *context, const struct ql_unreadable *range)
{
    (void)context;
    cr_assert_lt(found.count, 4);
    found.ranges[found.count++] = *range;
}

/* As `qlog repair --give-up --apply` does. */
static void
give_up(void)
{
    struct qlog_io *io = fixture.options.log.io;
    char path[sizeof(bad.path)];
    memcpy(path, bad.path, sizeof(path));
    uint64_t from = bad.from;
    uint64_t to = bad.to;
    close_store();
    found.count = 0;
    cr_assert_eq(ql_unreadable_find(io, path, on_range, NULL), Q_OK);
    cr_assert_eq(found.count, 1);
    cr_expect_eq(found.ranges[0].from, from);
    cr_expect_eq(found.ranges[0].bytes, to - from);
    cr_assert_eq(ql_unreadable_give_up(io, path, &found.ranges[0]), Q_OK);
    found.count = 0;
    cr_assert_eq(ql_unreadable_find(io, path, on_range, NULL), Q_OK);
    cr_expect_eq(found.count, 0);
}

/* What came later gets sequences of its own, whatever was given up, and every start agrees. */
static void
assert_goes_on(const char *group)
{
    uint64_t sequences[3];
    uint64_t others = 0;
    for (unsigned i = 0; i < 3; i++) {
        must_open();
        sequences[i] = publish_one(fixture_subject);
        cr_expect(i == 0 || sequences[i] > sequences[i - 1]);
        uint64_t other = publish_one("other");
        cr_expect(i == 0 ? other >= 3 : other == others + 1);
        others = other;
        struct taken taken = take(group);
        cr_expect_eq(taken.err, Q_OK);
        cr_expect(taken.has[sequences[i]], "what is new is given");
        cr_expect_eq(lag_of(group).cursor, sequences[i] + 1);
    }
}

Test(store_unreadable, given_up)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range newest = publish(fixture_subject, 3);
    (void)publish("other", 3);
    (void)fixture_join(&fixture, "g", "c", NULL);
    make_bad(first_segment, newest.first, newest.last, EVER);
    assert_refused("message");
    give_up();
    assert_goes_on("g");
    cr_expect_gt(fixture.events[QLOG_EVENT_ROT], 0);
    cr_expect_eq(lag_of("g").cursor, 8, "nobody had seen them");
}

/* What groups did with it lies behind what the log has. */
Test(store_unreadable, given_up_with_progress)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range newest = publish(fixture_subject, 3);
    (void)publish("other", 3);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 8, 0);
    uint64_t first = pulled.runs[0].pull_sequence;
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, first + 6, first + 6), Q_OK);
    (void)fixture_join(&fixture, "new", "c", NULL);
    make_bad(first_segment, newest.first, newest.last, EVER);
    assert_refused("message");
    give_up();
    assert_goes_on("g");
    cr_expect_eq(lag_of("g").cursor, 11, "what was given out is not given out again");
    assert_goes_on("new");
}

/* Behind damage, which a start looks past, it passes over nothing that it can't read. */
Test(store_unreadable, behind_damage)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range damaged = publish(fixture_subject, 1);
    struct qlog_range newest = publish(fixture_subject, 1);
    (void)publish("other", 3);
    (void)fixture_join(&fixture, "g", "c", NULL);
    make_bad(first_segment, damaged.first, damaged.last, EVER);
    give_up();
    make_bad(first_segment, newest.first, newest.last, EVER);
    assert_refused("message");
    make_well();
    must_open();
    struct taken taken = take("g");
    cr_expect_eq(taken.count, 6);
    cr_expect(taken.has[6], "what could not be read");
    cr_expect_eq(publish_one(fixture_subject), 7);
    must_open();
}

Test(store_unreadable, given_up_at_the_end)
{
    (void)publish("other", 3);
    (void)publish(fixture_subject, 5);
    (void)fixture_join(&fixture, "g", "c", NULL);
    struct qlog_range newest = publish(fixture_subject, 2);
    make_bad(first_segment, newest.first, newest.last, EVER);
    assert_refused("message");
    give_up();
    assert_goes_on("g");
}

Test(store_unreadable, given_up_actions)
{
    (void)publish(fixture_subject, 5);
    (void)publish("other", 3);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t from = fixture.store->actions->tail;
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 5, 0);
    uint64_t to = fixture.store->actions->tail;
    uint64_t first = pulled.runs[0].pull_sequence;
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, first, first + 1), Q_OK);
    const struct ql_segment *active = fixture.store->actions->active;
    make_bad(
        "action/segment-000000", ql_segment_offset(active, from), ql_segment_offset(active, to),
        EVER);
    assert_refused("action");
    give_up();
    assert_goes_on("g");
}

/* What a trim drops before it is dropped, and nobody waits for it. */
Test(store_unreadable, trimmed_before_it)
{
    const struct ql_segment_set *segments = &fixture.store->messages->segments;
    (void)publish(fixture_subject, 5);
    while (segments->count < 2)
        (void)publish_one("filler");
    struct qlog_range middle = publish("other", 3);
    uint64_t next = publish_one(fixture_subject) + 1;
    (void)fixture_join(&fixture, "g", "c", NULL);
    lose_index_files();
    make_bad("message/segment-000001", middle.first, middle.last, EVER);
    /* The start that passes over it has to go on as well as the one behind which it is given up. */
    if (try_open() != Q_OK) {
        give_up();
        must_open();
    }
    trim();
    struct taken taken = take("g");
    cr_expect_eq(taken.err, Q_OK);
    cr_expect(taken.has[next - 1]);
    cr_expect_eq(lag_of("g").cursor, next);
}

/* A disk that does not take zeros either is another disk's task. */
Test(store_unreadable, can_not_be_given_up)
{
    (void)publish(fixture_subject, 5);
    struct qlog_range middle = publish(fixture_subject, 1);
    (void)publish(fixture_subject, 3);
    make_bad(first_segment, middle.first, middle.last, EVER);
    bad.writes = true;
    close_store();
    struct ql_unreadable range = { middle.first, middle.last - middle.first };
    char path[sizeof(bad.path)];
    memcpy(path, bad.path, sizeof(path));
    cr_assert_eq(ql_unreadable_give_up(fixture.options.log.io, path, &range), Q_E_IO);
    cr_expect_not_null(strstr(q_fault_last()->hint, "another disk"));
    make_well();
    must_open();
    cr_expect_eq(take("g").count, 9);
}

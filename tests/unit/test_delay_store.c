/*
 * A delay store as its user sees it: what it answers, what it tells, and its clock.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbatch/batch.h>
#include <qbatch/build.h>
#include <qlog/delay.h>
#include <qlog/io.h>

#include "delay/delay.h"
#include "ramdisk.h"

enum {
    SENDS_MAX = 64,
    PATIENCE_S = 60
};

static const uint64_t start_ms = 1800000000000;

/* A store in a directory of its own, a clock that is moved by hand, and one broker group. */
struct fixture {
    char directory[64];
    struct q_clock_manual clock;
    struct qlog_delay *delay;
    bool away;
    /* What its broker group says of a request; NULL: it stores it. */
    enum q_err (*judge)(struct fixture *fixture, const struct qlog_delay_send *send);
    uint64_t refused_id; /* counter of the message that it never takes */
    uint8_t known_producer[16];
    bool forgets;
    uint32_t requests;
    struct qlog_delay_send *sends[SENDS_MAX];
    unsigned send_count;
    uint32_t delivered;
    uint32_t counter;
};

static const char *
on_route(void *context, struct q_bytes subject, unsigned index)
{
    (void)context;
    (void)subject;
    return index == 0 ? "east" : NULL;
}

static void
on_send(void *context, struct qlog_delay_send *send)
{
    struct fixture *fixture = context;
    cr_assert_lt(fixture->send_count, SENDS_MAX);
    fixture->sends[fixture->send_count++] = send;
}

static void
fixture_open(struct fixture *fixture, const struct qlog_delay_options *wanted)
{
    struct qlog_delay_options options = wanted == NULL ? (struct qlog_delay_options){ 0 } : *wanted;
    options.log.clock = &fixture->clock.clock;
    options.log.segment_bytes = 1024 * 1024;
    options.log.create = true;
    options.sender = (struct qlog_delay_sender){ fixture, on_route, on_send };
    cr_assert_eq(qlog_delay_open(fixture->directory, &options, &fixture->delay), Q_OK);
}

static void
fixture_new(struct fixture *fixture, const struct qlog_delay_options *wanted)
{
    *fixture = (struct fixture){ .directory = "/tmp/qmq-delay-XXXXXX" };
    cr_assert_not_null(mkdtemp(fixture->directory));
    q_clock_manual_init(&fixture->clock);
    fixture->clock.monotonic_ns = Q_NS_PER_S;
    fixture->clock.wall_ms = start_ms;
    fixture_open(fixture, wanted);
}

static void
fixture_close(struct fixture *fixture)
{
    fixture->send_count = 0;
    cr_assert_eq(qlog_delay_close(fixture->delay), Q_OK);
}

static void
fixture_free(struct fixture *fixture)
{
    fixture_close(fixture);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", fixture->directory);
    cr_assert_eq(system(command), 0);
}

static void
fixture_turn(struct fixture *fixture)
{
    for (unsigned i = 0; i < fixture->send_count; i++) {
        struct qlog_delay_send *send = fixture->sends[i];
        enum q_err err = fixture->away ? Q_UNAVAILABLE : Q_OK;
        fixture->requests++;
        if (err == Q_OK && fixture->judge != NULL) err = fixture->judge(fixture, send);
        if (err == Q_OK) fixture->delivered += send->message_count;
        qlog_delay_sent(fixture->delay, send, err);
    }
    fixture->send_count = 0;
    cr_assert_eq(qlog_delay_turn(fixture->delay), Q_OK);
    cr_assert_eq(qlog_delay_wait(fixture->delay, Q_NS_PER_MS), Q_OK);
    q_clock_manual_advance_ns(&fixture->clock, Q_NS_PER_US);
}

/* Turn until `done`: real time limits it, not turns. */
#define fixture_until(fixture, done)                                                               \
    do {                                                                                           \
        uint64_t until_ns =                                                                        \
            q_clock_monotonic_ns(q_clock_system()) + (uint64_t)PATIENCE_S * (uint64_t)Q_NS_PER_S;  \
        while (!(done)) {                                                                          \
            cr_assert_lt(q_clock_monotonic_ns(q_clock_system()), until_ns, "never: " #done);       \
            fixture_turn(fixture);                                                                 \
        }                                                                                          \
    } while (0)

struct answer {
    bool done;
    enum q_err err;
};

static void
on_answer(struct qlog_delay_request *request, enum q_err err)
{
    struct answer *answer = request->context;
    *answer = (struct answer){ true, err };
}

static enum q_err
call(struct fixture *fixture, struct qlog_delay_request *request, enum qlog_delay_kind kind)
{
    struct answer answer = { 0 };
    *request = (struct qlog_delay_request){ .kind = kind, .done = on_answer, .context = &answer };
    cr_assert_eq(qlog_delay_submit(fixture->delay, request), Q_OK);
    fixture_until(fixture, answer.done);
    return answer.err;
}

/* A batch of `count` messages; due_ms 0: one that is not delayed. */
static enum q_err
publish(struct fixture *fixture, uint64_t due_ms, uint32_t count, uint64_t *ret_sequence)
{
    struct qbatch_builder *builder;
    struct qbatch_builder_options options = { .producer_id = { 7 } };
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    for (uint32_t i = 0; i < count; i++) {
        struct qbatch_message message = {
            .body = q_bytes_from_text("later"),
            .time_ms = start_ms,
            .counter = fixture->counter++,
        };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }
    struct qlog_delay_publish publish = { 0 };
    struct qlog_publish *what = &publish.publish;
    cr_assert_eq(qbatch_builder_close(builder, &what->envelopes_size, &what->payloads_size), Q_OK);
    uint8_t *bytes = malloc((size_t)what->envelopes_size + what->payloads_size);
    struct qbatch_request_place place = { .request_count = 1, .due_ms = due_ms };
    qbatch_builder_write(builder, &place, bytes, bytes + what->envelopes_size);
    qbatch_builder_free(builder);
    struct q_bytes subject = q_bytes_from_text("orders");
    uint64_t sequence = 0;
    what->envelopes = bytes;
    what->payloads = bytes + what->envelopes_size;
    what->subjects = &subject;
    what->batch_count = 1;
    what->ret_first_sequences = &sequence;
    cr_assert_eq(qlog_publish_check(what), Q_OK);
    enum q_err err = call(fixture, &publish.request, QLOG_DELAY_PUBLISH);
    free(bytes);
    if (ret_sequence != NULL) *ret_sequence = sequence;
    return err;
}

static void
sleep_ms(struct fixture *fixture, uint64_t ms)
{
    q_clock_manual_advance_ns(&fixture->clock, ms * Q_NS_PER_MS);
}

static uint64_t
pending(struct fixture *fixture)
{
    struct qlog_delay_counters counters;
    qlog_delay_counters(fixture->delay, &counters);
    return counters.pending;
}

/* What is due in a moment goes in a moment, and not before. */
Test(delay_store, due)
{
    struct fixture fixture;
    fixture_new(&fixture, NULL);
    cr_assert_eq(publish(&fixture, start_ms + 5000, 3, NULL), Q_OK);
    sleep_ms(&fixture, 4990);
    for (int i = 0; i < 20; i++)
        fixture_turn(&fixture);
    cr_assert_eq(fixture.delivered, 0);
    sleep_ms(&fixture, 20);
    fixture_until(&fixture, fixture.delivered == 3);
    cr_assert_eq(pending(&fixture), 0);
    fixture_free(&fixture);
}

/* The past is now, two years are not too far, and a day more is. */
Test(delay_store, limits)
{
    const uint64_t limit_ms = 2 * 366 * UINT64_C(86400000);
    struct fixture fixture;
    fixture_new(&fixture, NULL);
    cr_assert_eq(publish(&fixture, start_ms - 1000, 1, NULL), Q_OK);
    fixture_until(&fixture, fixture.delivered == 1);
    cr_assert_eq(publish(&fixture, start_ms + limit_ms, 1, NULL), Q_OK);
    cr_assert_eq(publish(&fixture, start_ms + limit_ms + 86400000, 1, NULL), Q_DUE_TOO_FAR);
    cr_assert_eq(publish(&fixture, 0, 1, NULL), Q_INVALID);
    cr_assert_eq(pending(&fixture), 1);
    fixture_free(&fixture);
}

/* More batches than are allowed for are refused by name, and taken again when some are gone. */
Test(delay_store, full)
{
    const struct qlog_delay_options options = { .batches_max = 2 };
    struct fixture fixture;
    fixture_new(&fixture, &options);
    cr_assert_eq(publish(&fixture, start_ms + 1000, 5, NULL), Q_OK);
    cr_assert_eq(publish(&fixture, start_ms + 1000, 5, NULL), Q_OK);
    cr_assert_eq(publish(&fixture, start_ms + 1000, 1, NULL), Q_STORAGE_FULL);
    cr_assert_eq(pending(&fixture), 10);
    /* Neither is a store that starts with more than it would take. */
    fixture_close(&fixture);
    const struct qlog_delay_options smaller = { .batches_max = 1 };
    fixture_open(&fixture, &smaller);
    cr_assert_eq(pending(&fixture), 10);
    sleep_ms(&fixture, 1000);
    fixture_until(&fixture, fixture.delivered == 10);
    fixture_free(&fixture);
}

/* A disk with room for the delay log, and from some time on with none for the dispatch log. */
static struct {
    struct qlog_io *io;
    const struct qlog_io_table *real;
    struct qlog_io_table table;
    bool is_dispatch[1024]; /* by file */
    bool is_delay[1024];
    bool refuses;       /* the dispatch log */
    bool refuses_delay; /* the delay log */
    unsigned refused;
    unsigned files_max; /* segments that both logs may have; 0: no limit */
    unsigned files;
} disk;

static int
disk_open(struct qlog_io *io, const char *path, unsigned flags)
{
    int file = disk.real->open(io, path, flags);
    cr_assert_lt(file, 1024);
    if (file >= 0) disk.is_dispatch[file] = strstr(path, "/dispatch/") != NULL;
    if (file >= 0) disk.is_delay[file] = strstr(path, "/delay/") != NULL;
    return file;
}

static int
disk_allocate(struct qlog_io *io, int file, uint64_t size)
{
    bool refused =
        (disk.refuses && disk.is_dispatch[file]) || (disk.refuses_delay && disk.is_delay[file]);
    bool is_segment = disk.is_dispatch[file] || disk.is_delay[file];
    if (is_segment && disk.files_max > 0 && disk.files == disk.files_max) refused = true;
    disk.refused += refused;
    if (refused) return -ENOSPC;
    disk.files += is_segment;
    return disk.real->allocate(io, file, size);
}

static int
disk_unlink(struct qlog_io *io, const char *path)
{
    disk.files -= strstr(path, "/segment-") != NULL;
    return disk.real->unlink(io, path);
}

static int
disk_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    if (disk.files_max == 0) return disk.real->space(io, path, ret_free, ret_total);
    *ret_total = disk.files_max * UINT64_C(1048576);
    *ret_free = (disk.files_max - disk.files) * UINT64_C(1048576);
    return 0;
}

static void
disk_new(void)
{
    cr_assert_eq(qlog_io_plain_new(&disk.io), 0);
    disk.real = disk.io->table;
    disk.table = *disk.real;
    disk.table.open = disk_open;
    disk.table.allocate = disk_allocate;
    disk.table.unlink = disk_unlink;
    disk.table.space = disk_space;
    disk.io->table = &disk.table;
}

static void
disk_free(void)
{
    disk.io->table = disk.real;
    disk.io->table->destroy(disk.io);
}

static uint64_t
fixture_pass(struct fixture *fixture, unsigned turns)
{
    for (unsigned i = 0; i < turns; i++) {
        fixture_turn(fixture);
        sleep_ms(fixture, 20);
    }
    return fixture->delivered;
}

/* What can't be said in the dispatch log is not done: it is delivered, or cancelled, when there is room
 * again; once, though the segments that hold it would have been empty. */
Test(delay_store, no_room_in_the_dispatch_log)
{
    enum {
        BATCHES = 1500
    };
    struct fixture fixture;
    disk_new();
    /* Nothing of it is said again, so nothing of it can go. */
    const struct qlog_delay_options options = { .log.io = disk.io,
                                                .round_bytes = 1024 * 1024 * 1024 };
    fixture_new(&fixture, &options);
    uint64_t sequence = 0;
    for (unsigned i = 0; i < BATCHES; i++)
        cr_assert_eq(publish(&fixture, start_ms + 60000 + 20 * i, 2, &sequence), Q_OK);
    uint64_t last_due_ms = start_ms + 60000 + 20 * (BATCHES - 1);
    disk.refuses = true;
    sleep_ms(&fixture, 59000);
    uint64_t before = 0;
    for (unsigned i = 0; i < 60 && (disk.refused < 3 || before != fixture.delivered); i++) {
        before = fixture.delivered;
        (void)fixture_pass(&fixture, 100);
    }
    cr_assert_geq(disk.refused, 3);
    cr_assert_lt(fixture.delivered, 2 * BATCHES);
    /* Not cancelled either, and told so. */
    struct qlog_delay_cancel cancel = { .name = { last_due_ms, sequence } };
    cr_assert_lt(fixture.delivered, sequence);
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_STORAGE_FULL);
    /* All the rest at once: whole segments are under way together. */
    sleep_ms(&fixture, 60000);
    (void)fixture_pass(&fixture, 400);
    disk.refuses = false;
    for (unsigned i = 0; i < 200 && fixture.delivered < 2 * BATCHES; i++)
        (void)fixture_pass(&fixture, 100);
    cr_assert_eq(fixture.delivered, 2 * BATCHES);
    (void)fixture_pass(&fixture, 200);
    cr_assert_eq(pending(&fixture), 0);

    /* A start finds nothing that waits, and gives numbers that were never given. */
    fixture_close(&fixture);
    fixture_open(&fixture, &options);
    cr_assert_eq(pending(&fixture), 0);
    uint64_t next;
    cr_assert_eq(publish(&fixture, last_due_ms, 1, &next), Q_OK);
    cr_assert_gt(next, sequence + 1);
    for (unsigned i = 0; i < 200 && fixture.delivered < 2 * BATCHES + 1; i++)
        (void)fixture_pass(&fixture, 20);
    cr_assert_eq(fixture.delivered, 2 * BATCHES + 1);
    fixture_free(&fixture);
    disk_free();
}

/* A block of the delay log: the superblock is shorter, and so is the dispatch log. */
static enum ramdisk_fate
fail_a_block(void *context, const struct qlog_io_op *op)
{
    const uint64_t from = 24 * 1024;
    const bool *is_bad = context;
    bool hit = op->kind == QLOG_IO_READ && op->at <= from && op->at + op->length > from;
    return *is_bad && hit ? RAMDISK_FAIL : RAMDISK_DO;
}

/* What a start can't read may be there at the next one: it is not counted as done, nor its numbers given
 * again. */
Test(delay_store, a_start_that_can_not_read)
{
    bool is_bad = false;
    struct ramdisk *ramdisk = ramdisk_new();
    ramdisk_set_fate(ramdisk, fail_a_block, &is_bad);
    struct qlog_delay_options options = { .log.io = ramdisk_io(ramdisk) };
    struct fixture fixture = { .directory = "/delayed" };
    q_clock_manual_init(&fixture.clock);
    fixture.clock.monotonic_ns = Q_NS_PER_S;
    fixture.clock.wall_ms = start_ms;
    fixture_open(&fixture, &options);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_eq(publish(&fixture, start_ms + 60000, 1, NULL), Q_OK);
    fixture_close(&fixture);

    is_bad = true;
    options.log.clock = &fixture.clock.clock;
    cr_assert_eq(qlog_delay_open(fixture.directory, &options, &fixture.delay), Q_E_IO);
    cr_expect_not_null(strstr(q_fault_last()->path, "/delay/segment-"));
    cr_expect_not_null(strstr(q_fault_last()->hint, "--give-up"));

    is_bad = false;
    fixture_open(&fixture, &options);
    cr_assert_eq(pending(&fixture), 10);
    sleep_ms(&fixture, 60000);
    fixture_until(&fixture, fixture.delivered == 10);
    fixture_close(&fixture);
    ramdisk_free(ramdisk);
}

/* Publishes until the disk is full. Returns how many messages were taken. */
static uint32_t
fill(struct fixture *fixture, uint64_t due_ms)
{
    uint32_t taken = 0;
    while (publish(fixture, due_ms, 24, NULL) == Q_OK) {
        taken += 24;
        cr_assert_lt(taken, 24 * 20000);
    }
    return taken;
}

/* A full disk is not full for ever: one message that waits in the first segment does not hold up what
 * lies behind it, though to write it again takes space. */
Test(delay_store, a_full_disk_makes_room)
{
    struct fixture fixture;
    disk_new();
    disk.files_max = 9;
    const struct qlog_delay_options options = { .log.io = disk.io, .round_bytes = 64 * 1024 };
    const uint64_t far_ms = start_ms + 30 * UINT64_C(86400000);
    fixture_new(&fixture, &options);
    cr_assert_eq(publish(&fixture, far_ms, 1, NULL), Q_OK);
    uint32_t all = 0;
    for (unsigned cycle = 0; cycle < 3; cycle++) {
        uint64_t due_ms = fixture.clock.wall_ms + 1000;
        uint32_t taken = fill(&fixture, due_ms);
        cr_assert_gt(taken, 1000, "cycle %u: %u", cycle, taken);
        all += taken;
        sleep_ms(&fixture, 1000);
        for (int i = 0; i < 8000 && fixture.delivered < all; i++)
            (void)fixture_pass(&fixture, 1);
        cr_assert_eq(fixture.delivered, all);
        (void)fixture_pass(&fixture, 400);
        if (cycle != 1) continue;
        fixture_close(&fixture);
        fixture_open(&fixture, &options);
        (void)fixture_pass(&fixture, 400);
    }
    cr_assert_eq(pending(&fixture), 1);
    sleep_ms(&fixture, far_ms - fixture.clock.wall_ms);
    for (int i = 0; i < 8000 && fixture.delivered == all; i++)
        (void)fixture_pass(&fixture, 1);
    cr_assert_eq(fixture.delivered, all + 1);
    fixture_free(&fixture);
    disk_free();
}

/* A log that ends in an empty segment, and has nothing else, has given numbers all the same. */
Test(delay_store, numbers_go_on_behind_an_empty_segment)
{
    struct fixture fixture;
    disk_new();
    const struct qlog_delay_options options = { .log.io = disk.io };
    fixture_new(&fixture, &options);
    uint64_t sequence = 0;
    uint64_t last = 0;
    /* Until the next segment can't be had. */
    disk.refuses_delay = true;
    unsigned batches = 0;
    while (publish(&fixture, start_ms + 1000, 24, &sequence) == Q_OK) {
        last = sequence + 23;
        cr_assert_lt(++batches, 10000);
    }
    cr_assert_gt(batches, 10);
    sleep_ms(&fixture, 1000);
    for (int i = 0; i < 4000 && fixture.delivered < batches * 24; i++)
        (void)fixture_pass(&fixture, 1);
    cr_assert_eq(fixture.delivered, batches * 24);
    /* Now it can: nothing comes, so it stays empty, and what lies before it goes. */
    disk.refuses_delay = false;
    (void)fixture_pass(&fixture, 400);
    cr_assert_eq(fixture.delay->log->segments.count, 1);
    cr_assert_eq(fixture.delay->run_count, 0);
    for (unsigned start = 0; start < 3; start++) {
        fixture_close(&fixture);
        fixture_open(&fixture, &options);
        uint64_t before = fixture.delivered;
        uint64_t due_ms = fixture.clock.wall_ms;
        for (int i = 0; i < 200 && publish(&fixture, due_ms, 1, &sequence) != Q_OK; i++)
            (void)fixture_pass(&fixture, 5);
        cr_assert_gt(sequence, last);
        last = sequence;
        for (int i = 0; i < 4000 && fixture.delivered == before; i++)
            (void)fixture_pass(&fixture, 1);
        cr_assert_eq(fixture.delivered, before + 1);
        cr_assert_eq(pending(&fixture), 0);
        for (int i = 0; i < 100; i++)
            (void)fixture_pass(&fixture, 5);
    }
    fixture_free(&fixture);
    disk_free();
}

/* Cancelled in the middle of a batch: the others are delivered. Twice is once. */
Test(delay_store, cancel)
{
    struct fixture fixture;
    uint64_t sequence;
    fixture_new(&fixture, NULL);
    cr_assert_eq(publish(&fixture, start_ms + 1000, 5, &sequence), Q_OK);
    struct qlog_delay_cancel cancel = { .name = { start_ms + 1000, sequence + 2 } };
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_OK);
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_NOT_FOUND);
    cancel.name = (struct qlog_delay_name){
        .due_ms = start_ms + 1000,
        .sequence = QLOG_DELAY_BY_ID,
        .id_time_ms = start_ms,
        .id_producer = UINT64_C(0x070000000000),
        .id_counter = 4,
    };
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_OK);
    cancel.name.due_ms++;
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_NOT_FOUND);
    fixture_close(&fixture);
    fixture_open(&fixture, NULL);
    cr_assert_eq(pending(&fixture), 3);
    sleep_ms(&fixture, 1000);
    fixture_until(&fixture, fixture.delivered == 3 && pending(&fixture) == 0);
    fixture_free(&fixture);
}

/* What is under way can't be cancelled, is shown as such, and is delivered when its group is back. */
Test(delay_store, being_delivered)
{
    struct fixture fixture;
    uint64_t sequence;
    fixture_new(&fixture, NULL);
    fixture.away = true;
    cr_assert_eq(publish(&fixture, start_ms, 2, &sequence), Q_OK);
    struct qlog_delay_counters counters = { 0 };
    for (uint64_t i = 0; counters.repeats < 3; i++) {
        fixture_turn(&fixture);
        sleep_ms(&fixture, 50);
        qlog_delay_counters(fixture.delay, &counters);
    }
    struct qlog_delay_cancel cancel = { .name = { start_ms, sequence } };
    cr_assert_eq(call(&fixture, &cancel.request, QLOG_DELAY_CANCEL), Q_BEING_DELIVERED);
    struct qlog_delay_show show = { .name = { start_ms, sequence + 1 } };
    cr_assert_eq(call(&fixture, &show.request, QLOG_DELAY_SHOW), Q_OK);
    cr_assert(show.ret_message.being_delivered);
    cr_assert_str_eq(show.ret_message.broker_group, "east");
    struct qlog_delay_group_state groups[4];
    struct qlog_delay_lag lag = { .groups = groups, .groups_max = 4 };
    cr_assert_eq(call(&fixture, &lag.request, QLOG_DELAY_LAG), Q_OK);
    cr_assert_eq(lag.ret_group_count, 1);
    cr_assert(groups[0].failing);
    cr_assert_eq(lag.ret_open, 2);
    /* What is due meanwhile waits in the schedule. */
    cr_assert_eq(publish(&fixture, start_ms, 4, NULL), Q_OK);
    cr_assert_eq(call(&fixture, &lag.request, QLOG_DELAY_LAG), Q_OK);
    cr_assert_eq(lag.ret_overdue, 4);
    cr_assert_eq(lag.ret_oldest_due_ms, start_ms);
    fixture.away = false;
    for (int i = 0; i < 200 && fixture.delivered < 6; i++) {
        fixture_turn(&fixture);
        sleep_ms(&fixture, 50);
    }
    cr_assert_eq(fixture.delivered, 6);
    fixture_free(&fixture);
}

/* --- Refused. */

static bool
send_next(struct qbatch_set_walk *walk, struct qbatch *ret_batch)
{
    const uint8_t *payload;
    return qbatch_set_next(walk, true, ret_batch, &payload) == Q_OK;
}

static struct qbatch_set_walk
send_walk(const struct qlog_delay_send *send)
{
    return (struct qbatch_set_walk){
        .envelopes = q_bytes_from(send->envelopes, send->envelopes_size),
        .payloads = q_bytes_from(send->payloads, send->payloads_size),
    };
}

static enum q_err
judge_one(struct fixture *fixture, const struct qlog_delay_send *send)
{
    struct qbatch_set_walk walk = send_walk(send);
    struct qbatch batch;
    while (send_next(&walk, &batch))
        for (uint32_t i = 0; i < batch.message_count; i++)
            if (qbatch_id_at(&batch, i).counter == fixture->refused_id) return Q_TOO_BIG;
    return Q_OK;
}

/* A message that its broker group does not take keeps nobody up. It stays with its handle, through a
 * start and the end of its segment, is told, and goes when it is given another time. */
Test(delay_store, refused_for_good)
{
    struct fixture fixture;
    const struct qlog_delay_options options = { .round_bytes = 16 * 1024 };
    uint64_t sequence;
    fixture_new(&fixture, &options);
    fixture.judge = judge_one;
    fixture.refused_id = 7;
    cr_assert_eq(publish(&fixture, start_ms + 10, 5, NULL), Q_OK);
    cr_assert_eq(publish(&fixture, start_ms + 10, 5, &sequence), Q_OK);
    cr_assert_eq(publish(&fixture, start_ms + 20, 5, NULL), Q_OK);
    sequence += 2;
    for (int i = 0; i < 2000 && fixture.delivered < 14; i++) {
        fixture_turn(&fixture);
        sleep_ms(&fixture, 20);
    }
    cr_assert_eq(fixture.delivered, 14);
    struct qlog_delay_lag lag = { 0 };
    for (unsigned start = 0; start < 2; start++) {
        (void)fixture_pass(&fixture, 20);
        cr_assert_eq(pending(&fixture), 1);
        cr_assert_eq(call(&fixture, &lag.request, QLOG_DELAY_LAG), Q_OK);
        cr_assert_eq(lag.ret_refused, 1);
        cr_assert_eq(lag.ret_overdue, 0);
        cr_assert_eq(lag.ret_open, 0);
        struct qlog_delay_message message;
        struct qlog_delay_list list = { .to_ms = UINT64_MAX,
                                        .messages = &message,
                                        .messages_max = 1 };
        cr_assert_eq(call(&fixture, &list.request, QLOG_DELAY_LIST), Q_OK);
        cr_assert_eq(list.ret_count, 1);
        cr_assert_eq(message.sequence, sequence);
        cr_assert_eq(message.id_counter, 7);
        cr_assert_eq(message.refused, Q_TOO_BIG);
        cr_assert_str_eq(message.broker_group, "east");
        cr_assert_not(message.being_delivered);
        fixture_close(&fixture);
        fixture_open(&fixture, &options);
    }
    /* Many segments later it is where it was. */
    uint64_t far_ms = start_ms + 86400000;
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(publish(&fixture, far_ms, 24, NULL), Q_OK);
    sleep_ms(&fixture, 86400000);
    for (int i = 0; i < 4000 && fixture.delivered < 14 + 24000; i++) {
        fixture_turn(&fixture);
        sleep_ms(&fixture, 5);
    }
    cr_assert_eq(fixture.delivered, 14 + 24000);
    for (int i = 0; i < 200; i++)
        (void)fixture_pass(&fixture, 10);
    fixture_close(&fixture);
    fixture_open(&fixture, &options);
    struct qlog_delay_show show = { .name = { start_ms + 10, sequence } };
    cr_assert_eq(call(&fixture, &show.request, QLOG_DELAY_SHOW), Q_OK);
    cr_assert_eq(show.ret_message.refused, Q_TOO_BIG);
    /* Another time is another try. */
    fixture.judge = NULL;
    struct qlog_delay_reschedule move = { .name = { start_ms + 10, sequence },
                                          .due_ms = fixture.clock.wall_ms };
    cr_assert_eq(call(&fixture, &move.request, QLOG_DELAY_RESCHEDULE), Q_OK);
    fixture_until(&fixture, fixture.delivered == 15 + 24000);
    fixture_until(&fixture, pending(&fixture) == 0);
    cr_assert_eq(call(&fixture, &lag.request, QLOG_DELAY_LAG), Q_OK);
    cr_assert_eq(lag.ret_refused, 0);
    fixture_free(&fixture);
}

/* A broker group that knows one producer, until it is made to forget it. */
static enum q_err
judge_producer(struct fixture *fixture, const struct qlog_delay_send *send)
{
    struct qbatch_set_walk walk = send_walk(send);
    struct qbatch batch;
    cr_assert(send_next(&walk, &batch));
    bool known = memcmp(batch.producer_id, fixture->known_producer, 16) == 0;
    if (known && fixture->forgets) return Q_UNKNOWN_PRODUCER;
    if (!known) {
        cr_assert_eq(send->request_sequence, 1);
        memcpy(fixture->known_producer, batch.producer_id, 16);
        fixture->forgets = false;
    }
    return Q_OK;
}

/* Who was forgotten comes as somebody else, and what waits is delivered; that it may be twice is
 * counted, where it may be. */
Test(delay_store, forgotten_by_a_broker_group)
{
    const struct qlog_delay_options options = { .depth_max = 1 };
    struct fixture fixture;
    struct qlog_delay_counters counters;
    fixture_new(&fixture, &options);
    fixture.judge = judge_producer;
    cr_assert_eq(publish(&fixture, start_ms, 3, NULL), Q_OK);
    fixture_until(&fixture, fixture.delivered == 3);
    fixture.away = true;
    cr_assert_eq(publish(&fixture, start_ms + 1, 4, NULL), Q_OK);
    uint32_t before = fixture.requests;
    for (int i = 0; i < 2000 && fixture.requests < before + 3; i++)
        (void)fixture_pass(&fixture, 1);
    fixture.away = false;
    fixture.forgets = true;
    for (int i = 0; i < 2000 && fixture.delivered < 7; i++)
        (void)fixture_pass(&fixture, 1);
    cr_assert_eq(fixture.delivered, 7);
    qlog_delay_counters(fixture.delay, &counters);
    cr_assert_eq(counters.renewals, 1);
    cr_assert_eq(counters.maybe_twice, 4);
    cr_assert_eq(counters.refused, 0);
    /* A start goes on as the new one. */
    fixture_close(&fixture);
    fixture_open(&fixture, &options);
    cr_assert_eq(publish(&fixture, start_ms + 2, 2, NULL), Q_OK);
    for (int i = 0; i < 2000 && fixture.delivered < 9; i++)
        (void)fixture_pass(&fixture, 1);
    cr_assert_eq(fixture.delivered, 9);
    qlog_delay_counters(fixture.delay, &counters);
    cr_assert_eq(counters.renewals, 0);
    cr_assert_eq(counters.open, 0);
    fixture_free(&fixture);
}

/* Another time is another handle of the same message. */
Test(delay_store, reschedule)
{
    struct fixture fixture;
    uint64_t sequence;
    fixture_new(&fixture, NULL);
    cr_assert_eq(publish(&fixture, start_ms + 1000, 3, &sequence), Q_OK);
    struct qlog_delay_reschedule move = {
        .name = { start_ms + 1000, sequence + 1 },
        .due_ms = start_ms + 90000000,
    };
    cr_assert_eq(call(&fixture, &move.request, QLOG_DELAY_RESCHEDULE), Q_OK);
    struct qlog_delay_show show = { .name = { start_ms + 90000000, move.ret_sequence } };
    cr_assert_eq(call(&fixture, &show.request, QLOG_DELAY_SHOW), Q_OK);
    cr_assert_eq(show.ret_message.id_counter, 1);
    cr_assert_str_eq(show.ret_message.subject, "orders");
    cr_assert_eq(call(&fixture, &move.request, QLOG_DELAY_RESCHEDULE), Q_NOT_FOUND);
    sleep_ms(&fixture, 1000);
    fixture_until(&fixture, fixture.delivered == 2);
    cr_assert_eq(pending(&fixture), 1);
    sleep_ms(&fixture, 90000000);
    fixture_until(&fixture, fixture.delivered == 3);
    fixture_free(&fixture);
}

/* Lists go on where the last one ended; a histogram counts all that waits. */
Test(delay_store, list_and_histogram)
{
    struct fixture fixture;
    fixture_new(&fixture, NULL);
    for (uint64_t i = 0; i < 20; i++)
        cr_assert_eq(publish(&fixture, start_ms + 1000 * (20 - i), 2, NULL), Q_OK);
    struct qlog_delay_message messages[7];
    struct qlog_delay_list list = {
        .to_ms = start_ms + 15001,
        .messages = messages,
        .messages_max = 7,
    };
    uint32_t seen = 0;
    uint64_t last_ms = 0;
    do {
        cr_assert_eq(call(&fixture, &list.request, QLOG_DELAY_LIST), Q_OK);
        for (uint32_t i = 0; i < list.ret_count; i++) {
            cr_assert_geq(messages[i].due_ms, last_ms);
            last_ms = messages[i].due_ms;
        }
        seen += list.ret_count;
        if (list.ret_count == 0) break;
        list.from_ms = last_ms;
        list.from_sequence = messages[list.ret_count - 1].sequence + 1;
    } while (list.ret_count == 7);
    cr_assert_eq(seen, 30);
    uint64_t counts[3];
    struct qlog_delay_histogram histogram = {
        .from_ms = start_ms + 5000,
        .width_ms = 2000,
        .counts = counts,
        .count_max = 3,
    };
    cr_assert_eq(call(&fixture, &histogram.request, QLOG_DELAY_HISTOGRAM), Q_OK);
    cr_assert_eq(histogram.ret_before, 8);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(counts[i], 4);
    cr_assert_eq(histogram.ret_after, 20);
    fixture_free(&fixture);
}

/* --- The clock. */

/* --- Schedule files. */

enum {
    FILED = 600 /* each a frame of its own: more than two segments, and pages of each */
};

static bool
is_filed(const struct fixture *fixture)
{
    const struct qlog_delay *delay = fixture->delay;
    for (uint32_t i = 0; i + 1 < delay->run_count; i++)
        if (delay->runs[i]->file == NULL) return false;
    return delay->run_count > 2;
}

/* Messages in files and in memory, due one ms after the other; one is moved from the first segment. */
static void
file_some(struct fixture *fixture)
{
    fixture_new(fixture, NULL);
    uint64_t moved = 0;
    for (uint64_t i = 0; i < FILED; i++)
        cr_assert_eq(
            publish(fixture, start_ms + 100000 + i * 7919 % FILED, 1, i == 5 ? &moved : NULL),
            Q_OK);
    struct qlog_delay_reschedule move = {
        .name = { .due_ms = start_ms + 100000 + 5 * 7919 % FILED, .sequence = moved },
        .due_ms = start_ms + 200000,
    };
    cr_assert_eq(call(fixture, &move.request, QLOG_DELAY_RESCHEDULE), Q_OK);
    fixture_until(fixture, is_filed(fixture));
}

static void
check_filed(struct fixture *fixture)
{
    cr_assert_eq(pending(fixture), FILED);
    sleep_ms(fixture, 100000 + FILED / 2);
    fixture_until(fixture, fixture->delivered >= FILED / 2);
    /* Each turn takes a little time. */
    cr_assert_lt(fixture->delivered, FILED - 100);
    sleep_ms(fixture, 100000);
    fixture_until(fixture, pending(fixture) == 0 && fixture->delivered == FILED);
    for (int i = 0; i < 20; i++)
        fixture_turn(fixture);
    cr_assert_eq(fixture->delivered, FILED);
    fixture_free(fixture);
}

/* A start reads headers, and what it knows then is all that the segments say. */
Test(delay_schedule, starts_from_files)
{
    struct fixture fixture;
    file_some(&fixture);
    fixture_close(&fixture);
    fixture_open(&fixture, NULL);
    cr_assert(is_filed(&fixture));
    check_filed(&fixture);
}

/* Do something to the bytes of the first schedule file. */
static void
harm_file(const struct fixture *fixture, const char *how)
{
    char command[256];
    (void)snprintf(
        command, sizeof(command), "f=$(ls %s/delay/schedule-* | head -n 1) && %s",
        fixture->directory, how);
    cr_assert_eq(system(command), 0);
}

/* Whatever becomes of a file, its segment is there. */
Test(delay_schedule, files_are_derived)
{
    static const char *const harms[] = {
        "rm $f",
        "truncate -s 5000 $f",
        "printf x | dd of=$f bs=1 seek=100 conv=notrunc status=none",
        "printf x | dd of=$f bs=1 seek=4200 conv=notrunc status=none",
        "printf x | dd of=$f bs=1 seek=8300 conv=notrunc status=none",
        "printf x | dd of=$f bs=1 seek=16390 conv=notrunc status=none",
        "cp $(ls ${f%/*}/schedule-* | tail -n 1) $f",
    };
    for (size_t i = 0; i < sizeof(harms) / sizeof(harms[0]); i++) {
        struct fixture fixture;
        file_some(&fixture);
        fixture_close(&fixture);
        harm_file(&fixture, harms[i]);
        fixture_open(&fixture, NULL);
        check_filed(&fixture);
    }
}

/* One that is damaged while the store runs is made again, and what waits in it goes out. */
Test(delay_schedule, a_page_is_lost)
{
    struct fixture fixture;
    file_some(&fixture);
    harm_file(&fixture, "printf x | dd of=$f bs=1 seek=8300 conv=notrunc status=none");
    check_filed(&fixture);
}

Test(delay_clock, follows)
{
    struct ql_delay_clock clock;
    ql_delay_clock_init(&clock, 0, start_ms);
    for (uint64_t ms = 1; ms < 100000; ms += 7)
        ql_delay_clock_move(&clock, ms * Q_NS_PER_MS, start_ms + ms);
    cr_assert_eq(clock.now_ms, start_ms + 99996);
    cr_assert_eq(ql_delay_clock_when_ns(&clock, clock.now_ms + 3), 99999 * (uint64_t)Q_NS_PER_MS);
}

/* A step that is taken back delivers nothing early. */
Test(delay_clock, step_and_back)
{
    struct ql_delay_clock clock;
    ql_delay_clock_init(&clock, 0, start_ms);
    for (uint64_t ms = 1; ms < 29000; ms += 100)
        ql_delay_clock_move(&clock, ms * Q_NS_PER_MS, start_ms + ms + 86400000);
    for (uint64_t ms = 29000; ms < 90000; ms += 100) {
        ql_delay_clock_move(&clock, ms * Q_NS_PER_MS, start_ms + ms);
        cr_assert_leq(clock.now_ms, start_ms + ms);
    }
    cr_assert_eq(clock.steps, 0);
    cr_assert_eq(clock.now_ms, start_ms + 89900);
}

/* A step that stays is what time it is, 30 s later. Both ways. */
Test(delay_clock, step_and_stay)
{
    const int64_t steps[] = { 86400000, -86400000, 60000, -60000 };
    for (unsigned i = 0; i < 4; i++) {
        struct ql_delay_clock clock;
        ql_delay_clock_init(&clock, 0, start_ms);
        for (uint64_t ms = 1; ms < 31000; ms += 100)
            ql_delay_clock_move(
                &clock, ms * Q_NS_PER_MS, (uint64_t)((int64_t)(start_ms + ms) + steps[i]));
        cr_assert_eq(clock.steps, 1);
        cr_assert_eq(clock.now_ms, (uint64_t)((int64_t)(start_ms + 30901) + steps[i]));
    }
}

/* A little off is made up by a tenth of the time that passes. */
Test(delay_clock, slews)
{
    struct ql_delay_clock clock;
    ql_delay_clock_init(&clock, 0, start_ms);
    for (uint64_t ms = 1; ms <= 10001; ms += 10) {
        uint64_t before = clock.now_ms;
        ql_delay_clock_move(&clock, ms * Q_NS_PER_MS, start_ms + ms + 5000);
        cr_assert_leq(clock.now_ms, before + 11);
    }
    cr_assert_eq(clock.now_ms, start_ms + 10001 + 1000);
    cr_assert_eq(clock.off_ms, 4000 + 1);
}

/* --- Marks. */

Test(delay_marks, pages)
{
    struct ql_marks marks = { 0 };
    cr_assert_eq(ql_marks_reserve(&marks, 3 * QL_MARKS_MESSAGES), Q_OK);
    for (uint64_t i = 0; i < QL_MARKS_MESSAGES; i++)
        ql_marks_set(&marks, QL_MARKS_MESSAGES + i);
    cr_assert_eq(marks.first, 0);
    cr_assert(ql_marks_has_all(&marks, QL_MARKS_MESSAGES, QL_MARKS_MESSAGES));
    cr_assert_not(ql_marks_has(&marks, QL_MARKS_MESSAGES - 1));
    uint64_t bits[QL_MARKS_WORDS];
    cr_assert(ql_marks_bits(&marks, 1, bits));
    cr_assert_eq(bits[QL_MARKS_WORDS - 1], UINT64_MAX);
    cr_assert_not(ql_marks_bits(&marks, 2, bits));
    for (uint64_t i = 0; i < QL_MARKS_MESSAGES; i++)
        ql_marks_set(&marks, i);
    /* Full pages at the front take nothing any more, and can be opened again. */
    cr_assert_eq(marks.first, 2);
    cr_assert(ql_marks_has(&marks, 5));
    cr_assert_eq(ql_marks_clear(&marks, 5), Q_OK);
    cr_assert_not(ql_marks_has(&marks, 5));
    cr_assert(ql_marks_has(&marks, 6));
    cr_assert(ql_marks_has(&marks, QL_MARKS_MESSAGES + 5));
    cr_assert_not(ql_marks_has(&marks, 2 * QL_MARKS_MESSAGES));
    ql_marks_set(&marks, 5);
    cr_assert_eq(marks.first, 2);
    ql_marks_free(&marks);
}

/* Whole pages at once, below, among and behind those that are there: none of them takes anything. */
Test(delay_marks, fill)
{
    const uint64_t page = QL_MARKS_MESSAGES;
    struct ql_marks marks = { 0 };
    cr_assert_eq(ql_marks_reserve(&marks, 3 * page), Q_OK);
    ql_marks_set(&marks, 1);
    cr_assert_eq(ql_marks_fill(&marks, 2 * page, 1000000 * page), Q_OK);
    cr_assert_eq(marks.first, 0);
    cr_assert_eq(marks.count, 1000000);
    cr_assert(ql_marks_is_full(&marks, 2));
    cr_assert(ql_marks_is_full(&marks, 999999));
    cr_assert_not(ql_marks_is_full(&marks, 1));
    cr_assert_not(ql_marks_has(&marks, 2 * page - 1));
    cr_assert(ql_marks_has(&marks, 777 * page));
    cr_assert_eq(ql_marks_clear(&marks, 777 * page), Q_OK);
    cr_assert_not(ql_marks_has(&marks, 777 * page));
    cr_assert_eq(ql_marks_fill(&marks, 0, 2 * page), Q_OK);
    cr_assert_eq(marks.first, 777);
    cr_assert_eq(ql_marks_fill(&marks, 0, 2000000 * page), Q_OK);
    cr_assert_eq(marks.count, 0);
    cr_assert_eq(marks.first, 2000000);
    ql_marks_free(&marks);
}

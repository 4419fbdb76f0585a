/*
 * Messages that are read back from the disk: nobody else waits for them, what comes is right or is
 * refused, and memory has an end.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbatch/batch.h>

#include "ramdisk.h"
#include "read/keep.h"
#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;
static struct ramdisk *disk;

/* What becomes of reads. */
static enum ramdisk_fate fate;
static unsigned times;
static uint64_t held; /* bytes of those that are held, since it was set to 0 */

enum {
    BATCHES = 150,
    BODY = 4000,
    GENTLE = 64 * 1024, /* bytes of reads that the disk has at a time, beside writes */
};

static enum ramdisk_fate
meddle(void *context, const struct qlog_io_op *op)
{
    (void)context;
    if (op->kind != QLOG_IO_READ || times == 0) return RAMDISK_DO;
    times--;
    if (fate == RAMDISK_HOLD) held += op->length;
    return fate;
}

static void
setup(void)
{
    times = 0;
    fixture_open(&fixture);
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    disk = ramdisk_new();
    ramdisk_set_fate(disk, meddle, NULL);
    struct qlog_io *io = ramdisk_io(disk);
    cr_assert_eq(io->table->make_directory(io, "/tmp"), 0);
    fixture.options.log.io = io;
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
}

static void
teardown(void)
{
    times = 0;
    fixture_close(&fixture);
    ramdisk_free(disk);
}

TestSuite(store_read, .init = setup, .fini = teardown, .timeout = 240);

static void
publish_many(unsigned count)
{
    char body[BODY + 1];
    memset(body, 'x', BODY);
    body[BODY] = '\0';
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(fixture_publish(&fixture, "orders", body, NULL, NULL), Q_OK);
}

static uint64_t
reads(void)
{
    struct qlog_counters counters;
    qlog_store_counters(fixture.store, &counters);
    return counters.reads;
}

/* A pull that is not waited for. */
struct asked {
    struct qlog_pull pull;
    struct qlog_run runs[8];
    struct qlog_piece pieces[64];
    unsigned answers;
    enum q_err err;
    bool released; /* as soon as it is answered */
};

static void
on_answer(struct qlog_request *request, enum q_err err)
{
    struct asked *asked = request->context;
    asked->answers++;
    asked->err = err;
    if (asked->released && err == Q_OK) qlog_pull_release(&asked->pull);
}

static struct asked *
ask(uint64_t session)
{
    struct asked *asked = calloc(1, sizeof(*asked));
    cr_assert_not_null(asked);
    asked->pull = (struct qlog_pull){
        .request = { .kind = QLOG_PULL, .done = on_answer, .context = asked },
        .who = {
            .subject = q_bytes_from_text(fixture_subject),
            .group = q_bytes_from_text("g"),
            .consumer = q_bytes_from_text("c"),
            .session = session,
        },
        .messages_max = 64,
        .bytes_max = 1 << 20,
        .runs = asked->runs,
        .runs_max = 8,
        .pieces = asked->pieces,
        .pieces_max = 64,
    };
    cr_assert_eq(qlog_store_submit(fixture.store, &asked->pull.request), Q_OK);
    return asked;
}

static void
turn(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(qlog_store_turn(fixture.store), Q_OK);
        cr_assert_eq(qlog_store_wait(fixture.store, Q_NS_PER_MS), Q_OK);
    }
}

static void
forget(struct asked *asked)
{
    cr_assert_eq(asked->answers, 1);
    if (asked->err == Q_OK && !asked->released) qlog_pull_release(&asked->pull);
    free(asked);
}

/* Everything, from the first message on. */
static void
consume_all(const char *group, unsigned count)
{
    uint64_t session = fixture_join(&fixture, group, "c", NULL);
    uint64_t received = 0;
    while (received < count) {
        struct pulled pulled = fixture_pull(&fixture, group, "c", session, 1, received);
        cr_assert_eq(pulled.err, Q_OK);
        cr_assert_eq(pulled.run_count, 1);
        cr_assert_eq(pulled.runs[0].sequence, received);
        received += pulled.runs[0].count;
        cr_assert_eq(fixture_ack(&fixture, group, "c", session, received - 1, received - 1), Q_OK);
    }
}

/* Who keeps up reads nothing from the disk; who begins behind reads each byte about once. */
Test(store_read, a_consumer_that_keeps_up)
{
    publish_many(1);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, 0).run_count, 1);
    uint64_t before = reads();
    for (uint64_t i = 1; i < BATCHES; i++) {
        publish_many(1);
        cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, i).runs[0].sequence, i);
    }
    cr_assert_eq(reads(), before);
    fixture_reopen(&fixture);
    consume_all("late", BATCHES);
    struct qlog_counters counters;
    qlog_store_counters(fixture.store, &counters);
    cr_assert_gt(counters.reads, 0);
    cr_assert_lt(counters.reads, BATCHES / 8);
    cr_assert_lt(counters.read_bytes, 2 * fixture.store->messages->tail);
}

/* Memory for less than one batch is enough, if slowly. */
Test(store_read, with_next_to_no_memory)
{
    fixture.options.tail_bytes_max = 1;
    fixture.options.read_bytes_max = 1;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    consume_all("g", BATCHES);
    consume_all("h", BATCHES);
}

/* While a read is under way publishes and other pulls go on. */
Test(store_read, nobody_else_waits)
{
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_HOLD;
    times = 1000 * 1000;
    struct asked *asked = ask(session);
    turn(20);
    cr_assert_eq(asked->answers, 0);
    publish_many(3);
    cr_assert_eq(fixture_join(&fixture, "h", "c", NULL) != 0, true);
    cr_assert_eq(asked->answers, 0);
    times = 0;
    for (unsigned i = 0; i < 10000 && asked->answers == 0; i++)
        turn(1);
    cr_assert_eq(asked->err, Q_OK);
    cr_assert_eq(asked->runs[0].sequence, 0);
    forget(asked);
}

/* Bytes of reads that the disk has, of somebody who begins behind. */
static uint64_t
bytes_under_way(struct asked **ret_asked)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_HOLD;
    times = 1000 * 1000;
    *ret_asked = ask(session);
    turn(20);
    cr_assert_eq((*ret_asked)->answers, 0);
    held = 0;
    turn(1);
    return held;
}

static void
let_go(struct asked *asked)
{
    times = 0;
    for (unsigned i = 0; i < 10000 && asked->answers == 0; i++)
        turn(1);
    cr_assert_eq(asked->err, Q_OK);
    forget(asked);
}

/* A flush waits for what the disk was given before it: that is little while somebody writes, however
 * much is wanted, and all is read all the same. A second later it is as much as before. */
Test(store_read, reads_beside_writes_are_small)
{
    struct asked *asked;
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    cr_assert_gt(bytes_under_way(&asked), GENTLE);
    let_go(asked);

    fixture_reopen(&fixture);
    publish_many(1);
    uint64_t bytes = bytes_under_way(&asked);
    cr_assert_gt(bytes, 0);
    cr_assert_leq(bytes, GENTLE);
    let_go(asked);
    consume_all("all", BATCHES + 1);

    fixture_reopen(&fixture);
    publish_many(1);
    q_clock_manual_advance_ns(&fixture.clock, 2 * Q_NS_PER_S);
    cr_assert_gt(bytes_under_way(&asked), GENTLE);
    let_go(asked);
}

/* One that fails once is made again, and nobody hears of it. */
Test(store_read, a_read_that_fails_once)
{
    publish_many(20);
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_FAIL;
    times = 1;
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, 0).err, Q_OK);
    cr_assert_eq(times, 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_READ_FAILED], 0);
}

/* One that fails for good is an error for who asks, is told, is never rot, and may pass. */
Test(store_read, a_read_that_fails)
{
    publish_many(1);
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_FAIL;
    times = 1000;
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, 0).err, Q_E_IO);
    cr_assert(strstr(q_fault_last()->what, "messages 0 to 0") != NULL);
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 1, 0).err, Q_E_IO);
    cr_assert_eq(fixture.events[QLOG_EVENT_READ_FAILED], 1);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    publish_many(1);
    times = 0;
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 1, 0);
    cr_assert_eq(pulled.err, Q_OK);
    cr_assert_eq(pulled.runs[0].sequence, 0);
}

/* A byte of the payload of the batch that holds a message is another one. */
static void
damage(uint64_t sequence)
{
    struct ql_subject *subject;
    struct ql_entry entry;
    struct ql_index *index = &fixture.store->index;
    cr_assert_eq(ql_index_find(index, q_bytes_from_text("orders"), &subject), Q_OK);
    cr_assert_eq(ql_index_entry(index, subject, sequence, &entry), Q_OK);
    const struct ql_segment *segment =
        ql_segment_set_find(&fixture.store->messages->segments, entry.frame);
    char path[128];
    (void)snprintf(
        path, sizeof(path), "%s/message/segment-%06u", fixture.directory, segment->number);
    struct qlog_io *io = ramdisk_io(disk);
    uint8_t byte = '!';
    struct ql_transfer write = {
        .op = {
            .kind = QLOG_IO_WRITE,
            .file = io->table->open(io, path, 0),
            .buffer = -1,
            .length = 1,
            .at = ql_segment_offset(segment, entry.frame) + entry.payload_at + 100,
            .data = &byte,
        },
    };
    cr_assert_geq(write.op.file, 0);
    cr_assert_eq(ql_transfer_wait(io, &write), 0);
    io->table->close(io, write.op.file);
}

/* What is not what it was is not handed out: it is told, once, and all the rest is there. */
Test(store_read, rot)
{
    publish_many(10);
    fixture_reopen(&fixture);
    damage(5);
    static const char *const groups[] = { "g", "h" };
    for (unsigned i = 0; i < 2; i++) {
        uint64_t session = fixture_join(&fixture, groups[i], "c", NULL);
        uint64_t received = 0;
        for (uint64_t sequence = 0; sequence < 10; sequence++) {
            if (sequence == 5) continue;
            struct pulled pulled = fixture_pull(&fixture, groups[i], "c", session, 1, received++);
            cr_assert_eq(pulled.err, Q_OK);
            cr_assert_eq(pulled.runs[0].sequence, sequence);
        }
        cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 1);
    }
}

static enum q_err
trim(void)
{
    struct qlog_trim trim = {
        .request.kind = QLOG_TRIM,
        .messages_before = { UINT64_MAX },
    };
    return fixture_run(&fixture, &trim.request);
}

/* A segment that is being read stays until it has been; the messages are what they were. */
Test(store_read, a_segment_that_is_being_read)
{
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    const struct ql_segment_set *set = &fixture.store->messages->segments;
    cr_assert_gt(set->count, 2);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_HOLD;
    times = 1000 * 1000;
    struct asked *asked = ask(session);
    turn(3);
    cr_assert_gt(fixture.store->reader.under_way, 0);
    cr_assert_eq(trim(), Q_OK);
    cr_assert_eq(set->segments[0]->base, 0);
    times = 0;
    for (unsigned i = 0; i < 10000 && asked->answers == 0; i++)
        turn(1);
    cr_assert_eq(asked->err, Q_OK);
    cr_assert_eq(asked->runs[0].sequence, 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    /* In memory they need no segment. */
    cr_assert_eq(trim(), Q_OK);
    cr_assert_gt(set->segments[0]->base, 0);
    struct qbatch batch;
    struct q_bytes envelope =
        q_bytes_from(asked->pieces[0].envelope, asked->pieces[0].envelope_size);
    cr_assert_eq(qbatch_open(envelope, &batch), Q_OK);
    cr_assert_eq(qbatch_check_payload(&batch, asked->pieces[0].payload), Q_OK);
    forget(asked);
}

/* Segments that go while reads of them wait for their turn take the messages along. */
Test(store_read, a_segment_that_goes_before_it_is_read)
{
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    /* Nothing is handed over. */
    fixture.store->reader.depth = 0;
    struct asked *asked = ask(session);
    turn(3);
    cr_assert_gt(fixture.store->reader.queued_count, 0);
    cr_assert_eq(trim(), Q_OK);
    cr_assert_gt(fixture.store->messages->segments.segments[0]->base, 0);
    fixture.store->reader.depth = 1;
    for (unsigned i = 0; i < 10000 && asked->answers == 0; i++)
        turn(1);
    cr_assert_eq(asked->err, Q_OK);
    cr_assert_gt(asked->runs[0].sequence, 0);
    forget(asked);
}

/* A close ends the pull, and waits for what the disk is still busy with. */
Test(store_read, closed_while_reads_are_under_way)
{
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fate = RAMDISK_HOLD;
    times = 50;
    struct asked *asked = ask(session);
    turn(3);
    cr_assert_gt(fixture.store->reader.under_way, 0);
    fixture_reopen(&fixture);
    cr_assert_eq(asked->err, Q_STOPPING);
    forget(asked);
    times = 0;
}

/* The same at any moment, with a thread that checks what was read. */
Test(store_read, closed_while_the_checker_is_busy)
{
    publish_many(1);
    struct store_fixture memory = fixture;
    fixture_open(&fixture);
    publish_many(BATCHES);
    for (unsigned turns = 0; turns < 12; turns++) {
        fixture_reopen(&fixture);
        uint64_t session = fixture_join(&fixture, "g", "c", NULL);
        struct asked *asked = ask(session);
        asked->released = true;
        turn(turns);
        fixture_reopen(&fixture);
        forget(asked);
    }
    fixture_close(&fixture);
    fixture = memory;
}

/* Time passes for the scrubber, and nobody pulls. */
static void
scrub_for(unsigned seconds)
{
    for (unsigned i = 0; i < 10 * seconds; i++) {
        q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S / 10);
        turn(1);
    }
}

static struct qlog_counters
counters_now(void)
{
    struct qlog_counters counters;
    qlog_store_counters(fixture.store, &counters);
    return counters;
}

static uint64_t
sealed_bytes(void)
{
    const struct ql_segment_set *set = &fixture.store->messages->segments;
    return set->segments[set->count - 1]->base - set->segments[0]->base;
}

/* It reads what is sealed, once a day, and not faster than it may. */
Test(store_read, scrubber_finds_nothing)
{
    fixture.options.scrub_bytes_per_s = 256 * 1024;
    fixture.options.retention_ms = UINT64_MAX;
    fixture_reopen(&fixture);
    publish_many(BATCHES);
    uint64_t sealed = sealed_bytes();
    cr_assert_gt(sealed, 512 * 1024);
    scrub_for(1);
    cr_assert_lt(counters_now().scrubbed, 3 * 256 * 1024);
    scrub_for(10);
    cr_assert_eq(counters_now().scrubbed, sealed);
    scrub_for(10);
    cr_assert_eq(counters_now().scrubbed, sealed);
    q_clock_manual_advance_ns(&fixture.clock, 24 * 3600 * (uint64_t)Q_NS_PER_S);
    scrub_for(10);
    cr_assert_geq(counters_now().scrubbed, 2 * sealed);
    cr_assert_eq(counters_now().rotten, 0);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
}

/* What rotted where nobody reads is told, frame by frame, and the walk goes on behind it. */
Test(store_read, scrubber_finds_rot)
{
    fixture.options.scrub_bytes_per_s = 0;
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    damage(3);
    damage(4);
    damage(70);
    scrub_for(10);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 2);
    cr_assert_eq(counters_now().rotten, 3 * 8192);
    cr_assert_geq(counters_now().scrubbed, sealed_bytes());
    cr_assert_eq(fixture.events[QLOG_EVENT_READ_FAILED], 0);
}

/* A read that fails twice is told, and the walk goes on. */
Test(store_read, scrubber_meets_a_bad_sector)
{
    fixture.options.scrub_bytes_per_s = 0;
    publish_many(BATCHES);
    fixture_reopen(&fixture);
    fate = RAMDISK_FAIL;
    times = 2;
    scrub_for(10);
    cr_assert_eq(fixture.events[QLOG_EVENT_READ_FAILED], 1);
    cr_assert_eq(fixture.events[QLOG_EVENT_ROT], 0);
    cr_assert_gt(counters_now().scrubbed, sealed_bytes() / 2);
}

/* --- Ranges in memory. */

static uint8_t
first_byte(struct ql_keep *keep, uint64_t position, uint64_t size)
{
    const struct ql_kept *kept = ql_keep_find(keep, position, size);
    return kept == NULL ? 0 : *ql_kept_at(kept, position);
}

static struct ql_kept *
keep_bytes(struct ql_keep *keep, enum ql_keep_kind kind, uint64_t from, uint64_t size, uint8_t byte)
{
    struct ql_kept *kept = ql_keep_add(keep, kind, from, size, NULL, false);
    if (kept != NULL) memset(kept->data, byte, size);
    return kept;
}

Test(read_keep, ranges_that_overlap)
{
    struct ql_keep keep;
    ql_keep_init(&keep, 0, 4 * QL_KEEP_BLOCK);
    (void)keep_bytes(&keep, QL_KEEP_FETCHED, 0, 65536, 'a');
    struct ql_kept *b = keep_bytes(&keep, QL_KEEP_FETCHED, 8192, 4096, 'b');
    (void)keep_bytes(&keep, QL_KEEP_FETCHED, 200000, 4096, 'c');
    cr_assert_eq(first_byte(&keep, 8200, 100), 'b');
    cr_assert_eq(first_byte(&keep, 8200, 5000), 'a', "the smaller one does not hold all of it");
    cr_assert_eq(first_byte(&keep, 40000, 100), 'a');
    cr_assert_eq(first_byte(&keep, 60000, 10000), 0);
    cr_assert_eq(first_byte(&keep, 200000, 4096), 'c');
    cr_assert(!ql_kept_is_checked(b, 8200));
    ql_kept_set_checked(b, 8200);
    cr_assert(ql_kept_is_checked(b, 8200));
    cr_assert(!ql_kept_is_checked(b, 8208));
    ql_keep_forget(&keep, b);
    cr_assert_eq(first_byte(&keep, 8200, 100), 'a');
    ql_keep_fini(&keep);
}

/* The block that was looked at longest ago goes; one that is pinned stays. */
Test(read_keep, memory_has_an_end)
{
    struct ql_keep keep;
    ql_keep_init(&keep, QL_KEEP_BLOCK, 2 * QL_KEEP_BLOCK);
    struct ql_kept *a = keep_bytes(&keep, QL_KEEP_FETCHED, 0, QL_KEEP_BLOCK, 'a');
    struct ql_kept *b = keep_bytes(&keep, QL_KEEP_FETCHED, QL_KEEP_BLOCK, QL_KEEP_BLOCK, 'b');
    cr_assert_eq(first_byte(&keep, 0, 1), 'a');
    cr_assert_not_null(keep_bytes(&keep, QL_KEEP_TAIL, 1 << 30, 4096, 't'));
    (void)keep_bytes(&keep, QL_KEEP_FETCHED, 2 * QL_KEEP_BLOCK, QL_KEEP_BLOCK, 'c');
    cr_assert_eq(first_byte(&keep, 0, 1), 'a');
    cr_assert_eq(first_byte(&keep, QL_KEEP_BLOCK, 1), 0);
    cr_assert_eq(first_byte(&keep, 2 * QL_KEEP_BLOCK, 1), 'c');
    cr_assert_eq(first_byte(&keep, 1 << 30, 1), 't');
    (void)b;
    struct ql_keep_block *blocks[] = { a->block, ql_keep_find(&keep, 2 * QL_KEEP_BLOCK, 1)->block };
    ql_keep_pin(blocks[0]);
    ql_keep_pin(blocks[1]);
    cr_assert_null(ql_keep_add(&keep, QL_KEEP_FETCHED, 1 << 29, 4096, NULL, false));
    cr_assert_not_null(ql_keep_add(&keep, QL_KEEP_FETCHED, 1 << 29, 4096, NULL, true));
    ql_keep_shrink(&keep, UINT64_MAX);
    cr_assert_eq(first_byte(&keep, 0, 1), 'a');
    cr_assert_eq(first_byte(&keep, 1 << 30, 1), 0);
    ql_keep_unpin(blocks[0]);
    ql_keep_unpin(blocks[1]);
    ql_keep_shrink(&keep, UINT64_MAX);
    cr_assert_eq(keep.count, 0);
    cr_assert_eq(keep.bytes[QL_KEEP_FETCHED] + keep.bytes[QL_KEEP_TAIL], 0);
    ql_keep_fini(&keep);
}

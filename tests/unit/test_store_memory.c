/*
 * A store takes no more memory than its plan says, and none for each message.
 *
 * The linker puts counters around the allocator and around the calls that do a store's work (see
 * meson.build): what the test itself allocates does not count.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "consume/plan.h"
#include "store/store.h"
#include "store_fixture.h"

enum {
    MIB = 1024 * 1024
};

static struct store_fixture fixture;

/* --- Who allocates. */

static atomic_ulong by_store;   /* on the store's thread, while it works */
static atomic_ulong by_workers; /* on threads of the store's own */
static _Thread_local bool is_test;
static _Thread_local unsigned inside;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
enum q_err __real_qlog_store_submit(struct qlog_store *store, struct qlog_request *request);
enum q_err __real_qlog_store_turn(struct qlog_store *store);
enum q_err __real_qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
enum q_err __wrap_qlog_store_submit(struct qlog_store *store, struct qlog_request *request);
enum q_err __wrap_qlog_store_turn(struct qlog_store *store);
enum q_err __wrap_qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns);

static void
count(void)
{
    if (inside > 0)
        atomic_fetch_add(&by_store, 1);
    else if (!is_test)
        atomic_fetch_add(&by_workers, 1);
}

void *
__wrap_malloc(size_t size)
{
    count();
    return __real_malloc(size);
}

void *
__wrap_calloc(size_t number, size_t size)
{
    count();
    return __real_calloc(number, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
    count();
    return __real_realloc(memory, size);
}

int
__wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
    count();
    return __real_posix_memalign(memory, alignment, size);
}

void *
__wrap_aligned_alloc(size_t alignment, size_t size)
{
    count();
    return __real_aligned_alloc(alignment, size);
}

enum q_err
__wrap_qlog_store_submit(struct qlog_store *store, struct qlog_request *request)
{
    inside++;
    enum q_err err = __real_qlog_store_submit(store, request);
    inside--;
    return err;
}

enum q_err
__wrap_qlog_store_turn(struct qlog_store *store)
{
    inside++;
    enum q_err err = __real_qlog_store_turn(store);
    inside--;
    return err;
}

enum q_err
__wrap_qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns)
{
    inside++;
    enum q_err err = __real_qlog_store_wait(store, timeout_ns);
    inside--;
    return err;
}

static void
setup(void)
{
    is_test = true;
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_memory, .init = setup, .fini = teardown, .timeout = 60);

/* Publish, pull, acknowledge, fail, come again, wait for what comes. Nothing is left. */
static void
round_trip(uint64_t session, uint64_t waiter)
{
    struct fixture_parked parked;
    fixture_wait_for(&fixture, &parked, "w", "w", waiter, 0);
    fixture_publish_keyed(&fixture, fixture_subject, "a:k,b:k,c,d:l,e,f");
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 64, 0);
    cr_assert_eq(pulled.err, Q_OK);
    uint64_t received = 0;
    for (uint32_t i = 0; i < pulled.run_count; i++) {
        const struct qlog_run *run = &pulled.runs[i];
        received = run->pull_sequence + run->count;
        bool fails = run->attempt == 1 && i % 2 == 0;
        enum q_err err =
            fails ? fixture_nack(
                        &fixture, "g", "c", session, run->pull_sequence, received - 1, 0, "why")
                  : fixture_ack(&fixture, "g", "c", session, run->pull_sequence, received - 1);
        cr_assert_eq(err, Q_OK);
    }
    pulled = fixture_pull(&fixture, "g", "c", session, 64, received);
    cr_assert_eq(pulled.err, Q_OK);
    for (uint32_t i = 0; i < pulled.run_count; i++)
        cr_assert_eq(
            fixture_ack(
                &fixture, "g", "c", session, pulled.runs[i].pull_sequence,
                pulled.runs[i].pull_sequence + pulled.runs[i].count - 1),
            Q_OK);
    fixture_settle_until(&fixture, &parked.answers);
    cr_assert_eq(parked.err, Q_OK);
    cr_assert_gt(parked.pull.run_count, 0);
    for (uint32_t i = 0; i < parked.pull.run_count; i++)
        cr_assert_eq(
            fixture_ack(
                &fixture, "w", "w", waiter, parked.runs[i].pull_sequence,
                parked.runs[i].pull_sequence + parked.runs[i].count - 1),
            Q_OK);
    qlog_pull_release(&parked.pull);
}

/* In steady state nothing is allocated, whatever messages go through. */
Test(store_memory, nothing_for_a_message)
{
    fixture_close(&fixture);
    fixture.options.log.segment_bytes = 16 * MIB; /* so that no index file is due while it counts */
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t waiter = fixture_join(&fixture, "w", "w", NULL);
    for (unsigned i = 0; i < 40; i++)
        round_trip(session, waiter);
    unsigned long before = atomic_load(&by_store);
    unsigned long others = atomic_load(&by_workers);
    for (unsigned i = 0; i < 200; i++)
        round_trip(session, waiter);
    cr_assert_eq(atomic_load(&by_store) - before, 0);
    cr_assert_eq(atomic_load(&by_workers) - others, 0);
}

/* Segments and index files come and go at a fixed number of allocations each. */
Test(store_memory, a_few_for_an_index_file)
{
    enum {
        EACH = 24 /* of an index file, or a segment */
    };
    fixture.options.retention_bytes = 3 * fixture.options.log.segment_bytes;
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t waiter = fixture_join(&fixture, "w", "w", NULL);
    for (unsigned i = 0; i < 100; i++)
        round_trip(session, waiter);
    unsigned long before = atomic_load(&by_store) + atomic_load(&by_workers);
    uint32_t files = fixture.store->index.files.number_next;
    unsigned rolled = fixture.events[QLOG_EVENT_ROLLED];
    for (unsigned i = 0; i < 400; i++) {
        q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S / 10);
        round_trip(session, waiter);
    }
    files = fixture.store->index.files.number_next - files;
    rolled = fixture.events[QLOG_EVENT_ROLLED] - rolled;
    cr_assert_geq(files, 5);
    cr_assert_geq(rolled, 2);
    unsigned long taken = atomic_load(&by_store) + atomic_load(&by_workers) - before;
    cr_assert_leq(
        taken, (unsigned long)EACH * (files + rolled), "%lu for %u files and %u segments", taken,
        files, rolled);
}

/* --- The plan. */

static enum q_err
open_with(const struct qlog_store_options *options)
{
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    enum q_err err = qlog_store_open(fixture.directory, options, &fixture.store);
    if (err != Q_OK) fixture.store = NULL;
    return err;
}

/* The rows are the plan, and what is used lies within them. */
Test(store_memory, plan)
{
    struct qlog_memory memory;
    char text[QLOG_MEMORY_TEXT_MAX];
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t waiter = fixture_join(&fixture, "w", "w", NULL);
    for (unsigned i = 0; i < 20; i++)
        round_trip(session, waiter);
    qlog_store_memory(fixture.store, &memory);
    uint64_t planned = 0;
    for (unsigned i = 0; i < QLOG_MEMORY_ROWS; i++) {
        cr_assert_leq(
            memory.rows[i].used, memory.rows[i].planned, "%s: %llu of %llu", memory.rows[i].name,
            (unsigned long long)memory.rows[i].used, (unsigned long long)memory.rows[i].planned);
        cr_assert_neq(memory.rows[i].formula[0], '\0');
        cr_assert_not_null(strstr(qlog_memory_text(&memory, text), memory.rows[i].name));
        planned += memory.rows[i].planned;
    }
    cr_assert_eq(memory.planned, planned);
    cr_assert_eq(memory.max, 0);
    cr_assert_gt(memory.rows[QLOG_MEMORY_groups].used, sizeof(struct ql_group));
    cr_assert_gt(memory.rows[QLOG_MEMORY_frames].used, 0);
    cr_assert_gt(memory.rows[QLOG_MEMORY_index].used, 0);
    cr_assert_gt(memory.rows[QLOG_MEMORY_subjects].used, 0);
}

/* What may be less is made to fit; what was asked for by name stays. */
Test(store_memory, max)
{
    struct qlog_memory memory;
    struct qlog_store_options options = fixture.options;
    for (uint64_t max = 1200 * (uint64_t)MIB; max > 400 * (uint64_t)MIB; max -= 100 * MIB) {
        options.memory_max = max;
        cr_assert_eq(open_with(&options), Q_OK);
        qlog_store_memory(fixture.store, &memory);
        cr_assert_leq(memory.planned, max);
        cr_assert_geq(memory.planned, max - MIB, "and nothing is left over");
        cr_assert_eq(memory.max, max);
    }
    options.memory_max = 500 * (uint64_t)MIB;
    options.tail_bytes_max = 40 * MIB;
    cr_assert_eq(open_with(&options), Q_OK);
    qlog_store_memory(fixture.store, &memory);
    cr_assert_leq(memory.planned, options.memory_max);
    cr_assert_eq(memory.rows[QLOG_MEMORY_tail].planned, options.tail_bytes_max);
    /* It works with the least there is. */
    options = fixture.options;
    options.subjects_max = 1000;
    options.mailbox_max = 1000;
    options.memory_max = 100 * (uint64_t)MIB;
    cr_assert_eq(open_with(&options), Q_OK);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t waiter = fixture_join(&fixture, "w", "w", NULL);
    for (unsigned i = 0; i < 20; i++)
        round_trip(session, waiter);
}

/* Keys fill the memory of the index long before their log is worth a file: they get one. */
Test(store_memory, an_index_of_keys_is_written_in_time)
{
    struct qlog_store_options options = fixture.options;
    options.index_entries_max = 2048;
    options.log.segment_bytes = 1024 * 1024;
    cr_assert_eq(open_with(&options), Q_OK);
    char many[2 * 400] = "x";
    for (size_t i = 1; i < sizeof(many) - 1; i++)
        many[i] = i % 2 == 0 ? 'x' : ',';
    (void)snprintf(fixture.key, sizeof(fixture.key), "one");
    for (unsigned i = 0; i < 30; i++) {
        enum q_err err = Q_BUSY;
        /* Until the file is written. */
        for (unsigned tries = 0; tries < 10 * 1000 && err == Q_BUSY; tries++) {
            err = fixture_publish(&fixture, "a", many, NULL, NULL);
            /* The subject's name is flushed, which the file waits for. */
            q_clock_manual_advance_ns(&fixture.clock, 300 * (uint64_t)Q_NS_PER_MS);
            fixture_settle(&fixture);
            if (err == Q_BUSY) usleep(1000);
        }
        cr_assert_eq(err, Q_OK, "publish %u", i);
    }
    fixture.key[0] = '\0';
}

/* A limit is for what comes: what is stored is there, whatever the limit was then. */
Test(store_memory, fewer_subjects_than_are_stored)
{
    cr_assert_eq(fixture_publish(&fixture, "a", "1", NULL, NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "b", "2", NULL, NULL), Q_OK);
    struct qlog_store_options options = fixture.options;
    options.subjects_max = 1;
    cr_assert_eq(open_with(&options), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "b", "3", NULL, NULL), Q_OK);
    cr_assert_eq(fixture_publish(&fixture, "c", "4", NULL, NULL), Q_TOO_BIG);
}

Test(store_memory, max_refused)
{
    struct qlog_store_options options = fixture.options;
    options.memory_max = 100 * (uint64_t)MIB;
    cr_assert_eq(open_with(&options), Q_INVALID);
    const struct q_fault *fault = q_fault_last();
    cr_assert_not_null(strstr(fault->what, "100 MiB"), "%s", fault->what);
    cr_assert_not_null(strstr(fault->what, "subjects 2"), "%s", fault->what);
    cr_assert_neq(fault->hint[0], '\0');
    /* Nothing of it is in the way of the next one. */
    cr_assert_eq(qlog_store_open(fixture.directory, &fixture.options, &fixture.store), Q_OK);
}

/* --- Groups. */

static void
publish_keyed(unsigned batches, unsigned each)
{
    char bodies[4096];
    unsigned key = 0;
    for (unsigned i = 0; i < batches; i++) {
        int at = 0;
        for (unsigned j = 0; j < each; j++)
            at += snprintf(
                bodies + at, sizeof(bodies) - (size_t)at, "%sb:k%u", j == 0 ? "" : ",", key++);
        fixture_publish_keyed(&fixture, fixture_subject, bodies);
    }
}

static enum q_err
delete_group(const char *name)
{
    struct qlog_control control = {
        .request = { .kind = QLOG_CONTROL },
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text(name),
        .kind = QLOG_CONTROL_DELETE,
    };
    return fixture_run(&fixture, &control.request);
}

/* Take what is given, until nothing is. How many. */
static uint64_t
pull_all(uint64_t session, uint64_t *received)
{
    uint64_t count_ = 0;
    for (;;) {
        struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 64, *received);
        cr_assert_eq(pulled.err, Q_OK);
        if (pulled.run_count == 0) return count_;
        for (uint32_t i = 0; i < pulled.run_count; i++) {
            count_ += pulled.runs[i].count;
            *received = pulled.runs[i].pull_sequence + pulled.runs[i].count;
        }
    }
}

/* When groups have all the memory they may, nothing new comes, no one may join, and nothing is lost. */
Test(store_memory, groups_are_bounded)
{
    enum {
        BATCHES = 40,
        EACH = 20
    };
    fixture.options.group_bytes_max = 16 * 1024;
    fixture_reopen(&fixture);
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    publish_keyed(BATCHES, EACH); /* each of a key of its own: a span for each message */
    uint64_t received = 0;
    uint64_t given = 0;
    for (unsigned i = 0; i < 10; i++) {
        given += pull_all(session, &received);
        /* What arrays have free is given back before it is full for good. */
        q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
        cr_assert_eq(fixture_keep_alive(&fixture, "g", "c", session), Q_OK);
    }
    cr_assert_gt(given, 0);
    cr_assert_lt(given, BATCHES * EACH);
    const struct ql_group *group = ql_store_group(fixture.store, 0);
    cr_assert_eq(ql_group_held(group), QLOG_HELD_MEMORY);
    cr_assert_eq(fixture_join(&fixture, "g", "another", NULL), 0);
    cr_assert_eq(q_fault_last()->err, Q_BUSY);
    cr_assert_eq(fixture_join(&fixture, "another", "c", NULL), 0);
    cr_assert_eq(q_fault_last()->err, Q_BUSY);

    /* What is there can be read by a start, and acknowledged one by one; then more comes by itself. */
    fixture_crash(&fixture);
    session = fixture_join(&fixture, "g", "c", NULL);
    cr_assert_neq(session, 0);
    struct fixture_parked parked;
    fixture_park(&fixture, &parked, "g", "c", session, received);
    cr_assert_eq(parked.answers, 0);
    for (uint64_t at = received - given; at < received; at++)
        cr_assert_eq(fixture_ack(&fixture, "g", "c", session, at, at), Q_OK);
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    fixture_settle_until(&fixture, &parked.answers);
    cr_assert_eq(parked.err, Q_OK);
    uint64_t total = given;
    uint64_t first = parked.runs[0].pull_sequence;
    for (uint32_t i = 0; i < parked.pull.run_count; i++) {
        received = parked.runs[i].pull_sequence + parked.runs[i].count;
        total += parked.runs[i].count;
    }
    qlog_pull_release(&parked.pull);
    for (unsigned i = 0; i < 100 && total < BATCHES * EACH; i++) {
        if (first < received)
            cr_assert_eq(fixture_ack(&fixture, "g", "c", session, first, received - 1), Q_OK);
        first = received;
        q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
        total += pull_all(session, &received);
    }
    cr_assert_eq(total, BATCHES * EACH);
}

/* All that groups take is given back with them. */
Test(store_memory, groups_give_back)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    uint64_t waiter = fixture_join(&fixture, "w", "w", "tag");
    fixture_publish_keyed(&fixture, fixture_subject, "a:k,b:k,c,d:l,e,f");
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 64, 0);
    cr_assert_gt(pulled.run_count, 0);
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 0, 1000, "why"), Q_OK);
    cr_assert_eq(fixture_leave(&fixture, "w", "w", waiter), Q_OK);
    uint64_t used = fixture.store->room.used;
    cr_assert_gt(used, 0);
    fixture_crash(&fixture);
    cr_assert_gt(fixture.store->room.used, 0);
    cr_assert_eq(delete_group("g"), Q_OK);
    cr_assert_eq(delete_group("w"), Q_OK);
    cr_assert_eq(fixture.store->room.used, 0);
}

/* Keys that hold nothing back are counted once the group is strict: what they take is not given back. */
Test(store_memory, keys_of_a_lax_group)
{
    uint64_t session = fixture_join(&fixture, "g", "c", NULL);
    fixture_publish_keyed(&fixture, fixture_subject, "a:k,b:l");
    cr_assert_eq(fixture_pull(&fixture, "g", "c", session, 64, 0).err, Q_OK);
    cr_assert_eq(fixture_nack(&fixture, "g", "c", session, 0, 1, 1000, "why"), Q_OK);
    struct ql_group *group = ql_store_group(fixture.store, 0);
    cr_assert_eq(group->keys.used, 0);
    ql_group_shrink(group);
    struct qlog_control control = {
        .request = { .kind = QLOG_CONTROL },
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text("g"),
        .kind = QLOG_CONTROL_SETTINGS,
        .settings = { .strict = true },
    };
    cr_assert_eq(fixture_run(&fixture, &control.request), Q_OK);
    cr_assert_eq(group->keys.used, 2);
    q_clock_manual_advance_ns(&fixture.clock, 2 * (uint64_t)Q_NS_PER_S);
    struct pulled pulled = fixture_pull(&fixture, "g", "c", session, 64, 2);
    cr_assert_eq(pulled.err, Q_OK);
    cr_assert_eq(pulled.run_count, 1);
    cr_assert_eq(pulled.runs[0].count, 2);
    uint64_t first = pulled.runs[0].pull_sequence;
    cr_assert_eq(fixture_ack(&fixture, "g", "c", session, first, first + 1), Q_OK);
    cr_assert_eq(group->keys.used, 0);
    ql_group_check(group);
}

/*
 * Requests with a number at a delay store: stored once, in their producer's order, through starts.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbatch/batch.h>
#include <qbatch/build.h>
#include <qlog/delay.h>

#include "delay/delay.h"

enum {
    SENDS_MAX = 64,
    BATCHES_MAX = 2,
    PATIENCE_S = 60,
    BIG = 30 * 1000
};

static const uint64_t start_ms = 1800000000000;

static struct {
    char directory[64];
    struct q_clock_manual clock;
    struct qlog_delay *delay;
    struct qlog_delay_options options;
    struct qlog_delay_send *sends[SENDS_MAX];
    unsigned send_count;
    uint32_t delivered;
} fixture;

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
    (void)context;
    cr_assert_lt(fixture.send_count, SENDS_MAX);
    fixture.sends[fixture.send_count++] = send;
}

static void
store_open(void)
{
    struct qlog_delay_options options = fixture.options;
    options.log.clock = &fixture.clock.clock;
    options.log.segment_bytes = 1024 * 1024;
    options.log.create = true;
    options.sender = (struct qlog_delay_sender){ NULL, on_route, on_send };
    cr_assert_eq(qlog_delay_open(fixture.directory, &options, &fixture.delay), Q_OK);
}

static void
setup(void)
{
    memset(&fixture, 0, sizeof(fixture));
    (void)snprintf(fixture.directory, sizeof(fixture.directory), "/tmp/qmq-intake-XXXXXX");
    cr_assert_not_null(mkdtemp(fixture.directory));
    q_clock_manual_init(&fixture.clock);
    fixture.clock.monotonic_ns = Q_NS_PER_S;
    fixture.clock.wall_ms = start_ms;
    store_open();
}

static void
store_close(void)
{
    fixture.send_count = 0;
    cr_assert_eq(qlog_delay_close(fixture.delay), Q_OK);
}

static void
remove_directory(const char *directory)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

static void
teardown(void)
{
    store_close();
    remove_directory(fixture.directory);
}

static void
turn(void)
{
    for (unsigned i = 0; i < fixture.send_count; i++) {
        fixture.delivered += fixture.sends[i]->message_count;
        qlog_delay_sent(fixture.delay, fixture.sends[i], Q_OK);
    }
    fixture.send_count = 0;
    cr_assert_eq(qlog_delay_turn(fixture.delay), Q_OK);
    cr_assert_eq(qlog_delay_wait(fixture.delay, Q_NS_PER_MS), Q_OK);
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_MS);
    /* No request is dropped that is not stated. */
    const struct ql_home *home = fixture.delay->home;
    cr_assert_geq(home->super.producers, fixture.delay->log->segments.segments[0]->base);
}

/* Real time limits it, not turns. */
#define until(done)                                                                                \
    do {                                                                                           \
        uint64_t until_ns =                                                                        \
            q_clock_monotonic_ns(q_clock_system()) + (uint64_t)PATIENCE_S * (uint64_t)Q_NS_PER_S;  \
        while (!(done)) {                                                                          \
            cr_assert_lt(q_clock_monotonic_ns(q_clock_system()), until_ns, "never: " #done);       \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

/* What is there when the process is killed now: a copy, under another name. */
static void
kill_and_open(void)
{
    char copy[sizeof(fixture.directory)];
    char command[256];
    (void)snprintf(copy, sizeof(copy), "/tmp/qmq-intake-XXXXXX");
    cr_assert_not_null(mkdtemp(copy));
    (void)snprintf(command, sizeof(command), "cp -a %s/. %s", fixture.directory, copy);
    cr_assert_eq(system(command), 0);
    teardown();
    memcpy(fixture.directory, copy, sizeof(copy));
    store_open();
}

/* A request of `batches` batches of two messages each, that can be sent many times. */
struct request {
    struct qlog_delay_publish publish;
    uint8_t *bytes; /* as they were sent first */
    uint8_t *sent;
    uint64_t sequences[BATCHES_MAX];
    struct q_bytes subjects[BATCHES_MAX];
    bool done;
    enum q_err err;
};

static void
request_new_due(
    struct request *request,
    uint8_t producer,
    uint64_t number,
    uint32_t batches,
    uint32_t size,
    uint64_t due_ms)
{
    struct qbatch_builder *builders[BATCHES_MAX];
    uint32_t sizes[BATCHES_MAX][2];
    uint8_t *body = calloc(1, size);
    *request = (struct request){ 0 };
    struct qlog_publish *what = &request->publish.publish;
    for (uint32_t i = 0; i < batches; i++) {
        struct qbatch_builder_options options = { .producer_id = { producer } };
        cr_assert_eq(qbatch_builder_new(&options, &builders[i]), Q_OK);
        for (uint32_t j = 0; j < 2; j++) {
            struct qbatch_message message = {
                .body = q_bytes_from(body, size),
                .time_ms = start_ms,
                .counter = (uint32_t)(number * 100 + i * 10 + j),
            };
            cr_assert_eq(qbatch_builder_add(builders[i], &message), Q_OK);
        }
        cr_assert_eq(qbatch_builder_close(builders[i], &sizes[i][0], &sizes[i][1]), Q_OK);
        what->envelopes_size += sizes[i][0];
        what->payloads_size += sizes[i][1];
        request->subjects[i] = q_bytes_from_text(i == 0 ? "orders" : "tickets");
    }
    free(body);
    size_t all = (size_t)what->envelopes_size + what->payloads_size;
    request->bytes = malloc(all);
    request->sent = malloc(all);
    uint8_t *envelope = request->bytes;
    uint8_t *payload = envelope + what->envelopes_size;
    for (uint32_t i = 0; i < batches; i++) {
        struct qbatch_request_place place = { number, i, batches, due_ms };
        qbatch_builder_write(builders[i], &place, envelope, payload);
        qbatch_builder_free(builders[i]);
        envelope += sizes[i][0];
        payload += sizes[i][1];
    }
    what->batch_count = batches;
}

static void
request_new(
    struct request *request, uint8_t producer, uint64_t number, uint32_t batches, uint32_t size)
{
    request_new_due(request, producer, number, batches, size, start_ms + 5000);
}

static void
request_free(struct request *request)
{
    free(request->bytes);
    free(request->sent);
}

static void
on_answer(struct qlog_delay_request *store_request, enum q_err err)
{
    struct request *request = store_request->context;
    request->done = true;
    request->err = err;
}

static void
request_submit(struct request *request, uint64_t settled, bool again)
{
    struct qlog_publish *what = &request->publish.publish;
    size_t size = (size_t)what->envelopes_size + what->payloads_size;
    memcpy(request->sent, request->bytes, size);
    what->envelopes = request->sent;
    what->payloads = request->sent + what->envelopes_size;
    what->subjects = request->subjects;
    what->ret_first_sequences = request->sequences;
    what->settled = settled;
    what->again = again;
    request->done = false;
    request->publish.request = (struct qlog_delay_request){
        .kind = QLOG_DELAY_PUBLISH,
        .done = on_answer,
        .context = request,
    };
    cr_assert_eq(qlog_publish_check(what), Q_OK);
    cr_assert_eq(qlog_delay_submit(fixture.delay, &request->publish.request), Q_OK);
}

static enum q_err
ask(struct request *request, bool again)
{
    request_submit(request, 0, again);
    until(request->done);
    return request->err;
}

/* One that is known: the same handles. */
static void
expect_repeat(struct request *request)
{
    uint64_t sequences[BATCHES_MAX];
    memcpy(sequences, request->sequences, sizeof(sequences));
    memset(request->sequences, 0xff, sizeof(request->sequences));
    uint64_t given = fixture.delay->next_sequence;
    cr_assert_eq(ask(request, true), Q_OK);
    cr_assert(request->publish.publish.duplicate);
    for (uint32_t i = 0; i < request->publish.publish.batch_count; i++)
        cr_assert_eq(request->sequences[i], sequences[i]);
    cr_assert_eq(fixture.delay->next_sequence, given, "nothing was stored");
}

TestSuite(delay_intake, .init = setup, .fini = teardown);

Test(delay_intake, once)
{
    struct request one;
    struct request other;
    request_new(&one, 1, 1, 2, 10);
    request_new(&other, 1, 1, 1, 10);
    cr_assert_eq(ask(&one, false), Q_OK);
    cr_assert_not(one.publish.publish.duplicate);
    cr_assert_eq(one.sequences[1], one.sequences[0] + 2);
    expect_repeat(&one);
    cr_assert_eq(ask(&other, true), Q_CONFLICT);
    struct qlog_delay_counters counters;
    qlog_delay_counters(fixture.delay, &counters);
    cr_assert_eq(counters.duplicates, 1);
    cr_assert_eq(counters.pending, 4);
    request_free(&one);
    request_free(&other);
}

/* A repeat that comes before the first one is written waits with it, and what is early for the others. */
Test(delay_intake, order)
{
    struct request requests[3];
    struct request twice;
    for (uint64_t i = 0; i < 3; i++)
        request_new(&requests[i], 1, i + 1, 1, 10);
    request_new(&twice, 1, 1, 1, 10);
    request_submit(&requests[1], 1, false);
    request_submit(&requests[2], 1, false);
    until(fixture.delay->intake.producers.count > 0);
    cr_assert_not(requests[1].done);
    request_submit(&requests[0], 1, false);
    request_submit(&twice, 1, true);
    until(requests[0].done && requests[1].done && requests[2].done && twice.done);
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(requests[i].err, Q_OK);
        cr_assert_eq(requests[i].sequences[0], 2 * i);
        request_free(&requests[i]);
    }
    cr_assert_eq(twice.err, Q_OK);
    cr_assert(twice.publish.publish.duplicate);
    cr_assert_eq(twice.sequences[0], 0);
    request_free(&twice);
}

/* Who can't be told from somebody that was forgotten; what nobody waits for any more; too late. */
Test(delay_intake, unknown)
{
    struct request five;
    struct request nine;
    request_new(&five, 1, 5, 1, 10);
    request_new(&nine, 1, 9, 1, 10);
    cr_assert_eq(ask(&five, true), Q_UNKNOWN_PRODUCER);
    cr_assert_eq(ask(&five, false), Q_OUT_OF_SEQUENCE, "1 to 4 don't come within a second");
    request_submit(&five, 5, false);
    until(five.done);
    cr_assert_eq(five.err, Q_OK);
    request_submit(&nine, 9, true);
    until(nine.done);
    cr_assert_eq(nine.err, Q_OK);
    expect_repeat(&five);
    request_free(&five);
    request_free(&nine);
}

/* After the time that brokers keep them, too. */
Test(delay_intake, forgotten)
{
    struct request two;
    request_new(&two, 1, 2, 1, 10);
    request_submit(&two, 2, false);
    until(two.done);
    cr_assert_eq(two.err, Q_OK);
    q_clock_manual_advance_ns(&fixture.clock, UINT64_C(86401) * Q_NS_PER_S);
    until(
        ql_producers_find(&fixture.delay->intake.producers, two.publish.publish.producer) == NULL);
    cr_assert_eq(ask(&two, true), Q_UNKNOWN_PRODUCER);
    request_free(&two);
}

/* That time runs on through starts, and a start is no request. */
Test(delay_intake, forgotten_after_starts)
{
    struct request two;
    request_new(&two, 1, 2, 1, 10);
    request_submit(&two, 2, false);
    until(two.done);
    cr_assert_eq(two.err, Q_OK);
    for (unsigned hour = 0; hour < 24; hour += 8) {
        store_close();
        store_open();
        const struct ql_producers *producers = &fixture.delay->intake.producers;
        cr_assert_not_null(ql_producers_find(producers, two.publish.publish.producer));
        q_clock_manual_advance_ns(&fixture.clock, UINT64_C(8) * 3600 * Q_NS_PER_S);
    }
    store_close();
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    store_open();
    cr_assert_eq(ask(&two, true), Q_UNKNOWN_PRODUCER);
    request_free(&two);
}

/* Requests in several segments, of which all but the last have a schedule file. */
static void
send_many(struct request *requests, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        request_new(&requests[i], 1, i + 1, 1 + i % 2, BIG);
        cr_assert_eq(ask(&requests[i], false), Q_OK);
    }
}

Test(delay_intake, restarted)
{
    struct request requests[30];
    send_many(requests, 30);
    until(fixture.delay->filed_below + 1 >= fixture.delay->run_count);
    cr_assert_gt(fixture.delay->run_count, 2);
    store_close();
    store_open();
    cr_assert_not_null(fixture.delay->runs[0]->file);
    for (unsigned i = 0; i < 30; i++)
        expect_repeat(&requests[i]);
    kill_and_open();
    for (unsigned i = 0; i < 30; i++)
        expect_repeat(&requests[i]);
    /* A store of a program that knew no producers: it opens, and knows those of the log's end. */
    fixture.delay->home->super.producers = 0;
    store_close();
    store_open();
    expect_repeat(&requests[29]);
    for (unsigned i = 0; i < 30; i++)
        request_free(&requests[i]);
}

/* Delivered, and its segment gone: the answer is the same. */
Test(delay_intake, dropped)
{
    struct request requests[60];
    unsigned count = 0;
    /* The second segment has just begun: the end of the first is not stated. */
    for (; count < 60 && fixture.delay->log->segments.count < 2; count++) {
        request_new(&requests[count], 1, count + 1, 1, BIG);
        cr_assert_eq(ask(&requests[count], false), Q_OK);
        until(!fixture.delay->round_busy);
    }
    cr_assert_lt(count, 60);
    cr_assert_lt(fixture.delay->home->super.producers, fixture.delay->log->active->base);
    q_clock_manual_advance_ns(&fixture.clock, 6 * (uint64_t)Q_NS_PER_S);
    until(fixture.delivered == 2 * count);
    until(fixture.delay->log->segments.count == 1);
    for (unsigned i = 0; i < count; i++)
        expect_repeat(&requests[i]);
    kill_and_open();
    for (unsigned i = 0; i < count; i++) {
        expect_repeat(&requests[i]);
        request_free(&requests[i]);
    }
}

/* A message with a new due time is none of its request's. */
Test(delay_intake, moved)
{
    struct request one;
    struct request two;
    struct request moved = { 0 };
    struct qlog_delay_reschedule move = { .due_ms = start_ms + 9000 };
    request_new(&one, 1, 1, 1, 10);
    request_new(&two, 1, 2, 1, 10);
    cr_assert_eq(ask(&one, false), Q_OK);
    cr_assert_eq(ask(&two, false), Q_OK);
    move.name = (struct qlog_delay_name){ start_ms + 5000, two.sequences[0], 0, 0, 0 };
    move.request = (struct qlog_delay_request){
        .kind = QLOG_DELAY_RESCHEDULE,
        .done = on_answer,
        .context = &moved,
    };
    cr_assert_eq(qlog_delay_submit(fixture.delay, &move.request), Q_OK);
    until(moved.done);
    cr_assert_eq(moved.err, Q_OK);
    for (unsigned i = 0; i < 2; i++) {
        expect_repeat(&two);
        expect_repeat(&one);
        kill_and_open();
    }
    request_free(&one);
    request_free(&two);
}

/* Most of it is done, and what waits is written again: it is not a request that came. */
Test(delay_intake, written_again)
{
    struct request requests[60];
    struct request late;
    /* One that waits for long, among many that go. */
    request_new_due(&late, 2, 1, 1, 10, start_ms + 86400000);
    cr_assert_eq(ask(&late, false), Q_OK);
    send_many(requests, 60);
    q_clock_manual_advance_ns(&fixture.clock, 6 * (uint64_t)Q_NS_PER_S);
    until(fixture.delivered == 180);
    until(fixture.delay->counters.carried > 0);
    kill_and_open();
    expect_repeat(&late);
    for (unsigned i = 0; i < 60; i++) {
        expect_repeat(&requests[i]);
        request_free(&requests[i]);
    }
    request_free(&late);
}

/*
 * Exactly-once publishing, by a store: a request that is sent again is stored once, and its answer is the
 * first one's, while that is under way, later, after a restart, and when its messages are gone.
 */
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include <qbatch/build.h>

#include "store/store.h"
#include "store_fixture.h"

static struct store_fixture fixture;

enum {
    BATCHES_MAX = 2,
    BYTES_MAX = 64 * 1024,
};

/* A publish with all that it points to. */
struct sent {
    struct qlog_publish publish;
    struct q_bytes subjects[BATCHES_MAX];
    uint64_t firsts[BATCHES_MAX];
    uint8_t envelopes[BYTES_MAX];
    uint8_t payloads[BYTES_MAX];
    bool done;
    enum q_err err;
};

static void
on_done(struct qlog_request *request, enum q_err err)
{
    struct sent *sent = request->context;
    cr_assert(!sent->done, "a request is answered once");
    sent->done = true;
    sent->err = err;
}

/* One message for each of `batches` subjects, the same bytes for the same number. */
static struct sent *
make(char producer, uint64_t sequence, unsigned batches, uint32_t body)
{
    static const char *const names[BATCHES_MAX] = { "orders", "payments" };
    struct sent *sent = calloc(1, sizeof(*sent));
    cr_assert_not_null(sent);
    uint8_t *bytes = calloc(1, body + 1);
    struct qbatch_builder_options options = { 0 };
    memset(options.producer_id, producer, sizeof(options.producer_id));
    struct qbatch_builder *builder;
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct qlog_publish *publish = &sent->publish;
    for (unsigned i = 0; i < batches; i++) {
        struct qbatch_message message = {
            .body = q_bytes_from(bytes, body),
            .time_ms = 1700000000000,
            .counter = (uint32_t)sequence,
        };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
        uint32_t envelope_size;
        uint32_t payload_size;
        cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
        cr_assert_leq(publish->payloads_size + payload_size, BYTES_MAX);
        struct qbatch_request_place place = { sequence, i, batches };
        qbatch_builder_write(
            builder, &place, sent->envelopes + publish->envelopes_size,
            sent->payloads + publish->payloads_size);
        qbatch_builder_reset(builder);
        publish->envelopes_size += envelope_size;
        publish->payloads_size += payload_size;
        sent->subjects[i] = q_bytes_from_text(names[i]);
    }
    qbatch_builder_free(builder);
    free(bytes);
    publish->request.kind = QLOG_PUBLISH;
    publish->request.done = on_done;
    publish->request.context = sent;
    publish->envelopes = sent->envelopes;
    publish->payloads = sent->payloads;
    publish->subjects = sent->subjects;
    publish->batch_count = batches;
    publish->settled = sequence;
    publish->ret_first_sequences = sent->firsts;
    cr_assert_eq(qlog_publish_check(publish), Q_OK);
    return sent;
}

static void
submit(struct sent *sent)
{
    cr_assert_eq(qlog_store_submit(fixture.store, &sent->publish.request), Q_OK);
}

static void
turn(void)
{
    cr_assert_eq(qlog_store_turn(fixture.store), Q_OK);
    cr_assert_eq(qlog_store_wait(fixture.store, Q_NS_PER_MS), Q_OK);
}

static enum q_err
wait_for(struct sent *sent)
{
    for (unsigned i = 0; i < 100000 && !sent->done; i++)
        turn();
    cr_assert(sent->done, "a request is answered");
    return sent->err;
}

/* Its answer: the first sequence, or the error below 0. */
struct answer {
    enum q_err err;
    uint64_t first;
    bool duplicate;
};

static struct answer
publish(char producer, uint64_t sequence, bool again)
{
    struct sent *sent = make(producer, sequence, 1, 100);
    sent->publish.again = again;
    submit(sent);
    struct answer answer = { .err = wait_for(sent) };
    answer.first = sent->firsts[0];
    answer.duplicate = sent->publish.duplicate;
    free(sent);
    return answer;
}

static void
assert_duplicate(char producer, uint64_t sequence, uint64_t first)
{
    struct answer answer = publish(producer, sequence, true);
    cr_assert_eq(answer.err, Q_OK, "%s", q_err_name(answer.err));
    cr_assert(answer.duplicate);
    cr_assert_eq(answer.first, first);
}

static void
setup(void)
{
    fixture_open(&fixture);
}

static void
teardown(void)
{
    fixture_close(&fixture);
}

TestSuite(store_once, .init = setup, .fini = teardown);

/* In one turn, before anything is written; both batches of it have their sequences in both answers. */
Test(store_once, a_repeat_while_the_first_is_under_way)
{
    cr_assert_eq(publish('a', 1, false).first, 0);
    struct sent *first = make('a', 2, 2, 100);
    struct sent *again = make('a', 2, 2, 100);
    again->publish.again = true;
    submit(first);
    submit(again);
    cr_assert_eq(wait_for(first), Q_OK);
    cr_assert_eq(wait_for(again), Q_OK);
    cr_assert(!first->publish.duplicate);
    cr_assert(again->publish.duplicate);
    cr_assert_eq(again->firsts[0], 1);
    cr_assert_eq(again->firsts[1], 0);
    cr_assert_eq(again->publish.achieved, QLOG_MODE_SYNC);
    free(first);
    free(again);
    assert_duplicate('a', 1, 0);
    cr_assert_eq(publish('a', 3, false).first, 2);
}

/* The first asked for less: its repeat waits for the flush that it asks for. */
Test(store_once, a_repeat_waits_for_its_own_mark)
{
    struct sent *first = make('a', 1, 1, 100);
    first->publish.mode = QLOG_MODE_ASYNC;
    submit(first);
    cr_assert_eq(wait_for(first), Q_OK);
    const struct ql_log *log = fixture.store->messages;
    cr_assert_lt(log->durable, log->tail, "not flushed: time stands still");
    struct sent *again = make('a', 1, 1, 100);
    again->publish.mode = QLOG_MODE_SYNC;
    submit(again);
    cr_assert_eq(wait_for(again), Q_OK);
    cr_assert_eq(log->durable, log->tail);
    cr_assert_eq(again->publish.achieved, QLOG_MODE_SYNC);
    free(first);
    free(again);
}

/* A flush that ends while the first is under way is not its flush. */
Test(store_once, a_repeat_waits_for_its_own_flush)
{
    const struct ql_log *log = fixture.store->messages;
    for (unsigned round = 1; round <= 100; round++) {
        struct sent *other = make('b', round, 1, 100);
        struct sent *first = make('a', round, 1, 100);
        struct sent *again = make('a', round, 1, 100);
        first->publish.mode = QLOG_MODE_ASYNC;
        submit(other);
        cr_assert_eq(qlog_store_turn(fixture.store), Q_OK);
        submit(first);
        submit(again);
        cr_assert_eq(wait_for(again), Q_OK);
        cr_assert_eq(log->durable, log->tail);
        cr_assert_eq(wait_for(first), Q_OK);
        cr_assert_eq(wait_for(other), Q_OK);
        free(other);
        free(first);
        free(again);
    }
}

Test(store_once, requests_are_stored_in_their_order)
{
    struct sent *sent[4];
    for (unsigned i = 0; i < 4; i++) {
        sent[i] = make('a', 4 - i, 1, 100);
        sent[i]->publish.settled = 0;
        submit(sent[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        cr_assert_eq(wait_for(sent[i]), Q_OK);
        cr_assert_eq(sent[i]->firsts[0], 3 - i);
        free(sent[i]);
    }
}

/* Two copies of an early one: the first is stored, the second is its repeat. */
Test(store_once, an_early_one_that_is_sent_twice)
{
    struct sent *sent[3];
    for (unsigned i = 0; i < 3; i++) {
        sent[i] = make('a', i < 2 ? 2 : 1, 1, 100);
        sent[i]->publish.settled = 0;
        submit(sent[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(wait_for(sent[i]), Q_OK);
    cr_assert_eq(sent[0]->publish.duplicate + sent[1]->publish.duplicate, 1);
    cr_assert_eq(sent[0]->firsts[0], 1);
    cr_assert_eq(sent[1]->firsts[0], 1);
    for (unsigned i = 0; i < 3; i++)
        free(sent[i]);
}

Test(store_once, an_early_one_is_not_held_for_ever)
{
    struct sent *sent = make('a', 2, 1, 100);
    sent->publish.settled = 0;
    submit(sent);
    for (unsigned i = 0; i < 20; i++)
        turn();
    cr_assert(!sent->done);
    q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
    cr_assert_eq(wait_for(sent), Q_OUT_OF_SEQUENCE);
    free(sent);
    cr_assert_eq(publish('a', 1, false).first, 0);
    cr_assert_eq(publish('a', 2, false).first, 1);
}

/* A close ends what is held. */
Test(store_once, an_early_one_at_the_end)
{
    struct sent *sent = make('a', 2, 1, 100);
    sent->publish.settled = 0;
    submit(sent);
    turn();
    cr_assert_eq(qlog_store_close(fixture.store), Q_OK);
    fixture.store = NULL;
    cr_assert(sent->done);
    cr_assert_eq(sent->err, Q_STOPPING);
    free(sent);
}

Test(store_once, what_is_not_known_is_said)
{
    cr_assert_eq(publish('a', 7, true).err, Q_UNKNOWN_PRODUCER);
    cr_assert_eq(publish('a', 7, false).err, Q_OK);
    cr_assert_eq(publish('a', 6, true).err, Q_OUT_OF_SEQUENCE);
    struct sent *other = make('a', 7, 1, 101);
    submit(other);
    cr_assert_eq(wait_for(other), Q_CONFLICT, "other bytes under the same number");
    free(other);
}

/* What a request has no number for is stored whenever it comes. */
Test(store_once, without_numbers)
{
    for (uint64_t i = 0; i < 3; i++) {
        struct answer answer = publish('a', 0, true);
        cr_assert_eq(answer.err, Q_OK);
        cr_assert_eq(answer.first, i);
        cr_assert(!answer.duplicate);
    }
}

/* Through clean stops, kill -9, and from index files on. */
Test(store_once, after_a_restart)
{
    for (uint64_t sequence = 1; sequence <= 5; sequence++)
        cr_assert_eq(publish('a', sequence, false).first, sequence - 1);
    fixture_reopen(&fixture);
    assert_duplicate('a', 5, 4);
    assert_duplicate('a', 1, 0);
    cr_assert_eq(publish('a', 6, false).first, 5);
    fixture_crash(&fixture);
    assert_duplicate('a', 6, 5);
    assert_duplicate('a', 2, 1);
    cr_assert_eq(publish('a', 7, true).first, 6);
}

static void
fill(char producer, unsigned count)
{
    static uint64_t sequence;
    for (unsigned i = 0; i < count; i++) {
        struct sent *sent = make(producer, ++sequence, 1, 30000);
        submit(sent);
        cr_assert_eq(wait_for(sent), Q_OK);
        free(sent);
    }
}

/* Many segments later a start reads neither those segments nor their requests. */
Test(store_once, far_behind_the_end_of_the_log)
{
    cr_assert_eq(publish('a', 1, false).first, 0);
    cr_assert_eq(publish('a', 2, false).first, 1);
    for (unsigned i = 0; i < 6; i++) {
        fill('b', 10);
        /* Long enough for what is written to be flushed. */
        q_clock_manual_advance_ns(&fixture.clock, Q_NS_PER_S);
        fixture_settle(&fixture);
        if (i % 2 == 0)
            fixture_crash(&fixture);
        else
            fixture_reopen(&fixture);
        assert_duplicate('a', 1, 0);
        assert_duplicate('a', 2, 1);
    }
    cr_assert_gt(fixture.store->home->super.producers, 0, "producers were stated");
    cr_assert_eq(publish('a', 3, false).err, Q_OK);
}

static void
trim(void)
{
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM },
        .messages_before = { fixture.store->messages->durable },
        .actions_before = { fixture.store->actions->durable },
    };
    cr_assert_eq(fixture_run(&fixture, &trim.request), Q_OK);
}

/* Its messages are gone, and the requests are known all the same. */
Test(store_once, behind_a_trim)
{
    cr_assert_eq(publish('a', 1, false).first, 0);
    cr_assert_eq(publish('a', 2, false).first, 1);
    for (unsigned i = 0; i < 4; i++) {
        fill('b', 12);
        trim();
        assert_duplicate('a', 2, QLOG_SEQUENCE_GONE);
        fixture_settle(&fixture);
        if (i % 2 == 0)
            fixture_crash(&fixture);
        else
            fixture_reopen(&fixture);
        assert_duplicate('a', 1, QLOG_SEQUENCE_GONE);
    }
    cr_assert_gt(fixture.store->messages->segments.segments[0]->base, 0);
    cr_assert_eq(publish('a', 3, false).err, Q_OK);
    cr_assert_eq(publish('c', 3, true).err, Q_UNKNOWN_PRODUCER);
}

/* A day later nobody sends it again. */
Test(store_once, a_producer_is_forgotten_after_a_day)
{
    cr_assert_eq(publish('a', 1, false).err, Q_OK);
    cr_assert_eq(publish('a', 2, false).err, Q_OK);
    fixture.clock.wall_ms += 23 * 3600 * 1000ull;
    turn();
    assert_duplicate('a', 2, 1);
    fixture.clock.wall_ms += 23 * 3600 * 1000ull;
    fixture_reopen(&fixture);
    cr_assert_eq(publish('a', 2, true).err, Q_UNKNOWN_PRODUCER, "nothing of it was stored since");
}

/* Refused by a full disk, a request keeps its turn. */
Test(store_once, a_refused_request_is_not_known)
{
    fixture.options.disk_hard_bytes = UINT64_MAX;
    fixture_reopen(&fixture);
    fixture.clock.monotonic_ns += 2 * (uint64_t)Q_NS_PER_S;
    turn();
    cr_assert_eq(publish('a', 1, false).err, Q_STORAGE_FULL);
    fixture.options.disk_hard_bytes = 1;
    fixture_reopen(&fixture);
    struct answer answer = publish('a', 1, true);
    cr_assert_eq(answer.err, Q_OK);
    cr_assert(!answer.duplicate);
    cr_assert_eq(answer.first, 0);
}

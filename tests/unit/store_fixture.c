#include "store_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include <qbatch/batch.h>
#include <qbatch/build.h>

#include "store/store.h"

const char fixture_subject[] = "orders";

enum {
    QUIET_TURNS = 50
};
/* Far more than anything takes, on any machine. */
#define WAIT_NS (60 * (uint64_t)Q_NS_PER_S)
static void turn_until_quiet(struct store_fixture *fixture, unsigned turns);
static enum q_err publish(
    struct store_fixture *fixture,
    const char *subject,
    const char *bodies,
    const char *tag,
    bool keyed,
    uint64_t *ret_first);

struct answer {
    bool done;
    enum q_err err;
};

static void
on_event(void *context, const struct qlog_event *event)
{
    struct store_fixture *fixture = context;
    fixture->events[event->kind]++;
    if (event->kind == QLOG_EVENT_TORN_TAIL) fixture->torn_bytes = event->bytes;
}

static void
on_done(struct qlog_request *request, enum q_err err)
{
    struct answer *answer = request->context;
    cr_assert(!answer->done, "a request is answered once");
    answer->done = true;
    answer->err = err;
}

static void
open_store(struct store_fixture *fixture)
{
    enum q_err err = qlog_store_open(fixture->directory, &fixture->options, &fixture->store);
    char text[Q_FAULT_LINE_MAX];
    cr_assert_eq(err, Q_OK, "open: %s", q_fault_format(q_fault_last(), text, sizeof(text)));
}

void
fixture_open(struct store_fixture *fixture)
{
    memset(fixture, 0, sizeof(*fixture));
    (void)snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/qlog-test-XXXXXX");
    cr_assert_not_null(mkdtemp(fixture->directory));
    q_clock_manual_init(&fixture->clock);
    fixture->clock.wall_ms = 1700000000000;
    fixture->observer = (struct qlog_observer){ .context = fixture, .on_event = on_event };
    fixture->options = (struct qlog_store_options){
        .log = {
            .clock = &fixture->clock.clock,
            .observer = &fixture->observer,
            .segment_bytes = 256 * 1024,
            .frame_bytes_max = 64 * 1024,
            .create = true,
        },
        /* Whatever the disk of this machine has left. */
        .disk_soft_bytes = 1,
        .disk_hard_bytes = 1,
        /* It pins what it reads, whenever it comes to it. */
        .scrub_bytes_per_s = UINT64_MAX,
    };
    open_store(fixture);
}

void
fixture_reopen(struct store_fixture *fixture)
{
    cr_assert_eq(qlog_store_close(fixture->store), Q_OK);
    open_store(fixture);
}

void
fixture_crash(struct store_fixture *fixture)
{
    /* A latched failure keeps the close from flushing or marking anything: what is on the disk is
     * what kill -9 leaves. */
    fixture->store->home->env.broken = Q_E_BROKEN;
    cr_assert_eq(qlog_store_close(fixture->store), Q_E_BROKEN);
    open_store(fixture);
}

void
fixture_close(struct store_fixture *fixture)
{
    if (fixture->store != NULL) cr_assert_eq(qlog_store_close(fixture->store), Q_OK);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture->directory);
    cr_assert_eq(system(command), 0);
}

enum q_err
fixture_run(struct store_fixture *fixture, struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = on_done;
    request->context = &answer;
    cr_assert_eq(qlog_store_submit(fixture->store, request), Q_OK);
    uint64_t until_ns = q_clock_monotonic_ns(q_clock_system()) + WAIT_NS;
    while (!answer.done && q_clock_monotonic_ns(q_clock_system()) < until_ns) {
        cr_assert_eq(qlog_store_turn(fixture->store), Q_OK);
        if (!answer.done) cr_assert_eq(qlog_store_wait(fixture->store, Q_NS_PER_MS), Q_OK);
    }
    cr_assert(answer.done, "a request is answered");
    return answer.err;
}

/* Something is on its way to the disk. */
static bool
is_busy(const struct qlog_store *store)
{
    const struct ql_home *home = store->home;
    for (unsigned i = 0; i < home->log_count; i++)
        if (!ql_log_is_idle(&home->logs[i], false)) return true;
    return home->super_busy || home->trim != NULL;
}

void
fixture_settle(struct store_fixture *fixture)
{
    turn_until_quiet(fixture, QUIET_TURNS);
}

void
fixture_rest(struct store_fixture *fixture)
{
    turn_until_quiet(fixture, 2);
}

static void
turn_until_quiet(struct store_fixture *fixture, unsigned turns)
{
    uint64_t until_ns = q_clock_monotonic_ns(q_clock_system()) + WAIT_NS;
    unsigned quiet = 0;
    while (quiet < turns) {
        cr_assert_lt(q_clock_monotonic_ns(q_clock_system()), until_ns, "the store comes to rest");
        cr_assert_eq(qlog_store_turn(fixture->store), Q_OK);
        cr_assert_eq(qlog_store_wait(fixture->store, Q_NS_PER_MS), Q_OK);
        quiet = is_busy(fixture->store) ? 0 : quiet + 1;
    }
}

void
fixture_settle_until(struct store_fixture *fixture, const unsigned *answers)
{
    uint64_t until_ns = q_clock_monotonic_ns(q_clock_system()) + WAIT_NS;
    while (*answers == 0) {
        cr_assert_lt(q_clock_monotonic_ns(q_clock_system()), until_ns, "it is answered");
        cr_assert_eq(qlog_store_turn(fixture->store), Q_OK);
        if (*answers == 0) cr_assert_eq(qlog_store_wait(fixture->store, Q_NS_PER_MS), Q_OK);
    }
}

enum q_err
fixture_publish(
    struct store_fixture *fixture,
    const char *subject,
    const char *bodies,
    const char *tag,
    uint64_t *ret_first)
{
    return publish(fixture, subject, bodies, tag, false, ret_first);
}

void
fixture_publish_keyed(struct store_fixture *fixture, const char *subject, const char *bodies)
{
    cr_assert_eq(publish(fixture, subject, bodies, NULL, true, NULL), Q_OK);
}

static enum q_err
publish(
    struct store_fixture *fixture,
    const char *subject,
    const char *bodies,
    const char *tag,
    bool keyed,
    uint64_t *ret_first)
{
    struct qbatch_builder_options options = { 0 };
    struct qbatch_builder *builder;
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    struct q_bytes tag_bytes = q_bytes_from_text(tag == NULL ? "" : tag);
    struct q_bytes key_bytes = q_bytes_from_text(fixture->key);
    const char *at = bodies;
    for (;;) {
        size_t size = strcspn(at, ",");
        size_t body_size = keyed ? strcspn(at, ":,") : size;
        struct qbatch_message message = {
            .body = q_bytes_from(at, body_size),
            .order_key = q_bytes_from(
                at + q_min_u64(body_size + 1, size), body_size < size ? size - body_size - 1 : 0),
            .tags = &tag_bytes,
            .tag_count = tag == NULL ? 0 : 1,
            .keys = &key_bytes,
            .key_count = key_bytes.size == 0 ? 0 : 1,
            .time_ms = fixture->clock.wall_ms,
            .counter = fixture->counter++,
        };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
        if (at[size] == '\0') break;
        at += size + 1;
    }
    uint32_t envelope_size;
    uint32_t payload_size;
    cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
    uint8_t *envelope = malloc(envelope_size);
    uint8_t *payload = malloc(payload_size + 1);
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, envelope, payload);
    qbatch_builder_free(builder);

    struct q_bytes name = q_bytes_from_text(subject);
    uint64_t first = UINT64_MAX;
    struct qlog_publish publish = {
        .request = { .kind = QLOG_PUBLISH },
        .envelopes = envelope,
        .envelopes_size = envelope_size,
        .payloads = payload,
        .payloads_size = payload_size,
        .subjects = &name,
        .batch_count = 1,
        .ret_first_sequences = &first,
    };
    enum q_err err = qlog_publish_check(&publish);
    if (err == Q_OK) err = fixture_run(fixture, &publish.request);
    if (ret_first != NULL) *ret_first = first;
    free(envelope);
    free(payload);
    return err;
}

static struct qlog_consumer
consumer_of(const char *group, const char *consumer, uint64_t session)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(fixture_subject),
        .group = q_bytes_from_text(group),
        .consumer = q_bytes_from_text(consumer),
        .session = session,
    };
}

uint64_t
fixture_join(
    struct store_fixture *fixture, const char *group, const char *consumer, const char *tag)
{
    static uint64_t tokens;
    struct qlog_join join = {
        .request = { .kind = QLOG_JOIN },
        .who = consumer_of(group, consumer, 0),
        .tag_count = tag == NULL ? 0 : 1,
    };
    if (tag != NULL) join.tags[0] = q_bytes_from_text(tag);
    q_store_le64(join.token, ++tokens);
    return fixture_run(fixture, &join.request) == Q_OK ? join.session : 0;
}

/* Bodies of the answer's messages, each found in its piece by its sequence. */
static void
pulled_text(struct pulled *pulled, const struct qlog_piece *pieces)
{
    size_t used = 0;
    for (uint32_t i = 0; i < pulled->run_count; i++) {
        for (uint32_t j = 0; j < pulled->runs[i].count; j++) {
            uint64_t wanted = pulled->runs[i].sequence + j;
            bool found = false;
            for (uint32_t k = 0; k < pulled->piece_count && !found; k++) {
                struct qbatch batch;
                struct q_bytes envelope = q_bytes_from(pieces[k].envelope, pieces[k].envelope_size);
                cr_assert_eq(qbatch_open(envelope, &batch), Q_OK);
                cr_assert_eq(qbatch_check_payload(&batch, pieces[k].payload), Q_OK);
                struct q_bytes content;
                cr_assert_eq(qbatch_content(&batch, pieces[k].payload, NULL, &content), Q_OK);
                struct qbatch_walk walk;
                struct qbatch_view view;
                qbatch_walk_start(&walk, &batch, content);
                while (qbatch_walk_next(&walk, true, &view) == Q_OK) {
                    if (batch.first_sequence + view.index != wanted) continue;
                    found = true;
                    int size = snprintf(
                        pulled->text + used, sizeof(pulled->text) - used, "%s%.*s",
                        used == 0 ? "" : ",", (int)view.body.size, (const char *)view.body.data);
                    used += (size_t)size;
                }
            }
            cr_assert(found, "each message of a run is in a piece");
        }
    }
}

struct pulled
fixture_pull(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint32_t messages_max,
    uint64_t received)
{
    struct pulled pulled = { 0 };
    struct qlog_piece pieces[FIXTURE_PIECES_MAX];
    struct qlog_pull pull = {
        .request = { .kind = QLOG_PULL },
        .who = consumer_of(group, consumer, session),
        .messages_max = messages_max,
        .bytes_max = 1024 * 1024,
        .received = received,
        .runs = pulled.runs,
        .runs_max = FIXTURE_RUNS_MAX,
        .pieces = pieces,
        .pieces_max = FIXTURE_PIECES_MAX,
        .messages_min = fixture->pull_extra.messages_min,
        .invisible_ms = fixture->pull_extra.invisible_ms,
        .once = fixture->pull_extra.once,
    };
    pulled.err = fixture_run(fixture, &pull.request);
    if (pulled.err != Q_OK) return pulled;
    pulled.run_count = pull.run_count;
    pulled.piece_count = pull.piece_count;
    pulled.unacked = pull.unacked;
    pulled.waiting = pull.waiting;
    pulled_text(&pulled, pieces);
    qlog_pull_release(&pull);
    return pulled;
}

enum q_err
fixture_ack(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t first,
    uint64_t last)
{
    struct qlog_range range = { .first = first, .last = last };
    struct qlog_range expired[4];
    struct qlog_ack ack = {
        .request = { .kind = QLOG_ACK },
        .who = consumer_of(group, consumer, session),
        .ranges = &range,
        .range_count = 1,
        .expired = expired,
        .expired_max = 4,
    };
    enum q_err err = fixture_run(fixture, &ack.request);
    if (err == Q_OK && ack.expired_count > 0) return Q_EXPIRED;
    return err;
}

enum q_err
fixture_nack(
    struct store_fixture *fixture,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t first,
    uint64_t last,
    uint64_t delay_ms,
    const char *error)
{
    struct qlog_range range = { .first = first, .last = last };
    struct qlog_range expired[4];
    struct qlog_nack nack = {
        .request = { .kind = QLOG_NACK },
        .who = consumer_of(group, consumer, session),
        .ranges = &range,
        .range_count = 1,
        .delay_ms = delay_ms,
        .error = q_bytes_from_text(error),
        .expired = expired,
        .expired_max = 4,
    };
    enum q_err err = fixture_run(fixture, &nack.request);
    if (err == Q_OK && nack.expired_count > 0) return Q_EXPIRED;
    return err;
}

enum q_err
fixture_leave(
    struct store_fixture *fixture, const char *group, const char *consumer, uint64_t session)
{
    struct qlog_session leave = {
        .request = { .kind = QLOG_LEAVE },
        .who = consumer_of(group, consumer, session),
    };
    return fixture_run(fixture, &leave.request);
}

enum q_err
fixture_keep_alive(
    struct store_fixture *fixture, const char *group, const char *consumer, uint64_t session)
{
    struct qlog_session alive = {
        .request = { .kind = QLOG_KEEP_ALIVE },
        .who = consumer_of(group, consumer, session),
    };
    return fixture_run(fixture, &alive.request);
}

static void
on_parked(struct qlog_request *request, enum q_err err)
{
    struct fixture_parked *parked = request->context;
    parked->answers++;
    parked->err = err;
}

void
fixture_wait_for(
    struct store_fixture *fixture,
    struct fixture_parked *parked,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t received)
{
    *parked = (struct fixture_parked){
        .pull = {
            .request = { .kind = QLOG_PULL, .done = on_parked, .context = parked },
            .who = consumer_of(group, consumer, session),
            .messages_max = 10,
            .bytes_max = 65536,
            .wait_ns = 5ull * Q_NS_PER_S,
            .received = received,
            .messages_min = fixture->pull_extra.messages_min,
            .runs = parked->runs,
            .runs_max = 8,
            .pieces = parked->pieces,
            .pieces_max = 8,
        },
    };
    cr_assert_eq(qlog_store_submit(fixture->store, &parked->pull.request), Q_OK);
}

void
fixture_park(
    struct store_fixture *fixture,
    struct fixture_parked *parked,
    const char *group,
    const char *consumer,
    uint64_t session,
    uint64_t received)
{
    fixture_wait_for(fixture, parked, group, consumer, session, received);
    fixture_settle(fixture);
}

/*
 * source.c: a consumer's session with one broker group.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "consumer.h"

enum {
    TRY_TIMEOUT_MS = 5 * 1000,
    ANSWER_MARGIN_MS = 5 * 1000, /* a pull's answer after its wait is over */
    LEAVE_TIMEOUT_MS = 2 * 1000,
    CONSUMER_TIMEOUT_MS_DEFAULT = 30 * 1000,
    PINGS_PER_TIMEOUT = 3,
    EARLY_NS = 5 * Q_NS_PER_MS,
};

static void join(struct source *source);
static enum q_err submit(
    struct source *source,
    enum broker_link which,
    unsigned op,
    const ProtobufCMessage *header,
    uint64_t timeout_ms,
    qnet_done_fn *done);
static void not_submitted(struct source *source, enum q_err err);
static void on_joined(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static void take_join(struct source *source, const Qmq__Wire__JoinAnswer *join);
static void on_pulled(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static void take_pull(struct source *source, const struct answer *answer, struct qmq_batch *batch);
static void ping(struct source *source);
static void on_pinged(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer);
static void fill_session(const struct source *source, Qmq__Wire__SessionRequest *session);

enum q_err
source_new(struct qmq_consumer *consumer, struct broker *broker)
{
    struct source *source = calloc(1, sizeof(*source));
    if (!source) return Q_FAIL(Q_E_NOMEM);
    source->consumer = consumer;
    source->broker = broker;
    source->timeout_ns = CONSUMER_TIMEOUT_MS_DEFAULT * (uint64_t)Q_NS_PER_MS;
    random_bytes(source->token, sizeof(source->token));
    q_list_push_back(&consumer->sources, &source->node);
    return Q_OK;
}

uint64_t
source_tick(struct source *source, uint64_t now_ns)
{
    if (source->state == SOURCE_LEFT) {
        if (now_ns < source->next_ns) return source->next_ns;
        join(source);
        return source->state == SOURCE_LEFT ? source->next_ns : UINT64_MAX;
    }
    if (source->state != SOURCE_READY) return UINT64_MAX;

    uint64_t due_ns = source->heard_ns + source->timeout_ns / PINGS_PER_TIMEOUT;
    if (now_ns < due_ns) return due_ns;
    if (!source->is_pinging) ping(source);
    return now_ns + source->timeout_ns / PINGS_PER_TIMEOUT;
}

static void
join(struct source *source)
{
    struct qmq_consumer *consumer = source->consumer;
    Qmq__Wire__JoinRequest join = QMQ__WIRE__JOIN_REQUEST__INIT;
    join.subject = consumer->subject;
    join.group = consumer->group;
    join.consumer = consumer->name;
    join.tags = consumer->tags;
    join.n_tags = consumer->tag_count;
    join.tags_all = consumer->tags_all;
    join.start = start_number(consumer->start);
    join.start_at = consumer->start_at;
    join.broadcast = consumer->broadcast;
    join.token = (ProtobufCBinaryData){ .len = TOKEN_SIZE, .data = source->token };

    enum q_err err = broker_check_link(source->broker, BROKER_CALLS);
    if (err == Q_OK)
        err = submit(source, BROKER_CALLS, QPROTO_JOIN, &join.base, TRY_TIMEOUT_MS, on_joined);
    if (err == Q_OK)
        source->state = SOURCE_JOINING;
    else
        not_submitted(source, err);
}

uint32_t
start_number(enum qmq_start start)
{
    Q_ASSERT(start != QMQ_START_DEFAULT);
    return (uint32_t)start - QMQ_START_EARLIEST;
}

static enum q_err
submit(
    struct source *source,
    enum broker_link which,
    unsigned op,
    const ProtobufCMessage *header,
    uint64_t timeout_ms,
    qnet_done_fn *done)
{
    source->call.net = (struct qnet_request){ .timeout_ms = timeout_ms, .done = done };
    Q_TRY(call_build(op, header, 0, &source->call.net.buffer, NULL));
    return broker_submit(source->broker, which, &source->call);
}

/* Nothing was lost by it: not a reason to wait longer each time. */
static void
not_submitted(struct source *source, enum q_err err)
{
    source_failed(source, err);
    source->next_ns = client_now_ns(source->consumer->client) + BROKER_LOST_PAUSE_NS;
}

static void
on_joined(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct call *call = q_container_of(net, struct call, net);
    struct source *source = q_container_of(call, struct source, call);
    struct qmq_consumer *consumer = source->consumer;
    struct answer answer;

    if (err == Q_OK) err = answer_open(&answer, buffer, QPROTO_JOIN);

    pthread_mutex_lock(&consumer->lock);
    source->state = SOURCE_LEFT;
    if (err == Q_OK) {
        take_join(source, (const Qmq__Wire__JoinAnswer *)answer.header);
        answer_close(&answer);
    } else {
        source_failed(source, err);
    }
    pthread_cond_broadcast(&consumer->changed);
    client_wake(consumer->client);
    pthread_mutex_unlock(&consumer->lock);
}

static void
take_join(struct source *source, const Qmq__Wire__JoinAnswer *join)
{
    source->state = SOURCE_READY;
    source->err = Q_OK;
    source->backoff_ms = 0;
    source->next_ns = 0;
    source->heard_ns = client_now_ns(source->consumer->client);
    source->session = join->session;
    /* A broker that has forgotten this consumer may count its pulls anew; one that holds messages
     * for it has not, and some of those may be in the program's hands. */
    if (join->unacked == 0) source->received = 0;
    source->cursor = join->cursor;
    source->waiting = join->waiting;
    source->pending = join->pending;
    source->unacked = join->unacked;
    source->group_created |= join->group_created;
    if (join->consumer_timeout_ms > 0)
        source->timeout_ns = join->consumer_timeout_ms * (uint64_t)Q_NS_PER_MS;
}

void
source_pull(struct source *source, uint64_t wait_ns)
{
    struct qmq_consumer *consumer = source->consumer;
    uint32_t wait_ms = (uint32_t)q_min_u64(wait_ns / Q_NS_PER_MS, UINT32_MAX / 2);
    Qmq__Wire__PullRequest pull = QMQ__WIRE__PULL_REQUEST__INIT;
    pull.subject = consumer->subject;
    pull.group = consumer->group;
    pull.consumer = consumer->name;
    pull.session = source->session;
    pull.messages_max = consumer->messages_max;
    pull.bytes_max = consumer->pull_bytes_max;
    pull.wait_ms = wait_ms;
    pull.received = source->received;
    pull.messages_min = consumer->pull_messages_min;
    pull.invisible_ms = consumer->invisible_ms;
    pull.once = consumer->at_most_once;

    Q_ASSERT(source->state == SOURCE_READY);
    Q_ASSERT(!source->fetched);
    enum q_err err = broker_check_link(source->broker, BROKER_BULK);
    if (err == Q_OK)
        err = submit(
            source, BROKER_BULK, QPROTO_PULL, &pull.base, (uint64_t)wait_ms + ANSWER_MARGIN_MS,
            on_pulled);
    if (err != Q_OK) {
        not_submitted(source, err);
        return;
    }
    hooks_count(&consumer->client->hooks, COUNT_pulls, 1);
    source->state = SOURCE_PULLING;
    source->heard_ns = client_now_ns(consumer->client);
    source->pulling_until_ns = source->heard_ns + wait_ns;
}

static void
on_pulled(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct call *call = q_container_of(net, struct call, net);
    struct source *source = q_container_of(call, struct source, call);
    struct qmq_consumer *consumer = source->consumer;
    struct answer answer;
    struct qmq_batch *batch = NULL;

    /* Bodies are checked without the lock. `received` is safe: only pulls move it, this is the one
     * under way. */
    if (err == Q_OK) err = answer_open(&answer, buffer, QPROTO_PULL);
    bool has_answer = err == Q_OK;
    uint64_t received = source->received;
    if (has_answer) err = received_open(&answer, source->broker->number, &received, &batch);

    pthread_mutex_lock(&consumer->lock);
    source->state = SOURCE_READY;
    bool was_cancelled = source->is_cancelled && err == Q_STOPPING;
    source->is_cancelled = false;
    if (err == Q_OK) {
        source->received = received;
        take_pull(source, &answer, batch);
    } else if (!was_cancelled) {
        source_failed(source, err);
    }
    pthread_cond_broadcast(&consumer->changed);
    client_wake(consumer->client);
    pthread_mutex_unlock(&consumer->lock);
    if (has_answer) answer_close(&answer);
}

static void
take_pull(struct source *source, const struct answer *answer, struct qmq_batch *batch)
{
    const Qmq__Wire__PullAnswer *pull = (const Qmq__Wire__PullAnswer *)answer->header;

    source->err = Q_OK;
    source->backoff_ms = 0;
    source->next_ns = 0;
    source->waiting = pull->waiting;
    source->unacked = pull->unacked;
    source->held = pull->held <= QMQ_HELD_MEMORY ? (enum qmq_held)pull->held : QMQ_HELD_NOT;
    source->fetched = batch;
    if (batch) {
        batch->arrived_ns = client_now_ns(source->consumer->client);
        hooks_count(&source->consumer->client->hooks, COUNT_pulled, batch->message_count);
        source->consumer->wants = false;
        event_raise(source->consumer->event_fd);
        return;
    }
    source->answered_in = source->consumer->round;
    /* Sent home before the time: not to be asked again in the same instant. */
    uint64_t now_ns = client_now_ns(source->consumer->client);
    if (now_ns + EARLY_NS < source->pulling_until_ns) source->next_ns = now_ns + EARLY_NS;
}

/* What can't pass is the end of the source; a lost session asks for another one. */
void
source_failed(struct source *source, enum q_err err)
{
    /* To a consumer STOPPING says that it was stopped itself. */
    if (err == Q_STOPPING)
        err = Q_FAIL(
            Q_UNAVAILABLE, .what = q_text("broker group %s is stopping", source->broker->group));
    source->err = err;
    source->fault = *q_fault_last();
    source->next_ns = client_now_ns(source->consumer->client) + backoff_next(&source->backoff_ms);
    if (is_session_lost(err))
        source_lost_session(source, source->session);
    else if (!is_passing(err))
        source->state = SOURCE_REFUSED;
    if (source->state == SOURCE_REFUSED) event_raise(source->consumer->event_fd);
}

/* A broker that has lost its data does not know the group either. */
bool
is_session_lost(enum q_err err)
{
    return err == Q_NO_SESSION || err == Q_NOT_FOUND;
}

void
source_lost_session(struct source *source, uint64_t session)
{
    if (source->session != session) return;
    if (source->state != SOURCE_READY && source->state != SOURCE_LEFT) return;
    source->state = SOURCE_LEFT;
    random_bytes(source->token, sizeof(source->token));
    client_wake(source->consumer->client);
}

static void
ping(struct source *source)
{
    Qmq__Wire__SessionRequest session = QMQ__WIRE__SESSION_REQUEST__INIT;
    fill_session(source, &session);

    struct call *call = &source->ping;
    call->net = (struct qnet_request){ .timeout_ms = TRY_TIMEOUT_MS, .done = on_pinged };
    enum q_err err = call_build(QPROTO_KEEP_ALIVE, &session.base, 0, &call->net.buffer, NULL);
    if (err == Q_OK) err = broker_submit(source->broker, BROKER_CALLS, call);
    source->is_pinging = err == Q_OK;
}

static void
on_pinged(struct qnet_request *net, enum q_err err, struct qnet_buffer *buffer)
{
    struct call *call = q_container_of(net, struct call, net);
    struct source *source = q_container_of(call, struct source, ping);
    struct qmq_consumer *consumer = source->consumer;
    struct answer answer;

    if (err == Q_OK) err = answer_open(&answer, buffer, QPROTO_KEEP_ALIVE);
    if (err == Q_OK) answer_close(&answer);

    pthread_mutex_lock(&consumer->lock);
    source->is_pinging = false;
    if (err == Q_OK) source->heard_ns = client_now_ns(consumer->client);
    if (is_session_lost(err)) source_lost_session(source, source->session);
    pthread_cond_broadcast(&consumer->changed);
    pthread_mutex_unlock(&consumer->lock);
}

static void
fill_session(const struct source *source, Qmq__Wire__SessionRequest *session)
{
    session->subject = source->consumer->subject;
    session->group = source->consumer->group;
    session->consumer = source->consumer->name;
    session->session = source->session;
}

/* Also when pulls are refused for another reason: what it holds can be acknowledged, and given back. */
bool
source_has_session(const struct source *source)
{
    if (source->session == 0) return false;
    if (source->state == SOURCE_REFUSED) return source->err != Q_CONSUMER_REPLACED;
    return source->state == SOURCE_READY || source->state == SOURCE_PULLING;
}

bool
source_has_call(const struct source *source)
{
    return source->state == SOURCE_JOINING || source->state == SOURCE_PULLING || source->is_pinging;
}

void
source_shorten(struct source *source)
{
    Q_ASSERT(source->state == SOURCE_PULLING);
    source->is_cancelled = true;
    call_cancel(&source->call);
}

void
source_cancel(struct source *source)
{
    if (source->state == SOURCE_JOINING || source->state == SOURCE_PULLING)
        call_cancel(&source->call);
    if (source->is_pinging) call_cancel(&source->ping);
}

void
source_leave(struct source *source)
{
    if (!source_has_session(source)) return;

    Qmq__Wire__SessionRequest session = QMQ__WIRE__SESSION_REQUEST__INIT;
    struct answer answer;
    fill_session(source, &session);
    /* When it does not get through, the broker's patience ends by itself. */
    enum q_err err =
        broker_call(source->broker, QPROTO_LEAVE, &session.base, LEAVE_TIMEOUT_MS, &answer);
    if (err == Q_OK) answer_close(&answer);
}

void
source_free(struct source *source)
{
    qmq_batch_free(source->fetched);
    free(source);
}

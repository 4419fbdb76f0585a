/*
 * ack.c: acknowledge, through whatever happens to the connection or the session.
 */
#include <stdlib.h>

#include "consumer.h"

enum {
    RANGES_MAX = 4096, /* of one call */
    TRY_TIMEOUT_MS = 5 * 1000,
};

static enum q_err ack_messages(
    struct qmq_consumer *consumer, const struct qmq_batch *batch, size_t first, size_t count);
static enum q_err ack_ranges(
    struct qmq_consumer *consumer, uint32_t number, Qmq__Wire__Range *ranges, size_t count);
static struct source *find_source(struct qmq_consumer *consumer, uint32_t number);
static enum q_err wait_session(struct source *source, uint64_t until_ns);
static enum q_err send_ack(
    struct source *source, Qmq__Wire__Range *ranges, size_t count, size_t *ret_expired);
static void take_answer(struct source *source, const Qmq__Wire__AckAnswer *ack);

int
qmq_ack(struct qmq_consumer *consumer, const struct qmq_batch *batch, size_t first, size_t count)
{
    return ack_messages(consumer, batch, first, count);
}

static enum q_err
ack_messages(
    struct qmq_consumer *consumer, const struct qmq_batch *batch, size_t first, size_t count)
{
    if (first > batch->message_count || count > batch->message_count - first)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "messages %zu to %zu of a batch of %u", first, first + count,
                           batch->message_count));

    Qmq__Wire__Range *ranges = malloc((count + 1) * sizeof(*ranges));
    if (!ranges) return Q_FAIL(Q_E_NOMEM);
    size_t range_count = 0;
    for (size_t index = first; index < first + count; index++) {
        uint64_t pull_sequence = batch->messages[index].pull_sequence;
        if (range_count > 0 && ranges[range_count - 1].last + 1 == pull_sequence) {
            ranges[range_count - 1].last = pull_sequence;
            continue;
        }
        qmq__wire__range__init(&ranges[range_count]);
        ranges[range_count].first = pull_sequence;
        ranges[range_count].last = pull_sequence;
        range_count++;
    }
    enum q_err err = ack_ranges(consumer, batch->source, ranges, range_count);
    free(ranges);
    return err;
}

int
qmq_ack_range(struct qmq_consumer *consumer, uint32_t source, uint64_t first, uint64_t last)
{
    Qmq__Wire__Range range = QMQ__WIRE__RANGE__INIT;
    range.first = first;
    range.last = last;
    return ack_ranges(consumer, source, &range, 1);
}

static enum q_err
ack_ranges(struct qmq_consumer *consumer, uint32_t number, Qmq__Wire__Range *ranges, size_t count)
{
    struct source *source = find_source(consumer, number);
    if (!source) return Q_FAIL(Q_INVALID, .what = q_text("no source has number %u", number));

    struct qmq_client *client = consumer->client;
    uint64_t until_ns = client_now_ns(client) + client->timeout_ms * (uint64_t)Q_NS_PER_MS;
    uint32_t backoff_ms = 0;
    size_t expired = 0;
    size_t done = 0;
    while (done < count) {
        size_t part = q_min_u64(count - done, RANGES_MAX);
        Q_TRY(wait_session(source, until_ns));
        enum q_err err = send_ack(source, ranges + done, part, &expired);
        if (err == Q_OK) {
            done += part;
            continue;
        }
        bool can_pass = is_passing(err) || is_session_lost(err);
        if (!can_pass || client_now_ns(client) >= until_ns) return err;

        pthread_mutex_lock(&consumer->lock);
        uint64_t pause_ns = client_now_ns(client) + backoff_next(&backoff_ms);
        while (condition_wait(&consumer->changed, &consumer->lock, pause_ns))
            continue;
        pthread_mutex_unlock(&consumer->lock);
    }
    if (expired == 0) return Q_OK;
    return Q_FAIL(Q_EXPIRED, .what = q_text("%zu of %zu ranges came too late", expired, count));
}

static struct source *
find_source(struct qmq_consumer *consumer, uint32_t number)
{
    struct source *found = NULL;

    pthread_mutex_lock(&consumer->lock);
    q_list_for_each(node, &consumer->sources) {
        struct source *source = q_container_of(node, struct source, node);
        if (source->broker->number == number) found = source;
    }
    pthread_mutex_unlock(&consumer->lock);
    return found;
}

/* The client's thread joins; here it is only waited for. */
static enum q_err
wait_session(struct source *source, uint64_t until_ns)
{
    struct qmq_consumer *consumer = source->consumer;
    enum q_err err = Q_OK;

    pthread_mutex_lock(&consumer->lock);
    while (source->state == SOURCE_LEFT || source->state == SOURCE_JOINING) {
        if (condition_wait(&consumer->changed, &consumer->lock, until_ns)) continue;
        err = source->err;
        q_fault_adopt(&source->fault);
        if (err == Q_OK) err = Q_FAIL(Q_TIMED_OUT, .what = "no session with the broker in time");
        break;
    }
    if (source->state == SOURCE_REFUSED) {
        err = source->err;
        q_fault_adopt(&source->fault);
    }
    pthread_mutex_unlock(&consumer->lock);
    return err;
}

static enum q_err
send_ack(struct source *source, Qmq__Wire__Range *ranges, size_t count, size_t *ret_expired)
{
    struct qmq_consumer *consumer = source->consumer;
    Qmq__Wire__Range *pointers[RANGES_MAX];
    for (size_t index = 0; index < count; index++)
        pointers[index] = &ranges[index];

    Qmq__Wire__AckRequest ack = QMQ__WIRE__ACK_REQUEST__INIT;
    ack.subject = consumer->subject;
    ack.group = consumer->group;
    ack.consumer = consumer->name;
    ack.ranges = pointers;
    ack.n_ranges = count;
    pthread_mutex_lock(&consumer->lock);
    ack.session = source->session;
    pthread_mutex_unlock(&consumer->lock);

    struct answer answer;
    enum q_err err = broker_call(source->broker, QPROTO_ACK, &ack.base, TRY_TIMEOUT_MS, &answer);
    if (err == Q_OK) {
        const Qmq__Wire__AckAnswer *header = (const Qmq__Wire__AckAnswer *)answer.header;
        *ret_expired += header->n_expired;
        take_answer(source, header);
        answer_close(&answer);
    } else if (is_session_lost(err)) {
        pthread_mutex_lock(&consumer->lock);
        source_lost_session(source, ack.session);
        pthread_mutex_unlock(&consumer->lock);
    }
    return err;
}

static void
take_answer(struct source *source, const Qmq__Wire__AckAnswer *ack)
{
    pthread_mutex_lock(&source->consumer->lock);
    source->unacked = ack->unacked;
    source->heard_ns = client_now_ns(source->consumer->client);
    pthread_mutex_unlock(&source->consumer->lock);
}

/*
 * ack.c: acknowledge, or say that it failed, through whatever happens to the connection or the
 * session.
 */
#include <stdlib.h>

#include "consumer.h"

enum {
    RANGES_MAX = 4096, /* of one call */
    TRY_TIMEOUT_MS = 5 * 1000,
};

/* What is said about ranges of pull sequences, and what the broker said to it. */
struct verdict {
    const struct qmq_nack_options *nack; /* NULL: they are done */
    Qmq__Wire__Range *ranges;
    size_t count;
    uint64_t expired; /* messages */
};

static enum q_err say_messages(
    struct qmq_consumer *consumer,
    const struct qmq_batch *batch,
    size_t first,
    size_t count,
    const struct qmq_nack_options *nack);
static enum q_err say(struct qmq_consumer *consumer, uint32_t number, struct verdict *verdict);
static enum q_err wait_session(struct source *source, uint64_t until_ns);
static enum q_err send_part(
    struct source *source, struct verdict *verdict, size_t first, size_t count);
static enum q_err send_ranges(
    struct source *source,
    Qmq__Wire__Range **ranges,
    size_t count,
    uint64_t session,
    struct verdict *verdict);
static uint64_t count_messages(Qmq__Wire__Range *const *ranges, size_t count);
static void take_answer(struct source *source, uint64_t unacked);
static enum q_err came_too_late(const struct verdict *verdict);

int
qmq_ack(struct qmq_consumer *consumer, const struct qmq_batch *batch, size_t first, size_t count)
{
    return say_messages(consumer, batch, first, count, NULL);
}

int
qmq_nack(
    struct qmq_consumer *consumer,
    const struct qmq_batch *batch,
    size_t first,
    size_t count,
    const struct qmq_nack_options *options)
{
    static const struct qmq_nack_options defaults;
    return say_messages(consumer, batch, first, count, options ? options : &defaults);
}

static enum q_err
say_messages(
    struct qmq_consumer *consumer,
    const struct qmq_batch *batch,
    size_t first,
    size_t count,
    const struct qmq_nack_options *nack)
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
    struct verdict verdict = { .nack = nack, .ranges = ranges, .count = range_count };
    enum q_err err = say(consumer, batch->source, &verdict);
    free(ranges);
    return err;
}

int
qmq_ack_range(struct qmq_consumer *consumer, uint32_t source, uint64_t first, uint64_t last)
{
    Qmq__Wire__Range range = QMQ__WIRE__RANGE__INIT;
    range.first = first;
    range.last = last;
    struct verdict verdict = { .ranges = &range, .count = 1 };
    return say(consumer, source, &verdict);
}

static enum q_err
say(struct qmq_consumer *consumer, uint32_t number, struct verdict *verdict)
{
    Q_TRY(client_check(consumer->client));
    struct source *source = consumer_source(consumer, number);
    if (!source) return Q_FAIL(Q_INVALID, .what = q_text("no source has number %u", number));

    struct qmq_client *client = consumer->client;
    uint64_t until_ns = client_now_ns(client) + client->timeout_ms * (uint64_t)Q_NS_PER_MS;
    uint32_t backoff_ms = 0;
    size_t done = 0;
    while (done < verdict->count) {
        size_t part = q_min_u64(verdict->count - done, RANGES_MAX);
        Q_TRY(wait_session(source, until_ns));
        enum q_err err = send_part(source, verdict, done, part);
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
    return verdict->expired == 0 ? Q_OK : came_too_late(verdict);
}

static enum q_err
came_too_late(const struct verdict *verdict)
{
    uint64_t messages = 0;
    for (size_t index = 0; index < verdict->count; index++)
        messages += verdict->ranges[index].last - verdict->ranges[index].first + 1;
    return Q_FAIL(
        Q_EXPIRED, .what = q_text(
                       "%llu of %llu messages were given to another consumer before",
                       (unsigned long long)verdict->expired, (unsigned long long)messages));
}

struct source *
consumer_source(struct qmq_consumer *consumer, uint32_t number)
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
send_part(struct source *source, struct verdict *verdict, size_t first, size_t count)
{
    struct qmq_consumer *consumer = source->consumer;
    Qmq__Wire__Range *ranges[RANGES_MAX];
    for (size_t index = 0; index < count; index++)
        ranges[index] = &verdict->ranges[first + index];
    pthread_mutex_lock(&consumer->lock);
    uint64_t session = source->session;
    pthread_mutex_unlock(&consumer->lock);

    uint64_t expired_before = verdict->expired;
    enum q_err err = send_ranges(source, ranges, count, session, verdict);
    uint64_t expired = verdict->expired - expired_before;
    if (err == Q_OK)
        hooks_count(
            &consumer->client->hooks, verdict->nack ? COUNT_nacked : COUNT_acked,
            count_messages(ranges, count) - expired);
    if (is_session_lost(err)) {
        pthread_mutex_lock(&consumer->lock);
        source_lost_session(source, session);
        pthread_mutex_unlock(&consumer->lock);
    }
    return err;
}

static enum q_err
send_ranges(
    struct source *source,
    Qmq__Wire__Range **ranges,
    size_t count,
    uint64_t session,
    struct verdict *verdict)
{
    struct qnet_buffer *buffer;
    Q_TRY(ack_build(source, ranges, count, session, verdict->nack, &buffer));

    struct call_waiter waiter;
    call_waiter_init(&waiter, buffer, TRY_TIMEOUT_MS);
    enum q_err err = broker_submit(source->broker, BROKER_CALLS, &waiter.call);
    Q_TRY(call_wait(&waiter, err, &buffer));
    uint64_t expired;
    Q_TRY(ack_read(source, verdict->nack != NULL, buffer, &expired));
    verdict->expired += expired;
    return Q_OK;
}

enum q_err
ack_build(
    struct source *source,
    Qmq__Wire__Range **ranges,
    size_t count,
    uint64_t session,
    const struct qmq_nack_options *nack,
    struct qnet_buffer **ret_buffer)
{
    struct qmq_consumer *consumer = source->consumer;
    if (!nack) {
        Qmq__Wire__AckRequest request = QMQ__WIRE__ACK_REQUEST__INIT;
        request.subject = consumer->subject;
        request.group = consumer->group;
        request.consumer = consumer->name;
        request.session = session;
        request.ranges = ranges;
        request.n_ranges = count;
        return call_build(QPROTO_ACK, &request.base, 0, ret_buffer, NULL);
    }
    Qmq__Wire__NackRequest request = QMQ__WIRE__NACK_REQUEST__INIT;
    request.subject = consumer->subject;
    request.group = consumer->group;
    request.consumer = consumer->name;
    request.session = session;
    request.ranges = ranges;
    request.n_ranges = count;
    request.with_delay = nack->with_delay;
    request.delay_ms = nack->delay_ms;
    if (nack->error) request.error = (char *)nack->error;
    return call_build(QPROTO_NACK, &request.base, 0, ret_buffer, NULL);
}

enum q_err
ack_read(struct source *source, bool is_nack, struct qnet_buffer *buffer, uint64_t *ret_expired)
{
    struct answer answer;
    Q_TRY(answer_open(&answer, buffer, is_nack ? QPROTO_NACK : QPROTO_ACK));
    if (is_nack) {
        const Qmq__Wire__NackAnswer *nacked = (const Qmq__Wire__NackAnswer *)answer.header;
        *ret_expired = count_messages(nacked->expired, nacked->n_expired);
        take_answer(source, nacked->unacked);
    } else {
        const Qmq__Wire__AckAnswer *acked = (const Qmq__Wire__AckAnswer *)answer.header;
        *ret_expired = count_messages(acked->expired, acked->n_expired);
        take_answer(source, acked->unacked);
    }
    answer_close(&answer);
    return Q_OK;
}

static uint64_t
count_messages(Qmq__Wire__Range *const *ranges, size_t count)
{
    uint64_t messages = 0;
    for (size_t index = 0; index < count; index++)
        messages += ranges[index]->last - ranges[index]->first + 1;
    return messages;
}

static void
take_answer(struct source *source, uint64_t unacked)
{
    pthread_mutex_lock(&source->consumer->lock);
    source->unacked = unacked;
    source->heard_ns = client_now_ns(source->consumer->client);
    pthread_mutex_unlock(&source->consumer->lock);
}

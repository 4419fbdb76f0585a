/*
 * qmq.c: the queue of this project, by its public client and nothing else. --port is that of meta.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qmq/qmq.h>

#include "load.h"

struct side {
    const struct load *load;
    struct qmq_client *client;
    struct qmq_producer *producer;
    char (*subjects)[32];
    /* Callbacks come on threads of the client: they count, and wake who waits. */
    _Atomic uint64_t acked;
    _Atomic bool waiting;
    int wake;

    struct qmq_consumer **consumers; /* one for each subject */
    uint64_t next;
};

static struct side *
side_new(const struct load *load)
{
    struct side *side = calloc(1, sizeof(*side));
    char meta[64];
    (void)snprintf(meta, sizeof(meta), "tcp://127.0.0.1:%" PRIu64, load->port);
    struct qmq_client_options options = { .meta = meta, .program = "load" };
    if (side == NULL || qmq_connect(&options, &side->client) != QMQ_OK)
        load_die("%s: %s", meta, qmq_last_error().message);
    side->load = load;
    return side;
}

/* Subjects and groups come into being when they are used. */
static void
create(const struct load *load)
{
    (void)load;
}

static void *
producer(const struct load *load)
{
    struct side *side = side_new(load);
    struct qmq_producer_options options = {
        .mode = load->sync ? QMQ_MODE_SYNC : QMQ_MODE_ASYNC,
        .memory_bytes_max = UINT64_C(256) << 20,
    };
    if (qmq_producer_new(side->client, &options, &side->producer) != QMQ_OK)
        load_die("producer: %s", qmq_last_error().message);
    side->subjects = calloc(load->subjects, sizeof(*side->subjects));
    side->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (side->subjects == NULL || side->wake < 0) load_die("producer: %m");
    for (uint64_t i = 0; i < load->subjects; i++)
        (void)load_subject(side->subjects[i], i);
    return side;
}

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct side *side = context;
    if (sent->code != QMQ_OK) load_die("publish: %s", qmq_last_error().message);
    (void)atomic_fetch_add(&side->acked, 1);
    if (!atomic_load(&side->waiting)) return;
    uint64_t one = 1;
    (void)!write(side->wake, &one, sizeof(one));
}

static void
send_one(void *context, uint64_t subject, const void *message, size_t size)
{
    struct side *side = context;
    struct qmq_outgoing outgoing = { .body = { message, size } };
    if (qmq_send(side->producer, side->subjects[subject], &outgoing, on_sent, side) != QMQ_OK)
        load_die("publish: %s", qmq_last_error().message);
}

static void
pump(void *context, uint64_t wait_ns)
{
    struct side *side = context;
    uint64_t count = atomic_exchange(&side->acked, 0);
    if (count == 0 && wait_ns > 0) {
        atomic_store(&side->waiting, true);
        count = atomic_exchange(&side->acked, 0);
        if (count == 0) {
            struct pollfd polled = { .fd = side->wake, .events = POLLIN };
            const struct timespec wait = {
                .tv_sec = (time_t)(wait_ns / Q_NS_PER_S),
                .tv_nsec = (long)(wait_ns % Q_NS_PER_S),
            };
            (void)ppoll(&polled, 1, wait_ns == UINT64_MAX ? NULL : &wait, NULL);
            count = atomic_exchange(&side->acked, 0);
        }
        atomic_store(&side->waiting, false);
        uint64_t sum;
        (void)!read(side->wake, &sum, sizeof(sum));
    }
    load_acked(count);
}

static const char *
group_name(char out[32], uint64_t group)
{
    (void)snprintf(out, 32, "g%" PRIu64, group);
    return out;
}

static void *
consumer(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    side->consumers = calloc(load->subjects, sizeof(struct qmq_consumer *));
    if (side->consumers == NULL) load_die("no memory");
    for (uint64_t i = 0; i < load->subjects; i++) {
        char subject[32];
        char name[32];
        struct qmq_consumer_options options = {
            .subject = load_subject(subject, i),
            .group = group_name(name, group),
        };
        if (qmq_consumer_new(side->client, &options, &side->consumers[i]) != QMQ_OK)
            load_die("consumer: %s", qmq_last_error().message);
    }
    return side;
}

static uint64_t
receive(void *context, unsigned wait_ms)
{
    struct side *side = context;
    uint64_t subjects = side->load->subjects;
    struct qmq_consumer *from = side->consumers[side->next++ % subjects];
    struct qmq_batch *batch;
    int code = qmq_pull(from, (uint32_t)side->load->fetch, subjects == 1 ? wait_ms : 0, &batch);
    if (code == QMQ_AGAIN) return 0;
    if (code != QMQ_OK) load_die("pull: %s", qmq_last_error().message);
    uint64_t count = qmq_batch_count(batch);
    for (uint64_t i = 0; i < count; i++) {
        const struct qmq_message *message = qmq_batch_message(batch, i);
        load_message(message->body.data, message->body.size);
    }
    if (qmq_ack(from, batch, 0, count) != QMQ_OK) load_die("ack: %s", qmq_last_error().message);
    qmq_batch_free(batch);
    return count;
}

/* An ack is answered when it is on record. */
static void
finish(void *context)
{
    struct side *side = context;
    for (uint64_t i = 0; i < side->load->subjects; i++)
        qmq_consumer_free(side->consumers[i]);
    qmq_client_free(side->client);
    free(side->consumers);
    free(side);
}

static void
on_lag(void *context, const struct qmq_lag *lag)
{
    uint64_t *left = context;
    *left += lag->waiting + lag->in_flight + lag->pending_retry + lag->pending_released +
             lag->pending_key + lag->pending_filter + lag->pending_dying;
}

static uint64_t
left(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    uint64_t count = 0;
    for (uint64_t i = 0; i < load->subjects; i++) {
        char subject[32];
        char name[32];
        (void)load_subject(subject, i);
        (void)group_name(name, group);
        if (qmq_group_lag(side->client, subject, name, on_lag, &count) != QMQ_OK)
            load_die("lag: %s", qmq_last_error().message);
    }
    qmq_client_free(side->client);
    free(side);
    return count;
}

const struct load_peer load_peer = {
    create, producer, send_one, pump, consumer, receive, finish, left,
};

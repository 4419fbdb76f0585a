/*
 * push_pull.c: the thread that pulls, while there is room.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "push.h"

enum {
    PULL_WAIT_MS = 5000, /* ended early by qmq_push_stop() */
    MEMORY_PAUSE_NS = 100 * Q_NS_PER_MS,
};

static uint32_t wait_room(struct qmq_push *push);
static uint32_t room(const struct qmq_push *push);
static bool has_failed(struct qmq_push *push, int code, uint32_t *backoff_ms, bool *has_told);
static void load_rest(struct qmq_push *push);
static void load(struct qmq_push *push, struct qmq_batch *batch);
static struct load *load_new(struct qmq_push *push, struct qmq_batch *batch);
static void enqueue(struct qmq_push *push, struct load *load);
static void pause_until(struct qmq_push *push, uint64_t until_ns);

void *
push_pull(void *context)
{
    struct qmq_push *push = context;
    uint32_t backoff_ms = 0;
    bool has_told = false;
    uint32_t messages_max;

    while ((messages_max = wait_room(push)) > 0) {
        struct qmq_batch *batch;
        int code = qmq_pull(push->consumer, messages_max, PULL_WAIT_MS, &batch);
        if (code == QMQ_STOPPING) break;
        if (code == QMQ_OK || code == QMQ_AGAIN) {
            if (code == QMQ_OK) load(push, batch);
            backoff_ms = 0;
            has_told = false;
            continue;
        }
        if (has_failed(push, code, &backoff_ms, &has_told)) break;
    }
    if (push->at_most_once) load_rest(push);
    return NULL;
}

/* It was stopped: what is on its way would be lost. Ends with QMQ_STOPPING. */
static void
load_rest(struct qmq_push *push)
{
    struct qmq_batch *batch;
    while (qmq_pull(push->consumer, push->prefetch_messages, 0, &batch) == QMQ_OK)
        load(push, batch);
}

/* How many messages to ask for; 0: none any more. */
static uint32_t
wait_room(struct qmq_push *push)
{
    uint32_t messages = 0;

    pthread_mutex_lock(&push->lock);
    while (push->phase == PUSH_PULLING) {
        messages = push->info.is_paused ? 0 : room(push);
        if (messages > 0) break;
        /* Acks that are gathered make room. */
        push->is_starved = true;
        push_want_acks(push);
        pthread_cond_wait(&push->room, &push->lock);
    }
    push->is_starved = false;
    if (push->phase != PUSH_PULLING) messages = 0;
    pthread_mutex_unlock(&push->lock);
    return messages;
}

/* Not a message at a time, while there is something to handle. */
static uint32_t
room(const struct qmq_push *push)
{
    if (push->info.held >= push->prefetch_messages) return 0;
    if (push->info.held > 0 && push->info.held_bytes + push->pull_bytes > push->prefetch_bytes)
        return 0;
    uint32_t messages = push->prefetch_messages - (uint32_t)push->info.held;
    bool is_idle = push->queue.count == 0;
    return is_idle || messages >= push->prefetch_messages / 2 ? messages : 0;
}

/* Whether it can't pass. */
static bool
has_failed(struct qmq_push *push, int code, uint32_t *backoff_ms, bool *has_told)
{
    bool can_pass = is_passing((enum q_err)code);
    if (!*has_told || !can_pass) push_tell(push, QMQ_TROUBLE_PULL, can_pass, 0, NULL);
    *has_told = true;
    if (can_pass) {
        pause_until(push, client_now_ns(push->client) + backoff_next(backoff_ms));
        return false;
    }
    pthread_mutex_lock(&push->lock);
    push->info.code = code;
    /* Others have what waits here, and would handle it too. */
    if (code == QMQ_CONSUMER_REPLACED) push_clear_queue(push);
    pthread_mutex_unlock(&push->lock);
    return true;
}

/* The broker has handed them out: they are handled, or the consumer leaves. Memory is waited for. */
static void
load(struct qmq_push *push, struct qmq_batch *batch)
{
    struct load *load = load_new(push, batch);
    if (!load) push_tell(push, QMQ_TROUBLE_PULL, true, qmq_batch_count(batch), NULL);
    while (!load) {
        pause_until(push, client_now_ns(push->client) + MEMORY_PAUSE_NS);
        pthread_mutex_lock(&push->lock);
        bool is_over = push->phase != PUSH_PULLING;
        pthread_mutex_unlock(&push->lock);
        if (is_over) {
            qmq_batch_free(batch);
            return;
        }
        load = load_new(push, batch);
    }
    enqueue(push, load);
}

static struct load *
load_new(struct qmq_push *push, struct qmq_batch *batch)
{
    size_t count = qmq_batch_count(batch);
    struct load *load = calloc(1, sizeof(*load) + count * sizeof(load->deliveries[0]));
    struct lane *lane = push_lane(push, batch->source);
    if (!load || !lane) {
        free(load);
        (void)Q_FAIL(Q_E_NOMEM);
        return NULL;
    }
    *load = (struct load){
        .push = push,
        .lane = lane,
        .batch = batch,
        .bytes = batch_memory(batch) + count * sizeof(load->deliveries[0]),
        .overdue_ns = push->invisible_ns ? batch->arrived_ns + push->invisible_ns : UINT64_MAX,
        .open = (uint32_t)count,
        .is_strict = batch->is_strict && !push->at_most_once,
    };
    for (size_t index = 0; index < count; index++) {
        load->deliveries[index].load = load;
        load->deliveries[index].message = qmq_batch_message(batch, index);
        load->deliveries[index].state = DELIVERY_QUEUED;
    }
    return load;
}

static void
enqueue(struct qmq_push *push, struct load *load)
{
    pthread_mutex_lock(&push->lock);
    push->info.held += load->open;
    push->info.held_bytes += load->bytes;
    for (uint32_t index = 0; index < load->open; index++) {
        struct qmq_delivery *delivery = &load->deliveries[index];
        if (!push_chain(push, delivery)) deliveries_add(&push->queue, delivery);
    }
    bool is_wanted = push->phase == PUSH_PULLING || push->at_most_once;
    if (!is_wanted) push_clear_queue(push);
    pthread_cond_broadcast(&push->ready);
    pthread_mutex_unlock(&push->lock);
}

static void
pause_until(struct qmq_push *push, uint64_t until_ns)
{
    pthread_mutex_lock(&push->lock);
    while (push->phase == PUSH_PULLING && condition_wait(&push->room, &push->lock, until_ns))
        continue;
    pthread_mutex_unlock(&push->lock);
}

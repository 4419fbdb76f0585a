/*
 * push.c: a push consumer's life.
 */
#include "push.h"

#include <stdio.h>
#include <stdlib.h>

#include <qbase/assert.h>

enum {
    PREFETCH_MESSAGES_DEFAULT = 2000,
    PREFETCH_BYTES_DEFAULT = 8 * 1024 * 1024,
    PULL_BYTES_DEFAULT = 256 * 1024,
    THREADS_MAX = 1024,
    LAST_ACKS_NS = Q_NS_PER_S, /* for verdicts, when time is over */
};

static enum q_err push_new(
    struct qmq_client *client, const struct qmq_push_options *options, struct qmq_push **ret_push);
static enum q_err check_options(const struct qmq_push_options *options);
static void fill(struct qmq_push *push, const struct qmq_push_options *options);
static enum q_err join(struct qmq_push *push, const struct qmq_push_options *options);
static enum q_err start_threads(struct qmq_push *push);
static bool wait_settled(struct qmq_push *push, uint64_t until_ns);
static bool is_settled(const struct qmq_push *push);
static void leave(struct qmq_push *push);
static void part(struct qmq_push *push);

int
qmq_push_new(
    struct qmq_client *client, const struct qmq_push_options *options, struct qmq_push **ret_push)
{
    return push_new(client, options, ret_push);
}

static enum q_err
push_new(
    struct qmq_client *client, const struct qmq_push_options *options, struct qmq_push **ret_push)
{
    Q_TRY(check_options(options));

    struct qmq_push *push = calloc(1, sizeof(*push));
    if (!push) return Q_FAIL(Q_E_NOMEM);
    push->client = client;
    push->references = 1;
    q_list_init(&push->lanes);
    pthread_mutex_init(&push->lock, NULL);
    pthread_mutex_init(&push->trouble_lock, NULL);
    condition_init(&push->ready);
    condition_init(&push->room);
    condition_init(&push->urgent);
    condition_init(&push->settled);
    fill(push, options);

    enum q_err err = join(push, options);
    if (err == Q_OK) err = start_threads(push);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        qmq_push_free(push);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_push = push;
    return Q_OK;
}

static enum q_err
check_options(const struct qmq_push_options *options)
{
    if (!options->consumer || !options->handler)
        return Q_FAIL(
            Q_INVALID, .what = "a push consumer needs a consumer's options and a handler");
    if (options->threads > THREADS_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%u threads, at most %d can be", options->threads, THREADS_MAX));
    if (options->filter_count > PUSH_FILTERS_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%zu filters, at most %d fit", options->filter_count, PUSH_FILTERS_MAX));
    for (size_t index = 0; index < options->filter_count; index++)
        if (!options->filters[index].before)
            return Q_FAIL(Q_INVALID, .what = q_text("filter %zu has no `before`", index));
    if (options->once && (!options->once->begin || !options->once->end))
        return Q_FAIL(Q_INVALID, .what = "`once` needs both of its functions");
    return Q_OK;
}

static void
fill(struct qmq_push *push, const struct qmq_push_options *options)
{
    push->handler = options->handler;
    push->context = options->context;
    push->thread_count = options->threads ? options->threads : 1;
    push->at_most_once = options->consumer->at_most_once;
    push->invisible_ns = options->consumer->invisible_ms * (uint64_t)Q_NS_PER_MS;
    push->prefetch_messages =
        options->prefetch_messages ? options->prefetch_messages : PREFETCH_MESSAGES_DEFAULT;
    push->prefetch_bytes =
        options->prefetch_bytes ? options->prefetch_bytes : PREFETCH_BYTES_DEFAULT;
    uint32_t pull_bytes = options->consumer->pull_bytes_max;
    push->pull_bytes =
        (uint32_t)q_min_u64(pull_bytes ? pull_bytes : PULL_BYTES_DEFAULT, push->prefetch_bytes);
    for (size_t index = 0; index < options->filter_count; index++)
        push->filters[index] = options->filters[index];
    push->filter_count = options->filter_count;
    if (options->once) push->once = *options->once;
    push->once_key = options->once_key;
    push->once_context = options->once_context;
    push->trouble = options->trouble;
    push->trouble_context = options->trouble_context;
    push->info.is_paused = options->is_paused;
}

static enum q_err
join(struct qmq_push *push, const struct qmq_push_options *options)
{
    struct qmq_consumer_options wanted = *options->consumer;
    wanted.no_prefetch = true;
    wanted.pull_bytes_max = push->pull_bytes;
    Q_TRY((enum q_err)qmq_consumer_new(push->client, &wanted, &push->consumer));
    const struct qmq_consumer *consumer = push->consumer;
    if (asprintf(&push->key_prefix, "%s %s", consumer->subject, consumer->group) >= 0) return Q_OK;
    push->key_prefix = NULL;
    return Q_FAIL(Q_E_NOMEM);
}

static enum q_err
start_threads(struct qmq_push *push)
{
    push->handlers = calloc(push->thread_count, sizeof(*push->handlers));
    if (!push->handlers) return Q_FAIL(Q_E_NOMEM);

    push->has_acker = pthread_create(&push->acker, NULL, push_ack, push) == 0;
    bool is_fine = push->has_acker;
    while (is_fine && push->handlers_started < push->thread_count) {
        pthread_t *thread = &push->handlers[push->handlers_started];
        is_fine = pthread_create(thread, NULL, push_handle, push) == 0;
        if (is_fine) push->handlers_started++;
    }
    /* Last: with it messages come. */
    if (is_fine) push->has_puller = pthread_create(&push->puller, NULL, push_pull, push) == 0;
    return push->has_puller ? Q_OK : Q_FAIL(Q_E_NOMEM, .what = "no more threads");
}

void
qmq_push_pause(struct qmq_push *push)
{
    pthread_mutex_lock(&push->lock);
    push->info.is_paused = true;
    pthread_mutex_unlock(&push->lock);
}

void
qmq_push_resume(struct qmq_push *push)
{
    pthread_mutex_lock(&push->lock);
    push->info.is_paused = false;
    pthread_cond_broadcast(&push->ready);
    pthread_cond_signal(&push->room);
    pthread_mutex_unlock(&push->lock);
}

int
qmq_push_stop(struct qmq_push *push, uint32_t wait_ms)
{
    enum q_err here = client_check(push->client);
    if (here != Q_OK) return here;
    uint64_t until_ns = client_now_ns(push->client) + wait_ms * (uint64_t)Q_NS_PER_MS;

    pthread_mutex_lock(&push->lock);
    bool was_over = push->phase == PUSH_OVER;
    if (!was_over) push->phase = PUSH_STOPPING;
    /* At most once it would be lost. */
    if (!push->at_most_once) push_clear_queue(push);
    pthread_cond_broadcast(&push->ready);
    pthread_cond_broadcast(&push->room);
    push_want_acks(push);
    pthread_mutex_unlock(&push->lock);
    if (was_over) return QMQ_OK;

    if (push->consumer) qmq_consumer_stop(push->consumer);
    if (push->has_puller) pthread_join(push->puller, NULL);
    push->has_puller = false;

    pthread_mutex_lock(&push->lock);
    bool is_done = wait_settled(push, until_ns);
    /* What is decided is not thrown away for a moment's sake. */
    until_ns = client_now_ns(push->client) + LAST_ACKS_NS;
    while (push->decided > 0 && condition_wait(&push->settled, &push->lock, until_ns))
        continue;
    is_done = is_settled(push);
    push->phase = PUSH_OVER;
    push_clear_queue(push);
    pthread_cond_broadcast(&push->ready);
    push_want_acks(push);
    pthread_mutex_unlock(&push->lock);

    leave(push);
    if (push->refusal.err != Q_OK) {
        q_fault_adopt(&push->refusal);
        return push->refusal.err;
    }
    if (is_done) return QMQ_OK;
    return Q_FAIL(Q_TIMED_OUT, .what = "messages were still being handled, and were handed back");
}

static bool
wait_settled(struct qmq_push *push, uint64_t until_ns)
{
    while (!is_settled(push) && condition_wait(&push->settled, &push->lock, until_ns))
        continue;
    return is_settled(push);
}

static bool
is_settled(const struct qmq_push *push)
{
    return push->queue.count == 0 && push->info.running == 0 && push->info.kept == 0 &&
           push->decided == 0;
}

/* What is not on record by now is handed back by the broker. */
static void
leave(struct qmq_push *push)
{
    if (push->has_acker) pthread_join(push->acker, NULL);
    push->has_acker = false;

    pthread_mutex_lock(&push->lock);
    push_lanes_free(push);
    struct qmq_consumer *consumer = push->consumer;
    push->consumer = NULL;
    pthread_mutex_unlock(&push->lock);
    qmq_consumer_free(consumer);
}

void
qmq_push_free(struct qmq_push *push)
{
    if (!push || !client_is_here(push->client)) return;
    (void)qmq_push_stop(push, 0);
    for (uint32_t index = 0; index < push->handlers_started; index++)
        pthread_join(push->handlers[index], NULL);
    free(push->handlers);
    push->handlers = NULL;

    pthread_mutex_lock(&push->lock);
    push->is_freed = true;
    while (push->verdicts > 0)
        pthread_cond_wait(&push->settled, &push->lock);
    push_unlock_and_part(push);
}

void
push_unlock_and_part(struct qmq_push *push)
{
    bool is_last = --push->references == 0;
    pthread_mutex_unlock(&push->lock);
    if (is_last) part(push);
}

static void
part(struct qmq_push *push)
{
    Q_ASSERT(push->info.held == 0);
    pthread_cond_destroy(&push->settled);
    pthread_cond_destroy(&push->urgent);
    pthread_cond_destroy(&push->room);
    pthread_cond_destroy(&push->ready);
    pthread_mutex_destroy(&push->trouble_lock);
    pthread_mutex_destroy(&push->lock);
    free(push->key_prefix);
    free(push);
}

void
qmq_push_info(struct qmq_push *push, struct qmq_push_info *ret_info)
{
    pthread_mutex_lock(&push->lock);
    *ret_info = push->info;
    if (push->consumer) qmq_consumer_info(push->consumer, &ret_info->consumer);
    pthread_mutex_unlock(&push->lock);
}

void
push_tell(
    struct qmq_push *push,
    enum qmq_trouble_kind kind,
    bool is_tried_again,
    uint64_t messages,
    const struct qmq_error *error)
{
    if (!push->trouble || push->is_freed) return;
    struct qmq_trouble trouble = {
        .kind = kind,
        .is_tried_again = is_tried_again,
        .messages = messages,
        .error = error ? *error : qmq_last_error(),
    };
    pthread_mutex_lock(&push->trouble_lock);
    push->trouble(push->trouble_context, &trouble);
    pthread_mutex_unlock(&push->trouble_lock);
}

/*
 * push_handle.c: the threads that handle, and what becomes of a verdict.
 */
#include <stdio.h>
#include <stdlib.h>

#include <qbase/assert.h>

#include "push.h"

static struct qmq_delivery *take(struct qmq_push *push);
static bool may_handle(const struct qmq_push *push);
static void handle(struct qmq_push *push, struct qmq_delivery *delivery);
static int pass_filters(struct qmq_push *push, struct qmq_delivery *delivery, size_t *passed);
static int begin(struct qmq_push *push, struct qmq_delivery *delivery);
static struct qmq_bytes key_of(struct qmq_push *push, struct qmq_delivery *delivery);
static void end(struct qmq_push *push, struct qmq_delivery *delivery, bool is_done);
static void tell_once(struct qmq_push *push, bool is_tried_again, int code, const char *message);
static void fail(struct qmq_delivery *delivery, const char *text);
static void returned(struct qmq_push *push, struct qmq_delivery *delivery);
static void hand_back(struct qmq_push *push, struct qmq_delivery *first);
static bool set_nack(struct qmq_delivery *delivery, const struct qmq_nack_options *options);
static enum q_err decide_kept(struct qmq_delivery *delivery);

enum {
    ERROR_TEXT_MAX = 255,
    /* Of pass_filters() and begin(): not to be handled, and acknowledged. */
    DONE_WITH = -1,
};

void *
push_handle(void *context)
{
    struct qmq_push *push = context;

    pthread_mutex_lock(&push->lock);
    for (;;) {
        struct qmq_delivery *delivery;
        while (!(delivery = take(push)) && push->phase != PUSH_OVER)
            pthread_cond_wait(&push->ready, &push->lock);
        if (!delivery) break;
        delivery->state = DELIVERY_HANDLING;
        push->info.running++;
        pthread_mutex_unlock(&push->lock);

        handle(push, delivery);

        pthread_mutex_lock(&push->lock);
        push->info.running--;
        returned(push, delivery);
    }
    pthread_mutex_unlock(&push->lock);
    return NULL;
}

static struct qmq_delivery *
take(struct qmq_push *push)
{
    bool is_paused = push->info.is_paused && push->phase == PUSH_PULLING;
    if (!may_handle(push) || is_paused) return NULL;
    struct qmq_delivery *delivery = deliveries_take(&push->queue);
    /* An idle queue is room, too. */
    if (delivery && push->queue.count == 0 && push->is_starved) pthread_cond_signal(&push->room);
    return delivery;
}

static bool
may_handle(const struct qmq_push *push)
{
    /* Others have what this consumer holds, and would handle it too. */
    if (push->info.code == QMQ_CONSUMER_REPLACED) return false;
    return push->phase == PUSH_PULLING || (push->phase == PUSH_STOPPING && push->at_most_once);
}

/* Without the lock. */
static void
handle(struct qmq_push *push, struct qmq_delivery *delivery)
{
    const struct qmq_message *message = delivery->message;
    uint64_t overdue_ns = delivery->load->overdue_ns;
    if (overdue_ns != UINT64_MAX && client_now_ns(push->client) >= overdue_ns) {
        /* Its ack would come too late: others have it, and it would be handled twice. */
        delivery->counter = &push->info.overdue;
        return;
    }

    size_t passed = 0;
    int code = pass_filters(push, delivery, &passed);
    if (code == 0 && push->once.begin) code = begin(push, delivery);
    if (code == 0) {
        code = push->handler(push->context, message, delivery);
        if (code != 0 && !delivery->is_kept) {
            char text[64];
            (void)snprintf(text, sizeof(text), "the handler returned %d", code);
            fail(delivery, text);
        }
        if (!delivery->is_kept) {
            if (delivery->has_begun) end(push, delivery, code == 0);
            delivery->counter = code == 0 ? &push->info.handled : &push->info.failed;
        }
    }
    int told = code == DONE_WITH ? QMQ_OK : code;
    while (passed-- > 0) {
        const struct qmq_filter *filter = &push->filters[passed];
        if (filter->after) filter->after(filter->context, message, told);
    }
}

/* 0, DONE_WITH, or why it has failed. */
static int
pass_filters(struct qmq_push *push, struct qmq_delivery *delivery, size_t *passed)
{
    for (size_t index = 0; index < push->filter_count; index++) {
        const struct qmq_filter *filter = &push->filters[index];
        enum qmq_filtered filtered = filter->before(filter->context, delivery->message);
        if (filtered == QMQ_FILTER_SKIP) {
            delivery->counter = &push->info.skipped;
            return DONE_WITH;
        }
        if (filtered != QMQ_FILTER_HANDLE) {
            fail(delivery, "refused by a filter");
            delivery->counter = &push->info.failed;
            return QMQ_AGAIN;
        }
        (*passed)++;
    }
    return 0;
}

/* The same. */
static int
begin(struct qmq_push *push, struct qmq_delivery *delivery)
{
    struct qmq_bytes key = key_of(push, delivery);
    switch (key.size > 0 ? push->once.begin(push->once.context, key) : QMQ_ONCE_FAILED) {
    case QMQ_ONCE_NEW:
        delivery->has_begun = true;
        return 0;
    case QMQ_ONCE_DONE:
        delivery->counter = &push->info.repeated;
        return DONE_WITH;
    case QMQ_ONCE_BUSY:
        fail(delivery, "it is being handled elsewhere");
        break;
    default:
        fail(delivery, "whether it was handled before can't be told");
        tell_once(push, true, QMQ_BUSY, "whether a message was handled before can't be told");
        break;
    }
    delivery->counter = &push->info.failed;
    return QMQ_BUSY;
}

/*
 * By what `once` knows the message. Its id alone would make one consumer's work look like another's.
 * Of size 0: there is none.
 */
static struct qmq_bytes
key_of(struct qmq_push *push, struct qmq_delivery *delivery)
{
    if (push->once_key) return push->once_key(push->once_context, delivery->message);
    if (!delivery->key_text) {
        char id[QMQ_ID_TEXT_SIZE];
        (void)qmq_id_text(&delivery->message->id, id);
        if (asprintf(&delivery->key_text, "%s %s", push->key_prefix, id) < 0)
            delivery->key_text = NULL;
    }
    const char *text = delivery->key_text ? delivery->key_text : "";
    return (struct qmq_bytes){ text, strlen(text) };
}

static void
end(struct qmq_push *push, struct qmq_delivery *delivery, bool is_done)
{
    delivery->has_begun = false;
    int code = push->once.end(push->once.context, key_of(push, delivery), is_done);
    if (code == QMQ_OK) return;
    tell_once(
        push, !is_done, code,
        is_done ? "what was handled could not be noted, and is acknowledged all the same"
                : "that a message failed could not be noted: it is busy until its lease is over");
}

static void
tell_once(struct qmq_push *push, bool is_tried_again, int code, const char *message)
{
    struct qmq_error error = {
        .code = code,
        .name = q_err_name((enum q_err)code),
        .message = message,
        .hint = "look at what `once` writes to",
        .retryable = is_tried_again,
    };
    push_tell(push, QMQ_TROUBLE_ONCE, is_tried_again, 1, &error);
}

/* The handler's own text comes first. */
static void
fail(struct qmq_delivery *delivery, const char *text)
{
    delivery->has_failed = true;
    if (!delivery->nack.error) delivery->nack.error = strdup(text);
}

/* From handle(). */
static void
returned(struct qmq_push *push, struct qmq_delivery *delivery)
{
    if (delivery->is_kept && !delivery->is_decided) {
        delivery->state = DELIVERY_KEPT;
        return;
    }
    if (delivery->is_kept) { /* and was decided before the handler returned */
        push->info.kept--;
        push->references--;
    }
    push_decide(push, delivery);
}

/*
 * Messages of one key (of one hash: others with the same wait without need) follow each other, whatever
 * pull has brought them: the broker hands out a key only when nobody holds it, but what it repeats to a
 * consumer that has come back is cut by the limits of the pull.
 */
bool
push_chain(struct qmq_push *push, struct qmq_delivery *delivery)
{
    uint32_t hash = delivery->message->order_key_hash_;
    if (hash == 0) return false;
    struct qmq_delivery **slot = &push->keys[hash % PUSH_KEY_SLOTS];
    while (*slot && ((*slot)->message->order_key_hash_ != hash ||
                     (*slot)->load->lane != delivery->load->lane))
        slot = &(*slot)->slot_next;

    struct qmq_delivery *last = *slot;
    delivery->slot_next = last ? last->slot_next : NULL;
    delivery->is_key_last = true;
    *slot = delivery;
    if (!last) return false;
    last->is_key_last = false;
    last->key_next = delivery;
    delivery->state = DELIVERY_CHAINED;
    return true;
}

/* Nothing waits for it any more. */
static void
unchain(struct qmq_push *push, struct qmq_delivery *delivery)
{
    if (!delivery->is_key_last) return;
    struct qmq_delivery **slot = &push->keys[delivery->message->order_key_hash_ % PUSH_KEY_SLOTS];
    while (*slot != delivery)
        slot = &(*slot)->slot_next;
    *slot = delivery->slot_next;
    delivery->is_key_last = false;
}

void
push_decide(struct qmq_push *push, struct qmq_delivery *delivery)
{
    struct qmq_delivery *next = delivery->key_next;
    unchain(push, delivery);
    delivery->key_next = NULL;
    delivery->state = DELIVERY_DECIDED;

    bool is_stopped_by_it = delivery->has_failed && delivery->load->is_strict;
    if (next && (is_stopped_by_it || !may_handle(push))) {
        hand_back(push, next);
    } else if (next) {
        next->state = DELIVERY_QUEUED;
        deliveries_put_back(&push->queue, next);
        pthread_cond_signal(&push->ready);
    }

    (*delivery->counter)++;
    bool is_overdue = delivery->counter == &push->info.overdue;
    bool is_told = !is_overdue && !push->at_most_once && push->phase != PUSH_OVER;
    if (is_told)
        push_post(push, delivery);
    else
        push_forget(push, delivery);
}

void
push_clear_queue(struct qmq_push *push)
{
    struct qmq_delivery *delivery;
    while ((delivery = deliveries_take(&push->queue)))
        hand_back(push, delivery);
}

/* This one, and what is chained to it. */
static void
hand_back(struct qmq_push *push, struct qmq_delivery *first)
{
    while (first) {
        struct qmq_delivery *next = first->key_next;
        unchain(push, first);
        push->info.handed_back++;
        push_forget(push, first);
        first = next;
    }
}

void
push_forget(struct qmq_push *push, struct qmq_delivery *delivery)
{
    free((char *)delivery->nack.error);
    free(delivery->key_text);
    load_free(push_drop(push, delivery->load, 1));
}

struct load *
push_drop(struct qmq_push *push, struct load *load, uint32_t count)
{
    push->info.held -= count;
    load->open -= count;
    if (load->open == 0) push->info.held_bytes -= load->bytes;
    if (push->is_starved) pthread_cond_signal(&push->room);
    if (push->phase != PUSH_PULLING) pthread_cond_broadcast(&push->settled);
    return load->open == 0 ? load : NULL;
}

void
load_free(struct load *load)
{
    if (!load) return;
    qmq_batch_free(load->batch);
    free(load);
}

/* --- Called by handlers, and by whom a message is kept for ------------------------------------ */

int
qmq_delivery_fail(struct qmq_delivery *delivery, const struct qmq_nack_options *options)
{
    return set_nack(delivery, options) ? QMQ_OK : Q_FAIL(Q_E_NOMEM);
}

static bool
set_nack(struct qmq_delivery *delivery, const struct qmq_nack_options *options)
{
    if (!options) return true;
    char *error = NULL;
    if (options->error) {
        error = strndup(options->error, ERROR_TEXT_MAX);
        if (!error) return false;
    }
    free((char *)delivery->nack.error);
    delivery->nack = *options;
    delivery->nack.error = error;
    return true;
}

void
qmq_delivery_keep(struct qmq_delivery *delivery)
{
    struct qmq_push *push = delivery->load->push;

    pthread_mutex_lock(&push->lock);
    Q_ASSERT(delivery->state == DELIVERY_HANDLING);
    if (!delivery->is_kept) {
        delivery->is_kept = true;
        push->info.kept++;
        push->references++;
    }
    pthread_mutex_unlock(&push->lock);
}

const struct qmq_message *
qmq_delivery_message(const struct qmq_delivery *delivery)
{
    return delivery->message;
}

int
qmq_delivery_ack(struct qmq_delivery *delivery)
{
    return decide_kept(delivery);
}

int
qmq_delivery_nack(struct qmq_delivery *delivery, const struct qmq_nack_options *options)
{
    /* Without memory for its text it fails without one. */
    (void)set_nack(delivery, options);
    fail(delivery, "failed after it was kept");
    return decide_kept(delivery);
}

static enum q_err
decide_kept(struct qmq_delivery *delivery)
{
    struct qmq_push *push = delivery->load->push;
    Q_ASSERT(delivery->is_kept && !delivery->is_decided);
    bool has_failed = delivery->has_failed;

    pthread_mutex_lock(&push->lock);
    bool is_begun = delivery->has_begun && !push->is_freed;
    push->verdicts++;
    pthread_mutex_unlock(&push->lock);
    if (is_begun) end(push, delivery, !has_failed);

    pthread_mutex_lock(&push->lock);
    push->verdicts--;
    if (push->is_freed) pthread_cond_broadcast(&push->settled);
    bool is_over = push->phase == PUSH_OVER;
    delivery->counter = has_failed ? &push->info.failed : &push->info.handled;
    if (delivery->state == DELIVERY_HANDLING) {
        delivery->is_decided = true;
        pthread_mutex_unlock(&push->lock);
    } else {
        push->info.kept--;
        push_decide(push, delivery);
        push_unlock_and_part(push);
    }
    if (!is_over) return Q_OK;
    return Q_FAIL(Q_STOPPING, .what = "the consumer has ended, the message was handed back");
}

struct qmq_bytes
qmq_delivery_key(struct qmq_delivery *delivery)
{
    return key_of(delivery->load->push, delivery);
}

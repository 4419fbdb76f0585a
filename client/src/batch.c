/*
 * batch.c: a batch from its first message to the callbacks of all.
 */
#include <stdlib.h>

#include <qbase/assert.h>

#include "producer.h"

enum {
    NOTES_FIRST = 16,
    SPARE_MAX = 64,
    HELD_BYTES_PER_MESSAGE = 96, /* note and envelope entry */
    /* A batch of one message takes no less, however short that is: it counts, and a lane's bytes don't have it. */
    HELD_BYTES_PER_BATCH = 10 * 1024,
};

static void count_outcome(const struct batch *batch);
static void deliver_batch(const struct batch *batch);
static enum q_err fail_in_doubt(enum q_err err);
static struct q_fault *copy_fault(enum q_err err);

static _Thread_local bool is_delivering_here;

enum q_err
batch_get(struct subject *subject, struct batch **ret_batch)
{
    struct qmq_producer *producer = subject->producer;
    struct q_list *node = q_list_pop_front(&producer->spare);
    struct batch *batch = node ? q_container_of(node, struct batch, node) : NULL;

    if (batch) {
        producer->spare_count--;
    } else {
        batch = calloc(1, sizeof(*batch));
        if (!batch) return Q_FAIL(Q_E_NOMEM);
        q_list_init(&batch->node);
        batch->producer = producer;
        enum q_err err = qbatch_builder_new(&producer->batch_options, &batch->builder);
        if (err != Q_OK) {
            free(batch);
            return err;
        }
    }
    batch->subject = subject;
    batch->is_alone = subject->goes_alone;
    batch->deadline_ns =
        client_now_ns(producer->client) + producer->deadline_ns + producer->together_ns;
    *ret_batch = batch;
    return Q_OK;
}

enum q_err
batch_add(struct batch *batch, const struct qbatch_message *message, const struct note *note)
{
    uint32_t index = qbatch_builder_count(batch->builder);
    /* By the wall clock, which was read already; when it was set back, nothing is known. */
    if (index == 0) batch->opened_ms = note->time_ms;
    uint64_t together_ms = batch->producer->together_ns / Q_NS_PER_MS;
    if (note->time_ms - batch->opened_ms > together_ms) return Q_AGAIN;

    if (index == batch->note_capacity) {
        uint32_t capacity = index ? index * 2 : NOTES_FIRST;
        struct note *grown = realloc(batch->notes, capacity * sizeof(*grown));
        if (!grown) return Q_FAIL(Q_E_NOMEM);
        batch->notes = grown;
        batch->note_capacity = capacity;
    }

    uint32_t before = qbatch_builder_content_bytes(batch->builder);
    enum q_err err = qbatch_builder_add(batch->builder, message);
    if (err != Q_OK) return err;

    batch->notes[index] = *note;
    uint64_t grown_by =
        qbatch_builder_content_bytes(batch->builder) - before + HELD_BYTES_PER_MESSAGE;
    batch->held_bytes += grown_by;
    batch->producer->held_bytes += grown_by + (index == 0 ? HELD_BYTES_PER_BATCH : 0);
    batch->producer->held_messages++;
    return Q_OK;
}

enum q_err
batch_close(struct batch *batch)
{
    if (batch->is_closed) return Q_OK;
    Q_TRY(qbatch_builder_close(batch->builder, &batch->envelope_size, &batch->payload_size));
    batch->is_closed = true;
    batch_close_for_more(batch);
    return Q_OK;
}

void
batch_close_for_more(struct batch *batch)
{
    struct subject *subject = batch->subject;
    if (subject->open == batch) subject->open = NULL;
    if (subject->ways) ways_close(subject->ways, batch);
}

void
batch_finish(struct batch *batch, enum q_err err, struct broker *broker)
{
    batch_close_for_more(batch);
    if (err != Q_OK && batch->maybe_duplicate) err = fail_in_doubt(err);
    batch->err = err;
    batch->broker = broker;
    count_outcome(batch);
    batch->fault = err == Q_OK ? NULL : copy_fault(err);
    q_list_remove(&batch->node);
    q_list_push_back(&batch->producer->finished, &batch->node);
}

static void
count_outcome(const struct batch *batch)
{
    struct qmq_producer_counts *counts = &batch->producer->counts;
    uint64_t *counter = &counts->unsent;
    if (batch->is_refused) counter = &counts->refused;
    if (batch->err == Q_OUTCOME_UNKNOWN) counter = &counts->unknown;
    if (batch->err == Q_OK) counter = &counts->stored;
    *counter += qbatch_builder_count(batch->builder);
}

/* It went on to where it failed from a broker group that may have stored it. */
static enum q_err
fail_in_doubt(enum q_err err)
{
    char why[Q_FAULT_LINE_MAX];
    const struct q_fault *last = q_fault_last();
    const char *text = last->err == err ? q_fault_format(last, why, sizeof(why)) : q_err_name(err);
    return Q_FAIL(
        Q_OUTCOME_UNKNOWN, .what = q_text("an earlier try may be stored; the last one: %s", text));
}

static struct q_fault *
copy_fault(enum q_err err)
{
    const struct q_fault *last = q_fault_last();
    struct q_fault *fault = last->err == err ? malloc(sizeof(*fault)) : NULL;
    if (fault) *fault = *last;
    return fault;
}

uint64_t
batches_expire(
    struct q_list *batches,
    uint64_t now_ns,
    enum q_err err,
    struct broker *broker,
    uint64_t *ret_expired_bytes)
{
    Q_ASSERT(err != Q_OK);
    *ret_expired_bytes = 0;
    while (!q_list_is_empty(batches)) {
        struct batch *batch = q_container_of(batches->next, struct batch, node);
        if (now_ns < batch->deadline_ns) return batch->deadline_ns;
        *ret_expired_bytes += batch->held_bytes;
        batch_finish(batch, err, broker);
    }
    return UINT64_MAX;
}

void
batches_deliver(struct qmq_producer *producer)
{
    if (producer->event_fd < 0)
        batches_deliver_here(producer);
    else if (!q_list_is_empty(&producer->finished))
        event_raise(producer->event_fd);
    if (producer->event_fd >= 0) pthread_cond_broadcast(&producer->changed);
}

void
batches_deliver_here(struct qmq_producer *producer)
{
    if (producer->is_delivering) return;
    producer->is_delivering = true;

    while (!q_list_is_empty(&producer->finished)) {
        struct q_list batches = Q_LIST_INIT(batches);
        q_list_splice_back(&batches, &producer->finished);
        /* It stays raised while there is something in `finished`. */
        if (producer->event_fd >= 0) event_clear(producer->event_fd);

        pthread_mutex_unlock(&producer->lock);
        is_delivering_here = true;
        q_list_for_each(node, &batches) {
            deliver_batch(q_container_of(node, struct batch, node));
        }
        is_delivering_here = false;
        pthread_mutex_lock(&producer->lock);

        struct q_list *node;
        while ((node = q_list_pop_front(&batches)))
            batch_recycle(q_container_of(node, struct batch, node));
        pthread_cond_broadcast(&producer->changed);
    }
    producer->is_delivering = false;
    pthread_cond_broadcast(&producer->changed);
}

/* Without the lock: nobody else looks at a batch that is being delivered. */
static void
deliver_batch(const struct batch *batch)
{
    uint32_t count = qbatch_builder_count(batch->builder);
    struct qmq_sent sent = {
        .code = batch->err,
        .subject = batch->subject->name,
        .broker_group = batch->broker ? batch->broker->group : "",
        .duplicate = batch->duplicate,
        .maybe_duplicate = batch->maybe_duplicate,
    };
    struct hooks *hooks = &batch->producer->client->hooks;
    enum counter good = batch->producer->one_way ? COUNT_handed_over : COUNT_stored;
    hooks_count(hooks, batch->err == Q_OK ? good : COUNT_failed, count);
    if (batch->duplicate) hooks_count(hooks, COUNT_duplicates, count);
    if (batch->maybe_duplicate) hooks_count(hooks, COUNT_maybe_duplicates, count);

    uint64_t producer_id;
    memcpy(&producer_id, batch->producer->batch_options.producer_id, sizeof(producer_id));
    sent.id.producer = __builtin_bswap64(producer_id) >> 16;

    for (uint32_t index = 0; index < count; index++) {
        const struct note *note = &batch->notes[index];
        if (!note->sent) continue;
        sent.sequence = batch->err == Q_OK ? batch->first_sequence : 0;
        if (batch->err == Q_OK && sent.sequence != UINT64_MAX) sent.sequence += index;
        sent.id.time_ms = note->time_ms;
        sent.id.counter = note->counter;
        if (batch->fault)
            q_fault_adopt(batch->fault);
        else if (batch->err != Q_OK)
            (void)Q_FAIL(batch->err);
        note->sent(note->context, &sent);
    }
}

bool
is_in_callback(void)
{
    return is_delivering_here;
}

void
batch_recycle(struct batch *batch)
{
    struct qmq_producer *producer = batch->producer;

    uint32_t count = qbatch_builder_count(batch->builder);
    producer->held_bytes -= batch->held_bytes + (count > 0 ? HELD_BYTES_PER_BATCH : 0);
    producer->held_messages -= count;
    /* Something goes through: what comes next may be waited for again. */
    if (batch->err == Q_OK && batch->broker) producer->is_jammed = false;
    if (producer->spare_count >= SPARE_MAX) {
        batch_free(batch);
        return;
    }
    free(batch->fault);
    qbatch_builder_reset(batch->builder);
    *batch = (struct batch){
        .producer = producer,
        .builder = batch->builder,
        .notes = batch->notes,
        .note_capacity = batch->note_capacity,
    };
    q_list_push_front(&producer->spare, &batch->node);
    producer->spare_count++;
}

void
batch_free(struct batch *batch)
{
    qbatch_builder_free(batch->builder);
    free(batch->fault);
    free(batch->notes);
    free(batch);
}

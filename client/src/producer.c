/*
 * producer.c: what a program sees of a producer.
 */
#include "producer.h"

#include <stdlib.h>
#include <unistd.h>

#include <qbase/assert.h>

enum {
    BLOCK_MS_DEFAULT = 10 * 1000,
    DEADLINE_MS_DEFAULT = 30 * 1000,
    MEMORY_BYTES_DEFAULT = 32 * 1024 * 1024,
    UNKNOWN_MS_DEFAULT = 2 * 1000,
    TOGETHER_MS_MAX = 500,
    TOGETHER_PART = 16, /* of the deadline */
};

/* A message as libqbatch wants it, and what it points to. */
struct translation {
    struct qbatch_message message;
    struct qbatch_property properties[QBATCH_PROPERTIES_MAX];
    struct q_bytes tags[QBATCH_TAGS_MAX];
    struct q_bytes keys[QBATCH_KEYS_MAX];
};

/* What a thread in qmq_send_wait() waits on. */
struct send_waiter {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_over;
    struct qmq_sent sent;
    struct q_fault fault;
};

static enum q_err check_one_way(struct qmq_client *client);
static uint64_t tick(struct member *member, uint64_t now_ns);
static void tell_breaker(struct lane *lane);
static enum q_err send_message(
    struct qmq_producer *producer,
    const char *name,
    const struct qmq_outgoing *outgoing,
    qmq_sent_fn *sent,
    void *context);
static enum q_err translate(const struct qmq_outgoing *outgoing, struct translation *translation);
static enum q_err check_delay(
    const struct qmq_producer *producer, const struct qmq_outgoing *outgoing);
static void count_not_taken(struct qmq_producer *producer);
static bool is_bound(const struct qbatch_message *message);
static enum q_err wait_for_ways(struct subject *subject);
static enum q_err fail_without_route(const struct qmq_producer *producer);
static enum q_err wait_for_memory(struct qmq_producer *producer, size_t size);
static enum q_err fail_full(const struct qmq_producer *producer, bool has_memory);
static enum q_err add(
    struct subject *subject,
    struct qbatch_message *message,
    uint64_t due_ms,
    qmq_sent_fn *sent,
    void *context,
    struct lane **ret_lane);
static enum q_err find_open(
    struct subject *subject,
    const struct qbatch_message *message,
    struct batch ***ret_open,
    struct lane **ret_lane);
static enum q_err open_batch(
    struct subject *subject, uint64_t due_ms, struct lane *lane, struct batch **ret_batch);
static void drop_if_empty(struct batch *batch);
static struct q_bytes bytes_of(struct qmq_bytes bytes);
static void wake_sender(void *context, const struct qmq_sent *sent);
static enum q_err flush(struct qmq_producer *producer, uint32_t timeout_ms);
static void give_up(struct qmq_producer *producer);
static bool is_under_way(const struct qmq_producer *producer);

int
qmq_producer_new(
    struct qmq_client *client,
    const struct qmq_producer_options *options,
    struct qmq_producer **ret_producer)
{
    static const struct qmq_producer_options defaults;
    if (!options) options = &defaults;
    enum q_err here = client_check(client);
    if (here == Q_OK && options->one_way) here = check_one_way(client);
    if (here != Q_OK) return here;

    struct qmq_producer *producer = calloc(1, sizeof(*producer));
    if (!producer) return Q_FAIL(Q_E_NOMEM);
    producer->event_fd = -1;
    enum q_err err = options->foreign_loop ? event_open(&producer->event_fd) : Q_OK;
    if (err != Q_OK) {
        free(producer);
        return err;
    }
    uint32_t block_ms = options->block_ms;
    if (block_ms == 0 && !options->one_way) block_ms = BLOCK_MS_DEFAULT;
    uint32_t deadline_ms = options->deadline_ms ? options->deadline_ms : DEADLINE_MS_DEFAULT;
    producer->member.tick = tick;
    producer->client = client;
    uint32_t unknown_ms = options->unknown_ms ? options->unknown_ms : UNKNOWN_MS_DEFAULT;
    producer->mode = options->mode;
    producer->duplicates = options->duplicates;
    producer->one_way = options->one_way;
    producer->queue_messages_max =
        options->queue_messages_max ? options->queue_messages_max : UINT64_MAX;
    producer->unknown_ns = (uint64_t)unknown_ms * Q_NS_PER_MS;
    producer->memory_bytes_max =
        options->memory_bytes_max ? options->memory_bytes_max : MEMORY_BYTES_DEFAULT;
    producer->block_ns = (uint64_t)block_ms * Q_NS_PER_MS;
    producer->deadline_ns = (uint64_t)deadline_ms * Q_NS_PER_MS;
    producer->together_ns = q_min_u64(deadline_ms / TOGETHER_PART, TOGETHER_MS_MAX) * Q_NS_PER_MS;
    producer->batch_options = (struct qbatch_builder_options){
        .messages_max = options->batch_messages_max,
        .bytes_max = options->batch_bytes_max,
        .compress = options->compress,
    };
    random_bytes(producer->batch_options.producer_id, sizeof(producer->batch_options.producer_id));
    pthread_mutex_init(&producer->lock, NULL);
    condition_init(&producer->changed);
    q_list_init(&producer->lanes);
    q_list_init(&producer->unrouted);
    q_list_init(&producer->finished);
    q_list_init(&producer->spare);
    client_join(client, &producer->member);
    *ret_producer = producer;
    return Q_OK;
}

/* Better now than by messages that are dropped. Where nobody is there, or says so, it may change. */
static enum q_err
check_one_way(struct qmq_client *client)
{
    struct route route;
    enum q_err err = route_find(client, "", client->timeout_ms, &route);
    return err == Q_OK ? route_check_one_way(&route) : Q_OK;
}

static uint64_t
tick(struct member *member, uint64_t now_ns)
{
    struct qmq_producer *producer = q_container_of(member, struct qmq_producer, member);

    pthread_mutex_lock(&producer->lock);
    uint64_t due_ns = UINT64_MAX;
    if (!producer->is_stopping) {
        producer->route_changes = client_route_changes(producer->client);
        q_list_for_each(node, &producer->lanes) {
            struct lane *lane = q_container_of(node, struct lane, node);
            due_ns = q_min_u64(due_ns, lane_tick(lane, now_ns));
            tell_breaker(lane);
        }
        due_ns = q_min_u64(due_ns, subjects_tick(producer, now_ns));
        batches_deliver(producer);
    }
    pthread_mutex_unlock(&producer->lock);
    return due_ns;
}

/* Gives the lock away: lanes only come while there is a producer. */
static void
tell_breaker(struct lane *lane)
{
    struct qmq_producer *producer = lane->producer;
    bool is_open = breaker_is_open(&lane->breaker);
    if (is_open == lane->was_open) return;
    lane->was_open = is_open;

    pthread_mutex_unlock(&producer->lock);
    hooks_log(
        &producer->client->hooks, is_open ? QMQ_LOG_WARNING : QMQ_LOG_INFO,
        is_open ? "broker group %s fails: it is left out" : "broker group %s takes messages again",
        lane->broker->group);
    pthread_mutex_lock(&producer->lock);
}

int
qmq_send(
    struct qmq_producer *producer,
    const char *subject,
    const struct qmq_outgoing *message,
    qmq_sent_fn *sent,
    void *context)
{
    return send_message(producer, subject, message, sent, context);
}

static enum q_err
send_message(
    struct qmq_producer *producer,
    const char *name,
    const struct qmq_outgoing *outgoing,
    qmq_sent_fn *sent,
    void *context)
{
    struct translation translation;
    Q_TRY(client_check(producer->client));
    Q_TRY(translate(outgoing, &translation));
    Q_TRY(check_delay(producer, outgoing));

    pthread_mutex_lock(&producer->lock);
    struct subject *subject;
    enum q_err err = subject_get(producer, name, outgoing->due_ms != 0, &subject);
    if (err == Q_OK) err = wait_for_memory(producer, outgoing->body.size);
    if (err == Q_OK && is_bound(&translation.message)) err = wait_for_ways(subject);
    if (is_passing(err)) count_not_taken(producer);
    struct lane *lane = NULL;
    if (err == Q_OK)
        err = add(subject, &translation.message, outgoing->due_ms, sent, context, &lane);
    if (err == Q_OK && lane) lane_pump(lane);
    if (err == Q_OK && !lane) subject_wants_route(subject);
    if (lane && subject->route_changes != producer->route_changes) subject_refresh(subject);
    pthread_mutex_unlock(&producer->lock);
    return err;
}

/* A delay group delivers to whichever broker group there is, not to the home of a key. */
static enum q_err
check_delay(const struct qmq_producer *producer, const struct qmq_outgoing *outgoing)
{
    if (outgoing->due_ms == 0) return Q_OK;
    if (producer->one_way)
        return Q_FAIL(
            Q_INVALID, .what = "a one-way message can't be delayed",
            .hint = "send it by a producer without one_way");
    if (outgoing->order_key.size == 0) return Q_OK;
    return Q_FAIL(
        Q_INVALID, .what = "a delayed message can't have an order key",
        .hint = "leave the key out, or send the message when it is due");
}

static void
count_not_taken(struct qmq_producer *producer)
{
    producer->counts.not_taken++;
    if (producer->one_way) hooks_count(&producer->client->hooks, COUNT_not_taken, 1);
}

/* It goes where its order key is at home, and nowhere else. */
static bool
is_bound(const struct qbatch_message *message)
{
    return message->order_key.size > 0;
}

/*
 * The first message with an order key that a subject gets: batches are of one broker group, and which
 * one it is for is not known before the route is.
 */
static enum q_err
wait_for_ways(struct subject *subject)
{
    struct qmq_producer *producer = subject->producer;
    enum q_err err = Q_OK;

    if (subject->ways) return Q_OK;
    uint64_t until_ns = client_now_ns(producer->client);
    bool can_wait = !is_in_callback() && producer->event_fd < 0 && !producer->is_jammed;
    if (can_wait) until_ns += producer->block_ns;
    subject->senders++;
    subject_wants_route(subject);
    while (!subject->ways && err == Q_OK) {
        if (producer->is_stopping)
            err = Q_FAIL(Q_STOPPING, .what = "the producer is being freed", .hint = "");
        else if (!condition_wait(&producer->changed, &producer->lock, until_ns))
            err = can_wait ? fail_without_route(producer)
                           : Q_FAIL(Q_BUSY, .what = "the subject's route is not known yet");
    }
    subject->senders--;
    if (err != Q_OK) producer->is_jammed = producer->one_way;
    return err;
}

static enum q_err
fail_without_route(const struct qmq_producer *producer)
{
    if (producer->route_fault.err == Q_OK)
        return Q_FAIL(Q_TIMED_OUT, .what = "meta does not say where the subject is served");
    q_fault_adopt(&producer->route_fault);
    return producer->route_fault.err;
}

static enum q_err
translate(const struct qmq_outgoing *outgoing, struct translation *translation)
{
    if (outgoing->property_count > QBATCH_PROPERTIES_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text(
                "%zu properties, at most %d fit", outgoing->property_count, QBATCH_PROPERTIES_MAX));
    if (outgoing->tag_count > QBATCH_TAGS_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%zu tags, at most %d fit", outgoing->tag_count, QBATCH_TAGS_MAX));
    if (outgoing->key_count > QBATCH_KEYS_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("%zu keys, at most %d fit", outgoing->key_count, QBATCH_KEYS_MAX));

    for (size_t index = 0; index < outgoing->property_count; index++)
        translation->properties[index] = (struct qbatch_property){
            .key = bytes_of(outgoing->properties[index].key),
            .value = bytes_of(outgoing->properties[index].value),
        };
    for (size_t index = 0; index < outgoing->tag_count; index++)
        translation->tags[index] = bytes_of(outgoing->tags[index]);
    for (size_t index = 0; index < outgoing->key_count; index++)
        translation->keys[index] = bytes_of(outgoing->keys[index]);
    translation->message = (struct qbatch_message){
        .body = bytes_of(outgoing->body),
        .properties = translation->properties,
        .property_count = (uint32_t)outgoing->property_count,
        .tags = translation->tags,
        .tag_count = (uint32_t)outgoing->tag_count,
        .keys = translation->keys,
        .key_count = (uint32_t)outgoing->key_count,
        .order_key = bytes_of(outgoing->order_key),
        .only = bytes_of(outgoing->only),
    };
    return Q_OK;
}

static struct q_bytes
bytes_of(struct qmq_bytes bytes)
{
    return q_bytes_from(bytes.data, bytes.size);
}

static enum q_err
wait_for_memory(struct qmq_producer *producer, size_t size)
{
    uint64_t until_ns = 0; /* the clock is read only when there is something to wait for */

    for (;;) {
        if (producer->is_stopping)
            return Q_FAIL(Q_STOPPING, .what = "the producer is being freed", .hint = "");
        /* One message is taken however large it is. */
        if (producer->held_bytes == 0) return Q_OK;
        bool has_memory = producer->held_bytes + size <= producer->memory_bytes_max;
        bool has_place = producer->held_messages < producer->queue_messages_max;
        if (has_memory && has_place) return Q_OK;
        if (until_ns == 0) {
            /* In a callback nothing can become free: it is the thread that frees. So is a foreign loop. */
            until_ns = client_now_ns(producer->client);
            bool can_wait = !is_in_callback() && producer->event_fd < 0 && !producer->is_jammed;
            if (can_wait) until_ns += producer->block_ns;
        }
        if (!condition_wait(&producer->changed, &producer->lock, until_ns)) {
            producer->is_jammed = producer->one_way;
            return fail_full(producer, has_memory);
        }
    }
}

static enum q_err
fail_full(const struct qmq_producer *producer, bool has_memory)
{
    uint64_t held = has_memory ? producer->held_messages : producer->held_bytes;
    uint64_t max = has_memory ? producer->queue_messages_max : producer->memory_bytes_max;
    return Q_FAIL(
        Q_BUSY, .what = q_text(
                    "%llu %s wait for their outcome, %llu may", (unsigned long long)held,
                    has_memory ? "messages" : "bytes", (unsigned long long)max));
}

static enum q_err
add(struct subject *subject,
    struct qbatch_message *message,
    uint64_t due_ms,
    qmq_sent_fn *sent,
    void *context,
    struct lane **ret_lane)
{
    struct qmq_producer *producer = subject->producer;
    struct note note = {
        .sent = sent,
        .context = context,
        .time_ms = q_clock_wall_ms(producer->client->clock),
        .counter = producer->counter,
    };
    message->time_ms = note.time_ms;
    message->counter = note.counter;

    bool bound = is_bound(message);
    struct batch **open;
    struct lane *lane;
    uint64_t held_before;
    enum q_err err;
    do {
        Q_TRY(find_open(subject, message, &open, &lane));
        /* A batch is due as a whole. */
        if (*open && (*open)->due_ms != due_ms) *open = NULL;
        if (!*open) Q_TRY(open_batch(subject, due_ms, lane, open));
        held_before = (*open)->held_bytes;
        err = batch_add(*open, message, &note);
        /* It gets nothing more. Another is opened, which an empty one takes. */
        if (err == Q_AGAIN) *open = NULL;
    } while (err == Q_AGAIN);
    if (err != Q_OK) {
        drop_if_empty(*open);
        return err;
    }
    producer->counter++;
    producer->counts.sent++;
    hooks_count(&producer->client->hooks, COUNT_sent, 1);
    (*open)->is_ordered |= bound;
    if (lane) lane->waiting_bytes += (*open)->held_bytes - held_before;
    *ret_lane = lane;
    return Q_OK;
}

/* Where the message goes; `*ret_lane` NULL: where it waits for the route. */
static enum q_err
find_open(
    struct subject *subject,
    const struct qbatch_message *message,
    struct batch ***ret_open,
    struct lane **ret_lane)
{
    *ret_open = &subject->open;
    *ret_lane = NULL;
    if (!subject->ways) return Q_OK;

    struct way *way = ways_choose(subject->ways, message->order_key);
    if (!way)
        return Q_FAIL(
            Q_NO_ROUTE, .what = q_text("meta names no home for order keys of %s", subject->name));
    /* A batch is bound as a whole, which matters when it could go elsewhere. What is open when that changes gets
     * nothing more: a key's later message would join the batch in front of its earlier one. */
    bool is_split = client_has_several(subject->producer->client);
    if (way->is_split != is_split) way->open[0] = way->open[1] = NULL;
    way->is_split = is_split;
    *ret_open = &way->open[is_split && is_bound(message)];
    *ret_lane = way->lane;
    return Q_OK;
}

static enum q_err
open_batch(struct subject *subject, uint64_t due_ms, struct lane *lane, struct batch **ret_batch)
{
    Q_TRY(batch_get(subject, ret_batch));
    (*ret_batch)->due_ms = due_ms;
    q_list_push_back(lane ? &lane->waiting : &subject->unrouted, &(*ret_batch)->node);
    return Q_OK;
}

static void
drop_if_empty(struct batch *batch)
{
    if (qbatch_builder_count(batch->builder) > 0) return;
    batch_close_for_more(batch);
    q_list_remove(&batch->node);
    batch_recycle(batch);
}

int
qmq_send_wait(
    struct qmq_producer *producer,
    const char *subject,
    const struct qmq_outgoing *message,
    struct qmq_sent *ret_sent)
{
    if (is_in_callback() || producer->event_fd >= 0)
        return Q_FAIL(
            Q_INVALID,
            .what = "qmq_send_wait() in a callback or a foreign loop would wait for ever");

    struct send_waiter waiter = { .is_over = false };
    pthread_mutex_init(&waiter.lock, NULL);
    pthread_cond_init(&waiter.wake, NULL);
    enum q_err err = send_message(producer, subject, message, wake_sender, &waiter);
    if (err == Q_OK) {
        pthread_mutex_lock(&waiter.lock);
        while (!waiter.is_over)
            pthread_cond_wait(&waiter.wake, &waiter.lock);
        pthread_mutex_unlock(&waiter.lock);
        err = waiter.sent.code;
        if (err != Q_OK) q_fault_adopt(&waiter.fault);
        if (ret_sent) *ret_sent = waiter.sent;
    }
    pthread_cond_destroy(&waiter.wake);
    pthread_mutex_destroy(&waiter.lock);
    return err;
}

static void
wake_sender(void *context, const struct qmq_sent *sent)
{
    struct send_waiter *waiter = context;

    /* Signalled under the lock: the waiter lives on a stack that is left right after. */
    pthread_mutex_lock(&waiter->lock);
    waiter->sent = *sent;
    if (sent->code != QMQ_OK) waiter->fault = *q_fault_last();
    waiter->is_over = true;
    pthread_cond_signal(&waiter->wake);
    pthread_mutex_unlock(&waiter->lock);
}

int
qmq_flush(struct qmq_producer *producer, uint32_t timeout_ms)
{
    return flush(producer, timeout_ms);
}

static enum q_err
flush(struct qmq_producer *producer, uint32_t timeout_ms)
{
    uint64_t until_ns =
        client_now_ns(producer->client) + (uint64_t)timeout_ms * (uint64_t)Q_NS_PER_MS;
    enum q_err err = Q_OK;

    Q_TRY(client_check(producer->client));
    pthread_mutex_lock(&producer->lock);
    while (producer->held_bytes > 0 && err == Q_OK) {
        if (producer->event_fd >= 0) batches_deliver_here(producer);
        if (producer->held_bytes == 0) break;
        if (!condition_wait(&producer->changed, &producer->lock, until_ns))
            err = Q_FAIL(
                Q_TIMED_OUT, .what = q_text("messages without an outcome after %u ms", timeout_ms));
    }
    pthread_mutex_unlock(&producer->lock);
    return err;
}

void
qmq_producer_counts(struct qmq_producer *producer, struct qmq_producer_counts *ret_counts)
{
    pthread_mutex_lock(&producer->lock);
    *ret_counts = producer->counts;
    const struct qmq_producer_counts *at = ret_counts;
    ret_counts->waiting = at->sent - at->stored - at->unknown - at->refused - at->unsent;
    ret_counts->held_bytes = producer->held_bytes;
    pthread_mutex_unlock(&producer->lock);
}

void
qmq_producer_free(struct qmq_producer *producer)
{
    if (!producer || !client_is_here(producer->client)) return;
    Q_ASSERT(!is_in_callback());
    client_part(producer->client, &producer->member);
    give_up(producer);

    struct q_list *node;
    while ((node = q_list_pop_front(&producer->spare)))
        batch_free(q_container_of(node, struct batch, node));
    while ((node = q_list_pop_front(&producer->lanes)))
        lane_free(q_container_of(node, struct lane, node));
    for (uint32_t index = 0; index < producer->subject_count; index++) {
        free(producer->subjects[index]->ways);
        free(producer->subjects[index]);
    }
    free(producer->subjects);
    q_map_fini(&producer->map);
    if (producer->event_fd >= 0) (void)close(producer->event_fd);
    pthread_cond_destroy(&producer->changed);
    pthread_mutex_destroy(&producer->lock);
    free(producer);
}

/* What has no outcome yet gets one. */
static void
give_up(struct qmq_producer *producer)
{
    struct q_list batches = Q_LIST_INIT(batches);

    pthread_mutex_lock(&producer->lock);
    producer->is_stopping = true;
    q_list_for_each(node, &producer->lanes) {
        lane_cancel(q_container_of(node, struct lane, node));
    }
    for (uint32_t index = 0; index < producer->subject_count; index++)
        if (producer->subjects[index]->is_routing) call_cancel(&producer->subjects[index]->route);
    while (is_under_way(producer))
        pthread_cond_wait(&producer->changed, &producer->lock);

    q_list_for_each(node, &producer->lanes) {
        lane_empty(q_container_of(node, struct lane, node), &batches);
    }
    q_list_for_each(node, &producer->unrouted) {
        q_list_splice_back(&batches, &q_container_of(node, struct subject, node)->unrouted);
    }
    enum q_err err = Q_FAIL(Q_STOPPING, .what = "the producer was freed", .hint = "");
    uint64_t expired_bytes;
    (void)batches_expire(&batches, UINT64_MAX, err, NULL, &expired_bytes);
    batches_deliver_here(producer);
    pthread_mutex_unlock(&producer->lock);
}

static bool
is_under_way(const struct qmq_producer *producer)
{
    if (producer->routing_count > 0 || producer->is_delivering) return true;
    q_list_for_each(node, &producer->lanes) {
        if (q_container_of(node, struct lane, node)->on_air > 0) return true;
    }
    return false;
}

/*
 * subject.c: the subjects of a producer and where they are served.
 */
#include <stdlib.h>

#include "producer.h"

enum {
    ROUTE_TIMEOUT_MS = 5 * 1000,
    ROUTES_AT_ONCE = 256, /* the first messages of ten thousand subjects should not flood meta */
};

/* What is looked for: a subject has two ways, of messages that are due at once, and of others. */
struct wanted {
    const char *name;
    bool is_delayed;
};

static enum q_err subject_new(
    struct qmq_producer *producer, const char *name, bool is_delayed, struct subject **ret_subject);
static uint64_t hash_name(const char *name, bool is_delayed);
static bool is_subject(const void *key, uint32_t value, const void *context);
static enum q_err ask_route(struct subject *subject);
static void on_routed(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer);
static void take_ways(struct subject *subject);

enum q_err
subject_get(
    struct qmq_producer *producer, const char *name, bool is_delayed, struct subject **ret_subject)
{
    uint32_t index;
    const struct wanted wanted = { name, is_delayed };
    uint64_t hash = hash_name(name, is_delayed);
    if (!q_map_get(&producer->map, hash, is_subject, &wanted, producer, &index))
        return subject_new(producer, name, is_delayed, ret_subject);
    *ret_subject = producer->subjects[index];
    return Q_OK;
}

static enum q_err
subject_new(
    struct qmq_producer *producer, const char *name, bool is_delayed, struct subject **ret_subject)
{
    Q_TRY(qproto_check_name("subject", name, QPROTO_SUBJECT_MAX));

    uint32_t index = producer->subject_count;
    bool is_full = (index & (index - 1)) == 0; /* the array's size is a power of two */
    if (is_full) {
        size_t size = (index ? (size_t)index * 2 : 1) * sizeof(struct subject *);
        struct subject **grown = realloc(producer->subjects, size);
        if (!grown) return Q_FAIL(Q_E_NOMEM);
        producer->subjects = grown;
    }
    size_t length = strlen(name);
    struct subject *subject = calloc(1, sizeof(*subject) + length + 1);
    if (!subject) return Q_FAIL(Q_E_NOMEM);
    enum q_err err = q_map_put(&producer->map, hash_name(name, is_delayed), index);
    if (err != Q_OK) {
        free(subject);
        return err;
    }

    memcpy(subject->name, name, length + 1);
    subject->producer = producer;
    subject->is_delayed = is_delayed;
    q_list_init(&subject->unrouted);
    q_list_init(&subject->node);
    producer->subjects[index] = subject;
    producer->subject_count++;
    *ret_subject = subject;
    return Q_OK;
}

/* FNV-1a: names are short, and no stranger chooses them. */
static uint64_t
hash_name(const char *name, bool is_delayed)
{
    uint64_t hash = 0xcbf29ce484222325u + is_delayed;
    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3u;
    return hash;
}

static bool
is_subject(const void *key, uint32_t value, const void *context)
{
    const struct qmq_producer *producer = context;
    const struct wanted *wanted = key;
    const struct subject *subject = producer->subjects[value];
    return subject->is_delayed == wanted->is_delayed && strcmp(subject->name, wanted->name) == 0;
}

void
subject_wants_route(struct subject *subject)
{
    struct qmq_producer *producer = subject->producer;

    if (q_list_is_linked(&subject->node)) return;
    q_list_push_back(&producer->unrouted, &subject->node);
    if (producer->routing_count >= ROUTES_AT_ONCE || ask_route(subject) != Q_OK)
        client_wake(producer->client);
}

void
subject_refresh(struct subject *subject)
{
    struct qmq_producer *producer = subject->producer;

    if (subject->is_routing || producer->routing_count >= ROUTES_AT_ONCE) return;
    if (client_now_ns(producer->client) < subject->next_ns) return;
    if (ask_route(subject) != Q_OK)
        subject->next_ns = client_now_ns(producer->client) + backoff_next(&subject->backoff_ms);
}

static enum q_err
ask_route(struct subject *subject)
{
    struct qmq_producer *producer = subject->producer;

    subject->route_changes = producer->route_changes;
    subject->route.net = (struct qnet_request){ .timeout_ms = ROUTE_TIMEOUT_MS, .done = on_routed };
    const char *name = subject->is_delayed ? ROUTE_OF_DELAY : subject->name;
    Q_TRY(route_build(name, &subject->route.net.buffer));
    Q_TRY(link_submit(producer->client->meta, &subject->route));
    subject->is_routing = true;
    producer->routing_count++;
    return Q_OK;
}

static void
on_routed(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct call *call = q_container_of(request, struct call, net);
    struct subject *subject = q_container_of(call, struct subject, route);
    struct qmq_producer *producer = subject->producer;

    struct route route;
    if (err == Q_OK) err = route_read(producer->client, answer, &route);

    pthread_mutex_lock(&producer->lock);
    subject->is_routing = false;
    producer->routing_count--;
    bool is_first = !subject->ways;
    if (err == Q_OK) err = ways_new(producer, &route, subject->ways, &subject->ways);
    if (err == Q_OK) {
        subject->backoff_ms = 0;
        producer->is_jammed = false;
        take_ways(subject);
        /* A send may have been told BUSY. */
        if (is_first) event_raise(producer->event_fd);
    } else {
        /* The ways that there are stay. */
        producer->route_fault = *q_fault_last();
        subject->route_changes = producer->route_changes - 1;
        subject->next_ns = client_now_ns(producer->client) + backoff_next(&subject->backoff_ms);
    }
    if (subject->senders > 0) pthread_cond_broadcast(&producer->changed);
    if (producer->is_stopping) pthread_cond_broadcast(&producer->changed);
    if (err != Q_OK || producer->routing_count == ROUTES_AT_ONCE - 1) client_wake(producer->client);
    pthread_mutex_unlock(&producer->lock);
}

/* What waited for them goes. */
static void
take_ways(struct subject *subject)
{
    const struct qmq_producer *producer = subject->producer;
    struct batch *open = subject->open;
    subject->open = NULL;
    q_list_remove(&subject->node);
    struct q_list *node;
    while ((node = q_list_pop_front(&subject->unrouted))) {
        struct batch *batch = q_container_of(node, struct batch, node);
        struct way *way = ways_choose(subject->ways, q_bytes_from(NULL, 0));
        q_list_push_back(&way->lane->waiting, node);
        way->lane->waiting_bytes += batch->held_bytes;
        if (batch == open) way->open[0] = batch;
    }
    /* Nobody would cancel what leaves after give_up() has cancelled everything. */
    if (producer->is_stopping) return;
    q_list_for_each(at, &producer->lanes) {
        lane_pump(q_container_of(at, struct lane, node));
    }
}

uint64_t
subjects_tick(struct qmq_producer *producer, uint64_t now_ns)
{
    uint64_t due_ns = UINT64_MAX;

    q_list_for_each_safe(node, &producer->unrouted) {
        struct subject *subject = q_container_of(node, struct subject, node);
        uint64_t expired_bytes;

        q_fault_adopt(&producer->route_fault);
        enum q_err err = producer->route_fault.err ? producer->route_fault.err : Q_TIMED_OUT;
        uint64_t expiry_ns = batches_expire(&subject->unrouted, now_ns, err, NULL, &expired_bytes);
        due_ns = q_min_u64(due_ns, expiry_ns);
        if (subject->is_routing) continue;
        if (q_list_is_empty(&subject->unrouted) && subject->senders == 0) {
            q_list_remove(&subject->node);
            continue;
        }

        bool is_due = now_ns >= subject->next_ns && producer->routing_count < ROUTES_AT_ONCE;
        if (is_due && ask_route(subject) == Q_OK) continue;
        if (is_due) subject->next_ns = now_ns + backoff_next(&subject->backoff_ms);
        if (producer->routing_count < ROUTES_AT_ONCE) due_ns = q_min_u64(due_ns, subject->next_ns);
    }
    return due_ns;
}

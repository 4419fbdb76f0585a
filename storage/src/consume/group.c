#include "consume/group.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/block.h"

/* With its share of the table of names, as that grows by doubling. */
enum {
    NAME_BYTES = 2 * 2 * 16,
    CONSUMER_BYTES = sizeof(struct ql_consumer) + NAME_BYTES,
};

static bool name_equal(const void *key, uint32_t value, const void *context);

static uint64_t
group_bytes(size_t name_size)
{
    return sizeof(struct ql_group) + name_size + 1 + NAME_BYTES;
}

enum q_err
ql_group_new(
    const struct ql_group_record *record,
    struct ql_subject *subject,
    struct ql_room *room,
    struct ql_group **ret_group)
{
    struct ql_group *group = calloc(1, sizeof(*group));
    char *name = calloc(1, record->name.size + 1);
    if (group == NULL || name == NULL) {
        free(group);
        free(name);
        return Q_FAIL(Q_E_NOMEM, .what = "consumer group");
    }
    ql_room_change(room, 0, group_bytes(record->name.size));
    group->room = room;
    group->pending.room = room;
    group->keys.room = room;
    group->filters.room = room;
    group->name = name;
    group->name_size = (uint8_t)record->name.size;
    memcpy(name, record->name.data, record->name.size);
    q_list_init(&group->subject_link);
    q_list_init(&group->parked_link);
    q_list_init(&group->parked);
    q_list_init(&group->hurried);
    q_list_init(&group->dying_link);
    q_heap_node_init(&group->due);
    for (uint32_t i = 0; i < record->filter_count; i++) {
        enum q_err err = ql_filters_set(&group->filters, &record->filters[i]);
        if (err == Q_OK) continue;
        ql_group_free(group);
        return err;
    }
    group->id = record->group_id;
    group->subject = subject;
    group->cursor = record->cursor;
    group->epoch = record->epoch;
    group->dead = record->dead;
    group->expired = record->expired;
    group->skipped = record->skipped;
    group->broadcast = record->broadcast;
    group->paused = record->paused;
    group->settings = record->settings;
    group->of_dead = record->subject.size >= strlen(QL_DEAD_PREFIX) &&
                     memcmp(record->subject.data, QL_DEAD_PREFIX, strlen(QL_DEAD_PREFIX)) == 0;
    group->restoring = true;
    group->due_ms = UINT64_MAX;
    *ret_group = group;
    return Q_OK;
}

void
ql_group_free(struct ql_group *group)
{
    if (group == NULL) return;
    Q_ASSERT(q_list_is_empty(&group->parked) && q_list_is_empty(&group->hurried));
    Q_ASSERT(!q_heap_node_is_linked(&group->due));
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) ql_consumer_free(group->consumers[i]);
    q_map_fini(&group->consumers_by_name);
    ql_spans_fini(&group->pending);
    ql_keys_fini(&group->keys);
    ql_filters_fini(&group->filters);
    free(group->errors);
    free(group->consumers);
    free(group->name);
    ql_room_change(group->room, group->error_capacity * sizeof(struct ql_last_error), 0);
    ql_room_change(group->room, group->consumer_capacity * sizeof(struct ql_consumer *), 0);
    ql_room_change(group->room, group_bytes(group->name_size), 0);
    free(group);
}

void
ql_group_shrink(struct ql_group *group)
{
    ql_spans_shrink(&group->pending);
    /* Pending ones that hold nothing back now may do so once the group is strict. */
    if (group->keys.used == 0 && group->pending.count == 0) ql_keys_fini(&group->keys);
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) ql_spans_shrink(&group->consumers[i]->held);
    if (group->error_count > 0 || group->error_capacity == 0) return;
    free(group->errors);
    ql_room_change(group->room, group->error_capacity * sizeof(struct ql_last_error), 0);
    group->errors = NULL;
    group->error_capacity = 0;
}

struct ql_consumer *
ql_group_consumer(const struct ql_group *group, uint32_t id)
{
    return id < group->consumer_count ? group->consumers[id] : NULL;
}

static bool
name_equal(const void *key, uint32_t value, const void *context)
{
    const struct ql_consumer *consumer = ql_group_consumer(context, value);
    return q_bytes_equal(
        q_bytes_from(consumer->name, consumer->name_size), *(const struct q_bytes *)key);
}

struct ql_consumer *
ql_group_consumer_named(const struct ql_group *group, struct q_bytes name)
{
    uint32_t id;
    if (!q_map_get(
            &group->consumers_by_name, ql_hash(name.data, name.size), name_equal, &name, group,
            &id))
        return NULL;
    return ql_group_consumer(group, id);
}

enum q_err
ql_consumer_new(
    struct ql_group *group,
    uint32_t id,
    struct q_bytes name,
    uint64_t next_pull_sequence,
    struct ql_consumer **ret_consumer)
{
    enum {
        CONSUMERS_MAX = 1000 * 1000
    };
    if (id >= CONSUMERS_MAX || name.size > QLOG_CONSUMER_MAX ||
        ql_group_consumer_named(group, name) != NULL)
        return Q_FAIL(Q_E_CORRUPT, .what = "JOIN with an impossible consumer id or name");
    if (id >= group->consumer_capacity) {
        uint32_t capacity = group->consumer_capacity == 0 ? 4 : group->consumer_capacity;
        while (capacity <= id)
            capacity *= 2;
        struct ql_consumer **consumers =
            realloc(group->consumers, capacity * sizeof(struct ql_consumer *));
        if (consumers == NULL) return Q_FAIL(Q_E_NOMEM, .what = "consumers of a group");
        group->consumers = consumers;
        ql_room_change(
            group->room, group->consumer_capacity * sizeof(struct ql_consumer *),
            capacity * sizeof(struct ql_consumer *));
        group->consumer_capacity = capacity;
    }
    struct ql_consumer *consumer = calloc(1, sizeof(*consumer));
    if (consumer == NULL) return Q_FAIL(Q_E_NOMEM, .what = "consumer");
    enum q_err err = q_map_put(&group->consumers_by_name, ql_hash(name.data, name.size), id);
    if (err != Q_OK) {
        free(consumer);
        return err;
    }
    ql_room_change(group->room, 0, CONSUMER_BYTES);
    consumer->group = group;
    consumer->held.room = group->room;
    consumer->id = id;
    consumer->next_pull_sequence = next_pull_sequence;
    consumer->released_below = next_pull_sequence;
    consumer->held.by_pull = true;
    consumer->name_size = (uint8_t)name.size;
    memcpy(consumer->name, name.data, name.size);
    q_heap_node_init(&consumer->deadline);
    q_heap_node_init(&consumer->timeout);
    while (group->consumer_count <= id)
        group->consumers[group->consumer_count++] = NULL;
    group->consumers[id] = consumer;
    *ret_consumer = consumer;
    return Q_OK;
}

void
ql_consumer_free(struct ql_consumer *consumer)
{
    struct ql_group *group = consumer->group;
    Q_ASSERT(!q_heap_node_is_linked(&consumer->deadline));
    Q_ASSERT(!q_heap_node_is_linked(&consumer->timeout));
    Q_ASSERT(consumer->parked == NULL);
    (void)q_map_remove(
        &group->consumers_by_name, ql_hash(consumer->name, consumer->name_size), consumer->id);
    group->consumers[consumer->id] = NULL;
    ql_spans_fini(&consumer->held);
    ql_room_change(group->room, CONSUMER_BYTES, 0);
    free(consumer);
}

void
ql_consumer_set_session(struct ql_consumer *consumer, uint64_t session, uint32_t filter)
{
    struct ql_filters *filters = &consumer->group->filters;
    if (consumer->session != 0) filters->slots[consumer->filter]->members--;
    consumer->session = session;
    consumer->filter = filter;
    if (session != 0) filters->slots[filter]->members++;
}

bool
ql_group_is_full(const struct ql_group *group)
{
    return group->pending_messages >= group->settings.pending_max || ql_room_is_full(group->room);
}

bool
ql_group_has_some(const struct ql_group *group)
{
    return group->pending.count > 0 || ql_group_in_flight(group) > 0;
}

uint64_t
ql_group_in_flight(const struct ql_group *group)
{
    uint64_t messages = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) messages += group->consumers[i]->held_messages;
    return messages;
}

uint64_t
ql_group_oldest(const struct ql_group *group)
{
    uint64_t oldest = group->cursor;
    if (group->pending.count > 0)
        oldest = q_min_u64(oldest, ql_span_at(&group->pending, 0)->sequence);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++)
            oldest = q_min_u64(oldest, ql_span_at(&consumer->held, j)->sequence);
    }
    return oldest;
}

uint64_t
ql_group_next_due(const struct ql_group *group, uint64_t now_ms)
{
    uint64_t due_ms = UINT64_MAX;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        if (item->time_ms > now_ms) due_ms = q_min_u64(due_ms, item->time_ms);
    }
    return due_ms;
}

void
ql_group_refresh_due(struct ql_group *group)
{
    group->due_ms = UINT64_MAX;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        group->due_ms = q_min_u64(group->due_ms, item->time_ms);
    }
}

uint64_t
ql_consumer_next_timeout(const struct ql_consumer *consumer)
{
    uint64_t next_ms = UINT64_MAX;
    for (uint32_t i = 0; i < consumer->held.count; i++) {
        const struct ql_range_item *item = ql_span_at(&consumer->held, i);
        if (item->time_ms != 0) next_ms = q_min_u64(next_ms, item->time_ms);
    }
    return next_ms;
}

struct q_bytes
ql_group_error(const struct ql_group *group, uint64_t sequence)
{
    /* The newest: a message that was sent again may have died twice. */
    for (uint32_t i = group->error_count; i > 0; i--) {
        const struct ql_last_error *error = &group->errors[i - 1];
        if (sequence - error->sequence < error->count)
            return q_bytes_from(error->text, error->size);
    }
    return q_bytes_from("", 0);
}

/*
 * consume/state.c: the state of a group: told by records, as a number, and checked.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "consume/group.h"
#include "format/block.h"
#include "planted.h"

static bool is_there(const struct ql_spans *spans, const struct ql_range_item *item);
static void check_consumer(const struct ql_consumer *consumer);

enum q_err
ql_group_apply_consumer(struct ql_group *group, const struct ql_consumer_record *record)
{
    if (!group->restoring) return Q_OK;
    struct ql_consumer *consumer;
    if (ql_group_consumer(group, record->consumer_id) != NULL)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER is stated twice");
    if (record->session != 0 && group->filters.slots[record->filter] == NULL)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER with an unknown filter");
    Q_TRY(ql_consumer_new(
        group, record->consumer_id, record->name, record->next_pull_sequence, &consumer));
    ql_consumer_set_session(consumer, record->session, record->filter);
    consumer->released_below = record->released_below;
    memcpy(consumer->token, record->token, sizeof(consumer->token));
    return Q_OK;
}

enum q_err
ql_group_apply_held(struct ql_group *group, const struct ql_ranges_record *record)
{
    if (!group->restoring) return Q_OK;
    Q_TRY(ql_keys_reserve(&group->keys, record->item_count));
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_range_item item = ql_range_item_at(record, i);
        struct ql_consumer *consumer = ql_group_consumer(group, item.consumer_id);
        if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "HELD of an unknown consumer");
        if (is_there(&consumer->held, &item))
            return Q_FAIL(Q_E_CORRUPT, .what = "HELD states a pull sequence twice");
        Q_TRY(ql_held_reserve(consumer, 1));
        ql_held_add(consumer, &item);
    }
    return Q_OK;
}

enum q_err
ql_group_apply_pending(struct ql_group *group, const struct ql_ranges_record *record)
{
    if (!group->restoring) return Q_OK;
    Q_TRY(ql_pending_reserve(group, record->item_count));
    Q_TRY(ql_keys_reserve(&group->keys, record->item_count));
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_range_item item = ql_range_item_at(record, i);
        if (QL_PLANTED(replay_forgets_attempts)) item.uses = (struct ql_uses){ 0 };
        if (is_there(&group->pending, &item) || item.reason == 0)
            return Q_FAIL(Q_E_CORRUPT, .what = "PENDING states a message twice, or has no reason");
        ql_pending_add(group, &item, 1);
    }
    return Q_OK;
}

/* A part of it. */
static bool
is_there(const struct ql_spans *spans, const struct ql_range_item *item)
{
    uint64_t from = ql_span_from(spans, item);
    uint32_t at = ql_spans_find(spans, from);
    return at < spans->count && ql_span_from(spans, ql_span_at(spans, at)) < from + item->count;
}

void
ql_group_note_hole(struct ql_group *group)
{
    group->hole = true;
    /* The rest of a long statement says nothing of what was lost in between. */
    group->restoring = false;
}

enum q_err
ql_group_apply_cursor(struct ql_group *group, const struct ql_cursor_record *record)
{
    if (group->restoring) group->cursor = q_max_u64(group->cursor, record->cursor);
    return Q_OK;
}

enum q_err
ql_group_apply_error(struct ql_group *group, const struct ql_error_record *record)
{
    if (!group->restoring) return Q_OK;
    if (group->error_count == group->error_capacity) {
        uint32_t capacity = group->error_capacity == 0 ? 4 : group->error_capacity * 2;
        struct ql_last_error *errors =
            realloc(group->errors, capacity * sizeof(struct ql_last_error));
        if (errors == NULL) return Q_FAIL(Q_E_NOMEM, .what = "errors of dying messages");
        group->errors = errors;
        ql_room_change(
            group->room, group->error_capacity * sizeof(struct ql_last_error),
            capacity * sizeof(struct ql_last_error));
        group->error_capacity = capacity;
    }
    struct ql_last_error *error = &group->errors[group->error_count++];
    error->sequence = record->sequence;
    error->count = record->count;
    error->left = record->left;
    error->size = (uint8_t)record->text.size;
    memcpy(error->text, record->text.data, record->text.size);
    return Q_OK;
}

/* Order matters, so one multiplication and one addition a number are enough. */
static uint64_t
hash_number(uint64_t hash, uint64_t number)
{
    return (hash ^ number) * 0x9e3779b97f4a7c15u + 1;
}

static uint64_t
hash_text(uint64_t hash, const void *text, size_t size)
{
    return hash_number(hash, ql_hash(text, size));
}

/* Message by message: how they lie in spans, and the bytes that are told of those, is no state. */
static uint64_t
hash_spans(uint64_t hash, const struct ql_spans *spans)
{
    for (uint32_t i = 0; i < spans->count; i++) {
        const struct ql_range_item item = *ql_span_at(spans, i);
        for (uint32_t j = 0; j < item.count; j++) {
            hash = hash_number(hash, item.sequence + j);
            bool nobody = item.consumer_id == (uint32_t)QL_CONSUMER_NONE;
            hash = hash_number(hash, nobody ? 0 : item.pull_sequence + j);
            hash = hash_number(hash, item.time_ms);
            hash = hash_number(hash, (uint64_t)item.key << 32 | item.consumer_id);
            hash = hash_number(hash, item.expiring ? 1 : 0);
            hash = hash_number(
                hash, (uint64_t)item.filters << 32 | (uint32_t)item.reason << 24 |
                          (uint32_t)item.uses.failed << 16 | (uint32_t)item.uses.timed_out << 8 |
                          item.uses.died);
        }
    }
    return hash;
}

static uint64_t
hash_settings(uint64_t hash, const struct qlog_group_settings *settings)
{
    hash = hash_number(hash, (settings->strict ? 1 : 0) | (settings->ack_sync ? 2 : 0));
    hash = hash_number(hash, (uint64_t)settings->attempts_max << 32 | settings->pending_max);
    hash = hash_number(hash, (uint64_t)settings->filter_keep_ms << 32 | settings->backoff_count);
    for (uint32_t i = 0; i < settings->backoff_count; i++)
        hash = hash_number(hash, settings->backoff_ms[i]);
    return hash;
}

static uint64_t
hash_filters(uint64_t hash, const struct ql_filters *filters)
{
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        if (filters->slots[i] == NULL) continue;
        const struct qbatch_filter *filter = &filters->slots[i]->filter;
        hash =
            hash_number(hash, (uint64_t)i << 32 | filter->tag_count << 1 | (uint32_t)filter->mode);
        for (uint32_t j = 0; j < filter->tag_count; j++)
            hash = hash_text(hash, filter->tags[j].data, filter->tags[j].size);
    }
    return hash;
}

uint64_t
ql_group_state_hash(const struct ql_group *group)
{
    uint64_t hash = hash_text(group->id, group->name, group->name_size);
    hash = hash_number(hash, group->cursor);
    hash = hash_number(hash, group->epoch);
    hash = hash_number(hash, group->dead);
    hash = hash_number(hash, group->expired);
    hash = hash_number(hash, group->skipped);
    hash = hash_number(hash, (group->broadcast ? 1 : 0) | (group->paused ? 2 : 0));
    hash = hash_settings(hash, &group->settings);
    hash = hash_filters(hash, &group->filters);
    hash = hash_spans(hash, &group->pending);
    for (uint32_t i = 0; i < group->error_count; i++) {
        hash = hash_number(hash, group->errors[i].sequence);
        hash = hash_number(hash, (uint64_t)group->errors[i].count << 32 | group->errors[i].left);
        hash = hash_text(hash, group->errors[i].text, group->errors[i].size);
    }
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        hash = hash_number(hash, (uint64_t)consumer->id << 32 | consumer->filter);
        hash = hash_text(hash, consumer->name, consumer->name_size);
        hash = hash_text(hash, consumer->token, sizeof(consumer->token));
        hash = hash_number(hash, consumer->session);
        hash = hash_number(hash, consumer->next_pull_sequence);
        hash = hash_number(hash, consumer->released_below);
        hash = hash_spans(hash, &consumer->held);
    }
    return hash;
}

void
ql_group_check(const struct ql_group *group)
{
    uint64_t messages = 0;
    uint64_t behind = 0;
    uint16_t kept = ql_filters_kept(&group->filters);
    uint64_t waiting = 0;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        Q_ASSERT(item->count > 0);
        Q_ASSERT(item->sequence >= behind);
        Q_ASSERT(item->reason >= QL_REASON_RETRY && item->reason <= QL_REASON_DYING);
        Q_ASSERT(!item->expiring || item->reason == QL_REASON_DYING);
        Q_ASSERT((item->filters & kept) != 0);
        Q_ASSERT(item->time_ms >= group->due_ms);
        behind = item->sequence + item->count;
        messages += item->count;
        if (ql_pending_blocks(group, item)) waiting += item->count;
    }
    Q_ASSERT(behind <= group->cursor);
    Q_ASSERT(messages == group->pending_messages);
    uint64_t held = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        check_consumer(consumer);
        for (uint32_t j = 0; j < consumer->held.count; j++)
            if (ql_span_at(&consumer->held, j)->key != 0)
                held += ql_span_at(&consumer->held, j)->count;
    }
    for (uint32_t i = 0; i < group->keys.slot_count; i++) {
        if (group->keys.slots[i].key == 0) continue;
        Q_ASSERT(group->keys.slots[i].held <= held);
        Q_ASSERT(group->keys.slots[i].waiting <= waiting);
        held -= group->keys.slots[i].held;
        waiting -= group->keys.slots[i].waiting;
    }
    Q_ASSERT(held == 0);
    Q_ASSERT(waiting == 0);
}

static void
check_consumer(const struct ql_consumer *consumer)
{
    const struct ql_group *group = consumer->group;
    uint64_t messages = 0;
    uint64_t next = 0;
    for (uint32_t i = 0; i < consumer->held.count; i++) {
        const struct ql_range_item *item = ql_span_at(&consumer->held, i);
        Q_ASSERT(item->count > 0);
        Q_ASSERT(item->pull_sequence >= next);
        Q_ASSERT(item->sequence + item->count <= group->cursor);
        next = item->pull_sequence + item->count;
        messages += item->count;
    }
    Q_ASSERT(next <= consumer->next_pull_sequence);
    Q_ASSERT(messages == consumer->held_messages);
    Q_ASSERT(consumer->session != 0 || messages == 0);
}

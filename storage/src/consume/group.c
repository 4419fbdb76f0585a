#include "consume/group.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/block.h"

static enum q_err consumer_new(
    struct ql_group *group,
    uint32_t id,
    struct q_bytes name,
    uint64_t next_pull_sequence,
    struct ql_consumer **ret_consumer);
static enum q_err held_reserve(struct ql_consumer *consumer, uint32_t more);
static void held_insert(struct ql_consumer *consumer, const struct ql_held *held);
static enum q_err pending_reserve(struct ql_group *group, uint32_t more);
static void pending_take(struct ql_group *group, uint64_t sequence, uint64_t count);
static void pending_add(struct ql_group *group, const struct ql_pending *item);
static void held_ack(struct ql_consumer *consumer, const struct qlog_range *range);
static void held_drop(struct ql_consumer *consumer, uint64_t from, uint64_t to);
static uint64_t pull_fill_hole(struct ql_group *group, const struct ql_pull_record *record);
static void pending_ack(
    struct ql_group *group, uint32_t consumer_id, const struct qlog_range *range);

enum q_err
ql_group_new(
    const struct ql_group_record *record, struct ql_subject *subject, struct ql_group **ret_group)
{
    size_t text_size = 1;
    for (uint32_t i = 0; i < record->filter.tag_count; i++)
        text_size += record->filter.tags[i].size;
    struct ql_group *group = calloc(1, sizeof(*group));
    char *name = calloc(1, record->name.size + 1);
    char *text = calloc(1, text_size);
    if (group == NULL || name == NULL || text == NULL) {
        free(group);
        free(name);
        free(text);
        return Q_FAIL(Q_E_NOMEM, .what = "consumer group");
    }
    group->id = record->group_id;
    group->subject = subject;
    group->cursor = record->cursor;
    group->restoring = true;
    group->name = name;
    group->name_size = (uint8_t)record->name.size;
    memcpy(name, record->name.data, record->name.size);
    group->text = text;
    group->filter = record->filter;
    for (uint32_t i = 0; i < record->filter.tag_count; i++) {
        struct q_bytes tag = record->filter.tags[i];
        memcpy(text, tag.data, tag.size);
        group->filter.tags[i] = q_bytes_from(text, tag.size);
        text += tag.size;
    }
    q_list_init(&group->subject_link);
    q_list_init(&group->parked_link);
    q_list_init(&group->parked);
    *ret_group = group;
    return Q_OK;
}

void
ql_group_free(struct ql_group *group)
{
    if (group == NULL) return;
    Q_ASSERT(q_list_is_empty(&group->parked));
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        if (group->consumers[i] == NULL) continue;
        Q_ASSERT(!q_heap_node_is_linked(&group->consumers[i]->deadline));
        free(group->consumers[i]->held);
        free(group->consumers[i]);
    }
    free(group->consumers);
    free(group->pending);
    free(group->name);
    free(group->text);
    free(group);
}

struct ql_consumer *
ql_group_consumer(const struct ql_group *group, uint32_t id)
{
    return id < group->consumer_count ? group->consumers[id] : NULL;
}

struct ql_consumer *
ql_group_consumer_named(const struct ql_group *group, struct q_bytes name)
{
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer != NULL &&
            q_bytes_equal(q_bytes_from(consumer->name, consumer->name_size), name))
            return consumer;
    }
    return NULL;
}

bool
ql_filter_equal(const struct qbatch_filter *a, const struct qbatch_filter *b)
{
    if (a->tag_count != b->tag_count) return false;
    /* With one tag or none, any-of and all-of are the same. */
    if (a->tag_count > 1 && a->mode != b->mode) return false;
    for (uint32_t i = 0; i < a->tag_count; i++) {
        bool found = false;
        for (uint32_t j = 0; j < b->tag_count && !found; j++)
            found = q_bytes_equal(a->tags[i], b->tags[j]);
        if (!found) return false;
    }
    return true;
}

enum q_err
ql_group_apply_join(struct ql_group *group, const struct ql_join_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL)
        Q_TRY(consumer_new(
            group, record->consumer_id, record->name, record->next_pull_sequence, &consumer));
    if (!q_bytes_equal(q_bytes_from(consumer->name, consumer->name_size), record->name))
        return Q_FAIL(Q_E_CORRUPT, .what = "JOIN of a consumer id under another name");
    consumer->session = record->session;
    memcpy(consumer->token, record->token, sizeof(consumer->token));
    return Q_OK;
}

static enum q_err
consumer_new(
    struct ql_group *group,
    uint32_t id,
    struct q_bytes name,
    uint64_t next_pull_sequence,
    struct ql_consumer **ret_consumer)
{
    enum {
        CONSUMERS_MAX = 1000 * 1000
    };
    if (id >= CONSUMERS_MAX || name.size > QLOG_CONSUMER_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = "JOIN with an impossible consumer id or name");
    if (id >= group->consumer_capacity) {
        uint32_t capacity = group->consumer_capacity == 0 ? 4 : group->consumer_capacity;
        while (capacity <= id)
            capacity *= 2;
        struct ql_consumer **consumers =
            realloc(group->consumers, capacity * sizeof(struct ql_consumer *));
        if (consumers == NULL) return Q_FAIL(Q_E_NOMEM, .what = "consumers of a group");
        group->consumers = consumers;
        group->consumer_capacity = capacity;
    }
    struct ql_consumer *consumer = calloc(1, sizeof(*consumer));
    if (consumer == NULL) return Q_FAIL(Q_E_NOMEM, .what = "consumer");
    consumer->group = group;
    consumer->id = id;
    consumer->next_pull_sequence = next_pull_sequence;
    consumer->released_below = next_pull_sequence;
    consumer->name_size = (uint8_t)name.size;
    memcpy(consumer->name, name.data, name.size);
    q_heap_node_init(&consumer->deadline);
    while (group->consumer_count <= id)
        group->consumers[group->consumer_count++] = NULL;
    group->consumers[id] = consumer;
    *ret_consumer = consumer;
    return Q_OK;
}

enum q_err
ql_group_apply_pull(struct ql_group *group, const struct ql_pull_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "PULL of an unknown consumer");
    if (record->first_pull_sequence < consumer->next_pull_sequence)
        return Q_FAIL(Q_E_CORRUPT, .what = "PULL gives a pull sequence twice");
    if (record->cursor < group->cursor)
        return Q_FAIL(Q_E_CORRUPT, .what = "PULL moves the cursor back");
    Q_TRY(held_reserve(consumer, record->run_count));
    /* Taking a run out of the middle of a pending range makes two of it. */
    Q_TRY(pending_reserve(group, 2 * record->run_count + 1));

    uint64_t pull_sequence = record->first_pull_sequence;
    if (group->hole) group->cursor = pull_fill_hole(group, record);
    uint64_t cursor = group->cursor;
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        if (run.sequence < cursor) pending_take(group, run.sequence, run.count);
        consumer->held[consumer->held_count++] = (struct ql_held){
            .pull_sequence = pull_sequence,
            .sequence = run.sequence,
            .count = run.count,
            .attempt = run.attempt,
        };
        consumer->held_messages += run.count;
        pull_sequence += run.count;
    }
    consumer->next_pull_sequence = pull_sequence;
    group->cursor = record->cursor;
    return Q_OK;
}

/*
 * Actions before this PULL are missing. Messages between the cursor that is known and what it hands
 * out may have been handed out or not, so they become pending: twice is better than never. Where the
 * group filters, what lies between is mostly what its filter does not take, and stays passed over.
 * Returns the cursor that the PULL goes on from.
 */
static uint64_t
pull_fill_hole(struct ql_group *group, const struct ql_pull_record *record)
{
    uint64_t cursor = group->cursor;
    group->hole = false;
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        if (run.sequence < cursor) continue;
        if (run.sequence > cursor && group->filter.tag_count == 0) {
            struct ql_pending item = {
                .sequence = cursor,
                .count = (uint32_t)q_min_u64(run.sequence - cursor, UINT32_MAX),
                .attempt = 1,
                .consumer_id = (uint32_t)QL_CONSUMER_NONE,
            };
            pending_add(group, &item);
        }
        cursor = run.sequence + run.count;
    }
    return group->cursor;
}

enum q_err
ql_group_apply_ack(struct ql_group *group, const struct ql_ack_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "ACK of an unknown consumer");
    /* A range out of the middle of another makes two of it. */
    Q_TRY(held_reserve(consumer, record->range_count));
    Q_TRY(pending_reserve(group, record->range_count));
    for (uint32_t i = 0; i < record->range_count; i++) {
        struct qlog_range range = ql_ack_range_at(record, i);
        held_ack(consumer, &range);
        if (range.first < consumer->released_below) pending_ack(group, consumer->id, &range);
    }
    return Q_OK;
}

enum q_err
ql_group_apply_release(struct ql_group *group, const struct ql_release_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "RELEASE of an unknown consumer");
    Q_TRY(pending_reserve(group, consumer->held_count));
    for (uint32_t i = 0; i < consumer->held_count; i++) {
        const struct ql_held *held = &consumer->held[i];
        struct ql_pending item = {
            .sequence = held->sequence,
            .pull_sequence = held->pull_sequence,
            .count = held->count,
            /* A death is an attempt; an orderly goodbye is not. */
            .attempt = held->attempt + (record->reason == QL_RELEASE_DIED ? 1 : 0),
            .consumer_id = consumer->id,
        };
        pending_add(group, &item);
    }
    consumer->held_count = 0;
    consumer->held_messages = 0;
    consumer->released_below = consumer->next_pull_sequence;
    consumer->session = 0;
    if (record->reason == QL_RELEASE_FORGOTTEN) {
        /* Its number may be given to another, whose acks are none of these messages'. */
        for (uint32_t i = 0; i < group->pending_count; i++)
            if (group->pending[i].consumer_id == consumer->id)
                group->pending[i].consumer_id = (uint32_t)QL_CONSUMER_NONE;
        group->consumers[consumer->id] = NULL;
        Q_ASSERT(!q_heap_node_is_linked(&consumer->deadline));
        Q_ASSERT(consumer->parked == NULL);
        free(consumer->held);
        free(consumer);
    }
    return Q_OK;
}

enum q_err
ql_group_apply_consumer(struct ql_group *group, const struct ql_consumer_record *record)
{
    if (!group->restoring) return Q_OK;
    struct ql_consumer *consumer;
    if (ql_group_consumer(group, record->consumer_id) != NULL)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER is stated twice");
    Q_TRY(consumer_new(
        group, record->consumer_id, record->name, record->next_pull_sequence, &consumer));
    consumer->session = record->session;
    consumer->released_below = record->released_below;
    memcpy(consumer->token, record->token, sizeof(consumer->token));
    return Q_OK;
}

enum q_err
ql_group_apply_held(struct ql_group *group, const struct ql_ranges_record *record)
{
    if (!group->restoring) return Q_OK;
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_range_item item = ql_range_item_at(record, i);
        struct ql_consumer *consumer = ql_group_consumer(group, item.consumer_id);
        if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "HELD of an unknown consumer");
        Q_TRY(held_reserve(consumer, 1));
        struct ql_held held = {
            .pull_sequence = item.pull_sequence,
            .sequence = item.sequence,
            .count = item.count,
            .attempt = item.attempt,
        };
        held_insert(consumer, &held);
    }
    return Q_OK;
}

enum q_err
ql_group_apply_pending(struct ql_group *group, const struct ql_ranges_record *record)
{
    if (!group->restoring) return Q_OK;
    Q_TRY(pending_reserve(group, record->item_count));
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_range_item item = ql_range_item_at(record, i);
        struct ql_pending pending = {
            .sequence = item.sequence,
            .pull_sequence = item.pull_sequence,
            .count = item.count,
            .attempt = item.attempt,
            .consumer_id = item.consumer_id,
        };
        pending_add(group, &pending);
    }
    return Q_OK;
}

void
ql_group_note_hole(struct ql_group *group)
{
    group->hole = true;
    /* The rest of a long statement says nothing of what was lost in between. */
    group->restoring = false;
}

void
ql_group_apply_cursor(struct ql_group *group, const struct ql_cursor_record *record)
{
    if (group->restoring) group->cursor = q_max_u64(group->cursor, record->cursor);
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

uint64_t
ql_group_state_hash(const struct ql_group *group)
{
    uint64_t hash = hash_text(group->id, group->name, group->name_size);
    hash = hash_number(hash, group->cursor);
    hash = hash_number(hash, group->filter.tag_count << 1 | (uint32_t)group->filter.mode);
    for (uint32_t i = 0; i < group->filter.tag_count; i++)
        hash = hash_text(hash, group->filter.tags[i].data, group->filter.tags[i].size);
    for (uint32_t i = 0; i < group->pending_count; i++) {
        const struct ql_pending *item = &group->pending[i];
        hash = hash_number(hash, item->sequence);
        hash = hash_number(hash, item->pull_sequence);
        hash = hash_number(hash, (uint64_t)item->count << 32 | item->attempt);
        hash = hash_number(hash, item->consumer_id);
    }
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        hash = hash_number(hash, consumer->id);
        hash = hash_text(hash, consumer->name, consumer->name_size);
        hash = hash_text(hash, consumer->token, sizeof(consumer->token));
        hash = hash_number(hash, consumer->session);
        hash = hash_number(hash, consumer->next_pull_sequence);
        hash = hash_number(hash, consumer->released_below);
        for (uint32_t j = 0; j < consumer->held_count; j++) {
            const struct ql_held *held = &consumer->held[j];
            hash = hash_number(hash, held->pull_sequence);
            hash = hash_number(hash, held->sequence);
            hash = hash_number(hash, (uint64_t)held->count << 32 | held->attempt);
        }
    }
    return hash;
}

enum q_err
ql_consumer_check_ack(
    const struct ql_consumer *consumer, const struct qlog_range *range, bool *ret_late)
{
    if (range->first > range->last || range->last >= consumer->next_pull_sequence)
        return Q_FAIL(
            Q_INVALID, .what = q_text(
                           "pull sequences %llu to %llu were never handed out (next is %llu)",
                           (unsigned long long)range->first, (unsigned long long)range->last,
                           (unsigned long long)consumer->next_pull_sequence));
    *ret_late = false;
    if (range->first >= consumer->released_below) return Q_OK;
    /* The part that was released once: on time only while it still is pending. */
    uint64_t last = q_min_u64(range->last, consumer->released_below - 1);
    uint64_t wanted = last - range->first + 1;
    uint64_t found = 0;
    const struct ql_group *group = consumer->group;
    for (uint32_t i = 0; i < group->pending_count; i++) {
        const struct ql_pending *item = &group->pending[i];
        if (item->consumer_id != consumer->id) continue;
        uint64_t from = q_max_u64(item->pull_sequence, range->first);
        uint64_t to = q_min_u64(item->pull_sequence + item->count - 1, last);
        if (from <= to) found += to - from + 1;
    }
    *ret_late = found < wanted;
    return Q_OK;
}

static enum q_err
held_reserve(struct ql_consumer *consumer, uint32_t more)
{
    uint64_t wanted = (uint64_t)consumer->held_count + more;
    if (wanted <= consumer->held_capacity) return Q_OK;
    uint64_t capacity = q_max_u64(wanted, (uint64_t)consumer->held_capacity * 2);
    struct ql_held *held = realloc(consumer->held, capacity * sizeof(struct ql_held));
    if (held == NULL) return Q_FAIL(Q_E_NOMEM, .what = "window of a consumer");
    consumer->held = held;
    consumer->held_capacity = (uint32_t)capacity;
    return Q_OK;
}

/* First range that ends behind a pull sequence. */
static uint32_t
held_find(const struct ql_consumer *consumer, uint64_t pull_sequence)
{
    uint32_t low = 0;
    uint32_t high = consumer->held_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ql_held *held = &consumer->held[middle];
        if (held->pull_sequence + held->count <= pull_sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void
held_insert(struct ql_consumer *consumer, const struct ql_held *held)
{
    Q_ASSERT(consumer->held_count < consumer->held_capacity);
    uint32_t at = held_find(consumer, held->pull_sequence);
    memmove(
        &consumer->held[at + 1], &consumer->held[at],
        (consumer->held_count - at) * sizeof(struct ql_held));
    consumer->held[at] = *held;
    consumer->held_count++;
    consumer->held_messages += held->count;
}

static enum q_err
pending_reserve(struct ql_group *group, uint32_t more)
{
    uint64_t wanted = (uint64_t)group->pending_count + more;
    if (wanted <= group->pending_capacity) return Q_OK;
    uint64_t capacity = q_max_u64(wanted, (uint64_t)group->pending_capacity * 2);
    struct ql_pending *pending = realloc(group->pending, capacity * sizeof(struct ql_pending));
    if (pending == NULL) return Q_FAIL(Q_E_NOMEM, .what = "pending messages of a group");
    group->pending = pending;
    group->pending_capacity = (uint32_t)capacity;
    return Q_OK;
}

/* First pending range that ends behind `sequence`. */
static uint32_t
pending_find(const struct ql_group *group, uint64_t sequence)
{
    uint32_t low = 0;
    uint32_t high = group->pending_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ql_pending *item = &group->pending[middle];
        if (item->sequence + item->count <= sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void
pending_insert(struct ql_group *group, uint32_t at, const struct ql_pending *item)
{
    Q_ASSERT(group->pending_count < group->pending_capacity);
    memmove(
        &group->pending[at + 1], &group->pending[at],
        (group->pending_count - at) * sizeof(struct ql_pending));
    group->pending[at] = *item;
    group->pending_count++;
}

static void
pending_erase(struct ql_group *group, uint32_t at)
{
    group->pending_count--;
    memmove(
        &group->pending[at], &group->pending[at + 1],
        (group->pending_count - at) * sizeof(struct ql_pending));
}

/* Remove [from, to) of range `at`. Index of the first range behind what was removed. */
static uint32_t
pending_remove_part(struct ql_group *group, uint32_t at, uint64_t from, uint64_t to)
{
    struct ql_pending *item = &group->pending[at];
    uint64_t end = item->sequence + item->count;
    Q_ASSERT(item->sequence <= from && from < to && to <= end);
    group->pending_messages -= to - from;
    struct ql_pending behind = *item;
    behind.sequence = to;
    behind.pull_sequence += to - item->sequence;
    behind.count = (uint32_t)(end - to);
    item->count = (uint32_t)(from - item->sequence);
    if (item->count == 0 && behind.count == 0) {
        pending_erase(group, at);
        return at;
    }
    if (item->count == 0) {
        *item = behind;
        return at;
    }
    if (behind.count > 0) pending_insert(group, at + 1, &behind);
    return at + 1;
}

static void
pending_take(struct ql_group *group, uint64_t sequence, uint64_t count)
{
    uint64_t end = sequence + count;
    uint32_t at = pending_find(group, sequence);
    while (at < group->pending_count && group->pending[at].sequence < end) {
        const struct ql_pending *item = &group->pending[at];
        uint64_t from = q_max_u64(item->sequence, sequence);
        uint64_t to = q_min_u64(item->sequence + item->count, end);
        at = pending_remove_part(group, at, from, to);
    }
}

static void
pending_add(struct ql_group *group, const struct ql_pending *item)
{
    uint32_t at = pending_find(group, item->sequence);
    pending_insert(group, at, item);
    group->pending_messages += item->count;
}

static void
held_ack(struct ql_consumer *consumer, const struct qlog_range *range)
{
    uint32_t low = held_find(consumer, range->first);
    uint32_t at = low;
    while (at < consumer->held_count && consumer->held[at].pull_sequence <= range->last) {
        struct ql_held *held = &consumer->held[at];
        uint64_t end = held->pull_sequence + held->count;
        uint64_t from = q_max_u64(held->pull_sequence, range->first);
        uint64_t to = q_min_u64(end, range->last + 1);
        consumer->held_messages -= to - from;
        struct ql_held behind = *held;
        behind.sequence += to - held->pull_sequence;
        behind.pull_sequence = to;
        behind.count = (uint32_t)(end - to);
        held->count = (uint32_t)(from - held->pull_sequence);
        if (held->count == 0 && behind.count > 0) {
            *held = behind;
        } else if (behind.count > 0) {
            Q_ASSERT(consumer->held_count < consumer->held_capacity);
            memmove(
                &consumer->held[at + 2], &consumer->held[at + 1],
                (consumer->held_count - at - 1) * sizeof(struct ql_held));
            consumer->held[at + 1] = behind;
            consumer->held_count++;
        }
        at++;
    }
    /* Drop what is empty now: always one run of ranges. */
    uint32_t first = low;
    while (first < at && consumer->held[first].count > 0)
        first++;
    uint32_t last = first;
    while (last < at && consumer->held[last].count == 0)
        last++;
    if (last > first) {
        memmove(
            &consumer->held[first], &consumer->held[last],
            (consumer->held_count - last) * sizeof(struct ql_held));
        consumer->held_count -= last - first;
    }
}

/* A late ack: what this consumer had under these pull sequences, while nobody else has it. */
static void
pending_ack(struct ql_group *group, uint32_t consumer_id, const struct qlog_range *range)
{
    uint32_t at = 0;
    while (at < group->pending_count) {
        const struct ql_pending *item = &group->pending[at];
        uint64_t first = q_max_u64(item->pull_sequence, range->first);
        uint64_t end = q_min_u64(item->pull_sequence + item->count, range->last + 1);
        if (item->consumer_id != consumer_id || first >= end) {
            at++;
            continue;
        }
        uint64_t from = item->sequence + (first - item->pull_sequence);
        at = pending_remove_part(group, at, from, from + (end - first));
    }
}

uint64_t
ql_group_drop(struct ql_group *group, uint64_t from, uint64_t to)
{
    if (from >= to) return 0;
    uint64_t before = group->pending_messages;
    uint64_t dropped = 0;
    if (pending_reserve(group, 1) == Q_OK) pending_take(group, from, to - from);
    dropped += before - group->pending_messages;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || held_reserve(consumer, 1) != Q_OK) continue;
        before = consumer->held_messages;
        held_drop(consumer, from, to);
        dropped += before - consumer->held_messages;
    }
    return dropped;
}

/* By sequence, in which a window is not sorted; at most one range holds both ends. */
static void
held_drop(struct ql_consumer *consumer, uint64_t from, uint64_t to)
{
    uint32_t at = 0;
    while (at < consumer->held_count) {
        const struct ql_held *held = &consumer->held[at];
        uint64_t first = q_max_u64(held->sequence, from);
        uint64_t end = q_min_u64(held->sequence + held->count, to);
        if (first >= end) {
            at++;
            continue;
        }
        uint64_t pull_sequence = held->pull_sequence + (first - held->sequence);
        struct qlog_range range = {
            .first = pull_sequence,
            .last = pull_sequence + (end - first) - 1,
        };
        held_ack(consumer, &range);
    }
}

bool
ql_group_has_some(const struct ql_group *group)
{
    if (group->pending_count > 0) return true;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL && group->consumers[i]->held_count > 0) return true;
    return false;
}

uint64_t
ql_group_oldest(const struct ql_group *group)
{
    uint64_t oldest = group->cursor;
    if (group->pending_count > 0) oldest = q_min_u64(oldest, group->pending[0].sequence);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held_count; j++)
            oldest = q_min_u64(oldest, consumer->held[j].sequence);
    }
    return oldest;
}

void
ql_group_check(const struct ql_group *group)
{
    uint64_t pending_messages = 0;
    uint64_t behind = 0;
    for (uint32_t i = 0; i < group->pending_count; i++) {
        const struct ql_pending *item = &group->pending[i];
        Q_ASSERT(item->count > 0);
        Q_ASSERT(item->sequence >= behind);
        behind = item->sequence + item->count;
        pending_messages += item->count;
    }
    Q_ASSERT(behind <= group->cursor);
    Q_ASSERT(pending_messages == group->pending_messages);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        uint64_t held_messages = 0;
        uint64_t next = 0;
        for (uint32_t j = 0; j < consumer->held_count; j++) {
            const struct ql_held *held = &consumer->held[j];
            Q_ASSERT(held->count > 0 && held->pull_sequence >= next);
            Q_ASSERT(held->sequence + held->count <= group->cursor);
            next = held->pull_sequence + held->count;
            held_messages += held->count;
        }
        Q_ASSERT(next <= consumer->next_pull_sequence);
        Q_ASSERT(held_messages == consumer->held_messages);
    }
}

/*
 * consume/ack.c: messages are done, or failed, or took too long.
 */
#include <qbase/assert.h>
#include <stdlib.h>
#include <string.h>

#include "consume/release.h"
#include "planted.h"

static void ack_late(struct ql_consumer *consumer, const struct ql_ack_record *record);
static uint32_t find_range(const struct qlog_range *ranges, uint32_t count, uint64_t at);
static uint32_t nack_collect(
    const struct ql_consumer *consumer,
    const struct ql_ack_record *record,
    struct ql_range_item *items);
static bool nack_holds_back(const void *context, const struct ql_range_item *item);
static void nack_note_error(
    struct ql_group *group, const struct ql_range_item *item, struct q_bytes text);
static bool has_no_time(const void *context, const struct ql_range_item *item);

enum q_err
ql_group_apply_ack(struct ql_group *group, const struct ql_ack_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "ACK of an unknown consumer");
    Q_TRY(ql_held_reserve(consumer, 2 * (uint64_t)record->range_count));
    Q_TRY(ql_pending_reserve(
        group, consumer->returned > 0 ? 2 * group->pending.count + 2 * record->range_count : 0));
    struct qlog_range *ranges =
        (struct qlog_range
             *)(void
                    *)(consumer->held.items + consumer->held.begin + consumer->held.count + record->range_count);
    for (uint32_t i = 0; i < record->range_count; i++)
        ranges[i] = ql_ack_range_at(record, i);
    (void)ql_held_cut(consumer, ranges, record->range_count);
    if (consumer->returned > 0) ack_late(consumer, record);
    return Q_OK;
}

/* What this consumer had under these pull sequences, while nobody else has it. */
static void
ack_late(struct ql_consumer *consumer, const struct ql_ack_record *record)
{
    struct ql_group *group = consumer->group;
    struct ql_spans *pending = &group->pending;
    uint32_t room = pending->count + record->range_count;
    struct qlog_range *cuts =
        (struct qlog_range *)(void *)(pending->items + pending->begin + pending->count + room);
    uint32_t cut_count = 0;
    for (uint32_t i = 0; i < pending->count; i++) {
        const struct ql_range_item *item = ql_span_at(pending, i);
        if (item->consumer_id != consumer->id && !QL_PLANTED(late_ack_of_others)) continue;
        uint64_t end = item->pull_sequence + item->count;
        /* Ranges are sorted: the first that ends at or behind this span's begin. */
        uint32_t low = 0;
        uint32_t high = record->range_count;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (ql_ack_range_at(record, middle).last < item->pull_sequence)
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < record->range_count; low++) {
            struct qlog_range range = ql_ack_range_at(record, low);
            if (range.first >= end) break;
            uint64_t from = q_max_u64(range.first, item->pull_sequence) - item->pull_sequence;
            uint64_t to = q_min_u64(range.last + 1, end) - item->pull_sequence;
            cuts[cut_count++] =
                (struct qlog_range){ item->sequence + from, item->sequence + to - 1 };
        }
    }
    (void)ql_pending_cut(group, cuts, cut_count);
}

void
ql_consumer_has(
    const struct ql_consumer *consumer,
    const struct qlog_range *ranges,
    uint32_t range_count,
    uint64_t below,
    bool late,
    uint64_t *ret_counts)
{
    const struct ql_spans *held = &consumer->held;
    for (uint32_t i = 0; i < range_count; i++) {
        uint64_t end = q_min_u64(ranges[i].last + 1, below);
        ret_counts[i] = 0;
        for (uint32_t j = ql_spans_find(held, ranges[i].first); j < held->count; j++) {
            const struct ql_range_item *item = ql_span_at(held, j);
            if (item->pull_sequence >= end) break;
            uint64_t from = q_max_u64(item->pull_sequence, ranges[i].first);
            ret_counts[i] += q_min_u64(item->pull_sequence + item->count, end) - from;
        }
    }
    const struct ql_spans *pending = &consumer->group->pending;
    for (uint32_t i = 0; late && consumer->returned > 0 && i < pending->count; i++) {
        const struct ql_range_item *item = ql_span_at(pending, i);
        if (item->consumer_id != consumer->id) continue;
        uint64_t end = q_min_u64(item->pull_sequence + item->count, below);
        uint32_t j = find_range(ranges, range_count, item->pull_sequence);
        for (; j < range_count && ranges[j].first < end; j++) {
            uint64_t from = q_max_u64(item->pull_sequence, ranges[j].first);
            ret_counts[j] += q_min_u64(ranges[j].last + 1, end) - from;
        }
    }
}

/* The first that ends at or behind `at`. */
static uint32_t
find_range(const struct qlog_range *ranges, uint32_t count, uint64_t at)
{
    uint32_t low = 0;
    while (low < count) {
        uint32_t middle = low + (count - low) / 2;
        if (ranges[middle].last < at)
            low = middle + 1;
        else
            count = middle;
    }
    return low;
}

/* --- NACK. */

struct nacked {
    const struct ql_range_item *items; /* by key, then sequence */
    uint32_t count;
};

enum q_err
ql_group_apply_nack(struct ql_group *group, const struct ql_nack_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->ack.consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "NACK of an unknown consumer");
    uint32_t range_count = record->ack.range_count;
    uint64_t most = (uint64_t)consumer->held.count + range_count;
    Q_TRY(ql_held_reserve(consumer, 2 * (uint64_t)range_count));
    /* Those that failed, and then those that are held back by them. */
    Q_TRY(ql_release_reserve(group, 3 * most));
    if (group->error_count + most > group->error_capacity && record->error.size > 0) {
        uint64_t capacity = 2 * (uint64_t)group->error_capacity + most;
        struct ql_last_error *errors =
            realloc(group->errors, capacity * sizeof(struct ql_last_error));
        if (errors == NULL) return Q_FAIL(Q_E_NOMEM, .what = "errors of dying messages");
        group->errors = errors;
        ql_room_change(
            group->room, group->error_capacity * sizeof(struct ql_last_error),
            capacity * sizeof(struct ql_last_error));
        group->error_capacity = (uint32_t)capacity;
    }

    struct ql_range_item *items = ql_release_room(group, 3 * most);
    uint32_t count = nack_collect(consumer, &record->ack, items);
    struct qlog_range *ranges =
        (struct qlog_range
             *)(void
                    *)(consumer->held.items + consumer->held.begin + consumer->held.count + range_count);
    for (uint32_t i = 0; i < range_count; i++)
        ranges[i] = ql_ack_range_at(&record->ack, i);
    if (range_count > 0) {
        /* It may name what was handed out by an action that power loss took. */
        uint64_t end = q_min_u64(ranges[range_count - 1].last + 1, consumer->next_pull_sequence);
        consumer->released_below = q_max_u64(consumer->released_below, end);
    }
    (void)ql_held_cut(consumer, ranges, range_count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t attempts = ql_uses_attempt(items[i].uses);
        uint64_t wait_ms = record->delay_ms == UINT64_MAX ? ql_settings_backoff_ms(group, attempts)
                                                          : record->delay_ms;
        uint64_t due_ms = 0;
        if (!q_add_u64(record->now_ms, wait_ms, &due_ms)) due_ms = UINT64_MAX;
        if (QL_PLANTED(delay_ignored)) due_ms = record->now_ms;
        ql_item_use(group, &items[i], QL_USE_FAILED, due_ms);
        if (items[i].reason == QL_REASON_DYING && record->error.size > 0)
            nack_note_error(group, &items[i], record->error);
    }
    if (group->settings.strict) {
        qsort(items, count, sizeof(items[0]), ql_item_by_key);
        const struct nacked nacked = { items, count };
        uint64_t held = consumer->held_messages;
        uint32_t next = count;
        struct ql_range_item *more = items + count;
        uint32_t more_count = ql_held_sift(consumer, nack_holds_back, &nacked, more);
        for (uint32_t i = 0; i < more_count; i++, next++) {
            more[i].consumer_id = consumer->id;
            ql_item_use(group, &more[i], QL_USE_NONE, 0);
        }
        if (consumer->held_messages < held) consumer->released_below = consumer->next_pull_sequence;
        count = next;
    }
    ql_pending_add(group, items, count);
    return Q_OK;
}

/* The parts of the window that are named. Room for one for each span and range. */
static uint32_t
nack_collect(
    const struct ql_consumer *consumer,
    const struct ql_ack_record *record,
    struct ql_range_item *items)
{
    const struct ql_spans *held = &consumer->held;
    uint32_t count = 0;
    for (uint32_t i = 0; i < record->range_count; i++) {
        struct qlog_range range = ql_ack_range_at(record, i);
        for (uint32_t j = ql_spans_find(held, range.first); j < held->count; j++) {
            const struct ql_range_item *item = ql_span_at(held, j);
            if (item->pull_sequence > range.last) break;
            uint64_t from = q_max_u64(item->pull_sequence, range.first);
            uint64_t to = q_min_u64(item->pull_sequence + item->count, range.last + 1);
            items[count] = ql_span_part(held, item, from, (uint32_t)(to - from));
            items[count++].consumer_id = consumer->id;
        }
    }
    return count;
}

/* Whether an earlier message of its key has failed. */
static bool
nack_holds_back(const void *context, const struct ql_range_item *item)
{
    const struct nacked *nacked = context;
    if (item->key == 0) return false;
    struct ql_range_item wanted = { .key = item->key };
    uint32_t low = 0;
    uint32_t high = nacked->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ql_item_by_key(&nacked->items[middle], &wanted) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < nacked->count && nacked->items[low].key == item->key &&
           nacked->items[low].sequence < item->sequence;
}

static void
nack_note_error(struct ql_group *group, const struct ql_range_item *item, struct q_bytes text)
{
    struct ql_last_error *error = &group->errors[group->error_count++];
    error->sequence = item->sequence;
    error->count = item->count;
    error->left = item->count;
    error->size = (uint8_t)q_min_u64(text.size, QLOG_ERROR_MAX);
    memcpy(error->text, text.data, error->size);
}

/* --- TIMEOUT. */

enum q_err
ql_group_apply_timeout(struct ql_group *group, const struct ql_timeout_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "TIMEOUT of an unknown consumer");
    Q_TRY(ql_release_reserve(group, consumer->held.count));
    uint64_t held = consumer->held_messages;
    ql_release_where(consumer, has_no_time, &record->now_ms, QL_USE_TIMED_OUT);
    if (consumer->held_messages < held) consumer->released_below = consumer->next_pull_sequence;
    return Q_OK;
}

static bool
has_no_time(const void *context, const struct ql_range_item *item)
{
    return item->time_ms != 0 && item->time_ms <= *(const uint64_t *)context;
}

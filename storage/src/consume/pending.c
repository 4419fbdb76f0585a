#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "consume/group.h"

static void pending_each(void *context, const struct ql_range_item *part, int sign);
static void held_each(void *context, const struct ql_range_item *part, int sign);
static int by_sequence(const void *a, const void *b);
static void errors_forget(struct ql_group *group, uint64_t first, uint64_t count);

enum q_err
ql_pending_reserve(struct ql_group *group, uint64_t more)
{
    return ql_spans_reserve(&group->pending, more);
}

enum q_err
ql_held_reserve(struct ql_consumer *consumer, uint64_t more)
{
    return ql_spans_reserve(&consumer->held, more);
}

void
ql_pending_add(struct ql_group *group, struct ql_range_item *items, uint32_t count)
{
    uint16_t kept = ql_filters_kept(&group->filters);
    uint32_t left = 0;
    bool sorted = true;
    for (uint32_t i = 0; i < count; i++) {
        items[i].filters &= kept;
        if (items[i].filters == 0) {
            group->skipped += items[i].count;
            continue;
        }
        sorted = sorted && (left == 0 || items[left - 1].sequence < items[i].sequence);
        items[left++] = items[i];
    }
    if (!sorted) qsort(items, left, sizeof(items[0]), by_sequence);
    ql_spans_merge(&group->pending, items, left, pending_each, group);
}

static int
by_sequence(const void *a, const void *b)
{
    const struct ql_range_item *left = a;
    const struct ql_range_item *right = b;
    return (left->sequence > right->sequence) - (left->sequence < right->sequence);
}

uint64_t
ql_pending_cut(struct ql_group *group, const struct qlog_range *ranges, uint32_t count)
{
    return ql_spans_cut(&group->pending, ranges, count, pending_each, group);
}

uint64_t
ql_pending_unfilter(struct ql_group *group, uint16_t bit)
{
    struct ql_spans *pending = &group->pending;
    uint64_t removed = 0;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < pending->count; i++) {
        struct ql_range_item item = *ql_span_at(pending, i);
        item.filters = (uint16_t)(item.filters & ~bit);
        if (item.filters == 0) {
            removed += item.count;
            pending_each(group, &item, -1);
        } else {
            *ql_span_at(pending, kept++) = item;
        }
    }
    pending->count = kept;
    if (kept == 0) pending->begin = 0;
    return removed;
}

void
ql_held_add(struct ql_consumer *consumer, const struct ql_range_item *item)
{
    ql_spans_merge(&consumer->held, item, 1, held_each, consumer);
}

uint32_t
ql_held_sift(
    struct ql_consumer *consumer,
    bool (*moves)(const void *context, const struct ql_range_item *item),
    const void *context,
    struct ql_range_item *out)
{
    struct ql_spans *held = &consumer->held;
    uint32_t moved = 0;
    for (uint32_t i = 0; i < held->count; i++) {
        struct ql_range_item item = *ql_span_at(held, i);
        if (moves(context, &item)) {
            out[moved++] = item;
            held_each(consumer, &item, -1);
        } else {
            *ql_span_at(held, i - moved) = item;
        }
    }
    held->count -= moved;
    if (held->count == 0) held->begin = 0;
    return moved;
}

uint64_t
ql_held_cut(struct ql_consumer *consumer, const struct qlog_range *ranges, uint32_t count)
{
    return ql_spans_cut(&consumer->held, ranges, count, held_each, consumer);
}

bool
ql_pending_blocks(const struct ql_group *group, const struct ql_range_item *item)
{
    if (item->key == 0) return false;
    if (group->settings.strict) return true;
    return item->reason == QL_REASON_RELEASED || item->reason == QL_REASON_KEY;
}

static void
pending_each(void *context, const struct ql_range_item *part, int sign)
{
    struct ql_group *group = context;
    uint64_t change = (uint64_t)((int64_t)part->count * sign);
    group->pending_messages += change;
    group->pending_by[part->reason] += change;
    if (ql_pending_blocks(group, part))
        ql_keys_add(&group->keys, part->key, 0, (int64_t)part->count * sign);
    struct ql_consumer *consumer = ql_group_consumer(group, part->consumer_id);
    if (consumer != NULL) consumer->returned += change;
    if (sign > 0)
        group->due_ms = q_min_u64(group->due_ms, part->time_ms);
    else if (part->reason == QL_REASON_DYING)
        errors_forget(group, part->sequence, part->count);
    if (group->pending_messages == 0) group->due_ms = UINT64_MAX;
}

static void
held_each(void *context, const struct ql_range_item *part, int sign)
{
    struct ql_consumer *consumer = context;
    consumer->held_messages += (uint64_t)((int64_t)part->count * sign);
    consumer->held_bytes += (uint64_t)((int64_t)part->bytes * sign);
    ql_keys_add(&consumer->group->keys, part->key, (int64_t)part->count * sign, 0);
}

static void
errors_forget(struct ql_group *group, uint64_t first, uint64_t count)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < group->error_count; i++) {
        struct ql_last_error *error = &group->errors[i];
        uint64_t from = q_max_u64(first, error->sequence);
        uint64_t to = q_min_u64(first + count, error->sequence + error->count);
        if (from < to) error->left -= (uint32_t)q_min_u64(to - from, error->left);
        if (error->left == 0) continue;
        if (kept < i) group->errors[kept] = *error;
        kept++;
    }
    group->error_count = kept;
}

enum q_err
ql_pending_recount(struct ql_group *group)
{
    uint64_t spans = group->pending.count;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) spans += group->consumers[i]->held.count;
    bool keyed = group->keys.slot_count > 0;
    if (keyed) Q_TRY(ql_keys_reserve(&group->keys, spans));
    if (!keyed) return Q_OK;
    ql_keys_clear(&group->keys);
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        if (ql_pending_blocks(group, item)) ql_keys_add(&group->keys, item->key, 0, item->count);
    }
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++) {
            const struct ql_range_item *item = ql_span_at(&consumer->held, j);
            ql_keys_add(&group->keys, item->key, item->count, 0);
        }
    }
    return Q_OK;
}

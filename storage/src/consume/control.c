/*
 * consume/control.c: what is done to a group as a whole, and to messages that no consumer is asked
 * about.
 */
#include <qbase/assert.h>

#include "consume/group.h"
#include "planted.h"

static uint64_t resolve_pending(
    struct ql_group *group, const struct ql_resolve_record *record, bool dying_only);
static uint64_t resolve_held(struct ql_group *group, uint64_t from, uint64_t to);
static enum q_err resolve_resent(struct ql_group *group, const struct ql_resolve_record *record);
static enum q_err resolve_reserve(struct ql_group *group);
static uint64_t resolve_all(struct ql_group *group, const struct ql_resolve_record *record);
static enum q_err resolve_skipped(struct ql_group *group, const struct ql_resolve_record *record);

enum q_err
ql_group_apply_seek(struct ql_group *group, const struct ql_seek_record *record)
{
    group->restoring = false;
    group->hole = false;
    ql_spans_clear(&group->pending, NULL, NULL);
    ql_keys_clear(&group->keys);
    group->pending_messages = 0;
    for (unsigned i = 0; i <= QL_REASON_DYING; i++)
        group->pending_by[i] = 0;
    group->due_ms = UINT64_MAX;
    group->error_count = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || QL_PLANTED(seek_keeps_windows)) continue;
        ql_spans_clear(&consumer->held, NULL, NULL);
        consumer->held_messages = 0;
        consumer->held_bytes = 0;
        consumer->returned = 0;
        consumer->released_below = consumer->next_pull_sequence;
    }
    group->cursor = record->cursor;
    group->epoch++;
    return Q_OK;
}

enum q_err
ql_group_apply_settings(struct ql_group *group, const struct ql_settings_record *record)
{
    group->restoring = false;
    bool strict = group->settings.strict;
    group->settings.strict = record->settings.strict;
    enum q_err err = ql_pending_recount(group);
    if (err != Q_OK) {
        group->settings.strict = strict;
        return err;
    }
    group->settings = record->settings;
    group->paused = record->paused;
    return Q_OK;
}

enum q_err
ql_group_apply_unfilter(struct ql_group *group, const struct ql_unfilter_record *record)
{
    group->restoring = false;
    const struct ql_filter *filter = group->filters.slots[record->slot];
    if (filter == NULL || filter->members > 0)
        return Q_FAIL(Q_E_CORRUPT, .what = "UNFILTER of a filter that has members, or is unknown");
    ql_filters_drop(&group->filters, record->slot);
    uint16_t bit = (uint16_t)(1u << record->slot);
    /* The slot may be given to another filter. */
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++) {
            struct ql_range_item *item = ql_span_at(&consumer->held, j);
            item->filters = (uint16_t)(item->filters & ~bit);
        }
    }
    struct ql_spans *pending = &group->pending;
    for (uint32_t i = 0; i < pending->count;) {
        struct ql_range_item *item = ql_span_at(pending, i);
        item->filters = (uint16_t)(item->filters & ~bit);
        if (item->filters != 0) {
            i++;
            continue;
        }
        struct qlog_range range = { item->sequence, item->sequence + item->count - 1 };
        group->skipped += ql_pending_cut(group, &range, 1);
    }
    return Q_OK;
}

enum q_err
ql_group_apply_resolve(struct ql_group *group, const struct ql_resolve_record *record)
{
    group->restoring = false;
    for (uint32_t i = 1; i < record->item_count; i++)
        if (ql_resolve_item_at(record, i - 1).last >= ql_resolve_item_at(record, i).first)
            return Q_FAIL(Q_E_CORRUPT, .what = "RESOLVE whose ranges are not sorted");
    switch (record->verdict) {
    case QL_VERDICT_DEAD:
        Q_TRY(ql_pending_reserve(group, 1));
        group->dead += resolve_pending(group, record, true);
        return Q_OK;
    case QL_VERDICT_EXPIRED:
        Q_TRY(resolve_reserve(group));
        group->expired += resolve_all(group, record);
        return Q_OK;
    case QL_VERDICT_SKIPPED:
        return resolve_skipped(group, record);
    default:
        return resolve_resent(group, record);
    }
}

static uint64_t
resolve_pending(struct ql_group *group, const struct ql_resolve_record *record, bool dying_only)
{
    uint64_t resolved = 0;
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(record, i);
        uint64_t at = item.first;
        /* Span by span: one that is not dying any more is none of this record's. */
        while (at <= item.last) {
            uint32_t index = ql_spans_find(&group->pending, at);
            if (index == group->pending.count) break;
            const struct ql_range_item *span = ql_span_at(&group->pending, index);
            if (span->sequence > item.last) break;
            uint64_t end = span->sequence + span->count;
            struct qlog_range range = {
                q_max_u64(span->sequence, at),
                q_min_u64(end - 1, item.last),
            };
            if (!dying_only || span->reason == QL_REASON_DYING) {
                /* Cutting the middle out of a span may take room that the last one used. */
                if (ql_pending_reserve(group, 1) != Q_OK) return resolved;
                resolved += ql_pending_cut(group, &range, 1);
            }
            at = end;
        }
    }
    return resolved;
}

static enum q_err
resolve_reserve(struct ql_group *group)
{
    Q_TRY(ql_pending_reserve(group, 1));
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) Q_TRY(ql_held_reserve(group->consumers[i], 1));
    return Q_OK;
}

/* Whoever has them. */
static uint64_t
resolve_all(struct ql_group *group, const struct ql_resolve_record *record)
{
    uint64_t resolved = resolve_pending(group, record, false);
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(record, i);
        resolved += resolve_held(group, item.first, item.last + 1);
    }
    return resolved;
}

static enum q_err
resolve_skipped(struct ql_group *group, const struct ql_resolve_record *record)
{
    Q_TRY(resolve_reserve(group));
    uint64_t skipped = resolve_all(group, record);
    if (record->cursor > group->cursor) {
        skipped += record->cursor - group->cursor;
        group->cursor = record->cursor;
    }
    group->skipped += skipped;
    return Q_OK;
}

/* By sequence, in which a window is not sorted; at most one span holds both ends. */
static uint64_t
resolve_held(struct ql_group *group, uint64_t from, uint64_t to)
{
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count;) {
            const struct ql_range_item *held = ql_span_at(&consumer->held, j);
            uint64_t first = q_max_u64(held->sequence, from);
            uint64_t end = q_min_u64(held->sequence + held->count, to);
            if (first >= end) {
                j++;
                continue;
            }
            uint64_t pull_sequence = held->pull_sequence + (first - held->sequence);
            struct qlog_range range = { pull_sequence, pull_sequence + (end - first) - 1 };
            dropped += ql_held_cut(consumer, &range, 1);
        }
    }
    return dropped;
}

static enum q_err
resolve_resent(struct ql_group *group, const struct ql_resolve_record *record)
{
    Q_TRY(ql_keys_reserve(&group->keys, record->item_count));
    Q_TRY(ql_pending_reserve(group, record->item_count));
    uint16_t kept = ql_filters_kept(&group->filters);
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(record, i);
        uint32_t at = ql_spans_find(&group->pending, item.first);
        bool there =
            at < group->pending.count && ql_span_at(&group->pending, at)->sequence <= item.last;
        if (there || item.last >= group->cursor)
            return Q_FAIL(Q_E_CORRUPT, .what = "RESOLVE sends again what is not done");
        struct ql_range_item fresh = {
            .sequence = item.first,
            .count = (uint32_t)(item.last - item.first + 1),
            .consumer_id = (uint32_t)QL_CONSUMER_NONE,
            .key = item.key,
            .filters = kept,
            .reason = QL_REASON_RETRY,
        };
        ql_pending_add(group, &fresh, 1);
    }
    return Q_OK;
}

uint64_t
ql_group_drop(struct ql_group *group, uint64_t from, uint64_t to)
{
    if (from >= to) return 0;
    uint64_t dropped = 0;
    struct qlog_range range = { from, to - 1 };
    if (ql_pending_reserve(group, 1) == Q_OK) dropped += ql_pending_cut(group, &range, 1);
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL && ql_held_reserve(group->consumers[i], 1) != Q_OK)
            return dropped;
    return dropped + resolve_held(group, from, to);
}

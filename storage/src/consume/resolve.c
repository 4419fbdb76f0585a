/*
 * consume/resolve.c: what becomes of messages that no consumer is asked about.
 *
 * Ranges of a record are looked for in windows, and in the pending set, all at once: what it takes
 * grows with ranges and spans, not with their product.
 */
#include <qbase/assert.h>

#include "consume/group.h"

/* Lists that stand behind the pending set, in its array, while a record is applied. */
struct room {
    struct ql_range_item *parts; /* spans that come back */
    struct qlog_range *cuts;     /* of the pending set */
    struct qlog_range *wanted;   /* by the record; sorted, disjoint */
    uint32_t wanted_count;
};

static enum q_err resolve_resent(struct ql_group *group, const struct ql_resolve_record *record);
static enum q_err room_reserve(
    struct ql_group *group, uint32_t wanted_count, bool windows, struct room *ret_room);
static uint64_t cut_dying(struct ql_group *group, const struct room *room);
static uint64_t cut_all(struct ql_group *group, const struct room *room);
static void make_dying(struct ql_group *group, const struct room *room);

enum q_err
ql_group_apply_resolve(struct ql_group *group, const struct ql_resolve_record *record)
{
    group->restoring = false;
    for (uint32_t i = 1; i < record->item_count; i++)
        if (ql_resolve_item_at(record, i - 1).last >= ql_resolve_item_at(record, i).first)
            return Q_FAIL(Q_E_CORRUPT, .what = "RESOLVE whose ranges are not sorted");
    if (record->verdict == QL_VERDICT_RESENT) return resolve_resent(group, record);
    struct room room;
    Q_TRY(room_reserve(group, record->item_count, record->verdict != QL_VERDICT_DEAD, &room));
    for (uint32_t i = 0; i < record->item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(record, i);
        room.wanted[i] = (struct qlog_range){ item.first, item.last };
    }
    switch (record->verdict) {
    case QL_VERDICT_DEAD:
        group->dead += cut_dying(group, &room);
        break;
    case QL_VERDICT_EXPIRED:
        group->expired += cut_all(group, &room);
        break;
    case QL_VERDICT_EXPIRING:
        make_dying(group, &room);
        break;
    default:
        group->skipped += cut_all(group, &room);
        if (record->cursor <= group->cursor) break;
        group->skipped += record->cursor - group->cursor;
        group->cursor = record->cursor;
        break;
    }
    return Q_OK;
}

uint64_t
ql_group_drop(struct ql_group *group, uint64_t from, uint64_t to)
{
    struct room room;
    if (from >= to || room_reserve(group, 1, true, &room) != Q_OK) return 0;
    room.wanted[0] = (struct qlog_range){ from, to - 1 };
    return cut_all(group, &room);
}

/*
 * A message is in one place, so ranges and spans meet at most as often as there are of both, and each
 * end of a range makes one span more. Behind the pending set: as many as may be added, then the lists.
 */
static enum q_err
room_reserve(struct ql_group *group, uint32_t wanted_count, bool windows, struct room *ret_room)
{
    uint64_t most = (uint64_t)group->pending.count + 2 * (uint64_t)wanted_count;
    for (uint32_t i = 0; windows && i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || consumer->held.count == 0) continue;
        Q_TRY(ql_held_reserve(consumer, 2 * ((uint64_t)consumer->held.count + wanted_count)));
        most += consumer->held.count;
    }
    Q_TRY(ql_pending_reserve(group, 3 * most));
    ret_room->parts = group->pending.items + group->pending.begin + group->pending.count + most;
    ret_room->cuts = (struct qlog_range *)(void *)(ret_room->parts + most);
    ret_room->wanted = ret_room->cuts + most;
    ret_room->wanted_count = wanted_count;
    _Static_assert(
        2 * sizeof(struct qlog_range) <= sizeof(struct ql_range_item), "two lists in one's room");
    return Q_OK;
}

/* Parts of the pending set that are wanted, and are dying or not: where they lie, and what they are. */
static uint32_t
find_pending(const struct ql_group *group, const struct room *room, bool dying)
{
    const struct ql_spans *pending = &group->pending;
    uint32_t found = 0;
    for (uint32_t i = 0; i < room->wanted_count; i++) {
        const struct qlog_range *wanted = &room->wanted[i];
        for (uint32_t j = ql_spans_find(pending, wanted->first); j < pending->count; j++) {
            const struct ql_range_item *span = ql_span_at(pending, j);
            if (span->sequence > wanted->last) break;
            if ((span->reason == QL_REASON_DYING) != dying) continue;
            uint64_t from = q_max_u64(span->sequence, wanted->first);
            uint64_t to = q_min_u64(span->sequence + span->count, wanted->last + 1);
            room->parts[found] = ql_span_part(pending, span, from, (uint32_t)(to - from));
            room->cuts[found++] = (struct qlog_range){ from, to - 1 };
        }
    }
    return found;
}

/*
 * The same of a window, which is not sorted by sequence: pull sequences, to `cuts`, and the parts to
 * `parts` unless that is NULL.
 */
static uint32_t
find_held(
    const struct ql_consumer *consumer,
    const struct room *room,
    struct qlog_range *cuts,
    struct ql_range_item *parts)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < consumer->held.count; i++) {
        const struct ql_range_item *span = ql_span_at(&consumer->held, i);
        uint32_t low = 0;
        uint32_t high = room->wanted_count;
        while (low < high) {
            uint32_t middle = low + (high - low) / 2;
            if (room->wanted[middle].last < span->sequence)
                low = middle + 1;
            else
                high = middle;
        }
        uint64_t end = span->sequence + span->count;
        for (; low < room->wanted_count && room->wanted[low].first < end; low++) {
            uint64_t from = q_max_u64(span->sequence, room->wanted[low].first);
            uint64_t to = q_min_u64(end, room->wanted[low].last + 1);
            uint64_t pull_sequence = span->pull_sequence + (from - span->sequence);
            uint32_t count = (uint32_t)(to - from);
            if (parts != NULL)
                parts[found] = ql_span_part(&consumer->held, span, pull_sequence, count);
            cuts[found++] = (struct qlog_range){ pull_sequence, pull_sequence + count - 1 };
        }
    }
    return found;
}

/* Behind the window, and behind what cutting it may add. */
static struct qlog_range *
held_cuts(const struct ql_consumer *consumer, const struct room *room)
{
    const struct ql_spans *held = &consumer->held;
    return (struct qlog_range
                *)(void *)(held->items + held->begin + 2 * held->count + room->wanted_count);
}

static uint64_t
cut_dying(struct ql_group *group, const struct room *room)
{
    /* One that is not dying any more is none of this record's. */
    return ql_pending_cut(group, room->cuts, find_pending(group, room, true));
}

/* Whoever has them. */
static uint64_t
cut_all(struct ql_group *group, const struct room *room)
{
    uint64_t removed = ql_pending_cut(group, room->wanted, room->wanted_count);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || consumer->held.count == 0) continue;
        struct qlog_range *cuts = held_cuts(consumer, room);
        removed += ql_held_cut(consumer, cuts, find_held(consumer, room, cuts, NULL));
    }
    return removed;
}

/* They are given to nobody any more. An ack that comes before their copy counts. */
static void
make_dying(struct ql_group *group, const struct room *room)
{
    uint32_t count = find_pending(group, room, false);
    (void)ql_pending_cut(group, room->cuts, count);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL || consumer->held.count == 0) continue;
        struct qlog_range *cuts = held_cuts(consumer, room);
        uint32_t found = find_held(consumer, room, cuts, room->parts + count);
        if (found == 0) continue;
        (void)ql_held_cut(consumer, cuts, found);
        for (uint32_t j = 0; j < found; j++) {
            room->parts[count].bytes = 0;
            room->parts[count++].consumer_id = consumer->id;
        }
        consumer->released_below = consumer->next_pull_sequence;
    }
    for (uint32_t i = 0; i < count; i++) {
        room->parts[i].reason = QL_REASON_DYING;
        room->parts[i].time_ms = UINT64_MAX;
        room->parts[i].expiring = true;
    }
    ql_pending_add(group, room->parts, count);
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

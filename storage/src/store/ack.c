/*
 * store/ack.c: messages are done, or failed.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/hand.h"

/* Each costs a look at the window, and late ones at the group's pending set. */
enum {
    RANGES_MAX = 4096
};

static enum q_err ack_start(struct qlog_store *store, struct qlog_ack *ack);
static enum q_err nack_start(struct qlog_store *store, struct qlog_nack *nack);
static enum q_err ack_sort(
    struct qlog_store *store,
    const struct ql_consumer *consumer,
    const struct qlog_range *ranges,
    uint32_t *count);
static int by_first(const void *a, const void *b);
static bool range_is_late(
    const struct ql_consumer *consumer, const struct qlog_range *range, uint64_t has);
static enum q_err nack_check_delay(
    struct qlog_store *store,
    const struct ql_consumer *consumer,
    uint64_t delay_ms,
    uint32_t count);

void
ql_ack_start(struct qlog_store *store, struct qlog_ack *ack)
{
    enum q_err err = ack_start(store, ack);
    if (err != Q_OK) ql_request_finish(&ack->request, err);
}

static enum q_err
ack_start(struct qlog_store *store, struct qlog_ack *ack)
{
    struct ql_consumer *consumer;
    Q_TRY(ql_store_consumer(store, &ack->who, &consumer));
    ql_consumer_seen(store, consumer);
    uint32_t count = ack->range_count;
    Q_TRY(ack_sort(store, consumer, ack->ranges, &count));

    struct ql_group *group = consumer->group;
    struct ql_ack_record record = {
        .group_id = group->id,
        .consumer_id = consumer->id,
        .range_count = count,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_ack_record_size(count), &action));
    ql_ack_record_encode(&record, store->ack_ranges, action->record);
    struct q_bytes bytes = q_bytes_from(action->record, action->record_size);
    enum q_err err = ql_ack_record_decode(bytes, &record);
    Q_ASSERT(err == Q_OK);
    /* From here on `expired` may lie over the caller's ranges. */
    ack->expired_count = 0;
    if (store->ack_ranges[0].first < consumer->released_below)
        ql_consumer_has(
            consumer, store->ack_ranges, count, consumer->released_below, true, store->ack_has);
    for (uint32_t i = 0; i < count; i++)
        if (range_is_late(consumer, &store->ack_ranges[i], store->ack_has[i]) &&
            ack->expired_count < ack->expired_max)
            ack->expired[ack->expired_count++] = store->ack_ranges[i];
    uint64_t pending = group->pending_messages;
    uint64_t before = consumer->held_messages + pending;
    bool keyed = group->keys.used > 0;
    err = ql_group_apply_ack(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    uint64_t acked = before - consumer->held_messages - group->pending_messages;
    store->counters.acks++;
    store->counters.acked += acked;
    consumer->acked += acked;
    ack->unacked = consumer->held_messages;
    action->append.flushed = group->settings.ack_sync;
    ql_action_append(action, &ack->request);
    /* Its window may have been what its parked pull waited for; or a key, or room, another's. */
    if (consumer->parked != NULL || keyed || group->pending_messages < pending)
        ql_group_try(store, group);
    return Q_OK;
}

/* The ranges, checked, sorted and disjoint, in the store's memory. */
static enum q_err
ack_sort(
    struct qlog_store *store,
    const struct ql_consumer *consumer,
    const struct qlog_range *ranges,
    uint32_t *count)
{
    if (*count == 0 || *count > RANGES_MAX)
        return Q_FAIL(
            Q_INVALID,
            .what = q_text("an ack has 1 to %u ranges, this one %u", (unsigned)RANGES_MAX, *count));
    if (store->ack_ranges == NULL)
        store->ack_ranges = malloc(RANGES_MAX * sizeof(struct qlog_range));
    if (store->ack_has == NULL) store->ack_has = malloc(RANGES_MAX * sizeof(uint64_t));
    if (store->ack_ranges == NULL || store->ack_has == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "ranges of an ack");
    struct qlog_range *sorted = store->ack_ranges;
    memcpy(sorted, ranges, *count * sizeof(struct qlog_range));
    bool in_order = true;
    uint64_t next = ql_consumer_next(store, consumer);
    for (uint32_t i = 0; i < *count; i++) {
        if (sorted[i].first > sorted[i].last || sorted[i].last >= next)
            return Q_FAIL(
                Q_INVALID, .what = q_text(
                               "pull sequences %llu to %llu were never handed out (next is %llu)",
                               (unsigned long long)sorted[i].first,
                               (unsigned long long)sorted[i].last, (unsigned long long)next));
        in_order = in_order && (i == 0 || sorted[i - 1].last < sorted[i].first);
    }
    if (in_order) return Q_OK;
    qsort(sorted, *count, sizeof(struct qlog_range), by_first);
    uint32_t kept = 0;
    for (uint32_t i = 1; i < *count; i++) {
        if (sorted[i].first <= sorted[kept].last)
            sorted[kept].last = q_max_u64(sorted[kept].last, sorted[i].last);
        else
            sorted[++kept] = sorted[i];
    }
    *count = kept + 1;
    return Q_OK;
}

static int
by_first(const void *a, const void *b)
{
    const struct qlog_range *left = a;
    const struct qlog_range *right = b;
    return (left->first > right->first) - (left->first < right->first);
}

/*
 * Whether an ack of it comes too late for a part: released, and given to another since, or done; or
 * handed out by an action that power loss took. Told of the whole range. `has`: what its consumer has a
 * say about, of those that came back.
 */
static bool
range_is_late(const struct ql_consumer *consumer, const struct qlog_range *range, uint64_t has)
{
    if (QL_PLANTED(late_ack_untold)) return false;
    if (range->last >= consumer->next_pull_sequence) return true;
    if (range->first >= consumer->released_below) return false;
    return has < q_min_u64(range->last + 1, consumer->released_below) - range->first;
}

/* --- Negative acks. */

void
ql_nack_start(struct qlog_store *store, struct qlog_nack *nack)
{
    enum q_err err = nack_start(store, nack);
    if (err != Q_OK) ql_request_finish(&nack->request, err);
}

static enum q_err
nack_start(struct qlog_store *store, struct qlog_nack *nack)
{
    struct ql_consumer *consumer;
    Q_TRY(ql_store_consumer(store, &nack->who, &consumer));
    ql_consumer_seen(store, consumer);
    uint32_t count = nack->range_count;
    Q_TRY(ack_sort(store, consumer, nack->ranges, &count));
    if (nack->delay_ms != QLOG_DELAY_BACKOFF)
        Q_TRY(nack_check_delay(store, consumer, nack->delay_ms, count));

    struct ql_group *group = consumer->group;
    struct q_bytes error = nack->error;
    error.size = q_min_u64(error.size, QLOG_ERROR_MAX);
    struct ql_nack_record record = {
        .ack = { .group_id = group->id, .consumer_id = consumer->id, .range_count = count },
        .now_ms = store->wall_ms,
        .delay_ms = nack->delay_ms,
        .error = error,
    };
    struct ql_action *action;
    Q_TRY(ql_action_new(store, ql_nack_record_size(count, error.size), &action));
    ql_nack_record_encode(&record, store->ack_ranges, action->record);
    enum q_err err =
        ql_nack_record_decode(q_bytes_from(action->record, action->record_size), &record);
    Q_ASSERT(err == Q_OK);
    nack->expired_count = 0;
    ql_consumer_has(consumer, store->ack_ranges, count, UINT64_MAX, false, store->ack_has);
    for (uint32_t i = 0; i < count; i++) {
        const struct qlog_range *range = &store->ack_ranges[i];
        bool late = store->ack_has[i] < range->last - range->first + 1;
        if (late && nack->expired_count < nack->expired_max)
            nack->expired[nack->expired_count++] = *range;
    }
    uint64_t held = consumer->held_messages;
    uint64_t dying = group->pending_by[QL_REASON_DYING];
    err = ql_group_apply_nack(group, &record);
    if (err != Q_OK) {
        ql_action_drop(action);
        return err;
    }
    store->counters.nacked += held - consumer->held_messages;
    nack->dead_count = (uint32_t)(group->pending_by[QL_REASON_DYING] - dying);
    nack->unacked = consumer->held_messages;
    action->append.flushed = group->settings.ack_sync;
    ql_action_append(action, &nack->request);
    ql_group_watch_pending(store, group);
    ql_group_try(store, group);
    return Q_OK;
}

/* A message must not be dropped before its delay ends. The oldest of each range tells. */
static enum q_err
nack_check_delay(
    struct qlog_store *store, const struct ql_consumer *consumer, uint64_t delay_ms, uint32_t count)
{
    uint64_t age_ms = store->retention.age_ms;
    uint64_t due_ms;
    if (age_ms == UINT64_MAX) return Q_OK;
    if (!q_add_u64(store->wall_ms, delay_ms, &due_ms)) due_ms = UINT64_MAX;
    const struct ql_spans *held = &consumer->held;
    for (uint32_t i = 0; i < count; i++) {
        const struct qlog_range *range = &store->ack_ranges[i];
        uint64_t oldest = UINT64_MAX;
        for (uint32_t j = ql_spans_find(held, range->first); j < held->count; j++) {
            const struct ql_range_item *item = ql_span_at(held, j);
            if (item->pull_sequence > range->last) break;
            oldest = q_min_u64(oldest, item->sequence);
        }
        struct ql_entry entry;
        if (oldest == UINT64_MAX) continue;
        enum q_err err = ql_index_entry(&store->index, consumer->group->subject, oldest, &entry);
        if (err == Q_NOT_FOUND) continue;
        if (err != Q_OK) return err;
        /* Its segment goes when the one behind it is old enough. */
        const struct ql_segment *next =
            ql_segment_set_next(&store->messages->segments, entry.frame);
        uint64_t end_ms = (next == NULL ? store->wall_ms : next->opened_ms) + age_ms;
        if (due_ms < end_ms || end_ms < age_ms) continue;
        return Q_FAIL(
            Q_DELAY_TOO_LONG,
            .what = q_text(
                "a delay of %llu s ends after the message may be dropped, in %llu s",
                (unsigned long long)(delay_ms / Q_MS_PER_S),
                (unsigned long long)(end_ms > store->wall_ms ? (end_ms - store->wall_ms) / Q_MS_PER_S : 0)));
    }
    return Q_OK;
}

/*
 * store/lag.c: how far groups are, and what holds them. Changes nothing.
 */
#include <string.h>

#include "consume/plan.h"
#include "store/hand.h"

static void lag_counts(
    struct qlog_store *store, struct qlog_lag *lag, const struct ql_group *group);
static void lag_consumers(
    const struct qlog_store *store, struct qlog_lag *lag, const struct ql_group *group);
static void lag_key(struct qlog_lag *lag, const struct ql_group *group);
static enum q_err lag_oldest(
    struct qlog_store *store, struct qlog_lag *lag, struct ql_group *group);
static uint32_t group_members(const struct ql_group *group);

void
ql_lag_start(struct qlog_store *store, struct qlog_lag *lag)
{
    struct ql_subject *subject;
    struct ql_group *group = NULL;
    if (ql_index_find(&store->index, lag->subject, &subject) == Q_OK)
        group = ql_store_find_group(store, subject, lag->group);
    enum q_err err = Q_OK;
    if (group == NULL) {
        err = Q_FAIL(
            Q_NOT_FOUND, .what = q_text(
                             "no group \"%.*s\" on \"%.*s\"", (int)lag->group.size,
                             (const char *)lag->group.data, (int)lag->subject.size,
                             (const char *)lag->subject.data));
    } else {
        lag_counts(store, lag, group);
        lag_consumers(store, lag, group);
        lag_key(lag, group);
        err = lag_oldest(store, lag, group);
    }
    ql_request_finish(&lag->request, err);
}

static void
lag_counts(struct qlog_store *store, struct qlog_lag *lag, const struct ql_group *group)
{
    lag->settings = group->settings;
    lag->broadcast = group->broadcast;
    lag->paused = group->paused;
    lag->epoch = group->epoch;
    lag->cursor = group->cursor;
    lag->end = q_max_u64(ql_store_visible_end(store, group->subject), group->cursor);
    lag->waiting = lag->end - group->cursor;
    lag->ready = lag->waiting;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        bool due = item->reason == QL_REASON_RETRY || item->reason == QL_REASON_RELEASED;
        if (due && item->time_ms <= store->wall_ms) lag->ready += item->count;
    }
    lag->in_flight = ql_group_in_flight(group);
    lag->pending_retry = group->pending_by[QL_REASON_RETRY];
    lag->pending_released = group->pending_by[QL_REASON_RELEASED];
    lag->pending_key = group->pending_by[QL_REASON_KEY];
    lag->pending_filter = group->pending_by[QL_REASON_FILTER];
    lag->pending_dying = group->pending_by[QL_REASON_DYING];
    lag->dead = group->dead;
    lag->expired = group->expired;
    lag->skipped = group->skipped;
    lag->held = lag->waiting > 0 ? ql_group_held(group) : QLOG_HELD_NOT;
    lag->member_count = group_members(group);
    lag->filter_count = group->filters.count;
}

static void
lag_consumers(const struct qlog_store *store, struct qlog_lag *lag, const struct ql_group *group)
{
    lag->consumer_count = 0;
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        uint32_t at = lag->consumer_count++;
        if (lag->consumers == NULL || at >= lag->consumers_max) continue;
        struct qlog_lag_consumer *told = &lag->consumers[at];
        *told = (struct qlog_lag_consumer){
            .alive = consumer->session != 0,
            .parked = consumer->parked != NULL,
            .in_flight = consumer->held_messages,
            .in_flight_bytes = consumer->held_bytes,
            .last_seen_ms = (store->now_ns - consumer->last_seen_ns) / Q_NS_PER_MS,
            .handed_out = consumer->handed_out,
            .acked = consumer->acked,
        };
        memcpy(told->name, consumer->name, consumer->name_size);
    }
}

/* The key that most pending messages wait for, and the first that waits. */
static void
lag_key(struct qlog_lag *lag, const struct ql_group *group)
{
    lag->held_key = 0;
    lag->held_sequence = 0;
    if (lag->held != QLOG_HELD_KEY) return;
    uint32_t most = 0;
    for (uint32_t i = 0; i < group->keys.slot_count; i++) {
        const struct ql_key *key = &group->keys.slots[i];
        if (key->key == 0 || key->waiting <= most) continue;
        most = key->waiting;
        lag->held_key = key->key;
    }
    /* Who it waits for: the oldest of the key, in a hand or pending. */
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < group->pending.count; i++) {
        const struct ql_range_item *item = ql_span_at(&group->pending, i);
        if (item->key == lag->held_key) first = q_min_u64(first, item->sequence);
    }
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++) {
            const struct ql_range_item *item = ql_span_at(&consumer->held, j);
            if (item->key == lag->held_key) first = q_min_u64(first, item->sequence);
        }
    }
    lag->held_sequence = first;
}

static enum q_err
lag_oldest(struct qlog_store *store, struct qlog_lag *lag, struct ql_group *group)
{
    lag->oldest = ql_group_oldest(group);
    lag->oldest_ms = 0;
    struct ql_entry entry;
    enum q_err err = Q_NOT_FOUND;
    if (lag->oldest < lag->end)
        err = ql_index_entry(&store->index, group->subject, lag->oldest, &entry);
    if (err == Q_NOT_FOUND) {
        lag->oldest = UINT64_MAX;
        return Q_OK;
    }
    if (err != Q_OK) return err;
    /* When it can't be looked at now: its segment is not younger. */
    const struct ql_segment *segment = ql_segment_set_find(&store->messages->segments, entry.frame);
    uint64_t stored_ms = segment == NULL ? store->wall_ms : segment->opened_ms;
    struct qbatch batch;
    if (ql_fetch_envelope(store, group, &entry, &batch) == Q_OK) stored_ms = batch.store_time_ms;
    if (store->wall_ms > stored_ms) lag->oldest_ms = store->wall_ms - stored_ms;
    return Q_OK;
}

static uint32_t
group_members(const struct ql_group *group)
{
    uint32_t members = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (group->filters.slots[i] != NULL) members += group->filters.slots[i]->members;
    return members;
}

/* --- A list of groups. */

void
ql_groups_start(struct qlog_store *store, struct qlog_groups *groups)
{
    struct ql_subject *subject = NULL;
    groups->group_count = 0;
    groups->next = 0;
    if (groups->subject.size > 0 && ql_index_find(&store->index, groups->subject, &subject) != Q_OK)
    {
        ql_request_finish(
            &groups->request, Q_FAIL(
                                  Q_NOT_FOUND, .what = q_text(
                                                   "no subject \"%.*s\"", (int)groups->subject.size,
                                                   (const char *)groups->subject.data)));
        return;
    }
    for (uint32_t i = groups->from; i < store->group_count; i++) {
        const struct ql_group *group = store->groups[i];
        if (group == NULL || (subject != NULL && group->subject != subject)) continue;
        if (groups->group_count == groups->groups_max) {
            groups->next = i;
            break;
        }
        uint64_t end = ql_store_visible_end(store, group->subject);
        struct qlog_group_info *info = &groups->groups[groups->group_count++];
        *info = (struct qlog_group_info){
            .broadcast = group->broadcast,
            .paused = group->paused,
            .members = group_members(group),
            .cursor = group->cursor,
            .waiting = end > group->cursor ? end - group->cursor : 0,
            .pending = group->pending_messages,
            .in_flight = ql_group_in_flight(group),
        };
        memcpy(info->subject, group->subject->name, group->subject->name_size);
        memcpy(info->name, group->name, group->name_size);
    }
    ql_request_finish(&groups->request, Q_OK);
}

/*
 * consume/pull.c: messages are handed out.
 */
#include <qbase/assert.h>

#include "consume/group.h"
#include "planted.h"

static bool pull_follows(
    const struct ql_group *group,
    const struct ql_consumer *consumer,
    const struct ql_pull_record *record);
static enum q_err pull_reserve(
    struct ql_group *group, struct ql_consumer *consumer, const struct ql_pull_record *record);
static void pull_take_pending(struct ql_group *group, const struct ql_pull_record *record);
static void pull_pass(struct ql_group *group, const struct ql_pull_record *record);
static void pull_hand(
    struct ql_group *group, struct ql_consumer *consumer, const struct ql_pull_record *record);
static void pull_fill_hole(struct ql_group *group, const struct ql_pull_record *record);

enum q_err
ql_group_apply_pull(struct ql_group *group, const struct ql_pull_record *record)
{
    group->restoring = false;
    struct ql_consumer *consumer = ql_group_consumer(group, record->consumer_id);
    if (consumer == NULL) return Q_FAIL(Q_E_CORRUPT, .what = "PULL of an unknown consumer");
    if (!pull_follows(group, consumer, record))
        return Q_FAIL(
            Q_E_CORRUPT, .what = "PULL gives a pull sequence twice, or moves the cursor back");
    Q_TRY(pull_reserve(group, consumer, record));
    pull_take_pending(group, record);
    if (group->hole) pull_fill_hole(group, record);
    group->hole = false;
    if (!QL_PLANTED(passed_forgotten)) pull_pass(group, record);
    pull_hand(group, consumer, record);
    group->cursor = record->cursor;
    group->skipped += record->skipped;
    group->expired += record->expired;
    return Q_OK;
}

static bool
pull_follows(
    const struct ql_group *group,
    const struct ql_consumer *consumer,
    const struct ql_pull_record *record)
{
    if (record->first_pull_sequence < consumer->next_pull_sequence) return false;
    if (record->cursor < group->cursor) return false;
    uint64_t at = 0;
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        if (run.sequence < at || run.sequence + run.count > record->cursor) return false;
        at = run.sequence + run.count;
    }
    at = group->hole ? 0 : group->cursor;
    for (uint32_t i = 0; i < record->pass_count; i++) {
        struct ql_pass pass = ql_pull_pass_at(record, i);
        if (pass.sequence < at || pass.sequence + pass.count > record->cursor) return false;
        at = pass.sequence + pass.count;
    }
    return true;
}

/* What is taken out of the middle of a pending span makes two of it. */
static enum q_err
pull_reserve(
    struct ql_group *group, struct ql_consumer *consumer, const struct ql_pull_record *record)
{
    uint64_t keyed = 0;
    for (uint32_t i = 0; i < record->run_count; i++)
        keyed += ql_pull_run_at(record, i).key != 0 ? 1 : 0;
    for (uint32_t i = 0; i < record->pass_count; i++)
        keyed += ql_pull_pass_at(record, i).key != 0 ? 1 : 0;
    Q_TRY(ql_keys_reserve(&group->keys, keyed));
    Q_TRY(ql_held_reserve(consumer, record->run_count));
    return ql_pending_reserve(group, 3 * ((uint64_t)record->run_count + record->pass_count + 2));
}

static void
pull_take_pending(struct ql_group *group, const struct ql_pull_record *record)
{
    /* Their ranges stand behind the room that cutting them takes. */
    struct ql_spans *pending = &group->pending;
    if (pending->count == 0) return;
    struct qlog_range *ranges =
        (struct qlog_range
             *)(void *)(pending->items + pending->begin + pending->count + record->run_count);
    uint32_t count = 0;
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        if (run.sequence >= group->cursor && !group->hole) break;
        ranges[count++] = (struct qlog_range){ run.sequence, run.sequence + run.count - 1 };
    }
    (void)ql_pending_cut(group, ranges, count);
}

static void
pull_pass(struct ql_group *group, const struct ql_pull_record *record)
{
    struct ql_spans *pending = &group->pending;
    struct ql_range_item *items =
        pending->items + pending->begin + pending->count + record->pass_count;
    for (uint32_t i = 0; i < record->pass_count; i++) {
        struct ql_pass pass = ql_pull_pass_at(record, i);
        items[i] = (struct ql_range_item){
            .sequence = pass.sequence,
            .count = pass.count,
            .consumer_id = (uint32_t)QL_CONSUMER_NONE,
            .key = pass.key,
            .filters = pass.filters,
            .reason = pass.reason,
        };
    }
    ql_pending_add(group, items, record->pass_count);
}

static void
pull_hand(struct ql_group *group, struct ql_consumer *consumer, const struct ql_pull_record *record)
{
    (void)group;
    uint64_t pull_sequence = record->first_pull_sequence;
    /* What it jumps over may have been given out by actions that power loss took. */
    if (pull_sequence > consumer->next_pull_sequence) consumer->released_below = pull_sequence;
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        struct ql_range_item item = {
            .pull_sequence = pull_sequence,
            .sequence = run.sequence,
            .time_ms = record->until_ms,
            .count = run.count,
            .consumer_id = consumer->id,
            .key = run.key,
            .bytes = run.bytes,
            .filters = run.filters,
            .uses = run.uses,
        };
        if (!record->once || QL_PLANTED(once_held)) ql_held_add(consumer, &item);
        pull_sequence += run.count;
    }
    consumer->next_pull_sequence = pull_sequence;
}

/*
 * Actions before this PULL are missing. Messages between the cursor that is known and its own may have
 * been handed out or not, so what it does not name becomes pending: twice is better than never. Where
 * every filter has tags, that is mostly what nobody takes, and stays passed over.
 */
static void
pull_fill_hole(struct ql_group *group, const struct ql_pull_record *record)
{
    uint16_t all = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (group->filters.slots[i] != NULL && group->filters.slots[i]->filter.tag_count == 0)
            all = (uint16_t)(all | 1u << i);
    if (all == 0) return;
    uint64_t at = group->cursor;
    uint32_t run = 0;
    uint32_t pass = 0;
    while (at < record->cursor) {
        uint64_t next = record->cursor;
        uint64_t end = record->cursor;
        if (run < record->run_count) {
            struct ql_pull_run named = ql_pull_run_at(record, run);
            next = named.sequence;
            end = named.sequence + named.count;
        }
        bool passed = pass < record->pass_count && ql_pull_pass_at(record, pass).sequence < next;
        if (passed) {
            struct ql_pass named = ql_pull_pass_at(record, pass);
            next = named.sequence;
            end = named.sequence + named.count;
        }
        struct ql_range_item item = {
            .sequence = at,
            .count = (uint32_t)q_min_u64(next > at ? next - at : 0, INT32_MAX),
            .consumer_id = (uint32_t)QL_CONSUMER_NONE,
            .filters = all,
            .reason = QL_REASON_RELEASED,
        };
        if (item.count > 0) ql_pending_add(group, &item, 1);
        at = q_max_u64(at, end);
        if (passed)
            pass++;
        else if (run < record->run_count)
            run++;
    }
}

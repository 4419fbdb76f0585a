#include "consume/plan.h"

#include <string.h>

#include <qbase/assert.h>

#include "planted.h"

static bool key_is_free(const struct ql_plan *plan, uint32_t key, bool fresh);
static void key_note(struct ql_plan *plan, uint32_t key, bool stuck);
static bool plan_pass(struct ql_plan *plan, const struct ql_pass *pass);

void
ql_plan_begin(struct ql_plan *plan)
{
    ql_keys_clear(plan->notes);
    plan->filter = (uint16_t)(1u << plan->consumer->filter);
    plan->cursor = plan->group->cursor;
}

enum ql_offer
ql_plan_pending(struct ql_plan *plan, const struct ql_range_item *item)
{
    bool take = item->reason != QL_REASON_DYING && item->time_ms <= plan->now_ms &&
                (item->filters & plan->filter) != 0 && key_is_free(plan, item->key, false);
    if (take) return QL_OFFER_TAKE;
    if (ql_pending_blocks(plan->group, item)) key_note(plan, item->key, true);
    return QL_OFFER_PASS;
}

enum ql_offer
ql_plan_new(struct ql_plan *plan, uint16_t filters, uint32_t key)
{
    if (filters == 0) {
        plan->skipped++;
        plan->cursor++;
        return QL_OFFER_SKIP;
    }
    bool mine = (filters & plan->filter) != 0;
    if (mine && key_is_free(plan, key, true)) return QL_OFFER_TAKE;
    const struct ql_pass pass = {
        .sequence = plan->cursor,
        .count = 1,
        .key = key,
        .filters = filters,
        .reason = mine ? QL_REASON_KEY : QL_REASON_FILTER,
    };
    if (!plan_pass(plan, &pass)) return QL_OFFER_STOP;
    if (mine || plan->group->settings.strict) key_note(plan, key, true);
    plan->cursor++;
    return QL_OFFER_PASS;
}

void
ql_plan_take(struct ql_plan *plan, const struct ql_pull_run *run, bool held_back)
{
    struct ql_pull_run *last = plan->run_count > 0 ? &plan->runs[plan->run_count - 1] : NULL;
    bool joined = last != NULL && run->key == 0 && last->key == 0 &&
                  last->sequence + last->count == run->sequence && last->filters == run->filters &&
                  memcmp(&last->uses, &run->uses, sizeof(run->uses)) == 0 &&
                  (uint64_t)last->count + run->count <= INT32_MAX &&
                  (uint64_t)last->bytes + run->bytes <= INT32_MAX;
    if (joined) {
        last->count += run->count;
        last->bytes += run->bytes;
    } else {
        Q_ASSERT(plan->run_count < plan->runs_max);
        plan->runs[plan->run_count++] = *run;
    }
    if (held_back) key_note(plan, run->key, false);
    if (run->sequence >= plan->cursor) plan->cursor = run->sequence + run->count;
}

static bool
key_is_free(const struct ql_plan *plan, uint32_t key, bool fresh)
{
    if (key == 0) return true;
    const struct ql_key *note = ql_keys_find(plan->notes, key);
    if (QL_PLANTED(key_overtakes)) return true;
    if (note != NULL && note->waiting > 0) return false;
    const struct ql_key *busy = ql_keys_find(&plan->group->keys, key);
    if (busy == NULL) return true;
    if (busy->held > 0) return false;
    /* Of those that hold new ones back, all must be in this plan. */
    uint32_t taken = note == NULL ? 0 : note->held;
    return !fresh || busy->waiting <= taken;
}

static void
key_note(struct ql_plan *plan, uint32_t key, bool stuck)
{
    if (key == 0) return;
    enum q_err err = ql_keys_reserve(plan->notes, 1);
    if (err == Q_OK)
        ql_keys_add(plan->notes, key, stuck ? 0 : 1, stuck ? 1 : 0);
    else
        plan->err = err;
}

/* False: the pending set, or the action, has no room. */
static bool
plan_pass(struct ql_plan *plan, const struct ql_pass *pass)
{
    const struct ql_group *group = plan->group;
    if (group->pending_messages + plan->passed >= group->settings.pending_max) return false;
    struct ql_pass *last = plan->pass_count > 0 ? &plan->passes[plan->pass_count - 1] : NULL;
    bool joined = last != NULL && pass->key == 0 && last->key == 0 &&
                  last->sequence + last->count == pass->sequence &&
                  last->filters == pass->filters && last->reason == pass->reason;
    if (joined)
        last->count++;
    else if (plan->pass_count == plan->passes_max)
        return false;
    else
        plan->passes[plan->pass_count++] = *pass;
    plan->passed++;
    return true;
}

enum qlog_held
ql_group_held(const struct ql_group *group)
{
    static const struct {
        enum ql_reason reason;
        enum qlog_held held;
    } reasons[] = {
        { QL_REASON_RETRY, QLOG_HELD_RETRY }, { QL_REASON_RELEASED, QLOG_HELD_RELEASED },
        { QL_REASON_KEY, QLOG_HELD_KEY },     { QL_REASON_FILTER, QLOG_HELD_FILTER },
        { QL_REASON_DYING, QLOG_HELD_DYING },
    };
    if (group->paused) return QLOG_HELD_PAUSED;
    if (group->pending_messages < group->settings.pending_max)
        return ql_room_is_full(group->room) ? QLOG_HELD_MEMORY : QLOG_HELD_NOT;
    enum qlog_held held = QLOG_HELD_RETRY;
    uint64_t most = 0;
    for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
        if (group->pending_by[reasons[i].reason] <= most) continue;
        most = group->pending_by[reasons[i].reason];
        held = reasons[i].held;
    }
    return held;
}

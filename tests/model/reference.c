#include "reference_inside.h"

#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

uint64_t
ref_in_place(const struct ref_group *group, enum ref_place place)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < group->cursor; i++)
        count += group->rows[i].place == place ? 1 : 0;
    return count;
}

uint64_t
ref_held_by(const struct ref_group *group, uint32_t consumer)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < group->cursor; i++)
        count += group->rows[i].place == REF_HELD && group->rows[i].consumer == consumer ? 1 : 0;
    return count;
}

static uint32_t
members_of(const struct ref_group *group, uint32_t filter)
{
    uint32_t members = 0;
    for (uint32_t i = 0; i < REF_CONSUMERS; i++)
        members += group->consumers[i].session != 0 && group->consumers[i].filter == filter ? 1 : 0;
    return members;
}

uint16_t
ref_filters_of(const struct ref_group *group, bool live)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (group->filters[i].known && (!live || members_of(group, i) > 0)) bits |= 1u << i;
    return (uint16_t)bits;
}

uint16_t
ref_takers_of(const struct ref_group *group, uint32_t number, const struct ref_message *message)
{
    unsigned bits = 0;
    if (message->only != 0 && message->only != number + 1) return 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        const struct ref_filter *filter = &group->filters[i];
        uint8_t common = filter->tags & message->tags;
        bool takes = filter->tags == 0 || (filter->all ? common == filter->tags : common != 0);
        if (filter->known && takes) bits |= 1u << i;
    }
    return (uint16_t)bits;
}

void
ref_row_done(struct ref_row *row)
{
    *row = (struct ref_row){ .consumer = REF_CONSUMERS };
}

void
ref_row_pending(
    struct ref_group *group, struct ref_row *row, enum ref_reason reason, uint64_t due_ms)
{
    row->takers &= ref_filters_of(group, false);
    if (row->takers == 0) {
        ref_row_done(row);
        group->skipped++;
        return;
    }
    row->place = REF_PENDING;
    row->reason = (uint8_t)reason;
    row->time_ms = due_ms;
}

void
ref_row_back(struct ref_group *group, struct ref_row *row, enum ref_use use, uint64_t due_ms)
{
    row->failed += use == REF_USE_FAILED ? 1 : 0;
    row->timed_out += use == REF_USE_TIMED_OUT ? 1 : 0;
    row->died += use == REF_USE_DIED ? 1 : 0;
    if (use != REF_USE_FAILED) row->error = 0;
    bool over = row->failed + row->timed_out + row->died >= (int)group->settings.attempts_max;
    enum ref_reason reason = use == REF_USE_FAILED ? REF_RETRY : REF_RELEASED;
    if (over && use != REF_USE_NONE) reason = REF_DYING;
    ref_row_pending(group, row, reason, due_ms);
}

void
ref_bury(struct reference *ref)
{
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        struct ref_group *group = &ref->state.groups[i];
        for_each_row(group, row)
        {
            if (row->place != REF_PENDING || row->reason != REF_DYING) continue;
            if (ref->dead_count < ref->dead_max)
                ref->dead[ref->dead_count++] = (struct ref_dead){
                    (uint8_t)i,   (uint64_t)(row - group->rows),
                    row->failed,  row->timed_out,
                    row->died,    row->error,
                    row->expired,
                };
            group->dead++;
            ref_row_done(row);
        }
    }
}

uint64_t
ref_next_of(const struct ref_state *state, const struct ref_consumer *consumer)
{
    return q_max_u64(consumer->next, state->generation << 40);
}

enum q_err
ref_find(struct reference *ref, const struct ref_who *who, struct ref_consumer **ret_consumer)
{
    struct ref_group *group = &ref->state.groups[who->group];
    struct ref_consumer *consumer = &group->consumers[who->consumer];
    if (!group->exists) return Q_NOT_FOUND;
    if (!consumer->known || consumer->session == 0) return Q_NO_SESSION;
    if (consumer->session != who->session) return Q_CONSUMER_REPLACED;
    consumer->seen_ms = ref->state.now_ms;
    *ret_consumer = consumer;
    return Q_OK;
}

void
ref_publish(struct reference *ref, const struct ref_message *messages, uint32_t count)
{
    Q_ASSERT(ref->state.end + count <= REF_MESSAGES);
    for (uint32_t i = 0; i < count; i++) {
        ref->messages[ref->state.end] = messages[i];
        ref->messages[ref->state.end++].stored_ms = ref->state.now_ms;
    }
}

enum qlog_held
ref_why_held(const struct ref_group *group)
{
    static const enum qlog_held names[REF_REASONS] = {
        QLOG_HELD_RETRY, QLOG_HELD_RELEASED, QLOG_HELD_KEY, QLOG_HELD_FILTER, QLOG_HELD_DYING,
    };
    uint64_t counts[REF_REASONS] = { 0 };
    unsigned most = 0;
    if (group->paused) return QLOG_HELD_PAUSED;
    if (ref_in_place(group, REF_PENDING) < group->settings.pending_max) return QLOG_HELD_NOT;
    for (uint64_t i = 0; i < group->cursor; i++)
        if (group->rows[i].place == REF_PENDING) counts[group->rows[i].reason]++;
    for (unsigned i = 1; i < REF_REASONS; i++)
        if (counts[i] > counts[most]) most = i;
    return names[most];
}

/* --- Sessions. */

/* What a consumer holds goes back: all of it, or what its filter does not take. In a strict group
 * only the first message of a key has used an attempt. */
static void
release(struct reference *ref, uint32_t number, uint32_t consumer, enum ref_use use, uint16_t keep)
{
    struct ref_group *group = &ref->state.groups[number];
    bool used[256] = { false };
    bool any = false;
    for_each_row(group, row)
    {
        if (row->place != REF_HELD || row->consumer != consumer) continue;
        if ((row->takers & keep) != 0) continue;
        if (use == REF_USE_TIMED_OUT && (row->time_ms == 0 || row->time_ms > ref->state.now_ms))
            continue;
        uint8_t key = ref->messages[row - group->rows].key;
        bool later = group->settings.strict && key != 0 && used[key];
        used[key] = true;
        any = true;
        ref_row_back(group, row, later ? REF_USE_NONE : use, 0);
    }
    if (any) group->consumers[consumer].back_below = group->consumers[consumer].next;
}

uint64_t
ref_start_at(const struct reference *ref, uint64_t at_ms)
{
    uint64_t from = ref->state.first;
    while (from < ref->state.end && ref->messages[from].stored_ms < at_ms)
        from++;
    return from;
}

static uint64_t
start_of(const struct reference *ref, enum qlog_start start, uint64_t at)
{
    const struct ref_state *state = &ref->state;
    if (start == QLOG_START_LATEST) return state->end;
    if (start == QLOG_START_SEQUENCE) return q_min_u64(q_max_u64(at, state->first), state->end);
    return state->first;
}

struct ref_answer
ref_join(struct reference *ref, const struct ref_join *join)
{
    struct ref_state *state = &ref->state;
    struct ref_group *group = &state->groups[join->who.group];
    struct ref_consumer *consumer = &group->consumers[join->who.consumer];
    struct ref_answer answer = { .created = !group->exists };
    if (!group->exists) {
        *group = (struct ref_group){
            .exists = true,
            .broadcast = join->broadcast,
            .settings = *join->settings,
            .cursor = start_of(ref, join->start, join->at),
        };
    }
    /* Any-of and all-of one tag are the same. */
    bool all = join->all && (join->tags & (join->tags - 1)) != 0;
    uint32_t slot = QLOG_FILTERS_MAX;
    for (uint32_t i = QLOG_FILTERS_MAX; i-- > 0;)
        if (!group->filters[i].known) slot = i;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        const struct ref_filter *filter = &group->filters[i];
        if (filter->known && filter->tags == join->tags && filter->all == all) slot = i;
    }
    Q_ASSERT(slot < QLOG_FILTERS_MAX);
    if (!group->filters[slot].known)
        group->filters[slot] = (struct ref_filter){ .known = true, .all = all, .tags = join->tags };
    if (!consumer->known) {
        answer.reused = join->next < state->given[join->who.group][join->who.consumer];
        *consumer =
            (struct ref_consumer){ .known = true, .next = join->next, .back_below = join->next };
    }
    if (consumer->session == 0 || consumer->token != join->token)
        consumer->session = join->who.session;
    consumer->token = join->token;
    consumer->filter = (uint8_t)slot;
    consumer->seen_ms = state->now_ms;
    release(ref, join->who.group, join->who.consumer, REF_USE_NONE, (uint16_t)(1u << slot));
    ref_time(ref, state->now_ms);
    answer.cursor = group->cursor;
    answer.waiting = state->end - group->cursor;
    answer.pending = ref_in_place(group, REF_PENDING);
    answer.unacked = ref_held_by(group, join->who.consumer);
    return answer;
}

struct ref_answer
ref_keep_alive(struct reference *ref, const struct ref_who *who)
{
    struct ref_consumer *consumer;
    return (struct ref_answer){ .err = ref_find(ref, who, &consumer) };
}

struct ref_answer
ref_leave(struct reference *ref, const struct ref_who *who)
{
    struct ref_consumer *consumer;
    uint64_t seen_ms = ref->state.groups[who->group].consumers[who->consumer].seen_ms;
    struct ref_answer answer = { .err = ref_find(ref, who, &consumer) };
    if (answer.err != Q_OK) return answer;
    release(ref, who->group, who->consumer, REF_USE_NONE, 0);
    consumer->back_below = consumer->next;
    consumer->session = 0;
    consumer->seen_ms = seen_ms; /* a goodbye is no sign of life */
    ref_time(ref, ref->state.now_ms);
    return answer;
}

/* --- A group as a whole. */

static enum q_err
control_skip(struct ref_state *state, struct ref_group *group, struct qlog_range range)
{
    if (range.first > group->cursor) return Q_INVALID;
    for (uint64_t i = range.first; i <= range.last && i < group->cursor; i++) {
        if (group->rows[i].place == REF_WAITING) continue;
        ref_row_done(&group->rows[i]);
        group->skipped++;
    }
    while (group->cursor <= range.last && group->cursor < state->end) {
        ref_row_done(&group->rows[group->cursor++]);
        group->skipped++;
    }
    return Q_OK;
}

static enum q_err
control_resend(struct ref_state *state, struct ref_group *group, struct qlog_range range)
{
    uint16_t kept = ref_filters_of(group, false);
    bool some = false;
    if (range.last >= group->cursor) return Q_INVALID;
    for (uint64_t i = range.first; i <= range.last; i++) {
        some |= group->rows[i].place == REF_WAITING;
        if (group->rows[i].place == REF_WAITING && i < state->first) return Q_GONE;
    }
    if (some && kept == 0) return Q_INVALID;
    for (uint64_t i = range.first; i <= range.last; i++) {
        struct ref_row *row = &group->rows[i];
        if (row->place != REF_WAITING) continue;
        ref_row_done(row);
        row->takers = kept;
        ref_row_pending(group, row, REF_RETRY, 0);
    }
    return Q_OK;
}

struct ref_answer
ref_control(struct reference *ref, uint32_t number, const struct qlog_control *control)
{
    struct ref_state *state = &ref->state;
    struct ref_group *group = &state->groups[number];
    if (!group->exists) return (struct ref_answer){ .err = Q_NOT_FOUND };
    struct ref_answer answer = { 0 };
    uint64_t skipped = group->skipped;
    uint64_t pending = ref_in_place(group, REF_PENDING);
    switch (control->kind) {
    case QLOG_CONTROL_SETTINGS:
        group->settings = control->settings;
        break;
    case QLOG_CONTROL_PAUSE:
    case QLOG_CONTROL_RESUME:
        group->paused = control->kind == QLOG_CONTROL_PAUSE;
        break;
    case QLOG_CONTROL_SEEK:
        answer.affected = ref_in_place(group, REF_HELD);
        for_each_row(group, row) ref_row_done(row);
        for (uint32_t i = 0; i < REF_CONSUMERS; i++)
            group->consumers[i].back_below = group->consumers[i].next;
        group->cursor = start_of(ref, control->start, control->at);
        group->epoch++;
        break;
    case QLOG_CONTROL_SKIP:
        answer.err = control_skip(state, group, control->range);
        answer.affected = group->skipped - skipped;
        break;
    case QLOG_CONTROL_RESEND:
        answer.err = control_resend(state, group, control->range);
        answer.affected = ref_in_place(group, REF_PENDING) - pending;
        break;
    case QLOG_CONTROL_DELETE:
        group->exists = false;
        return answer;
    }
    ref_time(ref, state->now_ms);
    answer.cursor = group->cursor;
    answer.epoch = group->epoch;
    return answer;
}

struct ref_lag
ref_lag(const struct reference *ref, uint32_t number)
{
    const struct ref_state *state = &ref->state;
    const struct ref_group *group = &state->groups[number];
    struct ref_lag lag = { .waiting = state->end - group->cursor };
    lag.ready = lag.waiting;
    lag.oldest = lag.waiting > 0 ? group->cursor : UINT64_MAX;
    lag.in_flight = ref_in_place(group, REF_HELD);
    for (uint64_t i = group->cursor; i-- > 0;) {
        const struct ref_row *row = &group->rows[i];
        if (row->place == REF_WAITING) continue;
        lag.oldest = i;
        if (row->place == REF_HELD) continue;
        lag.pending[row->reason]++;
        bool due = row->reason == REF_RETRY || row->reason == REF_RELEASED;
        lag.ready += due && row->time_ms <= state->now_ms ? 1 : 0;
    }
    lag.held = lag.waiting > 0 ? ref_why_held(group) : QLOG_HELD_NOT;
    for (uint32_t i = 0; i < REF_CONSUMERS; i++) {
        lag.consumers += group->consumers[i].known ? 1 : 0;
        lag.members += group->consumers[i].session != 0 ? 1 : 0;
    }
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        lag.filters += group->filters[i].known ? 1 : 0;
    return lag;
}

/* --- Time. */

/* When a broadcast group is forgotten; UINT64_MAX: not as long as it is used. */
static uint64_t
group_end_ms(const struct ref_group *group)
{
    uint64_t seen_ms = group->seen_ms;
    if (!group->broadcast) return UINT64_MAX;
    for (uint32_t i = 0; i < REF_CONSUMERS; i++) {
        if (group->consumers[i].session != 0) return UINT64_MAX;
        seen_ms = q_max_u64(seen_ms, group->consumers[i].seen_ms);
    }
    return seen_ms + REF_BROADCAST_MS;
}

static uint64_t
filter_end_ms(const struct ref_group *group, const struct ref_filter *filter)
{
    return filter->left_ms == 0 ? UINT64_MAX : filter->left_ms + group->settings.filter_keep_ms;
}

uint64_t
ref_next_ms(const struct reference *ref, bool due)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        const struct ref_group *group = &ref->state.groups[i];
        if (!group->exists) continue;
        next = q_min_u64(next, group_end_ms(group));
        for (uint32_t j = 0; j < REF_CONSUMERS; j++) {
            const struct ref_consumer *consumer = &group->consumers[j];
            uint64_t left = consumer->session != 0 ? REF_TIMEOUT_MS : REF_FORGET_MS;
            if (consumer->known) next = q_min_u64(next, consumer->seen_ms + left);
        }
        for (uint32_t j = 0; j < QLOG_FILTERS_MAX; j++)
            next = q_min_u64(next, filter_end_ms(group, &group->filters[j]));
        for (uint64_t j = 0; j < group->cursor; j++)
            if ((group->rows[j].place == REF_HELD ||
                 (due && group->rows[j].place == REF_PENDING)) &&
                group->rows[j].time_ms > ref->state.now_ms)
                next = q_min_u64(next, group->rows[j].time_ms);
    }
    return next;
}

static void
filters_time(const struct ref_state *state, struct ref_group *group)
{
    bool alone = ref_filters_of(group, true) == 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++) {
        struct ref_filter *filter = &group->filters[i];
        if (!filter->known) continue;
        /* Time counts in which it has no member, and the group has others. */
        if (alone || members_of(group, i) > 0)
            filter->left_ms = 0;
        else if (filter->left_ms == 0)
            filter->left_ms = state->now_ms;
        if (filter_end_ms(group, filter) > state->now_ms) continue;
        *filter = (struct ref_filter){ 0 };
        for_each_row(group, row)
        {
            row->takers &= ref_filters_of(group, false);
            if (row->place != REF_PENDING || row->takers != 0) continue;
            ref_row_done(row);
            group->skipped++;
        }
    }
}

void
ref_time(struct reference *ref, uint64_t now_ms)
{
    struct ref_state *state = &ref->state;
    state->now_ms = now_ms;
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        struct ref_group *group = &state->groups[i];
        for (uint32_t j = 0; group->exists && j < REF_CONSUMERS; j++) {
            struct ref_consumer *consumer = &group->consumers[j];
            if (!consumer->known) continue;
            if (consumer->session != 0 && consumer->seen_ms + REF_TIMEOUT_MS <= now_ms) {
                release(ref, i, j, REF_USE_DIED, 0);
                consumer->back_below = consumer->next;
                consumer->session = 0;
            }
            release(ref, i, j, REF_USE_TIMED_OUT, 0);
            if (consumer->seen_ms + REF_FORGET_MS > now_ms) continue;
            group->seen_ms = q_max_u64(group->seen_ms, consumer->seen_ms);
            *consumer = (struct ref_consumer){ 0 };
            for_each_row(group, row) if (row->consumer == j) row->consumer = REF_CONSUMERS;
        }
        if (group->exists) filters_time(state, group);
        if (group->exists && group_end_ms(group) <= now_ms) group->exists = false;
    }
    ref_bury(ref);
}

void
ref_trim(struct reference *ref, uint64_t first)
{
    ref->state.first = first;
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        struct ref_group *group = &ref->state.groups[i];
        if (!group->exists) continue;
        for_each_row(group, row)
        {
            if (row->place == REF_WAITING || row >= group->rows + first) continue;
            if (row->place == REF_HELD) {
                struct ref_consumer *consumer = &group->consumers[row->consumer];
                consumer->back_below = consumer->next;
            }
            row->error = 0;
            row->expired = true;
            ref_row_pending(group, row, REF_DYING, 0);
        }
    }
    ref_bury(ref);
}

void
ref_restart(struct reference *ref, uint64_t generation)
{
    struct ref_state *state = &ref->state;
    state->generation = generation;
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        struct ref_group *group = &state->groups[i];
        group->seen_ms = state->now_ms;
        for (uint32_t j = 0; j < REF_CONSUMERS; j++) {
            struct ref_consumer *consumer = &group->consumers[j];
            consumer->seen_ms = state->now_ms;
        }
        for (uint32_t j = 0; j < QLOG_FILTERS_MAX; j++)
            group->filters[j].left_ms = 0;
    }
    ref_time(ref, state->now_ms);
}

#include "reference.h"

#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

enum use {
    USE_NONE,
    USE_FAILED,
    USE_TIMED_OUT,
    USE_DIED
};

/* Rows of a group that may be held or pending. */
#define for_each_row(group, row)                                                                   \
    for (struct ref_row *row = (group)->rows; row < (group)->rows + (group)->cursor; row++)

static uint64_t
in_place(const struct ref_group *group, enum ref_place place)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < group->cursor; i++)
        count += group->rows[i].place == place ? 1 : 0;
    return count;
}

static uint64_t
held_by(const struct ref_group *group, uint32_t consumer)
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

/* Bits of the filters that are kept; of those with members only. */
static uint16_t
filters_of(const struct ref_group *group, bool live)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (group->filters[i].known && (!live || members_of(group, i) > 0)) bits |= 1u << i;
    return (uint16_t)bits;
}

static uint16_t
takers_of(const struct ref_group *group, uint32_t number, const struct ref_message *message)
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

static void
row_done(struct ref_row *row)
{
    *row = (struct ref_row){ .consumer = REF_CONSUMERS };
}

static void
row_pending(struct ref_group *group, struct ref_row *row, enum ref_reason reason, uint64_t due_ms)
{
    row->takers &= filters_of(group, false);
    if (row->takers == 0) {
        row_done(row);
        group->skipped++;
        return;
    }
    row->place = REF_PENDING;
    row->reason = (uint8_t)reason;
    row->time_ms = due_ms;
}

/* A message comes back, and may have used an attempt. */
static void
row_back(struct ref_group *group, struct ref_row *row, enum use use, uint64_t due_ms)
{
    row->failed += use == USE_FAILED ? 1 : 0;
    row->timed_out += use == USE_TIMED_OUT ? 1 : 0;
    row->died += use == USE_DIED ? 1 : 0;
    if (use != USE_FAILED) row->error = 0;
    bool over = row->failed + row->timed_out + row->died >= (int)group->settings.attempts_max;
    enum ref_reason reason = use == USE_FAILED ? REF_RETRY : REF_RELEASED;
    if (over && use != USE_NONE) reason = REF_DYING;
    row_pending(group, row, reason, due_ms);
}

/* All dying ones are copied, and dead. */
static void
bury(struct reference *ref)
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
            row_done(row);
        }
    }
}

/* The next pull sequence of a consumer: none is given twice, whatever a crash took. */
static uint64_t
next_of(const struct ref_state *state, const struct ref_consumer *consumer)
{
    return q_max_u64(consumer->next, state->generation << 40);
}

static enum q_err
find(struct reference *ref, const struct ref_who *who, struct ref_consumer **ret_consumer)
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
    memcpy(&ref->messages[ref->state.end], messages, count * sizeof(*messages));
    ref->state.end += count;
}

/* --- Sessions. */

/* What a consumer holds goes back: all of it, or what its filter does not take. In a strict group
 * only the first message of a key has used an attempt. */
static void
release(struct reference *ref, uint32_t number, uint32_t consumer, enum use use, uint16_t keep)
{
    struct ref_group *group = &ref->state.groups[number];
    bool used[256] = { false };
    bool any = false;
    for_each_row(group, row)
    {
        if (row->place != REF_HELD || row->consumer != consumer) continue;
        if ((row->takers & keep) != 0) continue;
        if (use == USE_TIMED_OUT && (row->time_ms == 0 || row->time_ms > ref->state.now_ms))
            continue;
        uint8_t key = ref->messages[row - group->rows].key;
        bool later = group->settings.strict && key != 0 && used[key];
        used[key] = true;
        any = true;
        row_back(group, row, later ? USE_NONE : use, 0);
    }
    if (any) group->consumers[consumer].back_below = group->consumers[consumer].next;
}

static uint64_t
start_of(const struct ref_state *state, enum qlog_start start, uint64_t at)
{
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
        *group = (struct ref_group){ .exists = true, .settings = *join->settings };
        group->cursor = start_of(state, join->start, join->at);
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
    release(ref, join->who.group, join->who.consumer, USE_NONE, (uint16_t)(1u << slot));
    ref_time(ref, state->now_ms);
    answer.cursor = group->cursor;
    answer.waiting = state->end - group->cursor;
    answer.pending = in_place(group, REF_PENDING);
    answer.unacked = held_by(group, join->who.consumer);
    return answer;
}

struct ref_answer
ref_keep_alive(struct reference *ref, const struct ref_who *who)
{
    struct ref_consumer *consumer;
    return (struct ref_answer){ .err = find(ref, who, &consumer) };
}

struct ref_answer
ref_leave(struct reference *ref, const struct ref_who *who)
{
    struct ref_consumer *consumer;
    uint64_t seen_ms = ref->state.groups[who->group].consumers[who->consumer].seen_ms;
    struct ref_answer answer = { .err = find(ref, who, &consumer) };
    if (answer.err != Q_OK) return answer;
    release(ref, who->group, who->consumer, USE_NONE, 0);
    consumer->back_below = consumer->next;
    consumer->session = 0;
    consumer->seen_ms = seen_ms; /* a goodbye is no sign of life */
    ref_time(ref, ref->state.now_ms);
    return answer;
}

/* --- Pulls. */

/* Whether a pending message holds back later ones of its key. */
static bool
row_blocks(const struct ref_group *group, const struct ref_row *row)
{
    return row->place == REF_PENDING &&
           (group->settings.strict || row->reason == REF_RELEASED || row->reason == REF_KEY);
}

/* No message of the key is in a hand, nor stays pending before this one and holds it back. */
static bool
key_is_free(
    const struct reference *ref,
    const struct ref_group *group,
    uint64_t sequence,
    const bool *taken)
{
    uint8_t key = ref->messages[sequence].key;
    if (key == 0) return true;
    for (uint64_t i = 0; i < group->cursor; i++) {
        if (ref->messages[i].key != key || taken[i]) continue;
        if (group->rows[i].place == REF_HELD) return false;
        if (i < sequence && row_blocks(group, &group->rows[i])) return false;
    }
    return true;
}

static enum qlog_held
why_held(const struct ref_group *group)
{
    static const enum qlog_held names[REF_REASONS] = {
        QLOG_HELD_RETRY, QLOG_HELD_RELEASED, QLOG_HELD_KEY, QLOG_HELD_FILTER, QLOG_HELD_DYING,
    };
    uint64_t counts[REF_REASONS] = { 0 };
    unsigned most = 0;
    if (group->paused) return QLOG_HELD_PAUSED;
    if (in_place(group, REF_PENDING) < group->settings.pending_max) return QLOG_HELD_NOT;
    for (uint64_t i = 0; i < group->cursor; i++)
        if (group->rows[i].place == REF_PENDING) counts[group->rows[i].reason]++;
    for (unsigned i = 1; i < REF_REASONS; i++)
        if (counts[i] > counts[most]) most = i;
    return names[most];
}

static void
hand(struct ref_answer *answer, const struct ref_row *row, uint64_t sequence)
{
    answer->hands[answer->hand_count++] = (struct ref_hand){
        row->pull_sequence,
        sequence,
        1u + row->failed + row->timed_out + row->died,
    };
}

/* What was handed to this consumer and did not arrive, in the order of pull sequences. */
static void
pull_again(struct ref_group *group, const struct ref_pull *pull, struct ref_answer *answer)
{
    uint64_t from = pull->received;
    while (answer->hand_count < pull->max) {
        const struct ref_row *next = NULL;
        for_each_row(group, row) if (
            row->place == REF_HELD && row->consumer == pull->who.consumer &&
            row->pull_sequence >= from &&
            (next == NULL || row->pull_sequence < next->pull_sequence)) next = row;
        if (next == NULL) return;
        hand(answer, next, (uint64_t)(next - group->rows));
        from = next->pull_sequence + 1;
    }
}

static void
pull_fresh(struct reference *ref, const struct ref_pull *pull, struct ref_answer *answer)
{
    struct ref_state *state = &ref->state;
    struct ref_group *group = &state->groups[pull->who.group];
    struct ref_consumer *consumer = &group->consumers[pull->who.consumer];
    uint16_t mine = (uint16_t)(1u << consumer->filter);
    bool taken[REF_MESSAGES] = { false };
    uint64_t order[REF_PULL_MAX];
    uint32_t count = 0;
    for (uint64_t i = 0; i < group->cursor && count < pull->max; i++) {
        const struct ref_row *row = &group->rows[i];
        if (row->place != REF_PENDING || row->time_ms > state->now_ms) continue;
        if ((row->takers & mine) == 0 || !key_is_free(ref, group, i, taken)) continue;
        taken[i] = true;
        order[count++] = i;
    }
    /* From the cursor on. Those that were taken out of the pending set make room for the next pull. */
    uint64_t pending = in_place(group, REF_PENDING);
    if (pending >= group->settings.pending_max) goto give;
    while (group->cursor < state->end && count < pull->max) {
        uint64_t i = group->cursor;
        struct ref_row *row = &group->rows[i];
        row_done(row);
        row->takers = takers_of(group, pull->who.group, &ref->messages[i]);
        bool wanted = (row->takers & mine) != 0;
        if (i < state->first) {
            group->expired++;
        } else if (row->takers == 0) {
            group->skipped++;
        } else if (wanted && key_is_free(ref, group, i, taken)) {
            taken[i] = true;
            order[count++] = i;
        } else {
            if (pending == group->settings.pending_max) break;
            pending++;
            row_pending(group, row, wanted ? REF_KEY : REF_FILTER, 0);
        }
        group->cursor++;
    }
give:
    /* Nobody knows whether what lies in between was given out. */
    if (count > 0 && next_of(state, consumer) > consumer->next)
        consumer->next = consumer->back_below = next_of(state, consumer);
    for (uint32_t i = 0; i < count; i++) {
        struct ref_row *row = &group->rows[order[i]];
        row->place = REF_HELD;
        row->consumer = (uint8_t)pull->who.consumer;
        row->pull_sequence = consumer->next++;
        state->given[pull->who.group][pull->who.consumer] = consumer->next;
        row->time_ms = pull->invisible_ms == 0 ? 0 : state->now_ms + pull->invisible_ms;
        hand(answer, row, order[i]);
        if (pull->once) row_done(row);
    }
}

struct ref_answer
ref_pull(struct reference *ref, const struct ref_pull *pull)
{
    struct ref_state *state = &ref->state;
    struct ref_group *group = &state->groups[pull->who.group];
    struct ref_consumer *consumer;
    struct ref_answer answer = { .err = find(ref, &pull->who, &consumer) };
    if (answer.err == Q_OK && pull->received > next_of(state, consumer)) answer.err = Q_INVALID;
    if (answer.err != Q_OK) return answer;
    pull_again(group, pull, &answer);
    if (answer.hand_count == 0) {
        /* The set is full: what nobody who lives takes makes room. */
        bool full = in_place(group, REF_PENDING) >= group->settings.pending_max;
        for_each_row(group, row)
        {
            if (!full || row->place != REF_PENDING) continue;
            if ((row->takers & filters_of(group, true)) != 0) continue;
            row_done(row);
            group->skipped++;
        }
        if (!group->paused) pull_fresh(ref, pull, &answer);
    }
    answer.unacked = held_by(group, pull->who.consumer);
    answer.waiting = state->end - group->cursor;
    if (answer.waiting > 0) answer.held = why_held(group);
    return answer;
}

/* --- Acks. */

/* How many messages of a range of pull sequences this consumer still has a say about. */
static uint64_t
says(struct ref_group *group, uint32_t consumer, struct qlog_range range, bool late)
{
    uint64_t count = 0;
    for_each_row(group, row) if (
        row->consumer == consumer && row->pull_sequence >= range.first &&
        row->pull_sequence <= range.last &&
        (row->place == REF_HELD || (late && row->place == REF_PENDING))) count++;
    return count;
}

struct ref_answer
ref_ack(
    struct reference *ref,
    const struct ref_who *who,
    const struct qlog_range *ranges,
    uint32_t count)
{
    struct ref_group *group = &ref->state.groups[who->group];
    struct ref_consumer *consumer;
    struct ref_answer answer = { .err = find(ref, who, &consumer) };
    for (uint32_t i = 0; i < count && answer.err == Q_OK; i++)
        if (ranges[i].last >= next_of(&ref->state, consumer)) answer.err = Q_INVALID;
    if (answer.err != Q_OK) return answer;
    for (uint32_t i = 0; i < count; i++) {
        struct qlog_range part = ranges[i];
        bool lost = part.last >= consumer->next; /* its hand-out, with the power */
        uint64_t had = 0;
        if (!lost && part.first >= consumer->back_below) continue;
        part.last = q_min_u64(part.last, consumer->back_below - 1);
        if (!lost) had = says(group, who->consumer, part, true);
        if (lost || had < part.last - part.first + 1) answer.late[answer.late_count++] = i;
    }
    for_each_row(group, row)
    {
        if (row->place == REF_WAITING || row->consumer != who->consumer) continue;
        for (uint32_t i = 0; i < count; i++)
            if (row->pull_sequence >= ranges[i].first && row->pull_sequence <= ranges[i].last &&
                row->consumer == who->consumer)
                row_done(row);
    }
    answer.unacked = held_by(group, who->consumer);
    return answer;
}

/* How long a message waits after so many failures. */
static uint64_t
backoff_ms(const struct ref_group *group, uint32_t attempts)
{
    const struct qlog_group_settings *settings = &group->settings;
    uint64_t wait_ms = settings->backoff_ms[q_min_u64(attempts, settings->backoff_count) - 1];
    return settings->strict ? q_min_u64(wait_ms, 30 * 1000) : wait_ms;
}

struct ref_answer
ref_nack(
    struct reference *ref,
    const struct ref_who *who,
    const struct qlog_range *ranges,
    uint32_t count,
    uint64_t delay_ms,
    uint8_t error)
{
    struct ref_group *group = &ref->state.groups[who->group];
    struct ref_consumer *consumer;
    struct ref_answer answer = { .err = find(ref, who, &consumer) };
    bool too_long = false;
    for (uint32_t i = 0; i < count && answer.err == Q_OK; i++) {
        if (ranges[i].last >= next_of(&ref->state, consumer)) answer.err = Q_INVALID;
        /* The longest delays of these sequences end after everything may be dropped. */
        if (delay_ms != QLOG_DELAY_BACKOFF && delay_ms > 72 * 3600 * UINT64_C(1000))
            too_long |= says(group, who->consumer, ranges[i], false) > 0;
    }
    if (answer.err == Q_OK && too_long) answer.err = Q_DELAY_TOO_LONG;
    if (answer.err != Q_OK) return answer;
    uint64_t lowest[256]; /* that failed, of each key */
    memset(lowest, 0xff, sizeof(lowest));
    uint64_t dying = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t had = says(group, who->consumer, ranges[i], false);
        if (had < ranges[i].last - ranges[i].first + 1) answer.late[answer.late_count++] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint64_t back_below = q_min_u64(ranges[i].last + 1, consumer->next);
        consumer->back_below = q_max_u64(consumer->back_below, back_below);
        for_each_row(group, row)
        {
            if (row->place != REF_HELD || row->consumer != who->consumer) continue;
            if (row->pull_sequence < ranges[i].first || row->pull_sequence > ranges[i].last)
                continue;
            uint64_t sequence = (uint64_t)(row - group->rows);
            uint8_t key = ref->messages[sequence].key;
            lowest[key] = q_min_u64(lowest[key], sequence);
            uint32_t attempts = 1u + row->failed + row->timed_out + row->died;
            bool table = delay_ms == QLOG_DELAY_BACKOFF;
            row->error = error;
            row_back(
                group, row, USE_FAILED,
                ref->state.now_ms + (table ? backoff_ms(group, attempts) : delay_ms));
            dying += row->place == REF_PENDING && row->reason == REF_DYING ? 1 : 0;
        }
    }
    answer.dying = (uint32_t)dying;
    for_each_row(group, row)
    {
        uint64_t sequence = (uint64_t)(row - group->rows);
        uint8_t key = ref->messages[sequence].key;
        if (row->place != REF_HELD || row->consumer != who->consumer) continue;
        if (!group->settings.strict || key == 0 || sequence < lowest[key]) continue;
        row_back(group, row, USE_NONE, 0);
        consumer->back_below = consumer->next;
    }
    answer.unacked = held_by(group, who->consumer);
    bury(ref);
    return answer;
}

/* --- A group as a whole. */

static enum q_err
control_skip(struct ref_state *state, struct ref_group *group, struct qlog_range range)
{
    if (range.first > group->cursor) return Q_INVALID;
    for (uint64_t i = range.first; i <= range.last && i < group->cursor; i++) {
        if (group->rows[i].place == REF_WAITING) continue;
        row_done(&group->rows[i]);
        group->skipped++;
    }
    while (group->cursor <= range.last && group->cursor < state->end) {
        row_done(&group->rows[group->cursor++]);
        group->skipped++;
    }
    return Q_OK;
}

static enum q_err
control_resend(struct ref_state *state, struct ref_group *group, struct qlog_range range)
{
    uint16_t kept = filters_of(group, false);
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
        row_done(row);
        row->takers = kept;
        row_pending(group, row, REF_RETRY, 0);
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
    uint64_t pending = in_place(group, REF_PENDING);
    switch (control->kind) {
    case QLOG_CONTROL_SETTINGS:
        group->settings = control->settings;
        break;
    case QLOG_CONTROL_PAUSE:
    case QLOG_CONTROL_RESUME:
        group->paused = control->kind == QLOG_CONTROL_PAUSE;
        break;
    case QLOG_CONTROL_SEEK:
        answer.affected = in_place(group, REF_HELD);
        for_each_row(group, row) row_done(row);
        for (uint32_t i = 0; i < REF_CONSUMERS; i++)
            group->consumers[i].back_below = group->consumers[i].next;
        group->cursor = start_of(state, control->start, control->at);
        group->epoch++;
        break;
    case QLOG_CONTROL_SKIP:
        answer.err = control_skip(state, group, control->range);
        answer.affected = group->skipped - skipped;
        break;
    case QLOG_CONTROL_RESEND:
        answer.err = control_resend(state, group, control->range);
        answer.affected = in_place(group, REF_PENDING) - pending;
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
    lag.in_flight = in_place(group, REF_HELD);
    for (uint64_t i = group->cursor; i-- > 0;) {
        const struct ref_row *row = &group->rows[i];
        if (row->place == REF_WAITING) continue;
        lag.oldest = i;
        if (row->place == REF_HELD) continue;
        lag.pending[row->reason]++;
        bool due = row->reason == REF_RETRY || row->reason == REF_RELEASED;
        lag.ready += due && row->time_ms <= state->now_ms ? 1 : 0;
    }
    lag.held = lag.waiting > 0 ? why_held(group) : QLOG_HELD_NOT;
    for (uint32_t i = 0; i < REF_CONSUMERS; i++) {
        lag.consumers += group->consumers[i].known ? 1 : 0;
        lag.members += group->consumers[i].session != 0 ? 1 : 0;
    }
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        lag.filters += group->filters[i].known ? 1 : 0;
    return lag;
}

/* --- Time. */

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
    bool alone = filters_of(group, true) == 0;
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
            row->takers &= filters_of(group, false);
            if (row->place != REF_PENDING || row->takers != 0) continue;
            row_done(row);
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
                release(ref, i, j, USE_DIED, 0);
                consumer->back_below = consumer->next;
                consumer->session = 0;
            }
            release(ref, i, j, USE_TIMED_OUT, 0);
            if (consumer->seen_ms + REF_FORGET_MS > now_ms) continue;
            *consumer = (struct ref_consumer){ 0 };
            for_each_row(group, row) if (row->consumer == j) row->consumer = REF_CONSUMERS;
        }
        if (group->exists) filters_time(state, group);
    }
    bury(ref);
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
            row_pending(group, row, REF_DYING, 0);
        }
    }
    bury(ref);
}

void
ref_restart(struct reference *ref, uint64_t generation)
{
    struct ref_state *state = &ref->state;
    state->generation = generation;
    for (uint32_t i = 0; i < REF_GROUPS; i++) {
        struct ref_group *group = &state->groups[i];
        for (uint32_t j = 0; j < REF_CONSUMERS; j++) {
            struct ref_consumer *consumer = &group->consumers[j];
            consumer->seen_ms = state->now_ms;
        }
        for (uint32_t j = 0; j < QLOG_FILTERS_MAX; j++)
            group->filters[j].left_ms = 0;
    }
    ref_time(ref, state->now_ms);
}

/*
 * reference_pull.c: what a group is given, and what becomes of it: pulls, acks, negative acks.
 */
#include "reference_inside.h"

#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

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
    uint64_t pending = ref_in_place(group, REF_PENDING);
    if (pending >= group->settings.pending_max) goto give;
    while (group->cursor < state->end && count < pull->max) {
        uint64_t i = group->cursor;
        struct ref_row *row = &group->rows[i];
        ref_row_done(row);
        row->takers = ref_takers_of(group, pull->who.group, &ref->messages[i]);
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
            ref_row_pending(group, row, wanted ? REF_KEY : REF_FILTER, 0);
        }
        group->cursor++;
    }
give:
    /* Nobody knows whether what lies in between was given out. */
    if (count > 0 && ref_next_of(state, consumer) > consumer->next)
        consumer->next = consumer->back_below = ref_next_of(state, consumer);
    for (uint32_t i = 0; i < count; i++) {
        struct ref_row *row = &group->rows[order[i]];
        row->place = REF_HELD;
        row->consumer = (uint8_t)pull->who.consumer;
        row->pull_sequence = consumer->next++;
        state->given[pull->who.group][pull->who.consumer] = consumer->next;
        row->time_ms = pull->invisible_ms == 0 ? 0 : state->now_ms + pull->invisible_ms;
        hand(answer, row, order[i]);
        if (pull->once) ref_row_done(row);
    }
}

struct ref_answer
ref_pull(struct reference *ref, const struct ref_pull *pull)
{
    struct ref_state *state = &ref->state;
    struct ref_group *group = &state->groups[pull->who.group];
    struct ref_consumer *consumer;
    struct ref_answer answer = { .err = ref_find(ref, &pull->who, &consumer) };
    if (answer.err == Q_OK && pull->received > ref_next_of(state, consumer)) answer.err = Q_INVALID;
    if (answer.err != Q_OK) return answer;
    pull_again(group, pull, &answer);
    if (answer.hand_count == 0) {
        /* The set is full: what nobody who lives takes makes room. */
        bool full = ref_in_place(group, REF_PENDING) >= group->settings.pending_max;
        for_each_row(group, row)
        {
            if (!full || row->place != REF_PENDING) continue;
            if ((row->takers & ref_filters_of(group, true)) != 0) continue;
            ref_row_done(row);
            group->skipped++;
        }
        if (!group->paused) pull_fresh(ref, pull, &answer);
    }
    answer.unacked = ref_held_by(group, pull->who.consumer);
    answer.waiting = state->end - group->cursor;
    if (answer.waiting > 0) answer.held = ref_why_held(group);
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
    struct ref_answer answer = { .err = ref_find(ref, who, &consumer) };
    for (uint32_t i = 0; i < count && answer.err == Q_OK; i++)
        if (ranges[i].last >= ref_next_of(&ref->state, consumer)) answer.err = Q_INVALID;
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
                ref_row_done(row);
    }
    answer.unacked = ref_held_by(group, who->consumer);
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
    struct ref_answer answer = { .err = ref_find(ref, who, &consumer) };
    bool too_long = false;
    for (uint32_t i = 0; i < count && answer.err == Q_OK; i++) {
        if (ranges[i].last >= ref_next_of(&ref->state, consumer)) answer.err = Q_INVALID;
        if (delay_ms != QLOG_DELAY_BACKOFF && delay_ms > REF_KEEP_MS)
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
            ref_row_back(
                group, row, REF_USE_FAILED,
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
        ref_row_back(group, row, REF_USE_NONE, 0);
        consumer->back_below = consumer->next;
    }
    answer.unacked = ref_held_by(group, who->consumer);
    ref_bury(ref);
    return answer;
}

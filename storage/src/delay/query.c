/*
 * delay/query.c: one message: cancel, move, show; and many: list, histogram, lag.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

/* A message of the schedule. */
struct place {
    struct ql_run *run;
    struct ql_delay_entry entry;
    uint64_t sequence;
};

/* Of a reschedule between submit and done. */
struct moving_state {
    struct qlog_delay_reschedule *next;
    struct ql_delay_entry entry;
    uint64_t sequence;
};

_Static_assert(
    sizeof(struct moving_state) <= sizeof(struct qlog_private), "private words are too few");

struct candidate {
    uint64_t due_ms;
    uint64_t sequence;
    const struct ql_run *run;
    struct ql_delay_entry entry;
};

struct candidates {
    struct candidate *items;
    size_t count;
    size_t capacity;
};

static enum q_err query_find(
    struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place);
static enum q_err find_by_id(
    struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place);
static enum q_err query_find_waiting(
    struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place);
static enum q_err query_tell(
    struct qlog_delay *delay,
    const struct ql_run *run,
    const struct ql_delay_entry *entry,
    uint64_t sequence,
    struct qlog_delay_message *ret_message);
static enum q_err list_collect(
    struct qlog_delay *delay,
    const struct qlog_delay_list *list,
    struct ql_run *run,
    struct candidates *candidates);
static int compare_candidates(const void *a, const void *b);

/* A page of the schedule can't be had now. */
static enum q_err
query_again(void)
{
    return Q_FAIL(Q_BUSY, .what = "a part of the schedule is being read again");
}

static struct moving_state *
moving_of(struct qlog_delay_reschedule *reschedule)
{
    return (struct moving_state *)(void *)&reschedule->private_;
}

bool
ql_delay_is_moving(const struct qlog_delay *delay, uint64_t sequence, uint32_t count)
{
    for (struct qlog_delay_reschedule *at = delay->moving; at != NULL; at = moving_of(at)->next) {
        uint64_t moved = moving_of(at)->sequence;
        if (moved >= sequence && moved - sequence < count) return true;
    }
    return false;
}

void
ql_delay_cancel_start(struct qlog_delay *delay, struct qlog_delay_cancel *cancel)
{
    struct place place;
    struct ql_note *note;
    enum q_err err = query_find_waiting(delay, &cancel->name, &place);
    if (err == Q_OK) err = ql_note_new(delay, QL_WITHDRAWN_RECORD_SIZE, &note);
    if (err != Q_OK) {
        ql_delay_finish(&cancel->request, err);
        return;
    }
    struct ql_withdrawn_record record = { .sequence = place.sequence };
    ql_withdrawn_record_encode(&record, note->record);
    note->withdraws = true;
    note->sequence = place.sequence;
    note->request = &cancel->request;
    ql_delay_mark(delay, &place.entry, place.sequence, 1);
    ql_note_append(note, !QL_PLANTED(cancel_unflushed));
}

void
ql_delay_reschedule_start(struct qlog_delay *delay, struct qlog_delay_reschedule *reschedule)
{
    struct place place;
    enum q_err err = Q_OK;
    if (reschedule->due_ms > delay->eff.now_ms + delay->options.ahead_max_ms)
        err = Q_FAIL(
            Q_DUE_TOO_FAR, .what = q_text(
                               "the limit is %llu s ahead",
                               (unsigned long long)(delay->options.ahead_max_ms / Q_MS_PER_S)));
    if (err == Q_OK) err = query_find_waiting(delay, &reschedule->name, &place);
    if (err == Q_OK) {
        struct moving_state *moving = moving_of(reschedule);
        *moving = (struct moving_state){
            .next = delay->moving,
            .entry = place.entry,
            .sequence = place.sequence,
        };
        err = ql_delay_move(delay, reschedule, place.run, &place.entry, place.sequence);
    }
    if (err != Q_OK)
        ql_delay_finish(&reschedule->request, err);
    else
        delay->moving = reschedule;
}

/* Said in the dispatch log, too: what says it now, in the delay log, may go before the old place, which
 * is written again with its batch. */
static void
moving_withdraw(struct qlog_delay *delay, const struct moving_state *moving)
{
    struct ql_note *note;
    ql_delay_mark(delay, &moving->entry, moving->sequence, 1);
    if (ql_note_new(delay, QL_WITHDRAWN_RECORD_SIZE, &note) != Q_OK) {
        delay->round_wanted = true;
        return;
    }
    struct ql_withdrawn_record record = { .sequence = moving->sequence };
    ql_withdrawn_record_encode(&record, note->record);
    ql_note_append(note, false);
}

/* The new batch is durable, and says whose place it takes: a start reads that. */
void
ql_delay_reschedule_go_on(
    struct qlog_delay *delay, struct qlog_delay_reschedule *reschedule, enum q_err err)
{
    struct moving_state *moving = moving_of(reschedule);
    struct qlog_delay_reschedule **at = &delay->moving;
    while (*at != reschedule)
        at = &moving_of(*at)->next;
    *at = moving->next;
    /* What shares its batch may have been passed over. */
    delay->stirred = true;
    if (err == Q_OK) {
        if (!QL_PLANTED(move_doubles)) moving_withdraw(delay, moving);
        delay->counters.rescheduled++;
    }
    ql_delay_finish(&reschedule->request, err);
}

/* --- Finding one. */

static enum q_err
query_find_waiting(
    struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place)
{
    Q_TRY(query_find(delay, name, ret_place));
    if (ql_marks_has(&delay->marks, ret_place->sequence)) {
        if (ql_dispatch_names(delay, ret_place->sequence) != NULL)
            return Q_FAIL(Q_BEING_DELIVERED, .what = "a broker group has it, or is about to");
        return Q_FAIL(
            Q_NOT_FOUND, .what = "the message is not waiting any more",
            .hint = "it was delivered, cancelled or moved");
    }
    if (ql_delay_is_moving(delay, ret_place->sequence, 1))
        return Q_FAIL(Q_BUSY, .what = "the message is being moved");
    return Q_OK;
}

static enum q_err
query_find(struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place)
{
    if (name->sequence == QLOG_DELAY_BY_ID) return find_by_id(delay, name, ret_place);
    struct place place = { .sequence = name->sequence };
    if (name->sequence < delay->next_sequence && ql_schedule_is_new(delay, name->sequence))
        return Q_FAIL(Q_BUSY, .what = "the message is not flushed yet");
    const struct ql_delay_entry *entry;
    if (!ql_schedule_find(delay, name->due_ms, name->sequence, &place.run, &entry))
        return delay->blind_ns != 0 ? query_again()
                                    : Q_FAIL(
                                          Q_NOT_FOUND, .what = q_text(
                                                           "no message %llu due at %llu",
                                                           (unsigned long long)name->sequence,
                                                           (unsigned long long)name->due_ms));
    place.entry = *entry;
    *ret_place = place;
    return Q_OK;
}

/* All batches that are due then are read: ids are in no order. */
static enum q_err
find_by_id(struct qlog_delay *delay, const struct qlog_delay_name *name, struct place *ret_place)
{
    for (uint32_t i = delay->run_count; i > 0; i--) {
        struct ql_run *run = delay->runs[i - 1];
        bool sorted = run->file != NULL;
        for (uint32_t j = sorted ? ql_run_coarse_bound(run, name->due_ms) : 0; j < run->arrived;
             j++) {
            const struct ql_delay_entry *found = ql_run_at(delay, run, j);
            struct qbatch batch;
            const uint8_t *payload;
            if (found == NULL) return query_again();
            if (sorted && found->due_ms > name->due_ms) break;
            if (found->due_ms != name->due_ms) continue;
            struct ql_delay_entry copy = *found;
            const struct ql_delay_entry *entry = &copy;
            if (ql_delay_read(delay, run->base + entry->frame, entry, &batch, &payload) != Q_OK)
                continue;
            for (uint32_t k = 0; k < entry->count; k++) {
                struct qbatch_id id = qbatch_id_at(&batch, k);
                if (id.time_ms != name->id_time_ms || id.producer != name->id_producer ||
                    id.counter != name->id_counter)
                    continue;
                *ret_place =
                    (struct place){ .run = run, .entry = copy, .sequence = entry->sequence + k };
                return Q_OK;
            }
        }
    }
    if (ql_schedule_is_new(delay, UINT64_MAX))
        return Q_FAIL(Q_BUSY, .what = "some messages are not flushed yet");
    return Q_FAIL(
        Q_NOT_FOUND,
        .what = q_text("no message of this id is due at %llu", (unsigned long long)name->due_ms));
}

void
ql_delay_show_start(struct qlog_delay *delay, struct qlog_delay_show *show)
{
    struct place place;
    enum q_err err = query_find(delay, &show->name, &place);
    if (err == Q_OK)
        err = query_tell(delay, place.run, &place.entry, place.sequence, &show->ret_message);
    if (err == Q_OK && ql_marks_has(&delay->marks, place.sequence) &&
        !show->ret_message.being_delivered)
        err = Q_FAIL(
            Q_NOT_FOUND, .what = "the message is not waiting any more",
            .hint = "it was delivered, cancelled or moved");
    ql_delay_finish(&show->request, err);
}

static enum q_err
query_tell(
    struct qlog_delay *delay,
    const struct ql_run *run,
    const struct ql_delay_entry *entry,
    uint64_t sequence,
    struct qlog_delay_message *ret_message)
{
    struct qbatch batch;
    const uint8_t *payload;
    Q_TRY(ql_delay_read(delay, run->base + entry->frame, entry, &batch, &payload));
    uint32_t index = (uint32_t)(sequence - entry->sequence);
    if (index >= batch.message_count)
        return Q_FAIL(Q_E_CORRUPT, .what = "a batch that has fewer messages than was said");
    struct qbatch_id id = qbatch_id_at(&batch, index);
    struct qbatch_entry message;
    qbatch_entry_at(&batch, index, &message);
    const struct ql_open *open = ql_dispatch_names(delay, sequence);
    const struct ql_delay_subject *subject = ql_delay_subject(delay, entry->subject_id);
    *ret_message = (struct qlog_delay_message){
        .due_ms = entry->due_ms,
        .sequence = sequence,
        .stored_ms = batch.store_time_ms,
        .id_time_ms = id.time_ms,
        .id_producer = id.producer,
        .id_counter = id.counter,
        .size = message.length,
        .being_delivered = open != NULL,
    };
    memcpy(ret_message->subject, subject->name, q_min_u64(subject->size, 255));
    const struct ql_aside *aside = open == NULL ? ql_aside_find(delay, sequence) : NULL;
    const struct ql_target *target = open == NULL ? NULL : open->target;
    if (aside != NULL) {
        ret_message->refused = aside->code;
        if (aside->target_id < delay->target_count) target = delay->targets[aside->target_id];
    }
    if (target != NULL) memcpy(ret_message->broker_group, target->name, sizeof(target->name));
    return Q_OK;
}

/* --- Many. */

void
ql_delay_list_start(struct qlog_delay *delay, struct qlog_delay_list *list)
{
    struct candidates candidates = { 0 };
    enum q_err err = Q_OK;
    list->ret_count = 0;
    for (uint32_t i = 0; i < delay->run_count && err == Q_OK; i++)
        err = list_collect(delay, list, delay->runs[i], &candidates);
    if (candidates.count > 0)
        qsort(candidates.items, candidates.count, sizeof(candidates.items[0]), compare_candidates);
    for (size_t i = 0; i < candidates.count && err == Q_OK; i++) {
        const struct candidate *at = &candidates.items[i];
        /* One that was written again is there twice, for a moment. */
        if (i > 0 && at[-1].sequence == at->sequence) continue;
        if (list->ret_count == list->messages_max) break;
        struct qlog_delay_message *message = &list->messages[list->ret_count++];
        err = query_tell(delay, at->run, &at->entry, at->sequence, message);
    }
    free(candidates.items);
    ql_delay_finish(&list->request, err);
}

/* The first messages of a run that belong to the list: no more than may be asked for. */
static enum q_err
list_collect(
    struct qlog_delay *delay,
    const struct qlog_delay_list *list,
    struct ql_run *run,
    struct candidates *candidates)
{
    bool sorted = run->file != NULL;
    uint32_t taken = 0;
    for (uint32_t i = sorted ? ql_run_coarse_bound(run, list->from_ms) : 0; i < run->arrived; i++) {
        const struct ql_delay_entry *entry = ql_run_at(delay, run, i);
        if (entry == NULL) return query_again();
        if (sorted && (entry->due_ms >= list->to_ms || taken >= list->messages_max)) break;
        if (entry->due_ms < list->from_ms || entry->due_ms >= list->to_ms) continue;
        for (uint32_t j = 0; j < entry->count; j++) {
            uint64_t sequence = entry->sequence + j;
            if (entry->due_ms == list->from_ms && sequence < list->from_sequence) continue;
            if (ql_marks_has(&delay->marks, sequence)) continue;
            if (candidates->count == candidates->capacity) {
                size_t capacity = candidates->capacity * 2 + 64;
                struct candidate *items =
                    realloc(candidates->items, capacity * sizeof(candidates->items[0]));
                if (items == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a list of messages");
                candidates->items = items;
                candidates->capacity = capacity;
            }
            candidates->items[candidates->count++] =
                (struct candidate){ entry->due_ms, sequence, run, *entry };
            taken++;
        }
    }
    return Q_OK;
}

static int
compare_candidates(const void *a, const void *b)
{
    const struct candidate *left = a;
    const struct candidate *right = b;
    if (left->due_ms != right->due_ms) return left->due_ms < right->due_ms ? -1 : 1;
    if (left->sequence != right->sequence) return left->sequence < right->sequence ? -1 : 1;
    return 0;
}

/* Whether a batch of this run is in a later one, too. */
static bool
is_carried(const struct qlog_delay *delay, const struct ql_run *run, uint32_t index)
{
    return delay->space == QL_SPACE_CARRY && run == delay->runs[0] && index < delay->carry_next;
}

static uint32_t
waiting_of(const struct qlog_delay *delay, const struct ql_delay_entry *entry)
{
    uint32_t waiting = 0;
    for (uint32_t i = 0; i < entry->count; i++)
        if (!ql_marks_has(&delay->marks, entry->sequence + i)) waiting++;
    return waiting;
}

void
ql_delay_histogram_start(struct qlog_delay *delay, struct qlog_delay_histogram *histogram)
{
    uint64_t from_ms = histogram->from_ms == 0 ? delay->eff.now_ms : histogram->from_ms;
    uint64_t width_ms = q_max_u64(histogram->width_ms, 1);
    histogram->ret_from_ms = from_ms;
    histogram->ret_before = 0;
    histogram->ret_after = 0;
    memset(histogram->counts, 0, histogram->count_max * sizeof(histogram->counts[0]));
    for (uint32_t i = 0; i < delay->run_count; i++) {
        struct ql_run *run = delay->runs[i];
        for (uint32_t j = run->gone; j < run->arrived; j++) {
            const struct ql_delay_entry *entry = ql_run_at(delay, run, j);
            if (entry == NULL) {
                ql_delay_finish(&histogram->request, query_again());
                return;
            }
            uint32_t waiting = is_carried(delay, run, j) ? 0 : waiting_of(delay, entry);
            if (waiting == 0) continue;
            uint64_t at = entry->due_ms < from_ms ? 0 : (entry->due_ms - from_ms) / width_ms;
            if (entry->due_ms < from_ms)
                histogram->ret_before += waiting;
            else if (at >= histogram->count_max)
                histogram->ret_after += waiting;
            else
                histogram->counts[at] += waiting;
        }
    }
    ql_delay_finish(&histogram->request, Q_OK);
}

void
ql_delay_lag_start(struct qlog_delay *delay, struct qlog_delay_lag *lag)
{
    lag->ret_now_ms = delay->eff.now_ms;
    lag->ret_clock_off_ms = delay->eff.off_ms;
    lag->ret_overdue = 0;
    lag->ret_oldest_due_ms = 0;
    lag->ret_open = 0;
    lag->ret_refused = ql_aside_count(delay, 0, UINT64_MAX);
    lag->ret_group_count = 0;
    for (uint32_t i = 0; i < delay->run_count; i++) {
        struct ql_run *run = delay->runs[i];
        bool sorted = run->file != NULL;
        for (uint32_t j = run->gone; j < run->arrived; j++) {
            const struct ql_delay_entry *entry = ql_run_at(delay, run, j);
            if (entry == NULL) {
                ql_delay_finish(&lag->request, query_again());
                return;
            }
            if (sorted && entry->due_ms > delay->eff.now_ms) break;
            if (entry->due_ms > delay->eff.now_ms || is_carried(delay, run, j)) continue;
            uint32_t waiting = waiting_of(delay, entry);
            if (waiting == 0 && run->gone == j) run->gone++;
            waiting -= ql_aside_count(delay, entry->sequence, entry->count);
            lag->ret_overdue += waiting;
            bool older = lag->ret_oldest_due_ms == 0 || entry->due_ms < lag->ret_oldest_due_ms;
            if (waiting > 0 && older) lag->ret_oldest_due_ms = entry->due_ms;
        }
    }
    for (uint32_t i = 0; i < delay->target_count; i++) {
        const struct ql_target *target = delay->targets[i];
        q_list_for_each(link, &target->opens)
            lag->ret_open += q_container_of(link, struct ql_open, link)->message_count;
        if (lag->ret_group_count == lag->groups_max) continue;
        struct qlog_delay_group_state *state = &lag->groups[lag->ret_group_count++];
        memcpy(state->name, target->name, sizeof(state->name));
        state->failing = target->failing;
        state->open = target->open_count;
        state->next_sequence = target->next_request;
    }
    ql_delay_finish(&lag->request, Q_OK);
}

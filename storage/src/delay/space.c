/*
 * delay/space.c: what keeps the logs small: rounds of statements, and segments that can go.
 *
 * A round says all marks, targets, open requests and producers again, in the dispatch log; when all of
 * it is durable a start reads from where it began, and what lies before may go.
 *
 * The delay log loses its first segment when nothing in it waits. When what waits is little beside
 * what the log takes, it is made so: what waits in the first segment is written again at the end of
 * the log, with its handles. So the log takes at most about four times what waits, and a segment
 * more, and a batch is written again once for three others that came.
 *
 * On a full disk that needs space itself. So the last file that the delay log may have is not for
 * what comes: when a segment can't be had the store is *tight*. Then nothing is taken, and what waits
 * is written again into that file, until a segment has gone, which is the last file from then on.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

enum {
    SPARSE = 4,         /* the log may take so many times what waits, */
    SPARSE_TIGHT = 2,   /* on a full disk */
    CARRY_AT_ONCE = 64, /* batches under way */
    CARRY_LOOKS = 4096, /* of one turn */
    RETRY_S = 1,
};

static void round_turn(struct qlog_delay *delay);
static enum q_err round_say(struct qlog_delay *delay);
static enum q_err round_say_marks(struct qlog_delay *delay);
static uint64_t head_of(const struct qlog_delay *delay);
static bool first_run_is_closed(const struct qlog_delay *delay);
static bool is_sparse(const struct qlog_delay *delay);
static void space_relax(struct qlog_delay *delay);
static void space_look(struct qlog_delay *delay);
static void space_carry(struct qlog_delay *delay);
static void space_wait_for_marks(struct qlog_delay *delay);
static void space_on_trimmed(struct ql_home_trim *trim, enum q_err err);
static void note_measure(struct ql_append *append, uint64_t incarnation);
static void note_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void note_done(struct ql_append *append, enum q_err err);

static const struct ql_append_table note_table = {
    .measure = note_measure,
    .fill = note_fill,
    .done = note_done,
};

void
ql_space_turn(struct qlog_delay *delay)
{
    while (delay->refused_notes != NULL && delay->now_ns >= delay->space_retry_ns) {
        struct ql_note *note = delay->refused_notes;
        delay->refused_notes = note->next;
        if (note->next == NULL) delay->refused_last = &delay->refused_notes;
        ql_note_append(note, note->append.flushed);
    }
    round_turn(delay);
    if (delay->space == QL_SPACE_NONE) space_look(delay);
    if (delay->space == QL_SPACE_NONE) space_relax(delay);
    if (delay->space == QL_SPACE_CARRY) space_carry(delay);
    if (delay->space == QL_SPACE_MARKS) space_wait_for_marks(delay);
}

uint64_t
ql_space_deadline_ns(const struct qlog_delay *delay)
{
    bool waits = delay->refused_notes != NULL || delay->space == QL_SPACE_CARRY;
    if (delay->tight && delay->tight_until_ns > delay->now_ns) return delay->tight_until_ns;
    return waits && delay->space_retry_ns > delay->now_ns ? delay->space_retry_ns : UINT64_MAX;
}

/* --- Rounds. */

static void
round_turn(struct qlog_delay *delay)
{
    struct ql_log *log = delay->dispatch;
    if (!delay->round_busy) {
        uint64_t said = log->tail - q_min_u64(delay->round_ended_at, log->tail);
        bool due = said >= delay->options.round_bytes + 2 * delay->round_size;
        due = due || ql_intake_round_is_due(delay);
        if (!due && !delay->round_wanted) return;
        if (delay->now_ns < delay->space_retry_ns) return;
        delay->round_from = log->tail;
        delay->round_size = 0;
        delay->round_end = 0;
        delay->round_failed = false;
        delay->round_said = false;
        delay->round_saying = true;
        ql_intake_round_begin(delay);
        enum q_err err = round_say(delay);
        delay->round_saying = false;
        if (err != Q_OK) {
            delay->space_retry_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
            return;
        }
        delay->round_busy = true;
        delay->round_wanted = false;
        return;
    }
    if (delay->round_failed) {
        delay->round_busy = false;
        delay->round_wanted = true;
        return;
    }
    if (!delay->round_said) delay->round_said = ql_intake_round_say(delay);
    if (!delay->round_said) return;
    if (delay->round_end == 0) {
        if (log->queue.first != NULL && !QL_PLANTED(round_early)) return;
        delay->round_end = q_max_u64(log->tail, 1);
    }
    if (log->durable < delay->round_end && !QL_PLANTED(round_early)) return;
    delay->home->super.logs[QL_LOG_DISPATCH].replay = delay->round_from;
    ql_intake_round_end(delay);
    delay->home->super_news = true;
    delay->round_busy = false;
    delay->round_ended_at = delay->round_end;
}

static enum q_err
round_say(struct qlog_delay *delay)
{
    struct ql_note *note;
    struct ql_delayed_record record = {
        .next_sequence = delay->next_sequence,
        .done_below = delay->marks.first * QL_MARKS_MESSAGES,
    };
    Q_TRY(ql_note_new(delay, QL_DELAYED_RECORD_SIZE, &note));
    record.done_below = q_min_u64(record.done_below, record.next_sequence);
    ql_delayed_record_encode(&record, note->record);
    ql_note_append(note, false);
    Q_TRY(ql_dispatch_state(delay, &delay->round_size));
    Q_TRY(ql_aside_state(delay, &delay->round_size));
    return round_say_marks(delay);
}

static enum q_err
round_say_marks(struct qlog_delay *delay)
{
    const struct ql_marks *marks = &delay->marks;
    uint64_t bits[QL_MARKS_WORDS];
    struct ql_note *note;
    uint64_t end = marks->first + marks->count;
    for (uint64_t i = marks->first; i < end;) {
        uint64_t full = i;
        while (full < end && ql_marks_is_full(marks, full))
            full++;
        if (full > i) {
            struct ql_done_record record = { i * QL_MARKS_MESSAGES, full * QL_MARKS_MESSAGES };
            Q_TRY(ql_note_new(delay, QL_DONE_RECORD_SIZE, &note));
            ql_done_record_encode(&record, note->record);
            i = full;
        } else if (ql_marks_bits(marks, i++, bits)) {
            Q_TRY(ql_note_new(delay, QL_MARKS_RECORD_SIZE, &note));
            ql_marks_record_encode((i - 1) * QL_MARKS_MESSAGES, bits, note->record);
        } else {
            continue;
        }
        delay->round_size += note->size;
        ql_note_append(note, false);
    }
    return Q_OK;
}

/* --- Segments. */

/* Where the delay log has to begin. */
static uint64_t
head_of(const struct qlog_delay *delay)
{
    return delay->run_count > 0 ? delay->runs[0]->base : delay->log->active->base;
}

static bool
first_run_is_closed(const struct qlog_delay *delay)
{
    return delay->run_count > 0 && delay->runs[0]->base < delay->log->active->base;
}

static void
space_look(struct qlog_delay *delay)
{
    const struct ql_segment_set *dispatch = &delay->dispatch->segments;
    uint64_t replay = delay->home->super.logs[QL_LOG_DISPATCH].replay;
    bool behind = delay->log->segments.segments[0]->base < head_of(delay) ||
                  (dispatch->count > 1 && dispatch->segments[1]->base <= replay);
    if (delay->stuck_count > 0 && ql_marks_has_all(&delay->marks, delay->stuck, delay->stuck_count))
        delay->stuck_count = 0;
    if (first_run_is_closed(delay) && delay->stuck_count == 0) {
        struct ql_run *run = delay->runs[0];
        for (uint32_t looks = 0; run->gone < run->count && looks < CARRY_LOOKS; looks++) {
            const struct ql_delay_entry *entry = ql_run_at(delay, run, run->gone);
            if (entry == NULL) return;
            if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count)) break;
            run->gone++;
        }
        if (run->gone == run->count || is_sparse(delay)) {
            delay->space = QL_SPACE_CARRY;
            delay->carry_next = run->gone;
            delay->carry_failed = false;
            if (delay->tight) ql_log_keep(delay->log, 0);
            return;
        }
    }
    if (!behind || delay->now_ns < delay->space_retry_ns) return;
    delay->space = QL_SPACE_MARKS;
    delay->marks_end = 0;
}

static bool
is_sparse(const struct qlog_delay *delay)
{
    uint64_t segment = delay->log->segment_bytes;
    uint64_t taken = delay->log->tail - delay->runs[0]->base;
    if (delay->tight) return taken > SPARSE_TIGHT * delay->live_bytes + segment;
    return delay->log_bytes > SPARSE * delay->live_bytes + 2 * segment;
}

enum q_err
ql_space_check(const struct qlog_delay *delay)
{
    if (!delay->tight) return Q_OK;
    return Q_FAIL(
        Q_STORAGE_FULL, .path = delay->home->env.path,
        .what = "the disk is full, and the delay store makes room");
}

void
ql_space_full(struct qlog_delay *delay)
{
    delay->tight_until_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
    if (delay->tight) return;
    delay->tight = true;
    delay->space_retry_ns = 0;
    if (delay->space == QL_SPACE_CARRY) ql_log_keep(delay->log, 0);
}

/* Nothing is being written again. */
static void
space_relax(struct qlog_delay *delay)
{
    if (delay->log->kept_files == 0) ql_log_keep(delay->log, QL_CARRY_FILES);
    if (delay->now_ns >= delay->tight_until_ns) delay->tight = false;
}

/* Until nothing in the first run waits that is not written again, and nothing of it is open. */
static void
space_carry(struct qlog_delay *delay)
{
    struct ql_run *run = delay->runs[0];
    uint64_t end = delay->run_count > 1 ? delay->runs[1]->base : delay->log->active->base;
    if (delay->carry_failed && delay->carry_pending == 0) {
        delay->space = QL_SPACE_NONE;
        delay->space_retry_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
        return;
    }
    if (delay->now_ns < delay->space_retry_ns || delay->carry_failed) return;
    uint32_t looks = 0;
    while (delay->carry_next < run->count && delay->carry_pending < CARRY_AT_ONCE) {
        if (looks++ == CARRY_LOOKS) {
            delay->again = true;
            return;
        }
        const struct ql_delay_entry *entry = ql_run_at(delay, run, delay->carry_next);
        if (entry == NULL) {
            /* In another order, or later. */
            delay->carry_failed = true;
            return;
        }
        if (ql_delay_is_moving(delay, entry->sequence, entry->count)) return;
        if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count)) {
            enum q_err err = ql_delay_carry(delay, run, entry);
            if (err == Q_E_CORRUPT) {
                /* It can't be written again, and is not let go in silence: the segment stays. */
                QL_TELL(
                    &delay->home->env, RETENTION_FAILED, .log = delay->log->name,
                    .path = delay->home->env.path, .position = run->base + entry->frame,
                    .text = "a damaged batch keeps its segment until it is due");
                delay->stuck = entry->sequence;
                delay->stuck_count = entry->count;
                delay->space = QL_SPACE_NONE;
                return;
            }
            if (err != Q_OK) {
                delay->space_retry_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
                return;
            }
            delay->carry_pending++;
            delay->counters.carried++;
        }
        delay->carry_next++;
    }
    if (delay->carry_next < run->count || delay->carry_pending > 0) return;
    /* What is being cancelled may be refused, and wait again. */
    if (delay->withdrawals > 0) return;
    if (ql_dispatch_needs(delay, run->base, end) && !QL_PLANTED(open_dropped)) return;
    /* From here on nothing of it is offered: what waits is at home further on. */
    ql_schedule_drop_first(delay);
    delay->space = QL_SPACE_MARKS;
    delay->marks_end = 0;
}

void
ql_space_unmarked(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->run_count; i++)
        delay->runs[i]->gone = 0;
    if (delay->space == QL_SPACE_CARRY) delay->carry_failed = true;
}

void
ql_space_carried(struct qlog_delay *delay, enum q_err err)
{
    Q_ASSERT(delay->carry_pending > 0);
    delay->carry_pending--;
    if (err != Q_OK) delay->carry_failed = true;
}

/* A start that finds an open request without its messages could not send it again. So what closes
 * them must be durable before they go. */
static void
space_wait_for_marks(struct qlog_delay *delay)
{
    const struct ql_log *log = delay->dispatch;
    uint64_t head = head_of(delay);
    if (head > delay->home->super.producers && !QL_PLANTED(intake_trimmed)) {
        /* What was published with it must be known again. A round that fails lets go what it can. */
        bool tells = delay->round_busy && delay->intake.round_from >= head;
        delay->round_wanted = delay->round_wanted || !tells;
        delay->again = delay->again || !delay->round_busy;
        if (delay->round_busy || delay->now_ns >= delay->space_retry_ns) return;
        head = delay->home->super.producers;
    }
    if (!QL_PLANTED(marks_undurable)) {
        if (delay->refused_notes != NULL) return;
        if (delay->marks_end == 0) {
            if (log->queue.first != NULL) return;
            delay->marks_end = q_max_u64(log->tail, 1);
        }
        if (log->tail > 0 && log->durable < delay->marks_end) return;
    }
    delay->space = QL_SPACE_TRIM;
    delay->trim = (struct ql_home_trim){ .done = space_on_trimmed };
    delay->trim.before[QL_LOG_DELAY] = head;
    delay->trim.before[QL_LOG_DISPATCH] = delay->home->super.logs[QL_LOG_DISPATCH].replay;
    ql_home_trim_start(delay->home, &delay->trim);
}

static void
space_on_trimmed(struct ql_home_trim *trim, enum q_err err)
{
    struct qlog_delay *delay = q_container_of(trim, struct qlog_delay, trim);
    delay->space = QL_SPACE_NONE;
    /* What could not go for now is tried again a second later. */
    delay->space_retry_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
    (void)err; /* it is the log's, which has latched it */
}

/* --- Records of the dispatch log. */

enum q_err
ql_note_new(struct qlog_delay *delay, uint32_t size, struct ql_note **ret_note)
{
    struct ql_note *note = delay->free_notes;
    if (note == NULL) {
        note = calloc(1, sizeof(*note));
        if (note == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a record of the dispatch log");
    } else {
        delay->free_notes = note->next;
    }
    *note = (struct ql_note){
        .append.table = &note_table,
        .delay = delay,
        .of_round = delay->round_saying,
        .record = note->record,
        .capacity = note->capacity,
        .size = size,
    };
    if (size > note->capacity) {
        uint8_t *record = realloc(note->record, size);
        if (record == NULL) {
            ql_note_drop(note);
            return Q_FAIL(Q_E_NOMEM, .what = "a record of the dispatch log");
        }
        note->record = record;
        note->capacity = size;
    }
    *ret_note = note;
    return Q_OK;
}

void
ql_note_append(struct ql_note *note, bool flushed)
{
    note->append.flushed = flushed;
    note->delay->withdrawals += note->withdraws;
    enum q_err err = ql_log_append(note->delay->dispatch, &note->append);
    Q_ASSERT(err == Q_OK); /* records are far below a segment */
}

void
ql_note_drop(struct ql_note *note)
{
    note->next = note->delay->free_notes;
    note->delay->free_notes = note;
}

void
ql_notes_free(struct qlog_delay *delay)
{
    struct ql_note **lists[] = { &delay->free_notes, &delay->refused_notes };
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        while (*lists[i] != NULL) {
            struct ql_note *note = *lists[i];
            *lists[i] = note->next;
            free(note->record);
            free(note);
        }
}

static void
note_measure(struct ql_append *append, uint64_t incarnation)
{
    (void)incarnation;
    append->records_size = q_container_of(append, struct ql_note, append)->size;
    append->payloads_size = 0;
    append->record_count = 1;
}

static void
note_fill(
    struct ql_append *append, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    (void)place;
    (void)payloads;
    const struct ql_note *note = q_container_of(append, struct ql_note, append);
    memcpy(records, note->record, note->size);
}

static void
note_done(struct ql_append *append, enum q_err err)
{
    struct ql_note *note = q_container_of(append, struct ql_note, append);
    struct qlog_delay *delay = note->delay;
    struct qlog_delay_request *request = note->request;
    /* No room, no file, no memory for the next segment: anything but the end of the log. */
    bool refused = err != Q_OK && err != Q_STOPPING && delay->home->env.broken == Q_OK;
    delay->withdrawals -= note->withdraws;
    if (err == Q_OK && note->withdraws) delay->counters.cancelled++;
    if (refused && !note->withdraws)
        delay->space_retry_ns = delay->now_ns + (uint64_t)RETRY_S * Q_NS_PER_S;
    if (refused && note->of_round) {
        delay->round_failed = true;
    } else if (refused && !note->withdraws) {
        /* It must be said: a second later, and nothing that may build on it before. */
        note->next = NULL;
        *delay->refused_last = note;
        delay->refused_last = &note->next;
        return;
    } else if (refused) {
        struct q_fault fault = *q_fault_last();
        /* Not cancelled: it waits as before. */
        if (ql_marks_clear(&delay->marks, note->sequence) == Q_OK) delay->counters.pending++;
        ql_space_unmarked(delay);
        delay->skipped_from = 0;
        delay->stirred = true;
        if (err == Q_E_NO_SPACE) fault.err = err = Q_STORAGE_FULL;
        q_fault_adopt(&fault);
    }
    ql_note_drop(note);
    if (request != NULL) ql_delay_finish(request, err);
}

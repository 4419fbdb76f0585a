/*
 * delay/replay.c: a start: marks and open requests from the dispatch log, then the schedule from the
 * delay log.
 */
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "log/index_scan.h"

static enum q_err apply_dispatch_frame(void *context, const struct ql_scan *scan);
static enum q_err apply_delay_frame(void *context, const struct ql_scan *scan);
static enum q_err apply_dispatch_record(struct qlog_delay *delay, const struct ql_record *record);
static enum q_err apply_delay_record(
    struct qlog_delay *delay, const struct ql_scan *scan, const struct ql_record *record);
static enum q_err apply_batch(
    struct qlog_delay *delay, const struct ql_scan *scan, const struct ql_record *record);
static enum q_err apply_marks(struct qlog_delay *delay, const struct ql_marks_record *record);
static enum q_err mark(struct qlog_delay *delay, uint64_t sequence, uint64_t count);
static enum q_err mark_given(struct qlog_delay *delay, uint64_t sequence, uint64_t count);
static void on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static void count_waiting(struct qlog_delay *delay);

typedef enum q_err apply_fn(
    struct qlog_delay *delay, const struct ql_scan *scan, const struct ql_record *record);

enum q_err
ql_delay_recover(struct qlog_delay *delay)
{
    struct ql_recover recover;
    ql_home_recover_init(delay->home, QL_LOG_DISPATCH, &recover);
    recover.context = delay;
    recover.on_frame = apply_dispatch_frame;
    recover.on_rot = on_rot;
    recover.from = q_max_u64(recover.from, recover.marks.replay);
    /* Without a superblock nobody knows where the last round began: the first that is there will do. */
    bool unknown = !delay->home->super_found && !delay->home->created;
    delay->before_round = recover.from > 0 && (recover.from == recover.marks.replay || unknown);
    Q_TRY(ql_home_recover(delay->home, QL_LOG_DISPATCH, &recover));
    uint64_t stated_next = delay->next_sequence;
    delay->next_sequence = 0;

    ql_home_recover_init(delay->home, QL_LOG_DELAY, &recover);
    recover.context = delay;
    recover.on_frame = apply_delay_frame;
    recover.on_rot = on_rot;
    Q_TRY(ql_home_recover(delay->home, QL_LOG_DELAY, &recover));
    if (stated_next > delay->next_sequence) {
        /* Given, and taken by a power loss, or long done. Never given again. */
        uint64_t from =
            q_max_u64(delay->next_sequence, delay->marks.first * (uint64_t)QL_MARKS_MESSAGES);
        if (from < stated_next) Q_TRY(mark(delay, from, stated_next - from));
        delay->next_sequence = stated_next;
    }
    count_waiting(delay);
    /* Before the head of either log goes, what it says is said again. */
    delay->round_wanted = true;
    return Q_OK;
}

/* A damaged dispatch log has forgotten marks: messages may be delivered again. It was told. */
static void
on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    (void)from;
    (void)to;
    (void)state;
    struct qlog_delay *delay = context;
    delay->damaged = true;
}

static enum q_err
apply_frame(struct qlog_delay *delay, const struct ql_scan *scan, bool dispatch)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    for (;;) {
        struct ql_record record;
        enum q_err err = ql_record_next(&walk, &record);
        if (err == Q_END) return Q_OK;
        if (err == Q_OK)
            err = dispatch ? apply_dispatch_record(delay, &record)
                           : apply_delay_record(delay, scan, &record);
        if (err == Q_E_CORRUPT && delay->damaged) continue;
        if (err != Q_OK)
            return Q_FAIL(
                err, .path = delay->home->env.path, .position = (int64_t)scan->frame.position,
                .what =
                    q_text("%s log: %s", dispatch ? "dispatch" : "delay", q_fault_last()->what));
    }
}

static enum q_err
apply_dispatch_frame(void *context, const struct ql_scan *scan)
{
    return apply_frame(context, scan, true);
}

static enum q_err
apply_delay_frame(void *context, const struct ql_scan *scan)
{
    return apply_frame(context, scan, false);
}

static enum q_err
apply_dispatch_record(struct qlog_delay *delay, const struct ql_record *record)
{
    struct ql_delayed_record delayed;
    struct ql_target_record target;
    struct ql_dispatch_record dispatch;
    struct ql_dispatched_record dispatched;
    struct ql_withdrawn_record withdrawn;
    struct ql_aside_record aside;
    struct ql_marks_record marks;
    struct ql_done_record done;
    /* What shares the first frame of a round was there before it, and is in what it says. */
    if (record->kind == QL_RECORD_DELAYED || delay->damaged) delay->before_round = false;
    if (delay->before_round) return Q_OK;
    switch (record->kind) {
    case QL_RECORD_DELAYED:
        Q_TRY(ql_delayed_record_decode(record->bytes, &delayed));
        if (delay->marks.count == 0) ql_marks_begin(&delay->marks, delayed.done_below);
        delay->next_sequence = q_max_u64(delay->next_sequence, delayed.next_sequence);
        return Q_OK;
    case QL_RECORD_TARGET:
        Q_TRY(ql_target_record_decode(record->bytes, &target));
        return ql_target_replay(delay, &target);
    case QL_RECORD_DISPATCH:
        Q_TRY(ql_dispatch_record_decode(record->bytes, &dispatch));
        for (uint32_t i = 0; i < dispatch.item_count; i++) {
            struct ql_dispatch_item item = ql_dispatch_item_at(&dispatch, i);
            Q_TRY(mark_given(delay, item.sequence, item.count));
        }
        return ql_dispatch_replay(delay, &dispatch);
    case QL_RECORD_DISPATCHED:
        Q_TRY(ql_dispatched_record_decode(record->bytes, &dispatched));
        return ql_dispatched_replay(delay, &dispatched);
    case QL_RECORD_WITHDRAWN:
        Q_TRY(ql_withdrawn_record_decode(record->bytes, &withdrawn));
        return mark_given(delay, withdrawn.sequence, 1);
    case QL_RECORD_ASIDE:
        Q_TRY(ql_aside_record_decode(record->bytes, &aside));
        return ql_aside_replay(delay, &aside);
    case QL_RECORD_DONE:
        Q_TRY(ql_done_record_decode(record->bytes, &done));
        return ql_marks_fill(&delay->marks, done.first, done.end);
    case QL_RECORD_MARKS:
        Q_TRY(ql_marks_record_decode(record->bytes, &marks));
        return apply_marks(delay, &marks);
    default:
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("record kind %u", record->kind));
    }
}

static enum q_err
apply_delay_record(
    struct qlog_delay *delay, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_subject_record subject;
    struct ql_replaces_record replaces;
    switch (record->kind) {
    case QL_RECORD_SUBJECT:
        Q_TRY(ql_subject_record_decode(record->bytes, &subject));
        return ql_delay_subject_add(delay, subject.subject_id, subject.name);
    case QL_RECORD_REPLACES:
        Q_TRY(ql_replaces_record_decode(record->bytes, &replaces));
        return mark(delay, replaces.sequence, 1);
    case QL_RECORD_BATCH:
        return apply_batch(delay, scan, record);
    default:
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("record kind %u", record->kind));
    }
}

static enum q_err
apply_batch(struct qlog_delay *delay, const struct ql_scan *scan, const struct ql_record *record)
{
    struct qbatch batch;
    struct ql_entry where;
    Q_TRY(ql_entry_of_record(scan, record, &batch, &where));
    if (!batch.delayed) return Q_FAIL(Q_E_CORRUPT, .what = "a batch without a due time");
    if (ql_delay_subject(delay, batch.subject_id) == NULL) {
        if (!delay->damaged)
            return Q_FAIL(
                Q_E_CORRUPT, .what = q_text("a batch of the unnamed subject %u", batch.subject_id));
        return Q_E_CORRUPT;
    }
    const struct ql_segment *segment =
        ql_segment_set_find(&delay->log->segments, scan->frame.position);
    Q_TRY(ql_marks_reserve(&delay->marks, batch.first_sequence + batch.message_count));
    Q_TRY(ql_schedule_promise(delay, 1, 0));
    struct ql_delay_entry entry = {
        .due_ms = batch.due_ms,
        .sequence = batch.first_sequence,
        .frame = (uint32_t)(where.frame - segment->base),
        .envelope_at = where.envelope_at,
        .envelope_size = where.envelope_size,
        .payload_at = where.payload_at,
        .payload_size = where.payload_size,
        .count = batch.message_count,
        .subject_id = batch.subject_id,
    };
    ql_schedule_add(delay, segment->base, &entry);
    delay->next_sequence =
        q_max_u64(delay->next_sequence, batch.first_sequence + batch.message_count);
    return Q_OK;
}

static enum q_err
apply_marks(struct qlog_delay *delay, const struct ql_marks_record *record)
{
    Q_TRY(ql_marks_reserve(&delay->marks, record->first + QL_MARKS_MESSAGES));
    for (uint32_t i = 0; i < QL_MARKS_WORDS; i++) {
        uint64_t word = q_load_le64(record->bits + (size_t)i * 8);
        for (; word != 0; word &= word - 1)
            ql_marks_set(
                &delay->marks, record->first + (uint64_t)i * 64 + (uint64_t)__builtin_ctzll(word));
    }
    return Q_OK;
}

static enum q_err
mark(struct qlog_delay *delay, uint64_t sequence, uint64_t count)
{
    if (sequence >= UINT64_MAX / 2 || count >= UINT64_MAX / 2)
        return Q_FAIL(Q_E_CORRUPT, .what = "a delay sequence that was never given");
    Q_TRY(ql_marks_reserve(&delay->marks, sequence + count));
    for (uint64_t i = 0; i < count; i++)
        ql_marks_set(&delay->marks, sequence + i);
    return Q_OK;
}

/* What the dispatch log speaks of was given, though its batch may be gone since the last round. */
static enum q_err
mark_given(struct qlog_delay *delay, uint64_t sequence, uint64_t count)
{
    Q_TRY(mark(delay, sequence, count));
    delay->next_sequence = q_max_u64(delay->next_sequence, sequence + count);
    return Q_OK;
}

/* Every sequence that was given and is not marked waits. */
static void
count_waiting(struct qlog_delay *delay)
{
    uint64_t bits[QL_MARKS_WORDS];
    uint64_t done = 0;
    uint64_t first = delay->marks.first * (uint64_t)QL_MARKS_MESSAGES;
    for (uint64_t i = delay->marks.first; i < delay->marks.first + delay->marks.count; i++) {
        (void)ql_marks_bits(&delay->marks, i, bits);
        for (uint32_t j = 0; j < QL_MARKS_WORDS; j++)
            done += (uint64_t)__builtin_popcountll(bits[j]);
    }
    uint64_t given = delay->next_sequence > first ? delay->next_sequence - first : 0;
    delay->counters.pending = given > done ? given - done : 0;
    for (uint32_t i = 0; i < delay->run_count; i++) {
        const struct ql_run *run = delay->runs[i];
        for (uint32_t j = 0; j < run->count; j++) {
            const struct ql_delay_entry *entry = &run->entries[j];
            if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count))
                delay->live_bytes += (uint64_t)entry->envelope_size + entry->payload_size;
        }
    }
}

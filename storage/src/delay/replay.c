/*
 * delay/replay.c: a start: marks and open requests from the dispatch log, then the schedule from the
 * delay log.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "log/index_scan.h"
#include "planted.h"

/* The schedule file of a segment. */
struct found {
    struct ql_run_file *file;
    uint8_t *tail;
};

static enum q_err recover_files(struct qlog_delay *delay, struct ql_recover *recover);
static enum q_err recover_segment(
    struct qlog_delay *delay,
    const struct ql_segment *segment,
    uint64_t end,
    struct found *found,
    struct ql_recover *recover);
static enum q_err recover_behind(
    struct qlog_delay *delay, uint64_t end, struct ql_recover *recover);
static enum q_err learn_file(struct qlog_delay *delay, struct found *found);
static void on_delay_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
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
    recover.whole = true;
    recover.on_frame = apply_dispatch_frame;
    recover.on_rot = on_rot;
    recover.from = q_max_u64(recover.from, recover.marks.replay);
    /* Without a superblock nobody knows where the last round began: the first that is there will do. */
    bool unknown = !delay->home->super_found && !delay->home->created;
    delay->rot_from = UINT64_MAX;
    delay->before_round = recover.from > 0 && (recover.from == recover.marks.replay || unknown);
    Q_TRY(ql_home_recover(delay->home, QL_LOG_DISPATCH, &recover));
    uint64_t stated_next = delay->next_sequence;
    delay->next_sequence = 0;
    ql_intake_replay_begin(delay);

    ql_home_recover_init(delay->home, QL_LOG_DELAY, &recover);
    recover.context = delay;
    recover.whole = true;
    recover.on_frame = apply_delay_frame;
    recover.on_rot = on_delay_rot;
    Q_TRY(recover_files(delay, &recover));
    ql_intake_replay_tail(delay, recover.from);
    Q_TRY(ql_home_recover(delay->home, QL_LOG_DELAY, &recover));
    ql_intake_replay_end(delay, recover.end);
    Q_TRY(ql_filing_sweep(delay));
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

/*
 * Segments that have a schedule file are not read, nor those without one behind the last that has: what
 * follows is the log's end, which home decides on. One without a file between is read here.
 */
static enum q_err
recover_files(struct qlog_delay *delay, struct ql_recover *recover)
{
    struct ql_env *env = &delay->home->env;
    const struct ql_segment_set *segments = &delay->log->segments;
    struct found *found = calloc((size_t)segments->count + 1, sizeof(*found));
    if (found == NULL) return Q_FAIL(Q_E_NOMEM, .what = "schedule files");
    uint32_t end = 0;
    enum q_err err = Q_OK;
    for (uint32_t i = 0; i + 1 < segments->count && err >= Q_OK; i++) {
        err = ql_run_file_open(
            env, delay->log->name, segments->segments[i], segments->segments[i + 1]->base,
            &found[i].file, &found[i].tail);
        if (err == Q_OK) end = i + 1;
        if (err != Q_E_CORRUPT) continue;
        char path[QL_PATH_MAX];
        QL_TELL(
            env, INDEX_DROPPED, .log = delay->log->name,
            .path = ql_schedule_path(env, delay->log->name, segments->segments[i]->number, path),
            .position = segments->segments[i]->base,
            .text = "a schedule file is damaged; its segment is read");
        err = Q_OK;
    }
    for (uint32_t i = 0; i < end && err >= Q_OK; i++)
        err = recover_segment(
            delay, segments->segments[i], segments->segments[i + 1]->base, &found[i], recover);
    for (uint32_t i = 0; i < segments->count; i++) {
        ql_run_file_free(env, found[i].file);
        free(found[i].tail);
    }
    free(found);
    return err < Q_OK ? err : Q_OK;
}

/* What its file says, or its frames. `recover` goes on behind it. */
static enum q_err
recover_segment(
    struct qlog_delay *delay,
    const struct ql_segment *segment,
    uint64_t end,
    struct found *found,
    struct ql_recover *recover)
{
    if (found->file != NULL && recover->from == segment->base) {
        struct ql_schedule_header header = found->file->header;
        enum q_err err = learn_file(delay, found);
        if (err == Q_OK) {
            recover->generation = q_max_u64(recover->generation, header.generation);
            recover->wall_ms = q_max_u64(recover->wall_ms, header.wall_ms);
        }
        if (err == Q_OK) {
            Q_TRY(ql_intake_replay_range(delay, segment->base, end));
            return recover_behind(delay, end, recover);
        }
        if (err != Q_E_CORRUPT) return err;
    }
    struct ql_recover range;
    ql_index_range_init(
        &delay->home->env, delay->log->name, &delay->log->segments, recover->from, end, &range);
    range.context = delay;
    range.whole = true;
    range.on_frame = recover->on_frame;
    range.on_rot = recover->on_rot;
    range.generation = recover->generation;
    range.wall_ms = recover->wall_ms;
    Q_TRY(ql_recover(&range));
    recover->generation = q_max_u64(recover->generation, range.generation);
    recover->wall_ms = q_max_u64(recover->wall_ms, range.wall_ms);
    return recover_behind(delay, end, recover);
}

static enum q_err
recover_behind(struct qlog_delay *delay, uint64_t end, struct ql_recover *recover)
{
    const struct ql_segment *next = ql_segment_set_find(&delay->log->segments, end);
    Q_ASSERT(next != NULL && next->base == end);
    recover->from = end;
    recover->linked = true;
    recover->chain = next->chain;
    return Q_OK;
}

/* Q_OK: the file is the schedule's. Q_E_CORRUPT: it says what can't be. */
static enum q_err
learn_file(struct qlog_delay *delay, struct found *found)
{
    struct ql_run_file *file = found->file;
    struct ql_schedule_tail tail;
    struct q_bytes rows;
    struct q_bytes name;
    uint32_t id;
    enum q_err err;
    Q_TRY(ql_schedule_tail_open(
        &file->header, q_bytes_from(found->tail, file->layout.tail_size), &tail));
    rows = tail.subjects;
    while ((err = ql_schedule_next_subject(&rows, &id, &name)) == Q_OK)
        Q_TRY(ql_delay_subject_add(delay, id, name));
    if (err != Q_END) return err;
    for (uint32_t i = 0; i < file->header.replaced_count; i++)
        Q_TRY(mark(delay, ql_schedule_tail_replaced(&tail, i), 1));
    Q_TRY(ql_schedule_add_file(delay, file));
    if (!QL_PLANTED(schedule_next_forgotten))
        delay->next_sequence = q_max_u64(delay->next_sequence, file->header.next_sequence);
    found->file = NULL;
    return Q_OK;
}

/* Its segments have to be read at each start, which tells what is damaged. */
static void
on_delay_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct qlog_delay *delay = context;
    delay->rot_from = q_min_u64(delay->rot_from, from);
    delay->rot_to = q_max_u64(delay->rot_to, to);
    on_rot(context, from, to, state);
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
    struct ql_producer_record producer;
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
    case QL_RECORD_PRODUCER:
        Q_TRY(ql_producer_record_decode(record->bytes, &producer));
        return ql_intake_replay_statement(delay, &producer);
    case QL_RECORD_MARKS:
        Q_TRY(ql_marks_record_decode(record->bytes, &marks));
        return apply_marks(delay, &marks);
    default:
        return Q_FAIL(Q_E_CORRUPT, .what = q_text("record kind %u", record->kind));
    }
}

static const struct ql_segment *
segment_of(const struct qlog_delay *delay, const struct ql_scan *scan)
{
    return ql_segment_set_find(&delay->log->segments, scan->frame.position);
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
        delay->intake.moved = true;
        ql_schedule_replaces(delay, segment_of(delay, scan)->base, replaces.sequence);
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
    uint64_t base = segment_of(delay, scan)->base;
    Q_TRY(ql_marks_reserve(&delay->marks, batch.first_sequence + batch.message_count));
    Q_TRY(ql_schedule_promise(delay, 1, 0));
    struct ql_delay_entry entry = ql_delay_entry_of(base, &batch, &where);
    ql_schedule_add(delay, base, &entry, scan->frame.generation, scan->frame.wall_ms);
    delay->next_sequence =
        q_max_u64(delay->next_sequence, batch.first_sequence + batch.message_count);
    return ql_intake_replay_batch(delay, &batch, &where);
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
    uint64_t first = delay->marks.first * (uint64_t)QL_MARKS_MESSAGES;
    uint64_t end = q_max_u64(delay->next_sequence, first);
    delay->counters.pending = ql_marks_count_unset(&delay->marks, first, end);
    uint64_t dense = 0; /* waiting messages at home in runs whose sequences have no gaps */
    uint64_t mixed_bytes = 0;
    uint64_t mixed_messages = 0;
    for (uint32_t i = 0; i < delay->run_count; i++) {
        struct ql_run *run = delay->runs[i];
        /* The last one has no end yet. */
        bool ends_behind = run->end == 0 || delay->rot_from < run->end;
        bool rotten = ends_behind && delay->rot_to > run->base;
        run->rotten = run->rotten || rotten;
        if (run->messages == run->next_sequence - run->first_sequence) {
            uint64_t waiting =
                ql_marks_count_unset(&delay->marks, run->first_sequence, run->next_sequence);
            dense += waiting;
            delay->live_bytes += run->messages == 0 ? 0 : run->bytes / run->messages * waiting;
        } else {
            mixed_bytes += run->bytes;
            mixed_messages += run->messages;
        }
    }
    /* What was written again lies among others. How much of that waits follows from how much does not. */
    uint64_t rest = delay->counters.pending - q_min_u64(dense, delay->counters.pending);
    if (mixed_messages > 0)
        delay->live_bytes += q_min_u64(mixed_bytes, mixed_bytes / mixed_messages * rest);
}

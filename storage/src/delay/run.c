/*
 * delay/run.c: a run: the batches of one segment, and which of them is due next.
 *
 * In memory they stand in the order of the log, with a heap by due time over those that may wait. In a
 * file they are sorted, and a run is a place in that: the file's page starts and one page are in
 * memory. Damage of a file is no matter: the segment is read, and the run is in memory again.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "log/index_scan.h"
#include "planted.h"

enum {
    ENTRIES_FIRST = 64,
    PAGES_AT_ONCE = 32, /* that one look may read to pass over what is done */
    AGAIN_MS = 1000,    /* until what can't be read is tried again */
};

struct reading {
    struct ql_run *run;
    bool unread;
    uint64_t rot_from;
    uint64_t rot_to;
};

static bool is_before(const struct ql_run *run, uint32_t a, uint32_t b);
static void run_sift_down(struct ql_run *run, uint32_t at);
static void run_read_again(struct qlog_delay *delay, struct ql_run *run);
static enum q_err reading_on_frame(void *context, const struct ql_scan *scan);
static void reading_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);

enum q_err
ql_run_new(struct ql_run **ret_run)
{
    struct ql_run *run = calloc(1, sizeof(*run));
    if (run == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a run of the schedule");
    run->first_sequence = UINT64_MAX;
    q_heap_node_init(&run->node);
    *ret_run = run;
    return Q_OK;
}

void
ql_run_free(struct qlog_delay *delay, struct ql_run *run)
{
    if (run == NULL) return;
    struct ql_env *env = &delay->home->env;
    if (run->map != NULL) env->io->table->unmap(env->io, run->map, run->map_size);
    ql_run_file_free(env, run->file);
    free(run->entries);
    free(run->heap);
    free(run->replaced);
    free(run);
}

enum q_err
ql_run_reserve(struct ql_run *run, uint32_t count)
{
    if (count <= run->capacity - run->count) return Q_OK;
    uint64_t capacity = q_max_u64((uint64_t)run->capacity * 2, ENTRIES_FIRST);
    capacity = q_max_u64(capacity, (uint64_t)run->count + count);
    if (capacity > UINT32_MAX) return Q_FAIL(Q_E_NOMEM, .what = "a run of the schedule");
    struct ql_delay_entry *entries = realloc(run->entries, capacity * sizeof(entries[0]));
    if (entries == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a run of the schedule");
    run->entries = entries;
    uint32_t *heap = realloc(run->heap, capacity * sizeof(heap[0]));
    if (heap == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a run of the schedule");
    run->heap = heap;
    run->capacity = (uint32_t)capacity;
    return Q_OK;
}

enum q_err
ql_run_reserve_replaced(struct ql_run *run)
{
    if (run->replaced_count < run->replaced_capacity) return Q_OK;
    uint32_t capacity = run->replaced_capacity * 2 + 16;
    uint64_t *replaced = realloc(run->replaced, capacity * sizeof(replaced[0]));
    if (replaced == NULL) return Q_FAIL(Q_E_NOMEM, .what = "messages that were moved");
    run->replaced = replaced;
    run->replaced_capacity = capacity;
    return Q_OK;
}

void
ql_run_add(struct ql_run *run, const struct ql_delay_entry *entry)
{
    Q_ASSERT(run->count < run->capacity);
    if (run->count > 0 && entry->sequence < run->entries[run->count - 1].sequence)
        run->carries = true;
    run->entries[run->count++] = *entry;
    run->bytes += (uint64_t)entry->envelope_size + entry->payload_size;
    run->messages += entry->count;
    run->first_sequence = q_min_u64(run->first_sequence, entry->sequence);
    run->next_sequence = q_max_u64(run->next_sequence, entry->sequence + entry->count);
}

void
ql_run_arrive(struct qlog_delay *delay, struct ql_run *run, uint64_t durable)
{
    while (run->arrived < run->count && run->base + run->entries[run->arrived].frame < durable)
        ql_run_push(run, run->arrived++);
    ql_run_settle(delay, run);
}

void
ql_run_take_file(struct ql_run *run, struct ql_run_file *file)
{
    const struct ql_schedule_header *header = &file->header;
    free(run->entries);
    free(run->heap);
    free(run->replaced);
    run->entries = NULL;
    run->heap = NULL;
    run->replaced = NULL;
    run->capacity = run->replaced_count = run->replaced_capacity = 0;
    run->heap_count = 0;
    run->file = file;
    run->end = header->end;
    run->count = run->arrived = header->entry_count;
    run->bytes = header->bytes;
    run->messages = header->messages;
    run->first_sequence = header->first_sequence;
    run->next_sequence = header->next_sequence;
    run->generation = header->generation;
    run->wall_ms = header->wall_ms;
    run->carries = header->messages != header->next_sequence - header->first_sequence;
    run->next = 0;
    run->gone = 0;
}

const struct ql_delay_entry *
ql_run_at(struct qlog_delay *delay, struct ql_run *run, uint32_t index)
{
    Q_ASSERT(index < run->count);
    if (run->file == NULL) return &run->entries[index];
    uint32_t page = index / QL_SCHEDULE_PAGE_MAX;
    if (run->file->loaded != page) {
        const struct ql_segment *segment = ql_segment_set_find(&delay->log->segments, run->base);
        Q_ASSERT(segment != NULL && segment->base == run->base);
        enum q_err err =
            ql_run_file_load(&delay->home->env, delay->log->name, segment->number, run->file, page);
        if (err != Q_OK) {
            delay->blind_ns = delay->now_ns + AGAIN_MS * (uint64_t)Q_NS_PER_MS;
            if (err == Q_E_CORRUPT) run_read_again(delay, run);
            return NULL;
        }
    }
    return &run->file->entries[index % QL_SCHEDULE_PAGE_MAX];
}

bool
ql_run_lower_bound(
    struct qlog_delay *delay,
    struct ql_run *run,
    uint64_t due_ms,
    uint64_t sequence,
    uint32_t *ret_index)
{
    uint32_t low = ql_run_coarse_bound(run, due_ms);
    uint32_t high = run->count;
    struct ql_delay_entry wanted = { .due_ms = due_ms, .sequence = sequence };
    if (QL_PLANTED(schedule_edge)) wanted.due_ms++;
    /* Most often it is on the page where that one lies, or begins the next. */
    uint32_t near = low - low % QL_SCHEDULE_PAGE_MAX + QL_SCHEDULE_PAGE_MAX;
    if (near < high) {
        const struct ql_delay_entry *entry = ql_run_at(delay, run, near - 1);
        if (entry == NULL) return false;
        if (ql_delay_entry_is_before(entry, &wanted))
            low = near;
        else
            high = near;
    }
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ql_delay_entry *entry = ql_run_at(delay, run, middle);
        if (entry == NULL) return false;
        if (ql_delay_entry_is_before(entry, &wanted))
            low = middle + 1;
        else
            high = middle;
    }
    *ret_index = low;
    return true;
}

uint32_t
ql_run_coarse_bound(const struct ql_run *run, uint64_t due_ms)
{
    uint32_t low = 0;
    uint32_t high = run->file->layout.page_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (run->file->starts[middle] < due_ms)
            low = middle + 1;
        else
            high = middle;
    }
    /* It may begin in the page before. */
    if (low > 0 && !QL_PLANTED(schedule_page_edge)) low--;
    return (uint32_t)q_min_u64((uint64_t)low * QL_SCHEDULE_PAGE_MAX, run->count);
}

/* --- What is due next. */

const struct ql_delay_entry *
ql_run_top(struct qlog_delay *delay, struct ql_run *run)
{
    uint32_t pages = 0;
    while (run->file == NULL) {
        if (run->heap_count == 0) return NULL;
        const struct ql_delay_entry *entry = &run->entries[run->heap[0]];
        if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count)) return entry;
        ql_run_pass(run);
    }
    while (run->next < run->count) {
        if (run->next / QL_SCHEDULE_PAGE_MAX != run->file->loaded && pages++ == PAGES_AT_ONCE) {
            /* The others go on, and so does this one in the next turn. */
            delay->blind_ns = delay->now_ns;
            return NULL;
        }
        const struct ql_delay_entry *entry = ql_run_at(delay, run, run->next);
        if (entry == NULL) return run->file == NULL ? ql_run_top(delay, run) : NULL;
        if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count)) return entry;
        if (run->gone == run->next) run->gone++;
        run->next++;
    }
    return NULL;
}

void
ql_run_pass(struct ql_run *run)
{
    if (run->file != NULL) {
        run->next++;
        return;
    }
    run->heap[0] = run->heap[--run->heap_count];
    run_sift_down(run, 0);
}

void
ql_run_rewind(struct qlog_delay *delay, struct ql_run *run, uint64_t due_ms)
{
    if (run->file != NULL) {
        run->next = (uint32_t)q_min_u64(run->next, ql_run_coarse_bound(run, due_ms));
    } else {
        run->heap_count = 0;
        for (uint32_t i = 0; i < run->arrived; i++) {
            const struct ql_delay_entry *entry = &run->entries[i];
            if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count))
                ql_run_push(run, i);
        }
    }
    ql_run_settle(delay, run);
}

void
ql_run_settle(struct qlog_delay *delay, struct ql_run *run)
{
    const struct ql_delay_entry *top = ql_run_top(delay, run);
    bool linked = q_heap_node_is_linked(&run->node);
    if (top != NULL && linked && run->node.key == top->due_ms) return;
    q_heap_remove(&delay->runs_due, &run->node);
    if (top == NULL) return;
    /* The heap has had room for all runs since they were promised. */
    enum q_err err = q_heap_push(&delay->runs_due, &run->node, top->due_ms);
    Q_ASSERT(err == Q_OK);
}

static bool
is_before(const struct ql_run *run, uint32_t a, uint32_t b)
{
    return ql_delay_entry_is_before(&run->entries[a], &run->entries[b]);
}

void
ql_run_push(struct ql_run *run, uint32_t index)
{
    uint32_t at = run->heap_count++;
    while (at > 0 && is_before(run, index, run->heap[(at - 1) / 2])) {
        run->heap[at] = run->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    run->heap[at] = index;
}

static void
run_sift_down(struct ql_run *run, uint32_t at)
{
    if (at >= run->heap_count) return;
    uint32_t index = run->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= run->heap_count) break;
        bool right =
            child + 1 < run->heap_count && is_before(run, run->heap[child + 1], run->heap[child]);
        if (right) child++;
        if (!is_before(run, run->heap[child], index)) break;
        run->heap[at] = run->heap[child];
        at = child;
    }
    run->heap[at] = index;
}

/* --- A file that is damaged. */

/* The run is in memory again, or it stays as it is and is tried again. */
static void
run_read_again(struct qlog_delay *delay, struct ql_run *run)
{
    struct ql_env *env = &delay->home->env;
    struct ql_log *log = delay->log;
    struct reading reading = { .rot_from = UINT64_MAX };
    char path[QL_PATH_MAX];
    const struct ql_segment *segment = ql_segment_set_find(&log->segments, run->base);
    QL_TELL(
        env, INDEX_DROPPED, .log = log->name,
        .path = ql_schedule_path(env, log->name, segment->number, path), .position = run->base,
        .text = "a schedule file can't be read; it is made again from its segment");
    if (ql_run_new(&reading.run) != Q_OK) return;
    struct ql_run *fresh = reading.run;
    fresh->base = run->base;
    /* Damage is told when it is known to be more than a disk that is away for a moment. */
    struct ql_env quiet = *env;
    quiet.observer = NULL;
    quiet.decisions = NULL;
    struct ql_recover recover;
    ql_index_range_init(&quiet, log->name, &log->segments, run->base, run->end, &recover);
    recover.context = &reading;
    recover.on_frame = reading_on_frame;
    recover.on_rot = reading_on_rot;
    enum q_err err = ql_recover(&recover);
    /* What can't be read now may be there all the same. */
    if (err != Q_OK || reading.unread) {
        ql_run_free(delay, fresh);
        return;
    }
    if (fresh->rotten)
        QL_TELL(
            env, ROT, .log = log->name, .path = env->path, .position = reading.rot_from,
            .bytes = reading.rot_to - reading.rot_from,
            .text = "damaged below the durable mark, as was seen when its schedule was made again");
    delay->entry_count -= run->count - fresh->count;
    delay->log_bytes -= run->bytes - fresh->bytes;
    ql_run_file_free(env, run->file);
    run->file = NULL;
    run->entries = fresh->entries;
    run->heap = fresh->heap;
    run->replaced = fresh->replaced;
    run->count = run->arrived = fresh->count;
    run->capacity = fresh->capacity;
    run->replaced_count = fresh->replaced_count;
    run->replaced_capacity = fresh->replaced_capacity;
    run->bytes = fresh->bytes;
    run->messages = fresh->messages;
    run->rotten = fresh->rotten;
    run->carries = fresh->carries;
    run->gone = 0;
    free(fresh);
    for (uint32_t i = 0; i < run->count; i++)
        if (!ql_marks_has_all(&delay->marks, run->entries[i].sequence, run->entries[i].count))
            ql_run_push(run, i);
    /* Places of entries are others now. */
    if (delay->space == QL_SPACE_CARRY && run == delay->runs[0]) delay->carry_failed = true;
    delay->filed_below = 0;
    (void)env->io->table->unlink(env->io, ql_schedule_path(env, log->name, segment->number, path));
    ql_run_settle(delay, run);
}

static enum q_err
reading_on_frame(void *context, const struct ql_scan *scan)
{
    struct reading *reading = context;
    return ql_run_collect(reading->run, scan);
}

static void
reading_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct reading *reading = context;
    reading->unread = reading->unread || state == QL_SCAN_READ;
    reading->run->rotten = true;
    reading->rot_from = q_min_u64(reading->rot_from, from);
    reading->rot_to = q_max_u64(reading->rot_to, to);
}

enum q_err
ql_run_collect(struct ql_run *run, const struct ql_scan *scan)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    enum q_err err;
    while ((err = ql_record_next(&walk, &record)) == Q_OK) {
        struct ql_replaces_record replaces;
        struct qbatch batch;
        struct ql_entry where;
        if (record.kind == QL_RECORD_REPLACES &&
            ql_replaces_record_decode(record.bytes, &replaces) == Q_OK) {
            Q_TRY(ql_run_reserve_replaced(run));
            run->replaced[run->replaced_count++] = replaces.sequence;
        }
        if (record.kind != QL_RECORD_BATCH ||
            ql_entry_of_record(scan, &record, &batch, &where) != Q_OK || !batch.delayed)
            continue;
        Q_TRY(ql_run_reserve(run, 1));
        struct ql_delay_entry entry = ql_delay_entry_of(run->base, &batch, &where);
        ql_run_add(run, &entry);
        run->generation = scan->frame.generation;
        run->wall_ms = scan->frame.wall_ms;
    }
    return err == Q_END ? Q_OK : err;
}

struct ql_delay_entry
ql_delay_entry_of(uint64_t base, const struct qbatch *batch, const struct ql_entry *where)
{
    return (struct ql_delay_entry){
        .due_ms = batch->due_ms,
        .sequence = batch->first_sequence,
        .frame = (uint32_t)(where->frame - base),
        .envelope_at = where->envelope_at,
        .envelope_size = where->envelope_size,
        .payload_at = where->payload_at,
        .payload_size = where->payload_size,
        .count = batch->message_count,
        .subject_id = batch->subject_id,
    };
}

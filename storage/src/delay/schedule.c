/*
 * delay/schedule.c: which batch is due next.
 *
 * Runs, one for each segment (run.c), and a heap over their first waiting batches. What was passed over
 * because nobody would take it is not kept anywhere: its due time is, and the runs are gone through
 * again from there (ql_schedule_rewind). Marks tell what of it is still to be done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

static enum q_err schedule_need_run(struct qlog_delay *delay, uint32_t room);
static struct ql_run *schedule_run_of(struct qlog_delay *delay, uint64_t base);
static void run_close(struct qlog_delay *delay, struct ql_run *run);
static bool run_find(
    struct qlog_delay *delay,
    struct ql_run *run,
    uint64_t due_ms,
    uint64_t sequence,
    const struct ql_delay_entry **ret_entry);

enum q_err
ql_schedule_check(const struct qlog_delay *delay, uint32_t batches)
{
    uint64_t entries = (uint64_t)delay->entry_count + delay->promised_batches + batches;
    if (entries <= delay->options.batches_max) return Q_OK;
    return Q_FAIL(
        Q_STORAGE_FULL, .path = delay->home->env.path,
        .what = q_text("the delay store holds %u batches, its limit", delay->entry_count),
        .hint = "raise the limit, or use a further delay group");
}

enum q_err
ql_schedule_promise(struct qlog_delay *delay, uint32_t batches, uint64_t messages)
{
    uint32_t room = delay->promised_batches + batches;
    Q_TRY(schedule_need_run(delay, room));
    if (delay->run_count > 0 && delay->runs[delay->run_count - 1]->end == 0)
        Q_TRY(ql_run_reserve(delay->runs[delay->run_count - 1], room));
    uint64_t end = delay->next_sequence + delay->promised_messages + messages;
    Q_TRY(ql_marks_reserve(&delay->marks, end));
    delay->promised_batches += batches;
    delay->promised_messages += messages;
    return Q_OK;
}

void
ql_schedule_withdraw(struct qlog_delay *delay, uint32_t batches, uint64_t messages)
{
    Q_ASSERT(delay->promised_batches >= batches && delay->promised_messages >= messages);
    delay->promised_batches -= batches;
    delay->promised_messages -= messages;
}

void
ql_schedule_add(
    struct qlog_delay *delay,
    uint64_t base,
    const struct ql_delay_entry *entry,
    uint64_t generation,
    uint64_t wall_ms)
{
    struct ql_run *run = schedule_run_of(delay, base);
    if (run == NULL) return;
    Q_ASSERT(delay->promised_batches > 0);
    ql_run_add(run, entry);
    run->generation = generation;
    run->wall_ms = wall_ms;
    delay->log_bytes += (uint64_t)entry->envelope_size + entry->payload_size;
    delay->entry_count++;
    delay->promised_batches--;
}

void
ql_schedule_replaces(struct qlog_delay *delay, uint64_t base, uint64_t sequence)
{
    struct ql_run *run = schedule_run_of(delay, base);
    if (run == NULL) return;
    /* Without it a file would say less than its segment: there is none then. */
    if (ql_run_reserve_replaced(run) == Q_OK)
        run->replaced[run->replaced_count++] = sequence;
    else
        run->rotten = true;
}

/* The run of the segment that is written, or read at a start. NULL: no memory, and the store is broken.
 * Everything in a segment before is durable: the log goes on to the next one only then. */
static struct ql_run *
schedule_run_of(struct qlog_delay *delay, uint64_t base)
{
    struct ql_run *run = delay->run_count == 0 ? NULL : delay->runs[delay->run_count - 1];
    if (run != NULL && run->base == base) return run;
    Q_ASSERT(run == NULL || run->base < base);
    if (run != NULL && run->end == 0) run_close(delay, run);
    /* Only where what was promised at once fills a whole segment is there none. */
    if (schedule_need_run(delay, delay->promised_batches) != Q_OK) {
        ql_env_break(&delay->home->env, delay->log->name, delay->home->env.path, base, ENOMEM);
        return NULL;
    }
    run = delay->spare_run;
    delay->spare_run = NULL;
    run->base = base;
    delay->runs[delay->run_count++] = run;
    return run;
}

/* Its segment is sealed. */
static void
run_close(struct qlog_delay *delay, struct ql_run *run)
{
    const struct ql_segment *next = ql_segment_set_next(&delay->log->segments, run->base);
    Q_ASSERT(next != NULL);
    run->end = next->base;
    ql_run_arrive(delay, run, UINT64_MAX);
}

enum q_err
ql_schedule_add_file(struct qlog_delay *delay, struct ql_run_file *file)
{
    struct ql_run *run;
    Q_TRY(schedule_need_run(delay, 0));
    Q_TRY(ql_marks_reserve(&delay->marks, file->header.next_sequence));
    if (delay->run_count > 0 && delay->runs[delay->run_count - 1]->end == 0)
        run_close(delay, delay->runs[delay->run_count - 1]);
    run = delay->spare_run;
    delay->spare_run = NULL;
    run->base = file->header.base;
    delay->runs[delay->run_count++] = run;
    delay->entry_count += file->header.entry_count;
    delay->log_bytes += file->header.bytes;
    /* Nothing of a file is read before all of the log is known: see ql_schedule_arrive(). */
    ql_run_take_file(run, file);
    delay->blind_ns = 1;
    return Q_OK;
}

void
ql_schedule_arrive(struct qlog_delay *delay)
{
    if (delay->run_count == 0) return;
    struct ql_run *run = delay->runs[delay->run_count - 1];
    if (run->arrived < run->count) {
        bool early = QL_PLANTED(delay_offered_early);
        ql_run_arrive(delay, run, early ? UINT64_MAX : delay->log->durable);
    }
    if (delay->blind_ns == 0 || delay->now_ns < delay->blind_ns) return;
    /* Runs of which it is not known what is due next. */
    delay->blind_ns = 0;
    for (uint32_t i = 0; i < delay->run_count; i++) {
        run = delay->runs[i];
        bool blind = run->file != NULL && run->next < run->count;
        if (blind && !q_heap_node_is_linked(&run->node)) ql_run_settle(delay, run);
    }
}

bool
ql_schedule_peek(
    struct qlog_delay *delay, struct ql_run **ret_run, const struct ql_delay_entry **ret_entry)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&delay->runs_due);
        if (node == NULL) return false;
        struct ql_run *run = q_container_of(node, struct ql_run, node);
        uint64_t key = node->key;
        /* What was at its top may have been marked since. */
        ql_run_settle(delay, run);
        if (!q_heap_node_is_linked(node) || node->key != key) continue;
        *ret_run = run;
        *ret_entry = ql_run_top(delay, run);
        return true;
    }
}

void
ql_schedule_pass(struct qlog_delay *delay, struct ql_run *run)
{
    ql_run_pass(run);
    ql_run_settle(delay, run);
}

void
ql_schedule_rewind(struct qlog_delay *delay, uint64_t due_ms)
{
    for (uint32_t i = 0; i < delay->run_count; i++)
        ql_run_rewind(delay, delay->runs[i], due_ms);
}

bool
ql_schedule_find(
    struct qlog_delay *delay,
    uint64_t due_ms,
    uint64_t sequence,
    struct ql_run **ret_run,
    const struct ql_delay_entry **ret_entry)
{
    /* The newest first: what was written again is at home there. */
    for (uint32_t i = delay->run_count; i > 0; i--) {
        struct ql_run *run = delay->runs[i - 1];
        if (sequence < run->first_sequence || sequence >= run->next_sequence) continue;
        if (!run_find(delay, run, due_ms, sequence, ret_entry)) continue;
        *ret_run = run;
        return true;
    }
    return false;
}

static bool
run_find(
    struct qlog_delay *delay,
    struct ql_run *run,
    uint64_t due_ms,
    uint64_t sequence,
    const struct ql_delay_entry **ret_entry)
{
    uint32_t from = 0;
    uint32_t to = run->arrived;
    if (run->file != NULL) {
        /* A file that turns out to be damaged leaves the run in memory. */
        bool found = ql_run_lower_bound(delay, run, due_ms, sequence + 1, &to);
        if (!found && run->file != NULL) return false;
        if (!found) to = run->arrived;
        from = to == 0 || !found ? 0 : to - 1;
    }
    if (run->file == NULL && !run->carries) {
        uint32_t high = run->arrived;
        while (from < high) {
            uint32_t middle = from + (high - from) / 2;
            if (run->entries[middle].sequence + run->entries[middle].count <= sequence)
                from = middle + 1;
            else
                high = middle;
        }
        to = (uint32_t)q_min_u64((uint64_t)from + 1, run->arrived);
    }
    for (uint32_t j = from; j < to; j++) {
        const struct ql_delay_entry *entry = ql_run_at(delay, run, j);
        if (entry == NULL) return false;
        if (entry->due_ms != due_ms || sequence < entry->sequence) continue;
        if (sequence - entry->sequence >= entry->count) continue;
        *ret_entry = entry;
        return true;
    }
    return false;
}

bool
ql_schedule_is_new(const struct qlog_delay *delay, uint64_t sequence)
{
    const struct ql_run *run = delay->run_count == 0 ? NULL : delay->runs[delay->run_count - 1];
    if (run == NULL || run->end != 0) return false;
    for (uint32_t i = run->arrived; i < run->count; i++) {
        const struct ql_delay_entry *entry = &run->entries[i];
        if (sequence == UINT64_MAX) return true;
        if (sequence >= entry->sequence && sequence - entry->sequence < entry->count) return true;
    }
    return false;
}

struct ql_run *
ql_schedule_map(struct qlog_delay *delay, uint64_t position)
{
    uint32_t low = 0;
    uint32_t high = delay->run_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (delay->runs[middle]->base <= position)
            low = middle + 1;
        else
            high = middle;
    }
    const struct ql_segment *segment = ql_segment_set_find(&delay->log->segments, position);
    struct ql_run *run = low == 0 ? NULL : delay->runs[low - 1];
    if (run == NULL || segment == NULL || segment->base != run->base) {
        (void)Q_FAIL(Q_E_CORRUPT, .what = "a position in no segment with messages");
        return NULL;
    }
    if (run->map != NULL) return run;
    struct qlog_io *io = delay->home->env.io;
    int error = 0;
    const uint8_t *map = io->table->map(io, segment->file, segment->file_size, &error);
    if (map == NULL) {
        char path[QL_PATH_MAX];
        (void)Q_FAIL(
            q_err_from_errno(-error), .sys = -error, .what = "map a segment",
            .path = ql_segment_path(&delay->home->env, delay->log->name, segment->number, path));
        return NULL;
    }
    run->map = map;
    run->map_size = segment->file_size;
    return run;
}

void
ql_schedule_drop_first(struct qlog_delay *delay)
{
    struct ql_run *run = delay->runs[0];
    q_heap_remove(&delay->runs_due, &run->node);
    delay->log_bytes -= run->bytes;
    delay->entry_count -= run->count;
    delay->run_count--;
    memmove(delay->runs, delay->runs + 1, delay->run_count * sizeof(delay->runs[0]));
    if (delay->filed_below > 0) delay->filed_below--;
    ql_filing_forget(delay, run);
    ql_run_free(delay, run);
}

void
ql_schedule_free(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->run_count; i++) {
        q_heap_remove(&delay->runs_due, &delay->runs[i]->node);
        ql_run_free(delay, delay->runs[i]);
    }
    free(delay->runs);
    delay->runs = NULL;
    delay->run_count = 0;
    delay->run_capacity = 0;
    ql_run_free(delay, delay->spare_run);
    delay->spare_run = NULL;
    q_heap_fini(&delay->runs_due);
}

void
ql_delay_mark(
    struct qlog_delay *delay, const struct ql_delay_entry *entry, uint64_t sequence, uint32_t count)
{
    uint64_t share = ((uint64_t)entry->envelope_size + entry->payload_size) / entry->count;
    for (uint32_t i = 0; i < count; i++) {
        if (ql_marks_has(&delay->marks, sequence + i)) continue;
        ql_marks_set(&delay->marks, sequence + i);
        delay->live_bytes -= q_min_u64(delay->live_bytes, share);
        delay->counters.pending--;
    }
}

/* A spare run with room for `room` entries, and a place for it. */
static enum q_err
schedule_need_run(struct qlog_delay *delay, uint32_t room)
{
    if (delay->run_count == delay->run_capacity) {
        uint32_t capacity = delay->run_capacity == 0 ? 16 : delay->run_capacity * 2;
        struct ql_run **runs = realloc(delay->runs, capacity * sizeof(runs[0]));
        if (runs == NULL) return Q_FAIL(Q_E_NOMEM, .what = "runs of the schedule");
        delay->runs = runs;
        delay->run_capacity = capacity;
    }
    Q_TRY(q_heap_reserve(&delay->runs_due, delay->run_count + 1));
    if (delay->spare_run == NULL) Q_TRY(ql_run_new(&delay->spare_run));
    return ql_run_reserve(delay->spare_run, room);
}

/*
 * delay/schedule.c: which batch is due next.
 *
 * Runs, one for each segment, and a heap over their first waiting batches. What was passed over
 * because nobody would take it is not kept anywhere: its due time is, and the runs are gone through
 * again from there (ql_schedule_rewind). Marks tell what of it is still to be done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

enum {
    ENTRIES_FIRST = 64
};

static enum q_err schedule_need_run(struct qlog_delay *delay, uint32_t room);
static enum q_err run_reserve(struct ql_run *run, uint32_t count);
static enum q_err run_new(struct ql_run **ret_run);
static void run_free(struct qlog_delay *delay, struct ql_run *run);
static void run_push(struct ql_run *run, uint32_t index);
static void run_sift_down(struct ql_run *run, uint32_t at);
static struct ql_delay_entry *run_top(struct qlog_delay *delay, struct ql_run *run);
static void run_settle(struct qlog_delay *delay, struct ql_run *run);
static void run_arrive(struct qlog_delay *delay, struct ql_run *run, uint64_t durable);
static int compare_entries(const void *a, const void *b);

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
    if (delay->run_count > 0 && !delay->runs[delay->run_count - 1]->sorted)
        Q_TRY(run_reserve(delay->runs[delay->run_count - 1], room));
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

/* Everything in a segment before this one is durable: the log goes on to the next one only then. */
void
ql_schedule_add(struct qlog_delay *delay, uint64_t base, const struct ql_delay_entry *entry)
{
    struct ql_run *run = delay->run_count == 0 ? NULL : delay->runs[delay->run_count - 1];
    if (run == NULL || run->base != base) {
        Q_ASSERT(run == NULL || run->base < base);
        if (run != NULL && !run->sorted) ql_run_sort(delay, run);
        /* Only where what was promised at once fills a whole segment is there none. */
        if (schedule_need_run(delay, delay->promised_batches) != Q_OK) {
            ql_env_break(&delay->home->env, delay->log->name, delay->home->env.path, base, ENOMEM);
            return;
        }
        run = delay->spare_run;
        delay->spare_run = NULL;
        run->base = base;
        delay->runs[delay->run_count++] = run;
    }
    Q_ASSERT(run->count < run->capacity && delay->promised_batches > 0);
    if (run->count > 0 && entry->sequence < run->entries[run->count - 1].sequence)
        run->carries = true;
    run->entries[run->count++] = *entry;
    uint64_t bytes = (uint64_t)entry->envelope_size + entry->payload_size;
    run->bytes += bytes;
    delay->log_bytes += bytes;
    delay->entry_count++;
    delay->promised_batches--;
}

void
ql_schedule_arrive(struct qlog_delay *delay)
{
    if (delay->run_count == 0) return;
    struct ql_run *run = delay->runs[delay->run_count - 1];
    if (run->sorted || run->arrived == run->count) return;
    bool early = QL_PLANTED(delay_offered_early);
    run_arrive(delay, run, early ? UINT64_MAX : delay->log->durable);
}

static void
run_arrive(struct qlog_delay *delay, struct ql_run *run, uint64_t durable)
{
    while (run->arrived < run->count && run->base + run->entries[run->arrived].frame < durable)
        run_push(run, run->arrived++);
    run_settle(delay, run);
}

bool
ql_schedule_peek(
    struct qlog_delay *delay, struct ql_run **ret_run, struct ql_delay_entry **ret_entry)
{
    for (;;) {
        struct q_heap_node *node = q_heap_first(&delay->runs_due);
        if (node == NULL) return false;
        struct ql_run *run = q_container_of(node, struct ql_run, node);
        uint64_t key = node->key;
        /* What was at its top may have been marked since. */
        run_settle(delay, run);
        if (!q_heap_node_is_linked(node) || node->key != key) continue;
        *ret_run = run;
        *ret_entry = run_top(delay, run);
        return true;
    }
}

void
ql_schedule_pass(struct qlog_delay *delay, struct ql_run *run)
{
    if (run->sorted) {
        run->next++;
    } else {
        run->heap[0] = run->heap[--run->heap_count];
        run_sift_down(run, 0);
    }
    run_settle(delay, run);
}

void
ql_schedule_rewind(struct qlog_delay *delay, uint64_t due_ms)
{
    for (uint32_t i = 0; i < delay->run_count; i++) {
        struct ql_run *run = delay->runs[i];
        if (run->sorted) {
            uint32_t first = ql_run_lower_bound(run, due_ms, 0);
            run->next = (uint32_t)q_min_u64(run->next, first);
        } else {
            run->heap_count = 0;
            for (uint32_t j = 0; j < run->arrived; j++) {
                const struct ql_delay_entry *entry = &run->entries[j];
                if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count))
                    run_push(run, j);
            }
        }
        run_settle(delay, run);
    }
}

bool
ql_schedule_find(
    const struct qlog_delay *delay,
    uint64_t due_ms,
    uint64_t sequence,
    struct ql_run **ret_run,
    struct ql_delay_entry **ret_entry)
{
    /* The newest first: what was written again is at home there. */
    for (uint32_t i = delay->run_count; i > 0; i--) {
        struct ql_run *run = delay->runs[i - 1];
        uint32_t from = 0;
        uint32_t to = run->arrived;
        if (run->sorted) {
            to =
                sequence == UINT64_MAX ? run->count : ql_run_lower_bound(run, due_ms, sequence + 1);
            from = to == 0 ? 0 : to - 1;
        } else if (!run->carries) {
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
            struct ql_delay_entry *entry = &run->entries[j];
            if (entry->due_ms != due_ms || sequence < entry->sequence) continue;
            if (sequence - entry->sequence >= entry->count) continue;
            *ret_run = run;
            *ret_entry = entry;
            return true;
        }
    }
    return false;
}

bool
ql_schedule_is_new(const struct qlog_delay *delay, uint64_t sequence)
{
    const struct ql_run *run = delay->run_count == 0 ? NULL : delay->runs[delay->run_count - 1];
    if (run == NULL || run->sorted) return false;
    for (uint32_t i = run->arrived; i < run->count; i++) {
        const struct ql_delay_entry *entry = &run->entries[i];
        if (sequence == UINT64_MAX) return true;
        if (sequence >= entry->sequence && sequence - entry->sequence < entry->count) return true;
    }
    return false;
}

uint32_t
ql_run_lower_bound(const struct ql_run *run, uint64_t due_ms, uint64_t sequence)
{
    uint32_t low = 0;
    uint32_t high = run->count;
    if (QL_PLANTED(schedule_edge)) due_ms++;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ql_delay_entry *entry = &run->entries[middle];
        bool below =
            entry->due_ms < due_ms || (entry->due_ms == due_ms && entry->sequence < sequence);
        if (below)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
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
ql_run_sort(struct qlog_delay *delay, struct ql_run *run)
{
    if (run->sorted) return;
    qsort(run->entries, run->count, sizeof(run->entries[0]), compare_entries);
    run->arrived = run->count;
    run->sorted = true;
    free(run->heap);
    run->heap = NULL;
    run->heap_count = 0;
    run_settle(delay, run);
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
    run_free(delay, run);
}

void
ql_schedule_free(struct qlog_delay *delay)
{
    for (uint32_t i = 0; i < delay->run_count; i++) {
        q_heap_remove(&delay->runs_due, &delay->runs[i]->node);
        run_free(delay, delay->runs[i]);
    }
    free(delay->runs);
    delay->runs = NULL;
    delay->run_count = 0;
    delay->run_capacity = 0;
    run_free(delay, delay->spare_run);
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
    if (delay->spare_run == NULL) Q_TRY(run_new(&delay->spare_run));
    return run_reserve(delay->spare_run, room);
}

static enum q_err
run_new(struct ql_run **ret_run)
{
    struct ql_run *run = calloc(1, sizeof(*run));
    if (run == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a run of the schedule");
    q_heap_node_init(&run->node);
    *ret_run = run;
    return Q_OK;
}

static void
run_free(struct qlog_delay *delay, struct ql_run *run)
{
    if (run == NULL) return;
    struct qlog_io *io = delay->home->env.io;
    if (run->map != NULL) io->table->unmap(io, run->map, run->map_size);
    free(run->entries);
    free(run->heap);
    free(run);
}

/* Room for `count` entries more. */
static enum q_err
run_reserve(struct ql_run *run, uint32_t count)
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

/* --- The heap of a run that is not sorted yet. */

static bool
is_before(const struct ql_run *run, uint32_t a, uint32_t b)
{
    const struct ql_delay_entry *left = &run->entries[a];
    const struct ql_delay_entry *right = &run->entries[b];
    if (left->due_ms != right->due_ms) return left->due_ms < right->due_ms;
    return left->sequence < right->sequence;
}

static void
run_push(struct ql_run *run, uint32_t index)
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

/* The first batch with messages that wait; NULL: none. What is done is passed over for good. */
static struct ql_delay_entry *
run_top(struct qlog_delay *delay, struct ql_run *run)
{
    for (;;) {
        bool empty = run->sorted ? run->next == run->count : run->heap_count == 0;
        if (empty) return NULL;
        struct ql_delay_entry *entry = &run->entries[run->sorted ? run->next : run->heap[0]];
        if (!ql_marks_has_all(&delay->marks, entry->sequence, entry->count)) return entry;
        if (run->sorted) {
            run->next++;
        } else {
            run->heap[0] = run->heap[--run->heap_count];
            run_sift_down(run, 0);
        }
    }
}

/* Its place among the runs. */
static void
run_settle(struct qlog_delay *delay, struct ql_run *run)
{
    const struct ql_delay_entry *top = run_top(delay, run);
    bool linked = q_heap_node_is_linked(&run->node);
    if (top != NULL && linked && run->node.key == top->due_ms) return;
    q_heap_remove(&delay->runs_due, &run->node);
    if (top == NULL) return;
    /* The heap has had room for all runs since they were promised. */
    enum q_err err = q_heap_push(&delay->runs_due, &run->node, top->due_ms);
    Q_ASSERT(err == Q_OK);
}

static int
compare_entries(const void *a, const void *b)
{
    const struct ql_delay_entry *left = a;
    const struct ql_delay_entry *right = b;
    if (left->due_ms != right->due_ms) return left->due_ms < right->due_ms ? -1 : 1;
    if (left->sequence != right->sequence) return left->sequence < right->sequence ? -1 : 1;
    return 0;
}

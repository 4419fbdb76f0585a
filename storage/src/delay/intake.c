#include "delay/intake.h"

#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "log/index_scan.h"
#include "planted.h"

enum {
    KEEP_DEFAULT_H = 24,
    /* A round says them all in a few files of the dispatch log: 34 MiB at most. */
    PRODUCERS_DEFAULT = 16384,
    STRETCH_BYTES_MAX = 32 * 1024 * 1024, /* of the delay log, that a start may have to read */
    STRETCHES_OF_SEGMENT = 4,
    SLICE_BYTES = 64 * 1024,
    SLICE_PRODUCERS = 4096,
    QUEUE_BYTES_MAX = 256 * 1024, /* in the dispatch log's queue: then it waits */
};

/* A publish with a number, between submit and done: in its private words. */
struct state {
    struct ql_append append; /* of a repeat: waits for the frame of the first one */
    struct qlog_delay *delay;
    struct ql_producer *producer;
    struct ql_waiting waiting;
    uint64_t first_sequence; /* of a repeat */
};

_Static_assert(
    sizeof(struct state) <= sizeof(struct qlog_publish_private), "private words are too few");

static enum q_err intake_go(
    struct qlog_delay *delay,
    struct qlog_delay_publish *publish,
    const struct ql_request_name *name);
static void intake_go_on(struct qlog_delay *delay, struct ql_producer *producer);
static void repeat_await(struct qlog_delay_publish *publish, const struct ql_result *first);
static void repeat_done(struct ql_append *append, enum q_err err);
static enum q_err state_producer(struct qlog_delay *delay, const struct ql_producer *producer);
static enum q_err replay_frame(void *context, const struct ql_scan *scan);
static void replay_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);

static const struct ql_append_table repeat_table = { .done = repeat_done };

static struct state *
state_of(struct qlog_delay_publish *publish)
{
    return (struct state *)(void *)&publish->publish.private_;
}

static struct qlog_delay_publish *
publish_of(struct state *state)
{
    struct qlog_publish *publish = q_container_of(state, struct qlog_publish, private_);
    return q_container_of(publish, struct qlog_delay_publish, publish);
}

static struct qlog_delay_publish *
publish_of_waiting(struct ql_waiting *waiting)
{
    return publish_of(q_container_of(waiting, struct state, waiting));
}

void
ql_intake_init(struct qlog_delay *delay)
{
    const struct qlog_delay_options *options = &delay->options;
    uint32_t max = options->producers_max == 0 ? PRODUCERS_DEFAULT : options->producers_max;
    uint64_t keep_ms = options->producer_keep_ms == 0 ? KEEP_DEFAULT_H * 3600ull * Q_MS_PER_S
                                                      : options->producer_keep_ms;
    ql_producers_init(&delay->intake.producers, max, keep_ms);
}

void
ql_intake_fini(struct qlog_delay *delay)
{
    ql_producers_fini(&delay->intake.producers);
}

/* --- What is to be done with a publish. */

enum q_err
ql_intake_start(struct qlog_delay *delay, struct qlog_delay_publish *publish)
{
    const struct qlog_publish *what = &publish->publish;
    struct ql_request_name name = {
        .sequence = what->sequence,
        .settled = q_min_u64(what->settled, what->sequence),
        .digest = what->digest,
        .batch_count = what->batch_count,
        .again = what->again,
    };
    memcpy(name.producer, what->producer, sizeof(name.producer));
    struct state *state = state_of(publish);
    struct ql_result first;
    enum ql_request_verdict verdict;
    memset(state, 0, sizeof(*state));
    state->delay = delay;
    Q_TRY(ql_producers_judge(
        &delay->intake.producers, &name, q_clock_wall_ms(delay->clock), &verdict, &state->producer,
        &first));
    struct ql_producer *producer = state->producer;
    bool known = verdict == QL_REQUEST_QUEUED || verdict == QL_REQUEST_STORED;
    if (known && QL_PLANTED(intake_stored_again)) {
        state->producer = NULL;
        return ql_delay_publish_append(delay, publish);
    }
    switch (verdict) {
    case QL_REQUEST_DUE:
        Q_TRY(intake_go(delay, publish, &name));
        break;
    case QL_REQUEST_EARLY:
        ql_producer_hold(
            &delay->intake.producers, producer, &state->waiting, name.sequence, delay->now_ns);
        break;
    case QL_REQUEST_QUEUED:
        ql_producer_follow(producer, &state->waiting, name.sequence);
        break;
    case QL_REQUEST_STORED:
        repeat_await(publish, &first);
        break;
    }
    intake_go_on(delay, producer);
    return Q_OK;
}

/* Q_OK: it is in the log's queue, and its number is taken. */
static enum q_err
intake_go(
    struct qlog_delay *delay,
    struct qlog_delay_publish *publish,
    const struct ql_request_name *name)
{
    struct ql_producer *producer = state_of(publish)->producer;
    /* Behind one that is refused, and not told yet, none of its producer may follow. */
    Q_TRY(ql_log_refuses(delay->log));
    Q_TRY(ql_producer_take(producer, name));
    enum q_err err = ql_delay_publish_append(delay, publish);
    if (err != Q_OK) ql_producer_untake(producer, name->sequence);
    return err;
}

/* Those that were held for the one that came. They are judged again: each may be due, or a repeat. */
static void
intake_go_on(struct qlog_delay *delay, struct ql_producer *producer)
{
    if (delay->intake.going_on) return;
    delay->intake.going_on = true;
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_ready(producer)) != NULL) {
        struct qlog_delay_publish *publish = publish_of_waiting(waiting);
        enum q_err err = ql_intake_start(delay, publish);
        if (err != Q_OK) ql_delay_finish(&publish->request, err);
    }
    delay->intake.going_on = false;
}

void
ql_intake_placed(struct qlog_delay_publish *publish, uint64_t frame, uint64_t sequence)
{
    struct ql_producer *producer = state_of(publish)->producer;
    uint64_t request = publish->publish.sequence;
    struct ql_result place = {
        .frame = frame,
        .from = (uint32_t)sequence,
        .to = (uint32_t)(sequence >> 32),
    };
    if (request == 0 || producer == NULL) return;
    ql_producer_place(producer, request, &place);
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_follower(producer, request)) != NULL)
        repeat_await(publish_of_waiting(waiting), &place);
}

void
ql_intake_refused(struct qlog_delay_publish *publish, enum q_err err)
{
    struct ql_producer *producer = state_of(publish)->producer;
    uint64_t request = publish->publish.sequence;
    if (request == 0 || producer == NULL) return;
    struct q_fault fault = *q_fault_last();
    ql_producer_untake(producer, request);
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_follower(producer, request)) != NULL) {
        q_fault_adopt(&fault);
        ql_delay_finish(&publish_of_waiting(waiting)->request, err);
    }
    q_fault_adopt(&fault);
}

/* The answer comes when the first one has what this one asks for. */
static void
repeat_await(struct qlog_delay_publish *publish, const struct ql_result *first)
{
    struct state *state = state_of(publish);
    state->first_sequence = ql_result_sequence(first->from, first->to);
    state->append.table = &repeat_table;
    state->append.flushed = publish->publish.achieved == QLOG_MODE_SYNC;
    ql_log_await(state->delay->log, &state->append, first->frame);
}

/* Its envelopes say the rest: they are the same. */
static void
repeat_done(struct ql_append *append, enum q_err err)
{
    struct state *state = q_container_of(append, struct state, append);
    struct qlog_delay_publish *publish = publish_of(state);
    struct qlog_publish *what = &publish->publish;
    const uint8_t *at = what->envelopes;
    uint64_t sequence = state->first_sequence;
    for (uint32_t i = 0; i < what->batch_count; i++) {
        what->ret_first_sequences[i] = sequence;
        sequence += q_load_le32(at + QBATCH_MESSAGE_COUNT);
        at += q_load_le32(at + QBATCH_ENVELOPE_LENGTH);
    }
    what->duplicate = true;
    state->delay->counters.duplicates++;
    ql_delay_finish(&publish->request, err);
}

void
ql_intake_expire(struct qlog_delay *delay)
{
    struct ql_producers *producers = &delay->intake.producers;
    struct ql_waiting *waiting;
    while ((waiting = ql_producers_late(producers, delay->now_ns)) != NULL) {
        struct qlog_delay_publish *publish = publish_of_waiting(waiting);
        enum q_err err = Q_FAIL(
            Q_OUT_OF_SEQUENCE, .what = q_text(
                                   "request %llu was held for %d s, and %llu did not come",
                                   (unsigned long long)publish->publish.sequence, QL_EARLY_S,
                                   (unsigned long long)state_of(publish)->producer->next));
        ql_delay_finish(&publish->request, err);
    }
    ql_producers_expire(producers, q_clock_wall_ms(delay->clock));
}

void
ql_intake_end(struct qlog_delay *delay)
{
    struct ql_waiting *waiting;
    while ((waiting = ql_producers_late(&delay->intake.producers, UINT64_MAX)) != NULL) {
        enum q_err err = ql_env_check(&delay->home->env);
        if (err == Q_OK) err = Q_FAIL(Q_STOPPING, .what = "the delay store is being closed");
        ql_delay_finish(&publish_of_waiting(waiting)->request, err);
    }
}

/* --- Rounds. */

bool
ql_intake_round_is_due(const struct qlog_delay *delay)
{
    const struct ql_log *log = delay->log;
    uint64_t stretch = q_min_u64(STRETCH_BYTES_MAX, log->segment_bytes / STRETCHES_OF_SEGMENT);
    /* What is said is not to be more than what was. */
    stretch += 2 * delay->round_size;
    return log->durable >= stretch && log->durable - stretch >= delay->home->super.producers;
}

void
ql_intake_round_begin(struct qlog_delay *delay)
{
    delay->intake.round_from = delay->log->durable;
    delay->intake.round_next = 0;
}

bool
ql_intake_round_say(struct qlog_delay *delay)
{
    struct ql_intake *intake = &delay->intake;
    const struct ql_producers *table = &intake->producers;
    uint64_t before = delay->round_size;
    if (QL_PLANTED(intake_unstated)) return true;
    for (uint32_t visits = 0; intake->round_next < table->count; intake->round_next++) {
        if (delay->dispatch->queued_bytes >= QUEUE_BYTES_MAX) return false;
        bool enough = delay->round_size - before >= SLICE_BYTES || visits++ >= SLICE_PRODUCERS;
        delay->again |= enough;
        if (enough) return false;
        const struct ql_producer *producer = table->producers[intake->round_next];
        /* No memory: it is tried again in a later turn. */
        if (producer != NULL && state_producer(delay, producer) != Q_OK) return false;
    }
    return true;
}

static enum q_err
state_producer(struct qlog_delay *delay, const struct ql_producer *producer)
{
    struct ql_producer_record record;
    struct ql_producer_result results[QL_PRODUCER_RESULTS_MAX];
    struct ql_note *note;
    if (!ql_producer_state(producer, delay->intake.round_from, &record, results)) return Q_OK;
    Q_TRY(ql_note_new(delay, ql_producer_record_size(record.result_count), &note));
    ql_producer_record_encode(&record, results, note->record);
    note->of_round = true;
    delay->round_size += note->size;
    ql_note_append(note, false);
    return Q_OK;
}

void
ql_intake_round_end(struct qlog_delay *delay)
{
    /* 0 says that nobody knew of requests. */
    delay->home->super.producers = q_max_u64(delay->intake.round_from, 1);
}

/* --- A start. */

static uint64_t
stated_below(const struct qlog_delay *delay)
{
    uint64_t position = delay->home->super.producers;
    return position <= 1 ? 0 : position;
}

enum q_err
ql_intake_replay_statement(struct qlog_delay *delay, const struct ql_producer_record *record)
{
    struct ql_intake *intake = &delay->intake;
    for (uint32_t i = 0; i < record->result_count; i++) {
        struct ql_producer_result stated = ql_producer_result_at(record, i);
        struct ql_result result = {
            .frame = stated.frame,
            .from = stated.from,
            .to = stated.to,
            .digest = stated.digest,
            .batch_count = stated.batch_count,
        };
        uint64_t sequence = ql_result_sequence(stated.from, stated.to);
        if (sequence >= UINT64_MAX / 2)
            return Q_FAIL(Q_E_CORRUPT, .what = "a request with an impossible delay sequence");
        Q_TRY(ql_producers_apply(
            &intake->producers, record->id, stated.sequence, &result, record->seen_ms));
        if (stated.frame < stated_below(delay))
            intake->next_sequence = q_max_u64(intake->next_sequence, sequence + 1);
    }
    return Q_OK;
}

void
ql_intake_replay_begin(struct qlog_delay *delay)
{
    struct ql_intake *intake = &delay->intake;
    if (!delay->home->super_found) delay->home->super.producers = 1;
    intake->from = delay->home->super.producers == 0 ? UINT64_MAX : stated_below(delay);
    if (!delay->damaged) return;
    /* Statements may be missing. */
    intake->from = 0;
    intake->next_sequence = 0;
}

enum q_err
ql_intake_replay_range(struct qlog_delay *delay, uint64_t base, uint64_t end)
{
    uint64_t from = q_max_u64(base, delay->intake.from);
    if (from >= end || QL_PLANTED(intake_unread)) return Q_OK;
    struct ql_recover range;
    ql_index_range_init(
        &delay->home->env, delay->log->name, &delay->log->segments, from, end, &range);
    range.context = delay;
    range.whole = true;
    range.on_frame = replay_frame;
    range.on_rot = replay_rot;
    return ql_recover(&range);
}

static enum q_err
replay_frame(void *context, const struct ql_scan *scan)
{
    struct qlog_delay *delay = context;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct qbatch batch;
        struct ql_entry where;
        if (record.kind == QL_RECORD_REPLACES) delay->intake.moved = true;
        if (record.kind != QL_RECORD_BATCH) continue;
        Q_TRY(ql_entry_of_record(scan, &record, &batch, &where));
        Q_TRY(ql_intake_replay_batch(delay, &batch, &where));
    }
    return Q_OK;
}

/* It was told. Requests in there are not known any more. */
static void
replay_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    (void)context;
    (void)from;
    (void)to;
    (void)state;
}

enum q_err
ql_intake_replay_batch(
    struct qlog_delay *delay, const struct qbatch *batch, const struct ql_entry *where)
{
    struct ql_intake *intake = &delay->intake;
    bool moved = intake->moved;
    bool again = batch->first_sequence < intake->next_sequence;
    bool stated = where->frame < intake->from;
    intake->moved = false;
    if (!again) intake->next_sequence = batch->first_sequence + batch->message_count;
    if (moved || again || stated || batch->request_sequence == 0) return Q_OK;
    if (batch->request_index == 0) {
        intake->index = 0;
        intake->digest = 0;
        intake->first_sequence = batch->first_sequence;
    }
    if (batch->request_index != intake->index) return Q_OK;
    intake->digest = ql_request_digest(intake->digest, batch->envelope);
    if (++intake->index < batch->request_count) return Q_OK;
    struct ql_result result = {
        .frame = where->frame,
        .from = (uint32_t)intake->first_sequence,
        .to = (uint32_t)(intake->first_sequence >> 32),
        .digest = intake->digest,
        .batch_count = batch->request_count,
    };
    return ql_producers_apply(
        &intake->producers, batch->producer_id, batch->request_sequence, &result,
        batch->store_time_ms);
}

void
ql_intake_replay_tail(struct qlog_delay *delay, uint64_t end)
{
    if (delay->intake.from == UINT64_MAX) delay->intake.from = end;
}

void
ql_intake_replay_end(struct qlog_delay *delay, uint64_t end)
{
    ql_producers_cut(&delay->intake.producers, end);
}

/*
 * kill_store_work.c: the child: it publishes, pulls and acknowledges until it is killed.
 */
#include <qbatch/build.h>

#include "kill_store.h"

struct slot {
    struct qlog_publish publish;
    struct worker *worker;
    uint32_t number;
    bool again;   /* it is stored, and sent once more */
    bool earlier; /* by a life before this one */
    uint64_t first_sequences[BATCHES_MAX];
    struct q_bytes subjects[BATCHES_MAX];
    uint8_t envelopes[PUBLISH_BYTES_MAX];
    uint8_t payloads[PUBLISH_BYTES_MAX];
};

/* Joins, then pulls and acknowledges for ever, one request at a time. */
struct reader {
    struct worker *worker;
    uint32_t subject;
    enum {
        READER_JOIN,
        READER_PULL,
        READER_ACK
    } next;
    bool busy;
    struct qlog_join join;
    struct qlog_pull pull;
    struct qlog_ack ack;
    struct qlog_run runs[RUNS_MAX];
    struct qlog_piece pieces[PIECES_MAX];
    struct qlog_range ranges[RUNS_MAX];   /* to acknowledge, pull sequences */
    struct qlog_range messages[RUNS_MAX]; /* the same, sequences */
    uint32_t range_count;
};

struct worker {
    struct history *history;
    struct ledger *ledger;
    struct qlog_store *store;
    struct qbatch_builder *builder;
    struct random_source random;
    struct slot slots[UNDER_WAY_MAX];
    struct slot *free[UNDER_WAY_MAX];
    uint32_t free_count;
    struct reader readers[SUBJECTS];
    uint64_t answers; /* rises with every `done` */
};

static void worker_start(struct worker *worker, struct history *history);
static void worker_publish(struct worker *worker);
static void worker_repeat_earlier(struct worker *worker);
static struct qbatch_builder *builder_of(struct history *history, uint32_t life);
static void slot_prepare(struct slot *slot, uint32_t life);
static void slot_fill(struct slot *slot, const struct shape *shape);
static void slot_repeat(struct slot *slot);
static void slot_check_repeat(const struct slot *slot);
static void on_published(struct qlog_request *request, enum q_err err);
static void reader_go_on(struct reader *reader);
static void on_joined(struct qlog_request *request, enum q_err err);
static void on_pulled(struct qlog_request *request, enum q_err err);
static void on_acked(struct qlog_request *request, enum q_err err);
static void mark(struct reader *reader, unsigned char what);

void
store_work(struct history *history)
{
    static struct worker worker;
    worker_start(&worker, history);
    struct random_source *random = &worker.random;
    for (;;) {
        uint64_t before = worker.answers;
        while (worker.free_count > 0 && random_below(random, 4) != 0 &&
               atomic_load(&worker.ledger->submitted) < PUBLISHES_MAX)
            worker_publish(&worker);
        for (uint32_t i = 0; i < SUBJECTS; i++)
            if (!worker.readers[i].busy) reader_go_on(&worker.readers[i]);
        enum q_err err = qlog_store_turn(worker.store);
        if (err == Q_OK && worker.answers == before)
            err = qlog_store_wait(worker.store, random_below(random, 2 * Q_NS_PER_MS));
        if (err != Q_OK) child_failed(history, "turn");
    }
}

static void
worker_start(struct worker *worker, struct history *history)
{
    worker->history = history;
    worker->ledger = history->ledger;
    worker->random = (struct random_source){ .state = history->seed ^ history->life };
    uint32_t under_way = 1 + random_below(&worker->random, UNDER_WAY_MAX);
    while (worker->free_count < under_way) {
        struct slot *slot = &worker->slots[worker->free_count];
        slot->worker = worker;
        worker->free[worker->free_count++] = slot;
    }
    for (uint32_t i = 0; i < SUBJECTS; i++) {
        worker->readers[i].worker = worker;
        worker->readers[i].subject = i;
    }
    worker->builder = builder_of(history, history->life);
    if (open_store(history, history_io(history), &worker->store) != Q_OK)
        child_failed(history, "open in the child");
    worker_repeat_earlier(worker);
}

/* Each life is a producer of its own. */
static struct qbatch_builder *
builder_of(struct history *history, uint32_t life)
{
    struct qbatch_builder_options options = { .compress = history->seed % 2 == 0 };
    q_store_le64(options.producer_id, history->seed);
    q_store_le64(options.producer_id + 8, life);
    struct qbatch_builder *builder;
    if (qbatch_builder_new(&options, &builder) != Q_OK) child_failed(history, "builder");
    return builder;
}

/* The last publish that was found of an earlier life is known, whatever has happened since. */
static void
worker_repeat_earlier(struct worker *worker)
{
    struct ledger *ledger = worker->ledger;
    if (ledger->kept == 0) return;
    struct slot *slot = worker->free[--worker->free_count];
    uint32_t life = ledger->kept_life[ledger->kept - 1];
    slot->number = ledger->kept_number[ledger->kept - 1];
    slot->earlier = true;
    struct qbatch_builder *own = worker->builder;
    worker->builder = builder_of(worker->history, life);
    slot_prepare(slot, life);
    slot_repeat(slot);
    qbatch_builder_free(worker->builder);
    worker->builder = own;
}

static void
worker_publish(struct worker *worker)
{
    struct slot *slot = worker->free[--worker->free_count];
    slot->number = atomic_load(&worker->ledger->submitted);
    slot->earlier = false;
    slot_prepare(slot, worker->history->life);
    slot->publish.ret_first_sequences = worker->ledger->first_sequences[slot->number];
    atomic_store(&worker->ledger->submitted, slot->number + 1);
    if (qlog_store_submit(worker->store, &slot->publish.request) != Q_OK)
        child_failed(worker->history, "submit");
}

static void
slot_prepare(struct slot *slot, uint32_t life)
{
    struct worker *worker = slot->worker;
    struct shape shape = shape_of(worker->history, life, slot->number);
    slot->again = false;
    slot->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = on_published, .context = slot },
        .envelopes = slot->envelopes,
        .payloads = slot->payloads,
        .subjects = slot->subjects,
        .batch_count = shape.batch_count,
        .mode = (enum qlog_mode)random_below(&worker->random, QLOG_MODE_SYNC + 1),
        .settled = slot->number + 1,
    };
    slot_fill(slot, &shape);
    if (qlog_publish_check(&slot->publish) != Q_OK) child_failed(worker->history, "check");
}

static void
slot_fill(struct slot *slot, const struct shape *shape)
{
    struct worker *worker = slot->worker;
    struct qlog_publish *publish = &slot->publish;
    for (uint32_t i = 0; i < shape->batch_count; i++) {
        slot->subjects[i] = q_bytes_from_text(subject_names[shape->subjects[i]]);
        for (uint32_t j = 0; j < shape->message_counts[i]; j++) {
            uint8_t body[BODY_MAX + sizeof(uint64_t)];
            uint64_t key = message_key(shape, i, j);
            struct qbatch_message message = { .body = { body, message_size(key) }, .counter = j };
            fill_bytes(body, message.body.size, key);
            if (qbatch_builder_add(worker->builder, &message) != Q_OK)
                child_failed(worker->history, "build");
        }
        uint32_t envelope_size;
        uint32_t payload_size;
        if (qbatch_builder_close(worker->builder, &envelope_size, &payload_size) != Q_OK)
            child_failed(worker->history, "build");
        Q_ASSERT(publish->envelopes_size + envelope_size <= PUBLISH_BYTES_MAX);
        Q_ASSERT(publish->payloads_size + payload_size <= PUBLISH_BYTES_MAX);
        struct qbatch_request_place place = {
            .request_sequence = slot->number + 1,
            .request_index = i,
            .request_count = shape->batch_count,
        };
        qbatch_builder_write(
            worker->builder, &place, slot->envelopes + publish->envelopes_size,
            slot->payloads + publish->payloads_size);
        qbatch_builder_reset(worker->builder);
        publish->envelopes_size += envelope_size;
        publish->payloads_size += payload_size;
    }
}

static void
on_published(struct qlog_request *request, enum q_err err)
{
    struct slot *slot = request->context;
    struct worker *worker = slot->worker;
    if (err != Q_OK) child_failed(worker->history, "publish");
    if (slot->again) slot_check_repeat(slot);
    if (!slot->earlier) atomic_store(&worker->ledger->acknowledged[slot->number], 1);
    worker->answers++;
    if (!slot->again && random_below(&worker->random, 4) == 0) {
        slot_repeat(slot);
        return;
    }
    worker->free[worker->free_count++] = slot;
}

/* The same bytes, but for the prefix, which is the store's. */
static void
slot_repeat(struct slot *slot)
{
    struct worker *worker = slot->worker;
    slot->again = true;
    slot->publish.again = true;
    slot->publish.ret_first_sequences = slot->first_sequences;
    atomic_fetch_add(&worker->ledger->repeated, 1);
    if (qlog_store_submit(worker->store, &slot->publish.request) != Q_OK)
        child_failed(worker->history, "submit");
}

static void
slot_check_repeat(const struct slot *slot)
{
    struct worker *worker = slot->worker;
    if (!slot->publish.duplicate) child_failed(worker->history, "a repeat that was stored again");
    for (uint32_t i = 0; i < slot->publish.batch_count && !slot->earlier; i++)
        if (slot->first_sequences[i] != worker->ledger->first_sequences[slot->number][i])
            child_failed(worker->history, "a repeat with another sequence");
}

static void
reader_go_on(struct reader *reader)
{
    struct worker *worker = reader->worker;
    struct qlog_request *request = NULL;
    switch (reader->next) {
    case READER_JOIN:
        reader->join = (struct qlog_join){
            .request = { .kind = QLOG_JOIN, .done = on_joined, .context = reader },
            .who = consumer_of(reader->subject, "g", 0),
        };
        q_store_le64(reader->join.token, random_u64(&worker->random));
        request = &reader->join.request;
        break;
    case READER_PULL:
        reader->pull = (struct qlog_pull){
            .request = { .kind = QLOG_PULL, .done = on_pulled, .context = reader },
            .who = consumer_of(reader->subject, "g", reader->join.session),
            .messages_max = 1 + random_below(&worker->random, 100),
            .bytes_max = 1 + random_below(&worker->random, 64 * 1024),
            .wait_ns = random_below(&worker->random, 3) * (uint64_t)Q_NS_PER_MS,
            .received = reader->pull.received,
            .runs = reader->runs,
            .runs_max = RUNS_MAX,
            .pieces = reader->pieces,
            .pieces_max = PIECES_MAX,
        };
        request = &reader->pull.request;
        break;
    case READER_ACK:
        reader->ack = (struct qlog_ack){
            .request = { .kind = QLOG_ACK, .done = on_acked, .context = reader },
            .who = consumer_of(reader->subject, "g", reader->join.session),
            .ranges = reader->ranges,
            .range_count = reader->range_count,
        };
        mark(reader, ACK_ASKED);
        request = &reader->ack.request;
        break;
    }
    reader->busy = true;
    if (qlog_store_submit(worker->store, request) != Q_OK)
        child_failed(worker->history, "submit of a consumer");
}

static void
on_joined(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    if (err != Q_OK) child_failed(reader->worker->history, "join");
    reader->busy = false;
    reader->next = READER_PULL;
    reader->worker->answers++;
}

static void
on_pulled(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    struct worker *worker = reader->worker;
    if (err != Q_OK) child_failed(worker->history, "pull");
    reader->range_count = 0;
    for (uint32_t i = 0; i < reader->pull.run_count; i++) {
        const struct qlog_run *run = &reader->runs[i];
        reader->pull.received = q_max_u64(reader->pull.received, run->pull_sequence + run->count);
        /* Some are never acknowledged, and must come again in the next life. */
        uint32_t count = random_below(&worker->random, 8) == 0
                             ? random_below(&worker->random, run->count)
                             : run->count;
        if (count == 0) continue;
        reader->ranges[reader->range_count] =
            (struct qlog_range){ run->pull_sequence, run->pull_sequence + count - 1 };
        reader->messages[reader->range_count++] =
            (struct qlog_range){ run->sequence, run->sequence + count - 1 };
    }
    qlog_pull_release(&reader->pull);
    reader->busy = false;
    reader->next = reader->range_count > 0 ? READER_ACK : READER_PULL;
    worker->answers++;
}

static void
on_acked(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    if (err != Q_OK || reader->ack.expired_count > 0) child_failed(reader->worker->history, "ack");
    mark(reader, ACK_DONE);
    reader->busy = false;
    reader->next = READER_PULL;
    reader->worker->answers++;
}

static void
mark(struct reader *reader, unsigned char what)
{
    for (uint32_t i = 0; i < reader->range_count; i++)
        for (uint64_t at = reader->messages[i].first; at <= reader->messages[i].last; at++)
            atomic_store(&reader->worker->ledger->acks[reader->subject][at], what);
}

/*
 * kill_store.c: a store under kill -9: publishes on two subjects, pulls and acknowledgements.
 *
 * Publish n of a life has a key made of the history, the life and n; the key tells its batches, their
 * subjects and their messages. Read back through a group of its own, a subject must hold, densely
 * numbered from 0, its part of all publishes that earlier lives were found with, then of the first
 * publishes of this life, each whole or not at all, and at least those that were acknowledged.
 *
 * The group that the child consumes with must be given every message that was not acknowledged to
 * it, and none that was.
 */
#include <stdatomic.h>
#include <string.h>

#include <qbatch/batch.h>
#include <qbatch/build.h>
#include <qlog/store.h>

#include "kill.h"

enum {
    SUBJECTS = 2,
    PUBLISHES_MAX = 3000, /* of a life */
    KEPT_MAX = 8 * PUBLISHES_MAX,
    BATCHES_MAX = 3,
    MESSAGES_MAX = 5, /* of a batch */
    BODY_MAX = 1500,
    SEQUENCES_MAX = KEPT_MAX * BATCHES_MAX * MESSAGES_MAX,
    UNDER_WAY_MAX = 32,
    RUNS_MAX = 16,
    PIECES_MAX = 64,
    PUBLISH_BYTES_MAX = 64 * 1024,
};

enum {
    ACK_NONE,
    ACK_ASKED,
    ACK_DONE
};

static const char *const subject_names[SUBJECTS] = { "left", "right" };

struct ledger {
    /* Of this life; written by the child. */
    atomic_uint submitted;
    atomic_uchar acknowledged[PUBLISHES_MAX];
    uint64_t first_sequences[PUBLISHES_MAX][BATCHES_MAX];
    /* Of all lives: what became of each message in the child's group. */
    atomic_uchar acks[SUBJECTS][SEQUENCES_MAX];
    /* Of the lives before; the parent's. */
    uint32_t kept;
    uint8_t kept_life[KEPT_MAX];
    uint32_t kept_number[KEPT_MAX];
};

struct shape {
    uint64_t key;
    uint32_t batch_count;
    uint32_t subjects[BATCHES_MAX];
    uint32_t message_counts[BATCHES_MAX];
};

static struct shape
shape_of(const struct history *history, uint32_t life, uint32_t number)
{
    struct random_source random = { .state = history->seed + ((uint64_t)life << 32) + number };
    struct shape shape = {
        .key = random_u64(&random),
        .batch_count = 1 + random_below(&random, BATCHES_MAX),
    };
    for (uint32_t i = 0; i < shape.batch_count; i++) {
        shape.subjects[i] = random_below(&random, SUBJECTS);
        shape.message_counts[i] = 1 + random_below(&random, MESSAGES_MAX);
    }
    return shape;
}

static uint64_t
message_key(const struct shape *shape, uint32_t batch, uint32_t message)
{
    struct random_source random = { .state = shape->key + batch * MESSAGES_MAX + message };
    return random_u64(&random);
}

static size_t
message_size(uint64_t key)
{
    struct random_source random = { .state = key };
    uint32_t end = random_below(&random, 8) == 0 ? BODY_MAX : 200;
    return sizeof(key) + random_below(&random, end);
}

static struct qlog_consumer
consumer_of(uint32_t subject, const char *group, uint64_t session)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(subject_names[subject]),
        .group = q_bytes_from_text(group),
        .consumer = q_bytes_from_text("c"),
        .session = session,
    };
}

static enum q_err
open_store(const struct history *history, struct qlog_io *io, struct qlog_store **ret_store)
{
    struct qlog_store_options options = {
        .log = history->options,
        .window_messages_max = SEQUENCES_MAX,
        .window_bytes_max = UINT64_MAX,
    };
    options.log.io = io;
    return qlog_store_open(history->directory, &options, ret_store);
}

/* --- The child. */

struct slot {
    struct qlog_publish publish;
    struct worker *worker;
    uint32_t number;
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
static void slot_fill(struct slot *slot, const struct shape *shape);
static void on_published(struct qlog_request *request, enum q_err err);
static void reader_go_on(struct reader *reader);
static void on_joined(struct qlog_request *request, enum q_err err);
static void on_pulled(struct qlog_request *request, enum q_err err);
static void on_acked(struct qlog_request *request, enum q_err err);
static void mark(struct reader *reader, unsigned char what);

static void
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
    struct qbatch_builder_options options = { .compress = history->seed % 2 == 0 };
    if (qbatch_builder_new(&options, &worker->builder) != Q_OK) child_failed(history, "builder");
    if (open_store(history, history_io(history), &worker->store) != Q_OK)
        child_failed(history, "open in the child");
}

static void
worker_publish(struct worker *worker)
{
    struct slot *slot = worker->free[worker->free_count - 1];
    slot->number = atomic_load(&worker->ledger->submitted);
    struct shape shape = shape_of(worker->history, worker->history->life, slot->number);
    slot->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = on_published, .context = slot },
        .envelopes = slot->envelopes,
        .payloads = slot->payloads,
        .subjects = slot->subjects,
        .batch_count = shape.batch_count,
        .mode = (enum qlog_mode)random_below(&worker->random, QLOG_MODE_SYNC + 1),
        .ret_first_sequences = worker->ledger->first_sequences[slot->number],
    };
    slot_fill(slot, &shape);
    if (qlog_publish_check(&slot->publish) != Q_OK) child_failed(worker->history, "check");
    worker->free_count--;
    atomic_store(&worker->ledger->submitted, slot->number + 1);
    if (qlog_store_submit(worker->store, &slot->publish.request) != Q_OK)
        child_failed(worker->history, "submit");
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
            .request_sequence = slot->number,
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
    atomic_store(&worker->ledger->acknowledged[slot->number], 1);
    worker->free[worker->free_count++] = slot;
    worker->answers++;
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

/* --- The parent. */

struct answer {
    bool done;
    enum q_err err;
};

/* Where the messages of a subject stand among those that were submitted. */
struct expected {
    uint64_t publish;
    uint32_t batch;
    uint32_t message;
};

struct checker {
    struct history *history;
    struct ledger *ledger;
    struct verdict *verdict;
    struct qlog_store *store;
    uint64_t counts[SUBJECTS]; /* messages found */
    struct qlog_run runs[RUNS_MAX];
    struct qlog_piece pieces[PIECES_MAX];
};

static bool check_store(struct checker *checker);
static bool check_messages(struct checker *checker, uint32_t subject);
static bool check_piece(
    struct checker *checker,
    uint32_t subject,
    const struct qlog_piece *piece,
    uint64_t end,
    struct expected *expected);
static bool check_group(struct checker *checker, uint32_t subject);
static bool settle(struct checker *checker);
static bool expected_step(
    const struct checker *checker, uint32_t subject, struct expected *at, struct shape *ret_shape);
static bool join(struct checker *checker, struct qlog_consumer *who);
static bool pull(
    struct checker *checker,
    const struct qlog_consumer *who,
    uint64_t received,
    struct qlog_pull *ret_pull);

static bool
store_check(struct history *history, struct verdict *verdict)
{
    struct checker checker = {
        .history = history,
        .ledger = history->ledger,
        .verdict = verdict,
    };
    struct qlog_io *io = history_io(history);
    enum q_err err = open_store(history, io, &checker.store);
    bool answered = true;
    if (err == Q_OK) {
        answered = check_store(&checker);
        err = qlog_store_close(checker.store);
    }
    io->table->destroy(io);
    if (err == Q_OK && answered) return true;
    char text[Q_FAULT_LINE_MAX];
    complain(history, "recovery: %s", q_fault_format(q_fault_last(), text, sizeof(text)));
    return false;
}

static bool
check_store(struct checker *checker)
{
    for (uint32_t i = 0; i < SUBJECTS; i++)
        if (!check_messages(checker, i)) return false;
    if (!settle(checker)) return true;
    for (uint32_t i = 0; i < SUBJECTS; i++)
        if (!check_group(checker, i)) return false;
    return true;
}

/* All of a subject through a new group, each message the one that belongs at its place. */
static bool
check_messages(struct checker *checker, uint32_t subject)
{
    char group[32];
    (void)snprintf(group, sizeof(group), "check-%u", checker->history->life);
    struct qlog_consumer who = consumer_of(subject, group, 0);
    if (!join(checker, &who)) return false;
    struct expected expected = { 0 };
    uint64_t received = 0;
    for (;;) {
        struct qlog_pull answer;
        if (!pull(checker, &who, received, &answer)) return false;
        if (answer.run_count == 0) return true;
        const struct qlog_run *last = &checker->runs[answer.run_count - 1];
        uint64_t end = last->sequence + last->count;
        received = last->pull_sequence + last->count;
        bool good = true;
        for (uint32_t i = 0; i < answer.piece_count && good; i++)
            good = check_piece(checker, subject, &checker->pieces[i], end, &expected);
        qlog_pull_release(&answer);
        if (good && checker->counts[subject] == end) continue;
        complain(
            checker->history, "subject %s: message %llu is not the one published",
            subject_names[subject], (unsigned long long)checker->counts[subject]);
        checker->verdict->phantom++;
        return true;
    }
}

static bool
check_piece(
    struct checker *checker,
    uint32_t subject,
    const struct qlog_piece *piece,
    uint64_t end,
    struct expected *expected)
{
    static uint8_t scratch[PUBLISH_BYTES_MAX];
    struct qbatch batch;
    struct q_bytes content;
    struct qbatch_walk walk;
    struct qbatch_view view;
    if (qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch) != Q_OK ||
        qbatch_check_payload(&batch, piece->payload) != Q_OK ||
        batch.content_length > sizeof(scratch) ||
        qbatch_content(&batch, piece->payload, scratch, &content) != Q_OK)
        return false;
    qbatch_walk_start(&walk, &batch, content);
    while (qbatch_walk_next(&walk, true, &view) == Q_OK) {
        uint64_t sequence = batch.first_sequence + view.index;
        /* A batch that was cut by the pull's limits comes again with the next pull. */
        if (sequence != checker->counts[subject] || sequence >= end) continue;
        struct shape shape;
        if (!expected_step(checker, subject, expected, &shape)) return false;
        uint64_t key = message_key(&shape, expected->batch, expected->message);
        if (!bytes_are(view.body, message_size(key), key)) return false;
        expected->message++;
        checker->counts[subject]++;
    }
    return true;
}

static struct shape
shape_at(const struct checker *checker, uint64_t publish)
{
    const struct ledger *ledger = checker->ledger;
    if (publish < ledger->kept)
        return shape_of(checker->history, ledger->kept_life[publish], ledger->kept_number[publish]);
    return shape_of(checker->history, checker->history->life, (uint32_t)(publish - ledger->kept));
}

/* Move `at` to the subject's next message. False: nothing more was submitted. */
static bool
expected_step(
    const struct checker *checker, uint32_t subject, struct expected *at, struct shape *ret_shape)
{
    uint64_t publish_count =
        (uint64_t)checker->ledger->kept + atomic_load(&checker->ledger->submitted);
    for (; at->publish < publish_count; at->publish++, at->batch = 0, at->message = 0) {
        *ret_shape = shape_at(checker, at->publish);
        for (; at->batch < ret_shape->batch_count; at->batch++, at->message = 0)
            if (ret_shape->subjects[at->batch] == subject &&
                at->message < ret_shape->message_counts[at->batch])
                return true;
    }
    return false;
}

/* Which publishes are there, whole; what must be there; what the next life begins with. */
static bool
settle(struct checker *checker)
{
    struct ledger *ledger = checker->ledger;
    uint64_t end = (uint64_t)ledger->kept + atomic_load(&ledger->submitted);
    uint64_t sums[SUBJECTS] = { 0 };
    uint64_t found = 0;
    for (; found < end; found++) {
        struct shape shape = shape_at(checker, found);
        uint64_t after[SUBJECTS];
        memcpy(after, sums, sizeof(after));
        uint64_t number = found - q_min_u64(found, ledger->kept);
        bool acknowledged = found >= ledger->kept && atomic_load(&ledger->acknowledged[number]);
        for (uint32_t i = 0; i < shape.batch_count; i++) {
            if (acknowledged && ledger->first_sequences[number][i] != after[shape.subjects[i]]) {
                complain(
                    checker->history, "publish %llu was told another sequence",
                    (unsigned long long)number);
                checker->verdict->phantom++;
            }
            after[shape.subjects[i]] += shape.message_counts[i];
        }
        bool whole = true;
        for (uint32_t i = 0; i < SUBJECTS; i++)
            whole = whole && after[i] <= checker->counts[i];
        if (!whole) break;
        memcpy(sums, after, sizeof(sums));
    }
    if (memcmp(sums, checker->counts, sizeof(sums)) != 0) {
        complain(checker->history, "publish %llu is there in part", (unsigned long long)found);
        checker->verdict->phantom++;
        return false;
    }
    uint64_t must = ledger->kept;
    for (uint32_t i = 0; i < PUBLISHES_MAX; i++) {
        if (!atomic_load(&ledger->acknowledged[i])) continue;
        must = (uint64_t)ledger->kept + i + 1;
        checker->verdict->acknowledged++;
    }
    checker->verdict->found += found - q_min_u64(found, ledger->kept);
    if (found < must) {
        complain(
            checker->history, "%llu publishes of %llu", (unsigned long long)found,
            (unsigned long long)must);
        checker->verdict->lost += must - found;
        return false;
    }
    for (uint64_t i = ledger->kept; i < found; i++) {
        ledger->kept_life[i] = (uint8_t)checker->history->life;
        ledger->kept_number[i] = (uint32_t)(i - ledger->kept);
    }
    ledger->kept = (uint32_t)found;
    atomic_store(&ledger->submitted, 0);
    memset((void *)ledger->acknowledged, 0, sizeof(ledger->acknowledged));
    return true;
}

/* The child's group: what it is given must be exactly what was not acknowledged. */
static bool
check_group(struct checker *checker, uint32_t subject)
{
    static bool given[SEQUENCES_MAX];
    memset(given, 0, sizeof(given));
    struct qlog_consumer who = consumer_of(subject, "g", 0);
    if (!join(checker, &who)) return false;
    uint64_t received = 0;
    for (;;) {
        struct qlog_pull answer;
        if (!pull(checker, &who, received, &answer)) return false;
        qlog_pull_release(&answer);
        if (answer.run_count == 0) break;
        for (uint32_t i = 0; i < answer.run_count; i++) {
            const struct qlog_run *run = &checker->runs[i];
            for (uint32_t j = 0; j < run->count; j++) {
                if (given[run->sequence + j]) checker->verdict->failed++;
                given[run->sequence + j] = true;
            }
            received = q_max_u64(received, run->pull_sequence + run->count);
        }
    }
    for (uint64_t i = 0; i < checker->counts[subject]; i++) {
        atomic_uchar *ack = &checker->ledger->acks[subject][i];
        unsigned char state = atomic_load(ack);
        bool wrong = given[i] ? state == ACK_DONE : state == ACK_NONE;
        if (wrong) {
            complain(
                checker->history, "subject %s: message %llu was %s", subject_names[subject],
                (unsigned long long)i, given[i] ? "acknowledged and came again" : "never given");
            checker->verdict->lost++;
        }
        atomic_store(ack, given[i] ? ACK_NONE : ACK_DONE);
    }
    return true;
}

static void
on_answer(struct qlog_request *request, enum q_err err)
{
    struct answer *answer = request->context;
    answer->done = true;
    answer->err = err;
}

static enum q_err
run(struct checker *checker, struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = on_answer;
    request->context = &answer;
    Q_TRY(qlog_store_submit(checker->store, request));
    while (!answer.done) {
        Q_TRY(qlog_store_turn(checker->store));
        if (!answer.done) Q_TRY(qlog_store_wait(checker->store, Q_NS_PER_S));
    }
    return answer.err;
}

static bool
join(struct checker *checker, struct qlog_consumer *who)
{
    struct qlog_join request = { .request = { .kind = QLOG_JOIN }, .who = *who };
    q_store_le64(request.token, checker->history->seed + checker->history->life);
    if (run(checker, &request.request) != Q_OK) return false;
    who->session = request.session;
    return true;
}

static bool
pull(
    struct checker *checker,
    const struct qlog_consumer *who,
    uint64_t received,
    struct qlog_pull *ret_pull)
{
    *ret_pull = (struct qlog_pull){
        .request = { .kind = QLOG_PULL },
        .who = *who,
        .messages_max = 1000,
        .bytes_max = 1024 * 1024,
        .received = received,
        .runs = checker->runs,
        .runs_max = RUNS_MAX,
        .pieces = checker->pieces,
        .pieces_max = PIECES_MAX,
    };
    return run(checker, &ret_pull->request) == Q_OK;
}

static bool
store_is_blank(const struct history *history)
{
    const struct ledger *ledger = history->ledger;
    return ledger->kept == 0 && !atomic_load(&ledger->acknowledged[0]);
}

const struct workload store_workload = {
    .name = "store",
    .ledger_size = sizeof(struct ledger),
    .work = store_work,
    .check = store_check,
    .is_blank = store_is_blank,
};

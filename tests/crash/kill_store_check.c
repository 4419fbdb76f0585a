/*
 * kill_store_check.c: the parent: what is there is what was acknowledged, and nothing foreign.
 */
#include <string.h>

#include <qbatch/batch.h>

#include "kill_store.h"

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

bool
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

/*
 * kill_log.c: the library's log under kill -9.
 *
 * Record n of a life has a key made of the history, the life and n, and a size made of the key. What
 * is read back must be, in this order: all records that earlier lives were found with, then the
 * first records of this life without a gap, and at least those that were acknowledged.
 */
#include <stdatomic.h>
#include <string.h>

#include <qlog/cursor.h>
#include <qlog/log.h>

#include "kill.h"

enum {
    RECORDS_MAX = 20 * 1000, /* of a life */
    KEPT_MAX = 8 * RECORDS_MAX,
    UNDER_WAY_MAX = 64,
    SIZE_MAX_SMALL = 300,
    SIZE_MAX_LARGE = 20 * 1000,
};

struct ledger {
    /* Of this life; written by the child. */
    atomic_uint submitted;
    atomic_uchar acknowledged[RECORDS_MAX];
    /* Of the lives before; the parent's. */
    uint32_t kept;
    uint8_t kept_life[KEPT_MAX];
    uint32_t kept_number[KEPT_MAX];
};

struct slot {
    struct qlog_append append;
    struct worker *worker;
    uint32_t number;
    uint8_t data[SIZE_MAX_LARGE];
};

struct worker {
    struct history *history;
    struct ledger *ledger;
    struct slot slots[UNDER_WAY_MAX];
    struct slot *free[UNDER_WAY_MAX];
    uint32_t free_count;
};

static void submit(struct worker *worker, struct qlog *log, struct random_source *random);
static void on_done(struct qlog_append *append, enum q_err err);
static uint64_t read_back(
    struct history *history, struct qlog_cursor *cursor, struct verdict *verdict);
static void settle(struct history *history, uint64_t found, struct verdict *verdict);

static uint64_t
record_key(const struct history *history, uint32_t life, uint32_t number)
{
    struct random_source random = { .state = history->seed + ((uint64_t)life << 32) + number };
    return random_u64(&random);
}

static size_t
record_size(uint64_t key)
{
    struct random_source random = { .state = key };
    uint32_t end = random_below(&random, 16) == 0 ? SIZE_MAX_LARGE : SIZE_MAX_SMALL;
    return sizeof(key) + random_below(&random, end - (uint32_t)sizeof(key));
}

static void
log_work(struct history *history)
{
    static struct worker worker;
    worker.history = history;
    worker.ledger = history->ledger;
    struct random_source random = { .state = history->seed ^ history->life };
    uint32_t under_way = 1 + random_below(&random, UNDER_WAY_MAX);
    while (worker.free_count < under_way) {
        struct slot *slot = &worker.slots[worker.free_count];
        slot->worker = &worker;
        worker.free[worker.free_count++] = slot;
    }
    history->options.io = history_io(history);
    struct qlog *log;
    if (qlog_open(history->directory, &history->options, &log) != Q_OK)
        child_failed(history, "open in the child");
    bool resting = false;
    while (atomic_load(&worker.ledger->submitted) < RECORDS_MAX || worker.free_count < under_way) {
        /* Now and then everything comes to rest, so that kills also hit an idle log. */
        resting = resting || random_below(&random, 500) == 0;
        bool all = atomic_load(&worker.ledger->submitted) == RECORDS_MAX;
        while (!resting && !all && worker.free_count > 0) {
            submit(&worker, log, &random);
            all = atomic_load(&worker.ledger->submitted) == RECORDS_MAX;
            if (random_below(&random, 8) == 0) break;
        }
        uint32_t before = worker.free_count;
        enum q_err err = qlog_turn(log);
        uint64_t wait_ns = resting ? random_below(&random, 3 * Q_NS_PER_MS) : Q_NS_PER_MS;
        if (err == Q_OK && worker.free_count == before) err = qlog_wait(log, wait_ns);
        if (err != Q_OK) child_failed(history, "turn");
        if (worker.free_count == under_way) resting = false;
    }
}

static void
submit(struct worker *worker, struct qlog *log, struct random_source *random)
{
    struct history *history = worker->history;
    struct slot *slot = worker->free[worker->free_count - 1];
    slot->number = atomic_load(&worker->ledger->submitted);
    uint64_t key = record_key(history, history->life, slot->number);
    slot->append = (struct qlog_append){
        .data = slot->data,
        .size = record_size(key),
        .mode = random_below(random, 2) == 0 ? QLOG_MODE_SYNC : QLOG_MODE_ASYNC,
        .done = on_done,
        .context = slot,
    };
    fill_bytes(slot->data, slot->append.size, key);
    worker->free_count--;
    atomic_store(&worker->ledger->submitted, slot->number + 1);
    if (qlog_submit(log, &slot->append) != Q_OK) child_failed(history, "submit");
}

static void
on_done(struct qlog_append *append, enum q_err err)
{
    struct slot *slot = append->context;
    struct worker *worker = slot->worker;
    if (err != Q_OK) child_failed(worker->history, "append");
    atomic_store(&worker->ledger->acknowledged[slot->number], 1);
    worker->free[worker->free_count++] = slot;
}

static bool
log_check(struct history *history, struct verdict *verdict)
{
    struct qlog_io *io = history_io(history);
    struct qlog_options options = history->options;
    options.io = io;
    struct qlog *log;
    enum q_err err = qlog_open(history->directory, &options, &log);
    if (err == Q_OK) err = qlog_close(log);
    io->table->destroy(io);
    struct qlog_cursor *cursor;
    if (err == Q_OK)
        err = qlog_cursor_open(history->directory, NULL, (qlog_position){ 0 }, &cursor);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        complain(history, "open: %s", q_fault_format(q_fault_last(), text, sizeof(text)));
        return false;
    }
    uint64_t found = read_back(history, cursor, verdict);
    qlog_cursor_close(cursor);
    settle(history, found, verdict);
    return true;
}

/* How many records are there, each the one that belongs at its place. */
static uint64_t
read_back(struct history *history, struct qlog_cursor *cursor, struct verdict *verdict)
{
    const struct ledger *ledger = history->ledger;
    struct qlog_record record;
    struct qlog_damage damage;
    struct q_bytes bytes;
    enum q_err err;
    uint64_t found = 0;
    while ((err = qlog_cursor_next(cursor, &record, &damage)) == Q_OK) {
        uint64_t number = found - q_min_u64(found, ledger->kept);
        bool kept = found < ledger->kept;
        bool there = kept || number < atomic_load(&ledger->submitted);
        uint64_t key =
            kept ? record_key(history, ledger->kept_life[found], ledger->kept_number[found])
                 : record_key(history, history->life, (uint32_t)number);
        if (!there || qlog_record_bytes(&record, &bytes) != Q_OK ||
            !bytes_are(bytes, record_size(key), key))
        {
            complain(history, "record %llu is not the one submitted", (unsigned long long)found);
            verdict->phantom++;
            return found;
        }
        found++;
    }
    if (err != Q_END) {
        complain(history, "reading back ended with %s", q_err_name(err));
        verdict->failed++;
    }
    return found;
}

/* What must be there, and what the next life begins with. */
static void
settle(struct history *history, uint64_t found, struct verdict *verdict)
{
    struct ledger *ledger = history->ledger;
    uint64_t must = ledger->kept;
    for (uint32_t i = 0; i < RECORDS_MAX; i++) {
        if (!atomic_load(&ledger->acknowledged[i])) continue;
        must = (uint64_t)ledger->kept + i + 1;
        verdict->acknowledged++;
    }
    verdict->found += found - q_min_u64(found, ledger->kept);
    if (found < must) {
        complain(
            history, "%llu records of %llu", (unsigned long long)found, (unsigned long long)must);
        verdict->lost += must - found;
    }
    for (uint64_t i = ledger->kept; i < found; i++) {
        ledger->kept_life[i] = (uint8_t)history->life;
        ledger->kept_number[i] = (uint32_t)(i - ledger->kept);
    }
    ledger->kept = (uint32_t)found;
    atomic_store(&ledger->submitted, 0);
    memset((void *)ledger->acknowledged, 0, sizeof(ledger->acknowledged));
}

static bool
log_is_blank(const struct history *history)
{
    const struct ledger *ledger = history->ledger;
    return ledger->kept == 0 && !atomic_load(&ledger->acknowledged[0]);
}

const struct workload log_workload = {
    .name = "log",
    .ledger_size = sizeof(struct ledger),
    .work = log_work,
    .check = log_check,
    .is_blank = log_is_blank,
};

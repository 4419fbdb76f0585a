/*
 * log_work.c: workloads of a program that uses the log alone.
 *
 * A log is a queue: what can be read is always a prefix of what was submitted, cut at each crash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qlog/log.h>

#include "random.h"
#include "reader.h"
#include "work.h"

static const char directory[] = "/data";

enum {
    TURNS_MAX = 20000, /* more is a hang */
    SEGMENT_SMALL = 64 * 1024,
};

enum log_sizes {
    SIZES_TINY,  /* below 200 */
    SIZES_PAGE,  /* around one and two blocks */
    SIZES_MIXED, /* up to 12 KiB */
    SIZES_BIG,   /* up to a segment */
};

struct log_plan {
    const char *name;
    unsigned steps;
    unsigned burst; /* at most so many at once */
    enum log_sizes sizes;
    unsigned async; /* percent of the appends */
    unsigned drain; /* percent of the steps: wait for all */
    unsigned sleep; /* ... let time pass */
    unsigned clean; /* ... close and open again */
    unsigned kill;  /* ... kill -9 */
    unsigned power; /* ... power loss */
    unsigned depth;
    uint32_t frame_bytes;
    uint32_t segment_bytes;
};

/* clang-format off */
static const struct log_plan plans[] = {
    /* name            steps burst sizes       async drain sleep clean kill power depth frame */
    { "log-one-by-one",   12,  1, SIZES_TINY,    0,  100,   10,   0,   0,   0,   1,    0, 0 },
    { "log-async",        14,  2, SIZES_TINY,  100,   50,   20,   0,   0,   0,   1,    0, 0 },
    { "log-mixed",        14,  3, SIZES_TINY,   50,   30,   20,   0,   0,   0,   4,    0, 0 },
    { "log-bursts",        8, 20, SIZES_TINY,   30,   30,   10,   0,   0,   0,   4, 4096, 0 },
    { "log-pages",        12,  3, SIZES_PAGE,   30,   30,   10,   0,   0,   0,   4,    0, 0 },
    { "log-rolls",        14,  3, SIZES_MIXED,  30,   50,   10,   0,   0,   0,   4,    0, 0 },
    { "log-rolls-sync",   14,  2, SIZES_MIXED,   0,  100,    0,   0,   0,   0,   4,    0, 0 },
    { "log-rolls-async",  14,  3, SIZES_MIXED, 100,   10,   10,   0,   0,   0,   4,    0, 0 },
    { "log-big",           8,  2, SIZES_BIG,    30,   50,   10,   0,   0,   0,   4,    0, 0 },
    { "log-big-burst",     5,  5, SIZES_BIG,    30,   20,   10,   0,   0,   0,   4,    0, 0 },
    { "log-deep",          6, 16, SIZES_MIXED,   0,   30,    0,   0,   0,   0,   8, 8192, 512 * 1024 },
    { "log-deep-async",    6, 16, SIZES_MIXED, 100,   30,   20,   0,   0,   0,   8, 8192, 512 * 1024 },
    { "log-deep-mixed",    6, 16, SIZES_MIXED,  50,   20,   20,   0,   0,   0,   8, 16384, 256 * 1024 },
    { "log-idle",          8,  1, SIZES_TINY,   50,   80,  100,   0,   0,   0,   4,    0, 0 },
    { "log-clean",        10,  2, SIZES_TINY,   50,   30,   10,  40,   0,   0,   4,    0, 0 },
    { "log-clean-rolls",  10,  3, SIZES_MIXED,  30,   30,   10,  40,   0,   0,   4,    0, 0 },
    { "log-kill",         12,  2, SIZES_TINY,   50,   30,   10,   0,  40,   0,   4,    0, 0 },
    { "log-kill-rolls",   12,  4, SIZES_MIXED,  50,   20,   10,   0,  30,   0,   4,    0, 0 },
    { "log-kill-deep",     6, 16, SIZES_MIXED,  50,   10,    0,   0,  40,   0,   8, 8192, 256 * 1024 },
    { "log-power",        12,  2, SIZES_TINY,   50,   30,   10,   0,   0,  40,   4,    0, 0 },
    { "log-power-rolls",  12,  4, SIZES_MIXED,  50,   20,   10,   0,   0,  30,   4,    0, 0 },
    { "log-power-deep",    6, 16, SIZES_MIXED,  50,   10,    0,   0,   0,  40,   8, 8192, 256 * 1024 },
    { "log-everything",   12,  6, SIZES_MIXED,  50,   20,   20,  10,  15,  15,   4, 8192, 0 },
    { "log-stop-and-go",  10,  1, SIZES_TINY,    0,  100,    0,  30,  30,  30,   4,    0, 0 },
};
/* clang-format on */

struct log_entry {
    uint32_t id;
    uint32_t size;
    struct promise promise;
    uint64_t written_bound; /* durable once the log's mark is here */
    uint64_t position;
};

struct log_history {
    struct history history;
    const struct log_plan *plan;
    struct log_entry *entries; /* in the order of submission */
    unsigned count;
    unsigned capacity;
};

/* A process that has the log open. */
struct session {
    struct log_history *history;
    const struct log_plan *plan;
    struct simdisk *disk;
    struct verdict *verdict;
    struct random_source random;
    struct q_clock_manual clock;
    struct qlog_observer observer;
    struct qlog *log;
    unsigned outstanding;
    bool dying;
};

struct pending {
    struct qlog_append append;
    struct session *session;
    unsigned entry;
    uint8_t data[];
};

static const struct work_kind log_kind;

static bool session_open(struct session *session);
static bool session_verify(struct session *session, bool recovered);
static void session_submit(struct session *session, uint32_t size, bool sync);
static void session_on_done(struct qlog_append *append, enum q_err err);
static bool session_turn(struct session *session);
static bool session_drain(struct session *session);
static bool session_close(struct session *session);
static void session_stop(struct session *session, bool kill);

struct work
log_work(unsigned number)
{
    if (number >= sizeof(plans) / sizeof(plans[0])) return (struct work){ 0 };
    return (struct work){ plans[number].name, &log_kind, &plans[number] };
}

static void
session_event(void *context, const struct qlog_event *event)
{
    struct session *session = context;
    if (event->kind == QLOG_EVENT_ROT)
        verdict_add_error(
            session->verdict, session->disk, "called rot, but it is a crash: %s at %llu",
            event->text, (unsigned long long)event->position);
    if (event->kind == QLOG_EVENT_BROKEN && !session->dying)
        verdict_add_error(session->verdict, session->disk, "the log broke: %s", event->text);
}

static void
session_init(
    struct session *session,
    struct log_history *history,
    uint64_t seed,
    struct simdisk *disk,
    struct verdict *verdict)
{
    *session = (struct session){
        .history = history,
        .plan = history->plan,
        .disk = disk,
        .verdict = verdict,
        .random = { .state = seed },
    };
    q_clock_manual_init(&session->clock);
    session->clock.monotonic_ns = Q_NS_PER_S;
    session->clock.wall_ms = 1700000000000;
    session->observer = (struct qlog_observer){ session, session_event };
}

/* --- The workload. */

static bool
chance(struct session *session, unsigned percent)
{
    return random_below(&session->random, 100) < percent;
}

static uint32_t
random_size(struct session *session)
{
    struct random_source *random = &session->random;
    switch (session->plan->sizes) {
    case SIZES_TINY:
        return random_below(random, 200);
    case SIZES_PAGE:
        return (random_below(random, 2) + 1) * 4096 - 160 + random_below(random, 48);
    case SIZES_MIXED:
        return random_below(random, 4) == 0 ? random_below(random, 12 * 1024)
                                            : random_below(random, 2000);
    default:
        /* Up to what fits into a segment beside header, seal, frame header and record head. */
        return random_below(random, 3) == 0 ? SEGMENT_SMALL - 2 * 4096 - 128 - 16
                                            : random_below(random, 50 * 1024);
    }
}

static void
session_sleep(struct session *session)
{
    static const unsigned ms[] = { 10, 120, 250, 1100 };
    q_clock_manual_advance_ns(
        &session->clock, (uint64_t)ms[random_below(&session->random, 4)] * Q_NS_PER_MS);
}

static bool
session_step(struct session *session)
{
    const struct log_plan *plan = session->plan;
    for (unsigned i = random_below(&session->random, plan->burst) + 1; i > 0; i--)
        session_submit(session, random_size(session), !chance(session, plan->async));
    for (unsigned i = random_below(&session->random, 6); i > 0; i--)
        if (!session_turn(session)) return false;
    if (chance(session, plan->drain) && !session_drain(session)) return false;
    if (chance(session, plan->sleep)) {
        session_sleep(session);
        for (unsigned i = 0; i < 3; i++)
            if (!session_turn(session)) return false;
    }
    if (chance(session, plan->clean)) return session_close(session) && session_open(session);
    bool kill = chance(session, plan->kill);
    if (!kill && !chance(session, plan->power)) return true;
    session_stop(session, kill);
    return session_open(session);
}

static struct history *
log_run(const void *context, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    struct log_history *history = calloc(1, sizeof(*history));
    Q_ASSERT(history != NULL);
    history->history.kind = &log_kind;
    history->plan = context;
    struct session session;
    session_init(&session, history, seed, disk, verdict);
    bool good = session_open(&session);
    for (unsigned i = 0; good && i < session.plan->steps; i++)
        good = session_step(&session);
    if (session.log != NULL) (void)session_close(&session);
    return &history->history;
}

/* --- A crash, and after it. */

static struct history *
log_cut(const struct history *history, uint64_t at, bool kill)
{
    const struct log_history *whole = q_container_of(history, struct log_history, history);
    struct log_history *cut = malloc(sizeof(*cut));
    Q_ASSERT(cut != NULL);
    *cut = *whole;
    cut->count = 0;
    cut->capacity = whole->count + 8;
    cut->entries = calloc(cut->capacity, sizeof(*cut->entries));
    Q_ASSERT(cut->entries != NULL);
    for (unsigned i = 0; i < whole->count; i++) {
        if (!promise_is_known(&whole->entries[i].promise, at)) continue;
        struct log_entry *entry = &cut->entries[cut->count++];
        *entry = whole->entries[i];
        entry->promise = promise_cut(&whole->entries[i].promise, at, kill);
        if (entry->promise.answered == MEDIA_NEVER) entry->position = UINT64_MAX;
    }
    return &cut->history;
}

static void
log_check(struct history *history, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    struct session session;
    session_init(
        &session, q_container_of(history, struct log_history, history), seed, disk, verdict);
    if (!session_open(&session)) return;
    /* What recovery left is recovered again: by then it is all promised, and nothing else is. */
    if (chance(&session, 50)) {
        session_stop(&session, chance(&session, 50));
        if (!session_open(&session)) return;
    }
    for (unsigned i = random_below(&session.random, 3) + 1; i > 0; i--)
        session_submit(&session, random_size(&session), chance(&session, 50));
    bool good = session_drain(&session) && session_verify(&session, false);
    if (good && chance(&session, 50)) {
        (void)(session_close(&session) && session_open(&session));
        if (session.log == NULL) return;
    }
    session_stop(&session, true);
}

static void
log_free(struct history *history)
{
    struct log_history *log_history = q_container_of(history, struct log_history, history);
    free(log_history->entries);
    free(log_history);
}

static const struct work_kind log_kind = {
    .run = log_run,
    .cut = log_cut,
    .check = log_check,
    .free = log_free,
};

/* --- A process and its log. */

static bool
session_open(struct session *session)
{
    struct qlog_options options = {
        .io = simdisk_io(session->disk),
        .clock = &session->clock.clock,
        .observer = &session->observer,
        .segment_bytes =
            session->plan->segment_bytes == 0 ? SEGMENT_SMALL : session->plan->segment_bytes,
        .frame_bytes_max = session->plan->frame_bytes == 0 ? 64 * 1024 : session->plan->frame_bytes,
        .depth_max = session->plan->depth,
        .create = true,
    };
    enum q_err err = qlog_open(directory, &options, &session->log);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        session->log = NULL;
        verdict_add_error(
            session->verdict, session->disk, "open: %s: %s", q_err_name(err),
            q_fault_format(q_fault_last(), text, sizeof(text)));
        return false;
    }
    /* What an open met with a failed read has seen is not for the model. */
    if (simdisk_has_failed(session->disk)) {
        (void)session_close(session);
        return false;
    }
    if (qlog_durable(session->log).value != qlog_written(session->log).value)
        verdict_add(session->verdict, VERDICT_FAILED, "recovery left something unflushed");
    if (session_verify(session, true)) return true;
    session_stop(session, true);
    return false;
}

static void
entry_fill(const struct log_entry *entry, uint8_t *data)
{
    struct random_source random = { .state = entry->id };
    for (uint32_t i = 0; i < entry->size; i++)
        data[i] = (uint8_t)(i % 8 == 0 ? random_u64(&random) : data[i - 1] + 31u);
}

struct verifying {
    struct session *session;
    bool recovered; /* just now: what is found stays */
    unsigned next;  /* entry */
    unsigned found;
};

/* The next entry that may be there. */
static struct log_entry *
verifying_next(struct verifying *verifying)
{
    struct log_history *history = verifying->session->history;
    while (verifying->next < history->count) {
        struct log_entry *entry = &history->entries[verifying->next++];
        if (entry->promise.dropped == MEDIA_NEVER) return entry;
    }
    return NULL;
}

static void
verify_record(void *context, const struct ql_frame *frame, const struct ql_record *record)
{
    struct verifying *verifying = context;
    struct verdict *verdict = verifying->session->verdict;
    struct log_entry *entry = verifying_next(verifying);
    struct q_bytes bytes;
    if (ql_bytes_record_decode(record->bytes, &bytes) != Q_OK) {
        verdict_add(verdict, VERDICT_PHANTOM, "a record that is not the program's");
        return;
    }
    if (entry == NULL) {
        verdict_add(
            verdict, VERDICT_PHANTOM, "a record of %zu bytes at %llu that is not to be there",
            bytes.size, (unsigned long long)frame->position);
        return;
    }
    uint8_t *wanted = malloc(entry->size + 1);
    Q_ASSERT(wanted != NULL);
    entry_fill(entry, wanted);
    if (!q_bytes_equal(bytes, q_bytes_from(wanted, entry->size)))
        verdict_add(
            verdict, VERDICT_PHANTOM, "the record at %llu is not number %u",
            (unsigned long long)frame->position, entry->id);
    else if (entry->position != UINT64_MAX && entry->position != frame->position)
        verdict_add(
            verdict, VERDICT_PHANTOM, "number %u was promised at %llu and is at %llu", entry->id,
            (unsigned long long)entry->position, (unsigned long long)frame->position);
    free(wanted);
    if (verifying->recovered)
        promise_settle(&entry->promise, simdisk_now(verifying->session->disk), true);
    verifying->found++;
}

/* What can be read is a prefix of what was submitted, with all that was promised in it. */
static bool
session_verify(struct session *session, bool recovered)
{
    struct verifying verifying = { .session = session, .recovered = recovered };
    struct reader_result result = { 0 };
    enum q_err err =
        reader_run(simdisk_raw_io(session->disk), directory, 0, verify_record, &verifying, &result);
    char text[Q_FAULT_LINE_MAX];
    if (err != Q_OK)
        verdict_add(
            session->verdict, VERDICT_FAILED, "read: %s: %s", q_err_name(err),
            q_fault_format(q_fault_last(), text, sizeof(text)));
    /* What a cut frame left behind the end is torn again once the log has grown a little. */
    if (result.rot_bytes > 0 || (recovered && result.torn_bytes > 0))
        verdict_add(
            session->verdict, VERDICT_FAILED, "rot %llu, torn %llu behind recovery",
            (unsigned long long)result.rot_bytes, (unsigned long long)result.torn_bytes);
    if (err == Q_OK && result.end != qlog_written(session->log).value)
        verdict_add(
            session->verdict, VERDICT_FAILED, "a reader ends at %llu, the log at %llu",
            (unsigned long long)result.end, (unsigned long long)qlog_written(session->log).value);
    struct log_entry *entry;
    while ((entry = verifying_next(&verifying)) != NULL) {
        if (promise_holds(&entry->promise))
            verdict_add(
                session->verdict, VERDICT_LOST,
                "number %u (%u bytes) was acknowledged; %u records are there", entry->id,
                entry->size, verifying.found);
        if (recovered) promise_settle(&entry->promise, simdisk_now(session->disk), false);
    }
    return verdict_is_good(session->verdict);
}

static void
session_submit(struct session *session, uint32_t size, bool sync)
{
    struct log_history *history = session->history;
    if (history->count == history->capacity) {
        history->capacity = history->capacity * 2 + 16;
        history->entries = realloc(history->entries, history->capacity * sizeof(*history->entries));
        Q_ASSERT(history->entries != NULL);
    }
    struct log_entry *entry = &history->entries[history->count];
    *entry = (struct log_entry){
        .id = history->count == 0 ? 1 : history->entries[history->count - 1].id + 1,
        .size = size,
        .promise = promise_new(simdisk_now(session->disk)),
        .written_bound = UINT64_MAX,
        .position = UINT64_MAX,
    };
    struct pending *pending = malloc(sizeof(*pending) + size);
    Q_ASSERT(pending != NULL);
    entry_fill(entry, pending->data);
    pending->append = (struct qlog_append){
        .data = pending->data,
        .size = size,
        .mode = sync ? QLOG_MODE_SYNC : QLOG_MODE_ASYNC,
        .done = session_on_done,
    };
    pending->session = session;
    pending->entry = history->count++;
    session->outstanding++;
    enum q_err err = qlog_submit(session->log, &pending->append);
    if (err == Q_OK) return;
    verdict_add_error(session->verdict, session->disk, "submit: %s", q_err_name(err));
    promise_settle(&entry->promise, simdisk_now(session->disk), false);
    session->outstanding--;
    free(pending);
}

static void
session_on_done(struct qlog_append *append, enum q_err err)
{
    struct pending *pending = q_container_of(append, struct pending, append);
    struct session *session = pending->session;
    struct log_entry *entry = &session->history->entries[pending->entry];
    session->outstanding--;
    if (err == Q_OK) {
        uint64_t now = simdisk_now(session->disk);
        entry->promise.answered = now;
        if (append->mode == QLOG_MODE_SYNC) entry->promise.durable = now;
        entry->written_bound = qlog_written(session->log).value;
        entry->position = append->position.value;
    } else if (!session->dying) {
        verdict_add_error(
            session->verdict, session->disk, "an append ended with %s", q_err_name(err));
        /* Refused, and the log goes on: it is nowhere. */
        if (err != Q_E_BROKEN) promise_settle(&entry->promise, simdisk_now(session->disk), false);
    }
    free(pending);
}

static void
session_observe(struct session *session)
{
    uint64_t durable = qlog_durable(session->log).value;
    for (unsigned i = session->history->count; i > 0; i--) {
        struct log_entry *entry = &session->history->entries[i - 1];
        struct promise *promise = &entry->promise;
        if (promise->voided == MEDIA_NEVER && promise->durable == MEDIA_NEVER &&
            entry->written_bound <= durable)
            promise->durable = simdisk_now(session->disk);
    }
}

static bool
session_turn(struct session *session)
{
    bool must_break = simdisk_must_break(session->disk);
    enum q_err err = qlog_turn(session->log);
    session_observe(session);
    if (must_break && err != Q_E_BROKEN)
        verdict_add(
            session->verdict, VERDICT_FAILED, "after a failed write or flush, a turn answers %s",
            q_err_name(err));
    if (err == Q_OK) err = qlog_wait(session->log, Q_NS_PER_MS);
    q_clock_manual_advance_ns(&session->clock, Q_NS_PER_MS / 4);
    if (err != Q_OK)
        verdict_add_error(session->verdict, session->disk, "turn: %s", q_err_name(err));
    return err == Q_OK;
}

static bool
session_drain(struct session *session)
{
    for (unsigned i = 0; session->outstanding > 0; i++) {
        if (i == TURNS_MAX) {
            verdict_add(session->verdict, VERDICT_HUNG, "appends are never answered");
            return false;
        }
        if (!session_turn(session)) return false;
    }
    return true;
}

static bool
session_close(struct session *session)
{
    enum q_err err = qlog_close(session->log);
    session->log = NULL;
    if (err != Q_OK)
        verdict_add_error(session->verdict, session->disk, "close: %s", q_err_name(err));
    return err == Q_OK;
}

/* The process ends at once, or the power goes. */
static void
session_stop(struct session *session, bool kill)
{
    session->dying = true;
    simdisk_die(session->disk);
    (void)qlog_close(session->log);
    session->log = NULL;
    session->dying = false;
    struct crash_rule rule = simdisk_random_rule(session->disk, random_u64(&session->random), kill);
    uint64_t now = simdisk_now(session->disk);
    for (unsigned i = 0; !kill && i < session->history->count; i++)
        promise_void(&session->history->entries[i].promise, now);
    simdisk_crash(session->disk, &rule);
}

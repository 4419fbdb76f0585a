/*
 * groups: what do many groups, many consumers and many waiting pulls cost a store?
 *
 *     groups [--backlog N] [--groups N] [--consumers N] [--parked N] [--size BYTES] [--pull N]
 *            [--dir D] [-o json]
 *
 * One subject with a backlog, and consumers that take it and acknowledge all of it:
 *
 *   fan-out    each of `--groups` groups gets the whole backlog
 *   drain      one group; 1, then 4, 16 and 64 consumers, more with each quarter of the backlog
 *   consumers  one group of `--consumers` consumers that take one message at a time
 *   parked     `--parked` pulls of as many consumers of one group wait; then messages come
 *
 * Consumers are in the store's thread and look at nothing: what a broker does with an answer is not
 * in here. A wait is the time from a pull to its answer, of pulls that got something.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/hist.h>
#include <qbase/opts.h>

#include "fill.h"
#include "usage.h"

enum {
    ROOM = 128, /* runs and pieces of a pull that takes much */
    PULL_BYTES = 1024 * 1024,
    BATCH = 64,
    DRAIN_STEPS = 4,
    DRAIN_MEMBERS = 64,
    PARKED_BATCH = 1000, /* messages that come while pulls wait */
    IDLE_S = 2,
    AT_ONCE = 16 * 1024, /* requests, before the store takes a turn: its mailbox is bounded */
};

struct member {
    struct bench *bench;
    char group[16];
    char consumer[16];
    uint64_t session;
    uint64_t received;
    uint64_t asked_ns;
    union {
        struct qlog_join join;
        struct qlog_pull pull;
        struct qlog_ack ack;
    } call;
    struct qlog_run *runs;
    struct qlog_piece *pieces;
    struct qlog_range *ranges; /* also for what came too late */
};

/* Members with the same room, in groups by turns. */
struct crowd {
    struct member *members;
    struct qlog_run *runs;
    struct qlog_piece *pieces;
    struct qlog_range *ranges;
    uint32_t count;
};

struct bench {
    uint64_t backlog; /* messages */
    uint64_t groups;
    uint64_t consumers;
    uint64_t parked;
    uint64_t size;
    uint64_t pull; /* messages, of fan-out and drain */
    const char *root;
    bool json;
    char directory[4096];
    struct qlog_store *store;

    /* Of the part that runs. */
    char subject[FILL_NAME];
    uint32_t room;
    uint32_t messages_max;
    uint64_t wait_ns; /* of a pull */
    bool again;       /* members go on until there is nothing */
    uint32_t active;  /* members that have a call under way */
    uint64_t taken;
    struct q_hist waits;
    enum q_err err;
};

struct figures {
    double fanout_rate; /* deliveries a second, in all groups */
    double fanout_cpu_ns;
    double drain_rate;
    double drain_cpu_ns;
    double drain_p99_ms;
    double drain_max_ms;
    double consumers_rate;
    double consumers_cpu_ns;
    double consumers_p99_ms;
    double consumers_max_ms;
    double joined_bytes; /* of memory, a consumer */
    double parked_bytes; /* of memory, a pull that waits, without the caller's own */
    double idle_share;   /* of one CPU, while all wait */
    double wake_ms;      /* from a publish of PARKED_BATCH messages to as many answers */
};

static bool parse(int argc, char **argv, struct bench *bench, int *ret_exit);
static void print_question(const struct bench *bench);
static enum q_err measure(struct bench *bench, struct figures *figures);
static enum q_err measure_fanout(struct bench *bench, struct figures *figures);
static enum q_err measure_drain(struct bench *bench, struct figures *figures);
static enum q_err measure_consumers(struct bench *bench, struct figures *figures);
static enum q_err measure_parked(struct bench *bench, struct figures *figures);
static enum q_err publish(struct bench *bench, uint64_t messages);
static enum q_err crowd_new(
    struct bench *bench, const char *name, uint32_t count, uint32_t groups, struct crowd *crowd);
static enum q_err crowd_join(struct bench *bench, struct crowd *crowd, enum qlog_start start);
static enum q_err crowd_pull(struct bench *bench, struct crowd *crowd);
static void crowd_free(struct crowd *crowd);
static enum q_err run(struct bench *bench, uint64_t until_ns);
static enum q_err submit(struct bench *bench, struct qlog_request *request);
static void on_joined(struct qlog_request *request, enum q_err err);
static void pull(struct member *member);
static void on_pulled(struct qlog_request *request, enum q_err err);
static void on_acked(struct qlog_request *request, enum q_err err);
static void print(const struct bench *bench, const struct figures *figures);

static uint64_t
now(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

int
main(int argc, char **argv)
{
    static struct bench bench;
    int code;
    if (!parse(argc, argv, &bench, &code)) return code;
    if (!bench.json) print_question(&bench);
    (void)snprintf(bench.directory, sizeof(bench.directory), "%s/bench-groups-XXXXXX", bench.root);
    if (mkdtemp(bench.directory) == NULL) {
        perror(bench.directory);
        return 1;
    }
    struct figures figures = { 0 };
    struct q_fault fault = { .err = Q_OK }; /* the first */
    struct qlog_store_options options = { .log = { .create = true } };
    enum q_err err = qlog_store_open(bench.directory, &options, &bench.store);
    if (err == Q_OK) err = measure(&bench, &figures);
    if (err != Q_OK) fault = *q_fault_last();
    if (bench.store != NULL && qlog_store_close(bench.store) != Q_OK && err == Q_OK) {
        err = q_fault_last()->err;
        fault = *q_fault_last();
    }
    fill_remove(bench.directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "groups: %s\n", q_fault_format(&fault, text, sizeof(text)));
        return 1;
    }
    print(&bench, &figures);
    return 0;
}

static bool
parse(int argc, char **argv, struct bench *bench, int *ret_exit)
{
    const char *format = "text";
    bench->backlog = 10 * 1000 * 1000;
    bench->groups = 70;
    bench->consumers = 10 * 1000;
    bench->parked = 1000 * 1000;
    bench->size = 128;
    bench->pull = 256;
    bench->root = ".";
    const struct q_opt options[] = {
        { "backlog", 0, Q_OPT_NUMBER, &bench->backlog, "N",
          "messages to drain; a tenth of them goes to all groups (10000000)", 1000, 0 },
        { "groups", 0, Q_OPT_NUMBER, &bench->groups, "N", "of one subject (70)", 1, 1000 },
        { "consumers", 0, Q_OPT_NUMBER, &bench->consumers, "N", "of one group (10000)", 1,
          1000 * 1000 },
        { "parked", 0, Q_OPT_NUMBER, &bench->parked, "N", "pulls that wait (1000000)", PARKED_BATCH,
          1000 * 1000 },
        { "size", 0, Q_OPT_SIZE, &bench->size, "N", "of a message (128)", 1, 1 << 20 },
        { "pull", 0, Q_OPT_NUMBER, &bench->pull, "N",
          "messages of a pull, in fan-out and drain (256)", 1, 10000 },
        { "dir", 0, Q_OPT_TEXT, &bench->root, "D", "disk to measure (.)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json (text)", 0, 0 },
    };
    size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    bool good = q_opts_parse(options, option_count, argc, argv, &result) == Q_OK;
    if (!good) (void)fprintf(stderr, "groups: %s\n", result.error);
    if (result.help) q_opts_print_help(stdout, options, option_count);
    bench->json = strcmp(format, "json") == 0;
    *ret_exit = good ? 0 : 2;
    return good && !result.help;
}

static void
print_question(const struct bench *bench)
{
    (void)printf(
        "What do many groups, many consumers and many waiting pulls cost a store?\n"
        "estimate   a batch of %d messages is handed out and acknowledged in 1 us: 60 M a second\n"
        "           one message at a time: an action for the pull and one for the ack, 2 us\n"
        "           a wait: until each of the others was served once: 64 pulls of %" PRIu64
        " at 5 M/s: %.1f ms\n"
        "           a pull that waits: no memory beside the caller's own; no CPU\n",
        BATCH, bench->pull, (double)(DRAIN_MEMBERS * bench->pull) / 5e6 * 1e3);
}

static enum q_err
measure(struct bench *bench, struct figures *figures)
{
    Q_TRY(measure_fanout(bench, figures));
    Q_TRY(measure_drain(bench, figures));
    Q_TRY(measure_consumers(bench, figures));
    return measure_parked(bench, figures);
}

/* The subject of a part, with so many messages. */
static enum q_err
begin_part(struct bench *bench, uint32_t number, uint64_t messages)
{
    (void)fill_subject(number, bench->subject);
    bench->taken = 0;
    q_hist_init(&bench->waits);
    bench->wait_ns = 0;
    struct fill fill = {
        .bytes = messages * bench->size,
        .subjects = 1,
        .first = number,
        .size = (uint32_t)bench->size,
        .count = BATCH,
        .batches = 32,
        .durable = true, /* and so visible */
    };
    return messages == 0 ? Q_OK : fill_store(bench->store, &fill);
}

static double
ms_of(uint64_t ns)
{
    return (double)ns * 1e-6;
}

static enum q_err
check_taken(const struct bench *bench, uint64_t wanted)
{
    /* A backlog is whole batches: a little more than was asked for. */
    if (bench->taken >= wanted) return Q_OK;
    return Q_FAIL(
        Q_INVALID,
        .what = q_text(
            "%" PRIu64 " messages were taken of %" PRIu64 " that are there", bench->taken, wanted));
}

static enum q_err
measure_fanout(struct bench *bench, struct figures *figures)
{
    struct crowd crowd;
    uint64_t messages = bench->backlog / 10;
    Q_TRY(begin_part(bench, 0, messages));
    bench->room = ROOM;
    bench->messages_max = (uint32_t)bench->pull;
    bench->again = true;
    Q_TRY(crowd_new(bench, "fan", (uint32_t)bench->groups, (uint32_t)bench->groups, &crowd));
    Q_TRY(crowd_join(bench, &crowd, QLOG_START_EARLIEST));
    struct usage usage = usage_now();
    Q_TRY(crowd_pull(bench, &crowd));
    Q_TRY(run(bench, UINT64_MAX));
    usage = usage_since(&usage);
    crowd_free(&crowd);
    figures->fanout_rate = (double)bench->taken * 1e9 / (double)usage.wall_ns;
    figures->fanout_cpu_ns = (double)usage.process_ns / (double)bench->taken;
    return check_taken(bench, messages * bench->groups);
}

/* Four times as many consumers after each quarter. */
static enum q_err
measure_drain(struct bench *bench, struct figures *figures)
{
    struct crowd crowd;
    Q_TRY(begin_part(bench, 1, bench->backlog));
    bench->room = ROOM;
    bench->messages_max = (uint32_t)bench->pull;
    bench->again = true;
    Q_TRY(crowd_new(bench, "drain", DRAIN_MEMBERS, 1, &crowd));
    Q_TRY(crowd_join(bench, &crowd, QLOG_START_EARLIEST));
    struct usage usage = usage_now();
    uint32_t working = 0;
    for (uint32_t step = 0; step < DRAIN_STEPS; step++) {
        for (; working < 1u << (2 * step); working++)
            pull(&crowd.members[working]);
        while (bench->active > 0 && bench->err == Q_OK &&
               bench->taken < bench->backlog / DRAIN_STEPS * (step + 1))
            Q_TRY(run(bench, 0));
    }
    Q_TRY(run(bench, UINT64_MAX));
    usage = usage_since(&usage);
    crowd_free(&crowd);
    figures->drain_rate = (double)bench->taken * 1e9 / (double)usage.wall_ns;
    figures->drain_cpu_ns = (double)usage.process_ns / (double)bench->taken;
    figures->drain_p99_ms = ms_of(q_hist_quantile(&bench->waits, 0.99));
    figures->drain_max_ms = ms_of(bench->waits.max);
    return check_taken(bench, bench->backlog);
}

static enum q_err
measure_consumers(struct bench *bench, struct figures *figures)
{
    struct crowd crowd;
    uint64_t messages = bench->backlog / 10;
    Q_TRY(begin_part(bench, 2, messages));
    bench->room = 1;
    bench->messages_max = 1;
    bench->again = true;
    Q_TRY(crowd_new(bench, "one", (uint32_t)bench->consumers, 1, &crowd));
    Q_TRY(crowd_join(bench, &crowd, QLOG_START_EARLIEST));
    struct usage usage = usage_now();
    Q_TRY(crowd_pull(bench, &crowd));
    Q_TRY(run(bench, UINT64_MAX));
    usage = usage_since(&usage);
    crowd_free(&crowd);
    figures->consumers_rate = (double)bench->taken * 1e9 / (double)usage.wall_ns;
    figures->consumers_cpu_ns = (double)usage.process_ns / (double)bench->taken;
    figures->consumers_p99_ms = ms_of(q_hist_quantile(&bench->waits, 0.99));
    figures->consumers_max_ms = ms_of(bench->waits.max);
    return check_taken(bench, messages);
}

static enum q_err
measure_parked(struct bench *bench, struct figures *figures)
{
    struct crowd crowd;
    Q_TRY(begin_part(bench, 3, BATCH));
    bench->room = 1;
    bench->messages_max = 1;
    bench->again = false;
    Q_TRY(crowd_new(bench, "park", (uint32_t)bench->parked, 1, &crowd));
    uint64_t before = fill_memory();
    Q_TRY(crowd_join(bench, &crowd, QLOG_START_LATEST));
    uint64_t joined = fill_memory();
    bench->wait_ns = 3600 * (uint64_t)Q_NS_PER_S;
    Q_TRY(crowd_pull(bench, &crowd));
    struct qlog_counters counters = { 0 };
    while (bench->err == Q_OK && counters.parked < bench->parked) {
        Q_TRY(run(bench, 0));
        qlog_store_counters(bench->store, &counters);
    }
    Q_TRY(bench->err);
    uint64_t parked = fill_memory();

    struct usage usage = usage_now();
    Q_TRY(run(bench, now() + IDLE_S * (uint64_t)Q_NS_PER_S));
    usage = usage_since(&usage);
    figures->idle_share = (double)usage.process_ns / (double)usage.wall_ns;

    uint64_t start_ns = now();
    Q_TRY(publish(bench, PARKED_BATCH));
    while (bench->err == Q_OK && bench->taken < PARKED_BATCH)
        Q_TRY(run(bench, 0));
    figures->wake_ms = ms_of(now() - start_ns);
    double count = (double)bench->parked;
    figures->joined_bytes = (double)(joined - q_min_u64(before, joined)) / count;
    figures->parked_bytes = (double)(parked - q_min_u64(joined, parked)) / count;

    /* All that still wait are answered. The members' memory stays theirs until then. */
    enum q_err err = qlog_store_close(bench->store);
    struct qlog_store_options options = { 0 };
    enum q_err open_err = qlog_store_open(bench->directory, &options, &bench->store);
    crowd_free(&crowd);
    return err == Q_OK ? open_err : err;
}

static enum q_err
publish(struct bench *bench, uint64_t messages)
{
    struct fill fill = {
        .bytes = messages * bench->size,
        .subjects = 1,
        .first = 3,
        .size = (uint32_t)bench->size,
        .count = (uint32_t)messages,
        .batches = 1,
        .durable = true,
    };
    return fill_store(bench->store, &fill);
}

static enum q_err
crowd_new(
    struct bench *bench, const char *name, uint32_t count, uint32_t groups, struct crowd *crowd)
{
    size_t rooms = (size_t)count * bench->room;
    *crowd = (struct crowd){
        .members = calloc(count, sizeof(struct member)),
        .runs = calloc(rooms, sizeof(struct qlog_run)),
        .pieces = calloc(rooms, sizeof(struct qlog_piece)),
        .ranges = calloc(rooms, sizeof(struct qlog_range)),
        .count = count,
    };
    if (crowd->members == NULL || crowd->runs == NULL || crowd->pieces == NULL ||
        crowd->ranges == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = q_text("%" PRIu32 " consumers", count));
    /* Touched now, so that it is not taken for memory of the store. */
    memset(crowd->runs, 1, rooms * sizeof(struct qlog_run));
    memset(crowd->pieces, 1, rooms * sizeof(struct qlog_piece));
    memset(crowd->ranges, 1, rooms * sizeof(struct qlog_range));
    for (uint32_t i = 0; i < count; i++) {
        struct member *member = &crowd->members[i];
        member->bench = bench;
        (void)snprintf(member->group, sizeof(member->group), "%s-%" PRIu32, name, i % groups);
        (void)snprintf(member->consumer, sizeof(member->consumer), "c-%" PRIu32, i);
        member->runs = crowd->runs + (size_t)i * bench->room;
        member->pieces = crowd->pieces + (size_t)i * bench->room;
        member->ranges = crowd->ranges + (size_t)i * bench->room;
        memset(&member->call, 1, sizeof(member->call));
    }
    return Q_OK;
}

static void
crowd_free(struct crowd *crowd)
{
    free(crowd->members);
    free(crowd->runs);
    free(crowd->pieces);
    free(crowd->ranges);
}

static struct qlog_consumer
who(const struct member *member)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(member->bench->subject),
        .group = q_bytes_from_text(member->group),
        .consumer = q_bytes_from_text(member->consumer),
        .session = member->session,
    };
}

static enum q_err
crowd_join(struct bench *bench, struct crowd *crowd, enum qlog_start start)
{
    for (uint32_t i = 0; i < crowd->count; i++) {
        struct member *member = &crowd->members[i];
        member->call.join = (struct qlog_join){
            .request = { .kind = QLOG_JOIN, .done = on_joined, .context = member },
            .who = who(member),
            .start = start,
        };
        Q_TRY(submit(bench, &member->call.join.request));
        if (i % AT_ONCE == AT_ONCE - 1) Q_TRY(run(bench, 0));
    }
    return run(bench, UINT64_MAX);
}

/* Each begins; to go on is run()'s. */
static enum q_err
crowd_pull(struct bench *bench, struct crowd *crowd)
{
    for (uint32_t i = 0; i < crowd->count; i++) {
        pull(&crowd->members[i]);
        if (i % AT_ONCE == AT_ONCE - 1) Q_TRY(run(bench, 0));
    }
    return bench->err;
}

static void
on_joined(struct qlog_request *request, enum q_err err)
{
    struct member *member = request->context;
    member->bench->active--;
    if (err != Q_OK) member->bench->err = err;
    member->session = member->call.join.session;
}

static void
pull(struct member *member)
{
    struct bench *bench = member->bench;
    member->call.pull = (struct qlog_pull){
        .request = { .kind = QLOG_PULL, .done = on_pulled, .context = member },
        .who = who(member),
        .messages_max = bench->messages_max,
        .bytes_max = PULL_BYTES,
        .wait_ns = bench->wait_ns,
        .received = member->received,
        .runs = member->runs,
        .runs_max = bench->room,
        .pieces = member->pieces,
        .pieces_max = bench->room,
    };
    member->asked_ns = now();
    enum q_err err = submit(bench, &member->call.pull.request);
    if (err != Q_OK) bench->err = err;
}

static void
on_pulled(struct qlog_request *request, enum q_err err)
{
    struct member *member = request->context;
    struct bench *bench = member->bench;
    struct qlog_pull *answered = &member->call.pull;
    bench->active--;
    if (err == Q_STOPPING) return;
    if (err != Q_OK) {
        bench->err = err;
        return;
    }
    uint32_t run_count = answered->run_count;
    if (run_count == 0) {
        /* Perhaps it is being read from the disk. */
        if (bench->again && answered->waiting > 0) pull(member);
        return;
    }
    q_hist_record(&bench->waits, now() - member->asked_ns, 1);
    for (uint32_t i = 0; i < run_count; i++) {
        const struct qlog_run *run = &member->runs[i];
        bench->taken += run->count;
        member->received = run->pull_sequence + run->count;
        member->ranges[i] = (struct qlog_range){ run->pull_sequence, member->received - 1 };
    }
    qlog_pull_release(answered);
    member->call.ack = (struct qlog_ack){
        .request = { .kind = QLOG_ACK, .done = on_acked, .context = member },
        .who = who(member),
        .ranges = member->ranges,
        .range_count = run_count,
        .expired = member->ranges,
        .expired_max = bench->room,
    };
    err = submit(bench, &member->call.ack.request);
    if (err != Q_OK) bench->err = err;
}

static void
on_acked(struct qlog_request *request, enum q_err err)
{
    struct member *member = request->context;
    struct bench *bench = member->bench;
    bench->active--;
    if (err == Q_OK && member->call.ack.expired_count > 0)
        err = Q_FAIL(Q_INVALID, .what = "an ack came too late");
    if (err != Q_OK)
        bench->err = err;
    else if (bench->again)
        pull(member);
}

/* At least one turn; then until nothing is under way, or until then. */
static enum q_err
run(struct bench *bench, uint64_t until_ns)
{
    do {
        Q_TRY(qlog_store_turn(bench->store));
        if (bench->err != Q_OK) return bench->err;
        if (bench->active == 0) return Q_OK;
        uint64_t now_ns = now();
        uint64_t rest_ns = until_ns - q_min_u64(now_ns, until_ns);
        Q_TRY(qlog_store_wait(bench->store, q_min_u64(rest_ns, Q_NS_PER_S)));
    } while (now() < until_ns);
    return bench->err;
}

/* From here or from inside a `done`, where no turn may be made. */
static enum q_err
submit(struct bench *bench, struct qlog_request *request)
{
    bench->active++;
    enum q_err err = qlog_store_submit(bench->store, request);
    if (err != Q_OK) bench->active--;
    return err;
}

static void
print(const struct bench *bench, const struct figures *figures)
{
    if (bench->json) {
        (void)printf(
            "{\"bench\":\"groups\",\"backlog\":%" PRIu64 ",\"groups\":%" PRIu64
            ",\"consumers\":%" PRIu64 ",\"parked\":%" PRIu64 ",\"size\":%" PRIu64
            ",\"pull\":%" PRIu64
            ",\"fanout_msgs_s\":%.0f,\"fanout_cpu_ns\":%.1f,\"drain_msgs_s\":%.0f,"
            "\"drain_cpu_ns\":%.1f,\"drain_wait_p99_ms\":%.3f,\"drain_wait_max_ms\":%.3f,"
            "\"consumers_msgs_s\":%.0f,\"consumers_cpu_ns\":%.1f,\"consumers_wait_p99_ms\":%.3f,"
            "\"consumers_wait_max_ms\":%.3f,\"joined_bytes\":%.0f,\"parked_bytes\":%.0f,"
            "\"idle_cpu_share\":%.4f,\"wake_ms\":%.3f}\n",
            bench->backlog, bench->groups, bench->consumers, bench->parked, bench->size,
            bench->pull, figures->fanout_rate, figures->fanout_cpu_ns, figures->drain_rate,
            figures->drain_cpu_ns, figures->drain_p99_ms, figures->drain_max_ms,
            figures->consumers_rate, figures->consumers_cpu_ns, figures->consumers_p99_ms,
            figures->consumers_max_ms, figures->joined_bytes, figures->parked_bytes,
            figures->idle_share, figures->wake_ms);
        return;
    }
    (void)printf(
        "fan-out    %" PRIu64 " groups: %.2f M messages/s in all, %.0f ns of CPU each\n"
        "drain      %.2f M messages/s, %.0f ns of CPU each; waits: p99 %.2f ms, the longest %.2f "
        "ms\n"
        "consumers  %" PRIu64 ", one message at a time: %.0f k messages/s, %.0f ns of CPU each;\n"
        "           waits: p99 %.2f ms, the longest %.2f ms\n"
        "parked     %" PRIu64 " pulls: %.0f bytes of memory a consumer, %.0f a pull;\n"
        "           %.1f %% of a CPU while they wait; %d messages are given out in %.2f ms\n",
        bench->groups, figures->fanout_rate * 1e-6, figures->fanout_cpu_ns,
        figures->drain_rate * 1e-6, figures->drain_cpu_ns, figures->drain_p99_ms,
        figures->drain_max_ms, bench->consumers, figures->consumers_rate * 1e-3,
        figures->consumers_cpu_ns, figures->consumers_p99_ms, figures->consumers_max_ms,
        bench->parked, figures->joined_bytes, figures->parked_bytes, figures->idle_share * 100,
        PARKED_BATCH, figures->wake_ms);
}

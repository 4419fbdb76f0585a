/*
 * cost: what a message costs the store, in counts: they are the same on a busy machine.
 *
 *   cost [--rounds N] [--until encode|publish|consume]
 *
 * One thread and a disk in memory. A round is a request of 4 batches of 64 messages of 128 bytes: put
 * together as a client does, checked and published as a broker does, written; then pulled by a
 * consumer, each message looked at as a client does, and acknowledged as a range. Rounds are alike, so
 * what N more of them take, divided by their messages, is the cost of one: scripts/checks/cost counts
 * instructions so.
 *
 * Once everything has its size, memory is allocated for new segments alone, which are small here: less
 * than once in a round, where one allocation for each request would be three. And a round takes so many
 * operations of the disk. Prints `rounds N messages M allocations A operations O`; exit 1 when that does
 * not hold.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>
#include <qlog/store.h>

#include "ramdisk.h"

enum {
    BATCHES = 4,
    BATCH_MESSAGES = 64,
    ROUND_MESSAGES = BATCHES * BATCH_MESSAGES,
    BODY = 128,
    ENVELOPE_MAX = 8 * 1024,
    PAYLOAD_MAX = 16 * 1024,
    WARM_ROUNDS = 64,
    TURNS_MAX = 1000,
    /* A frame each of messages, of what was handed out, and of what was acknowledged; now and then a
     * new segment. */
    ROUND_OPERATIONS_MAX = 4
};

enum until {
    ENCODE,
    PUBLISH,
    CONSUME
};

struct bench {
    struct ramdisk *disk;
    struct q_clock_manual clock;
    struct qlog_store *store;
    struct qbatch_builder *builder;
    uint8_t envelopes[BATCHES * ENVELOPE_MAX];
    uint8_t payloads[BATCHES * PAYLOAD_MAX];
    uint32_t envelopes_size;
    uint32_t payloads_size;
    uint32_t counter;
    uint64_t session;
    uint64_t received;
    struct qlog_run runs[BATCHES];
    struct qlog_piece pieces[BATCHES];
    uint64_t looked_at;
};

static struct {
    uint64_t allocations;
    uint64_t operations;
} counts;

static void bench_open(struct bench *bench);
static void bench_join(struct bench *bench);
static void bench_encode(struct bench *bench);
static void bench_publish(struct bench *bench);
static void bench_consume(struct bench *bench);
static void look_at(struct bench *bench, const struct qlog_pull *pull);
static void run(struct bench *bench, struct qlog_request *request);

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

void *
__wrap_malloc(size_t size)
{
    counts.allocations++;
    return __real_malloc(size);
}

void *
__wrap_calloc(size_t count, size_t size)
{
    counts.allocations++;
    return __real_calloc(count, size);
}

void *
__wrap_realloc(void *memory, size_t size)
{
    counts.allocations++;
    return __real_realloc(memory, size);
}

static enum ramdisk_fate
count_operation(void *context, const struct qlog_io_op *op)
{
    (void)context;
    (void)op;
    counts.operations++;
    return RAMDISK_DO;
}

static bool
parse_until(const char *text, enum until *ret_until)
{
    static const char *const names[] = { "encode", "publish", "consume" };
    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) != 0) continue;
        *ret_until = (enum until)i;
        return true;
    }
    return false;
}

int
main(int argc, char **argv)
{
    static struct bench bench;
    uint64_t rounds = 128;
    const char *until_text = "consume";
    const struct q_opt options[] = {
        { "rounds", 0, Q_OPT_NUMBER, &rounds, "N", "after the first ones (128)", 1, 1000 },
        { "until", 0, Q_OPT_TEXT, &until_text, "STEP", "encode, publish or consume (consume)", 0,
          0 },
    };
    size_t count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    enum until until;
    enum q_err err = q_opts_parse(options, count, argc, argv, &result);
    if (err != Q_OK || result.help || !parse_until(until_text, &until)) {
        (void)fprintf(stderr, "cost: %s\n", err != Q_OK ? result.error : "--until STEP");
        q_opts_print_help(stderr, options, count);
        return result.help ? 0 : 2;
    }
    bench_open(&bench);
    bench_join(&bench);
    for (uint64_t i = 0; i < WARM_ROUNDS + rounds; i++) {
        if (i == WARM_ROUNDS) memset(&counts, 0, sizeof(counts));
        bench_encode(&bench);
        if (until >= PUBLISH) bench_publish(&bench);
        if (until >= CONSUME) bench_consume(&bench);
    }
    uint64_t allocations = counts.allocations;
    uint64_t operations = counts.operations;
    (void)printf(
        "rounds %" PRIu64 " messages %" PRIu64 " allocations %" PRIu64 " operations %" PRIu64 "\n",
        rounds, rounds * ROUND_MESSAGES, allocations, operations);
    Q_ASSERT(until < CONSUME || bench.looked_at == (WARM_ROUNDS + rounds) * ROUND_MESSAGES);
    Q_ASSERT(qlog_store_close(bench.store) == Q_OK);
    qbatch_builder_free(bench.builder);
    ramdisk_free(bench.disk);
    return allocations < rounds && operations <= rounds * ROUND_OPERATIONS_MAX ? 0 : 1;
}

static void
bench_open(struct bench *bench)
{
    static const struct image nothing;
    bench->disk = ramdisk_new();
    ramdisk_load(bench->disk, &nothing);
    ramdisk_set_fate(bench->disk, count_operation, NULL);
    q_clock_manual_init(&bench->clock);
    bench->clock.wall_ms = UINT64_C(1700000000000);
    bench->clock.monotonic_ns = Q_NS_PER_S;
    const struct qlog_store_options options = {
        .log = {
            .io = ramdisk_io(bench->disk),
            .clock = &bench->clock.clock,
            .segment_bytes = RAMDISK_FILE_BYTES_MAX,
            .frame_bytes_max = 64 * 1024,
            .create = true,
        },
        .retention_bytes = 8 * RAMDISK_FILE_BYTES_MAX,
        .disk_soft_bytes = 1,
        .disk_hard_bytes = 1,
        .scrub_bytes_per_s = UINT64_MAX,
    };
    struct qbatch_builder_options building = { 0 };
    Q_ASSERT(qlog_store_open("/cost", &options, &bench->store) == Q_OK);
    Q_ASSERT(qbatch_builder_new(&building, &bench->builder) == Q_OK);
}

static struct qlog_consumer
who(const struct bench *bench)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text("orders"),
        .group = q_bytes_from_text("billing"),
        .consumer = q_bytes_from_text("one"),
        .session = bench->session,
    };
}

static void
bench_join(struct bench *bench)
{
    struct qlog_join join = { .request = { .kind = QLOG_JOIN }, .who = who(bench) };
    run(bench, &join.request);
    bench->session = join.session;
}

static void
bench_encode(struct bench *bench)
{
    uint8_t body[BODY];
    memset(body, 'q', sizeof(body));
    bench->envelopes_size = 0;
    bench->payloads_size = 0;
    for (uint32_t i = 0; i < BATCHES; i++) {
        for (uint32_t j = 0; j < BATCH_MESSAGES; j++) {
            q_store_le32(body, bench->counter);
            struct qbatch_message message = {
                .body = q_bytes_from(body, sizeof(body)),
                .time_ms = bench->clock.wall_ms,
                .counter = bench->counter++,
            };
            Q_ASSERT(qbatch_builder_add(bench->builder, &message) == Q_OK);
        }
        uint32_t envelope_size;
        uint32_t payload_size;
        Q_ASSERT(qbatch_builder_close(bench->builder, &envelope_size, &payload_size) == Q_OK);
        Q_ASSERT(envelope_size <= ENVELOPE_MAX && payload_size <= PAYLOAD_MAX);
        struct qbatch_request_place place = { .request_index = i, .request_count = BATCHES };
        qbatch_builder_write(
            bench->builder, &place, bench->envelopes + bench->envelopes_size,
            bench->payloads + bench->payloads_size);
        bench->envelopes_size += envelope_size;
        bench->payloads_size += payload_size;
        qbatch_builder_reset(bench->builder);
    }
}

static void
bench_publish(struct bench *bench)
{
    struct q_bytes subjects[BATCHES];
    uint64_t firsts[BATCHES];
    for (uint32_t i = 0; i < BATCHES; i++)
        subjects[i] = q_bytes_from_text("orders");
    struct qlog_publish publish = {
        .request = { .kind = QLOG_PUBLISH },
        .envelopes = bench->envelopes,
        .envelopes_size = bench->envelopes_size,
        .payloads = bench->payloads,
        .payloads_size = bench->payloads_size,
        .subjects = subjects,
        .batch_count = BATCHES,
        .ret_first_sequences = firsts,
    };
    Q_ASSERT(qlog_publish_check(&publish) == Q_OK);
    run(bench, &publish.request);
}

static void
bench_consume(struct bench *bench)
{
    struct qlog_pull pull = {
        .request = { .kind = QLOG_PULL },
        .who = who(bench),
        .messages_max = ROUND_MESSAGES,
        .bytes_max = 1024 * 1024,
        .received = bench->received,
        .runs = bench->runs,
        .runs_max = BATCHES,
        .pieces = bench->pieces,
        .pieces_max = BATCHES,
    };
    run(bench, &pull.request);
    Q_ASSERT(pull.run_count == 1 && pull.runs[0].count == ROUND_MESSAGES);
    look_at(bench, &pull);
    struct qlog_range range = {
        .first = pull.runs[0].pull_sequence,
        .last = pull.runs[0].pull_sequence + ROUND_MESSAGES - 1,
    };
    bench->received = range.last + 1;
    qlog_pull_release(&pull);
    struct qlog_ack ack = {
        .request = { .kind = QLOG_ACK },
        .who = who(bench),
        .ranges = &range,
        .range_count = 1,
    };
    run(bench, &ack.request);
}

static void
look_at(struct bench *bench, const struct qlog_pull *pull)
{
    for (uint32_t i = 0; i < pull->piece_count; i++) {
        const struct qlog_piece *piece = &pull->pieces[i];
        struct qbatch batch;
        struct q_bytes content;
        struct qbatch_walk walk;
        struct qbatch_view view;
        Q_ASSERT(qbatch_open(q_bytes_from(piece->envelope, piece->envelope_size), &batch) == Q_OK);
        Q_ASSERT(qbatch_check_payload(&batch, piece->payload) == Q_OK);
        Q_ASSERT(qbatch_content(&batch, piece->payload, NULL, &content) == Q_OK);
        qbatch_walk_start(&walk, &batch, content);
        while (qbatch_walk_next(&walk, true, &view) == Q_OK)
            bench->looked_at++;
    }
}

struct answer {
    bool done;
    enum q_err err;
};

static void
on_done(struct qlog_request *request, enum q_err err)
{
    *(struct answer *)request->context = (struct answer){ true, err };
}

static void
run(struct bench *bench, struct qlog_request *request)
{
    struct answer answer = { 0 };
    request->done = on_done;
    request->context = &answer;
    Q_ASSERT(qlog_store_submit(bench->store, request) == Q_OK);
    for (unsigned turns = 0; !answer.done; turns++) {
        Q_ASSERT(turns < TURNS_MAX);
        q_clock_manual_advance_ns(&bench->clock, Q_NS_PER_US);
        Q_ASSERT(qlog_store_turn(bench->store) == Q_OK);
        if (!answer.done) Q_ASSERT(qlog_store_wait(bench->store, 0) == Q_OK);
    }
    Q_ASSERT(answer.err == Q_OK);
}

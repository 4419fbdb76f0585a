/*
 * readers: how fast are messages read back from the disk, and what does that do to the writer?
 *
 *     readers [--bytes N] [--subjects N] [--size BYTES] [--count N] [--apart N] [--seconds S]
 *             [--raw-depth N] [--raw-read N] [--dir D] [-o json]
 *
 * The log's first half has batches of many subjects in turn, of which one has a batch in each
 * `--apart`; its second half is all of one subject. Cold catch-up reader: takes and acknowledges that
 * one subject of the first half. Whole-log reader: four members of a group share the second half; beside
 * it a loop that only reads the same segments, directly, before and after. Writer: publishes of one message, flushed, four under
 * way, alone and with both readers by turns; and, by turns with those, a loop that only writes 8 KiB
 * and waits, alone and beside one that only reads 1 MiB at a time, four under way: what the disk itself
 * makes of it. Before each part the kernel forgets the files.
 *
 * Consumers are in the store's thread and look at nothing: what a broker does with an answer is not
 * in here, but its checks against hashes are, in a thread of their own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/hist.h>
#include <qbase/opts.h>
#include <qbatch/build.h>

#include "fill.h"
#include "raw_beside.h"
#include "readers_raw.h"

enum {
    RUNS = 1024,
    PIECES = 1024,
    PULL_BYTES = 1024 * 1024,
    WRITES = 4,
    WRITE_BYTES = 1024,
    ROUNDS = 4,
    MEMBERS = 4, /* consumers of the whole log, in one group */
    READERS = 1 + MEMBERS,
    WHOLE_SUBJECT = 10 * 1000 * 1000,
};

struct reader {
    struct qlog_store *store;
    char subject[FILL_NAME];
    char group[32];
    char consumer[16];
    unsigned groups; /* a new one each time it begins again */
    bool again;      /* at the end, from the beginning */
    bool stopping;
    bool busy;
    struct qlog_join join;
    struct qlog_pull pull;
    struct qlog_ack ack;
    struct qlog_run runs[RUNS];
    struct qlog_piece pieces[PIECES];
    struct qlog_range ranges[RUNS];
    struct qlog_range expired[RUNS];
    uint64_t received;
    uint64_t messages;
    uint64_t bytes;
    enum q_err err;
};

struct writer {
    struct qlog_store *store;
    uint8_t *envelope;
    uint32_t envelope_size;
    uint8_t *payload;
    uint32_t payload_size;
    struct q_bytes subject;
    bool stopping;
    unsigned under_way;
    struct write {
        struct qlog_publish publish;
        struct writer *writer;
        uint8_t *envelope;
        uint64_t first;
        uint64_t submitted_ns;
    } writes[WRITES];
    struct q_hist *hist;
    enum q_err err;
};

struct bench {
    uint64_t bytes;
    uint64_t subjects;
    uint64_t size;
    uint64_t count;
    uint64_t apart;
    uint64_t seconds;
    uint64_t raw_depth;
    uint64_t raw_read;
    const char *root;
    bool json;
    char directory[4096];
    struct qlog_store *store;
    struct reader readers[READERS]; /* the first is that of one subject */
    struct writer writer;
    double one_rate;   /* messages a second */
    double whole_rate; /* bytes of the log a second */
    double raw_rate;
    double beside_rate; /* bytes a second that the readers took beside the writer */
    struct q_hist alone;
    struct q_hist beside;
    struct raw_beside raw;
    struct q_hist raw_alone;
    struct q_hist raw_beside;
};

static bool parse(int argc, char **argv, struct bench *bench, int *ret_exit);
static void print_question(const struct bench *bench);
static enum q_err bench_fill(struct bench *bench);
static enum q_err bench_readers(struct bench *bench);
static enum q_err bench_read(
    struct bench *bench,
    unsigned from,
    unsigned to,
    uint64_t *ret_messages,
    uint64_t *ret_bytes,
    double *ret_seconds);
static enum q_err bench_writer(struct bench *bench);
static uint64_t readers_bytes(const struct bench *bench);
static enum q_err store_run(struct bench *bench, uint64_t until_ns);
static bool is_idle(const struct bench *bench);
static void reader_begin(struct reader *reader, struct qlog_store *store);
static void reader_on_joined(struct qlog_request *request, enum q_err err);
static void reader_pull(struct reader *reader);
static void reader_on_pulled(struct qlog_request *request, enum q_err err);
static void reader_on_acked(struct qlog_request *request, enum q_err err);
static enum q_err writer_init(struct writer *writer, struct qlog_store *store);
static void writer_begin(struct writer *writer, struct q_hist *hist);
static void write_submit(struct write *write);
static void write_on_done(struct qlog_request *request, enum q_err err);
static void print(const struct bench *bench);

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
    (void)snprintf(bench.directory, sizeof(bench.directory), "%s/bench-readers-XXXXXX", bench.root);
    if (mkdtemp(bench.directory) == NULL) {
        perror(bench.directory);
        return 1;
    }
    enum q_err err = bench_fill(&bench);
    if (err == Q_OK) err = bench_readers(&bench);
    if (err == Q_OK) err = bench_writer(&bench);
    fill_remove(bench.directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "readers: %s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    print(&bench);
    return 0;
}

static bool
parse(int argc, char **argv, struct bench *bench, int *ret_exit)
{
    const char *format = "text";
    bench->bytes = 4ull << 30;
    bench->subjects = 100 * 1000;
    bench->size = 1024;
    bench->count = 64;
    bench->apart = 256;
    bench->seconds = 10;
    bench->raw_depth = 4;
    bench->raw_read = 1 << 20;
    bench->root = ".";
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bench->bytes, "N", "of messages (4 GiB)", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &bench->subjects, "N", "how many (100000)", 2, 1000 * 1000 },
        { "size", 0, Q_OPT_SIZE, &bench->size, "N", "of a message (1 KiB)", 1, 1 << 20 },
        { "count", 0, Q_OPT_NUMBER, &bench->count, "N", "messages of a batch (64)", 1, 10000 },
        { "apart", 0, Q_OPT_NUMBER, &bench->apart, "N",
          "batches from one of the subject to its next (256)", 1, 0 },
        { "seconds", 0, Q_OPT_NUMBER, &bench->seconds, "S",
          "of the writer, alone and beside readers each (10)", 1, 3600 },
        { "raw-depth", 0, Q_OPT_NUMBER, &bench->raw_depth, "N", "reads beside the raw writes (4)",
          1, 16 },
        { "raw-read", 0, Q_OPT_SIZE, &bench->raw_read, "N", "each of so many bytes (1 MiB)", 4096,
          1 << 20 },
        { "dir", 0, Q_OPT_TEXT, &bench->root, "D", "disk to measure (.)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json (text)", 0, 0 },
    };
    size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    bool good = q_opts_parse(options, option_count, argc, argv, &result) == Q_OK;
    if (!good) (void)fprintf(stderr, "readers: %s\n", result.error);
    if (result.help) q_opts_print_help(stdout, options, option_count);
    bench->json = strcmp(format, "json") == 0;
    *ret_exit = good ? 0 : 2;
    return good && !result.help;
}

static void
print_question(const struct bench *bench)
{
    (void)printf(
        "How fast are messages read back from the disk, and what does that do to the writer?\n"
        "estimate   one subject of %" PRIu64 ": a batch of %" PRIu64
        " for two reads of 0.2 ms, four under way: %.0f k/s\n"
        "           whole log: 90 %% of the raw read, which is as sequential, and checked beside "
        "it\n"
        "           writer: its p99.9 grows by what a read of 1 MiB keeps the disk busy, 0.5 ms\n",
        bench->subjects, bench->count, (double)bench->count * 4 / 0.4);
}

static enum q_err
bench_fill(struct bench *bench)
{
    struct qlog_store_options options = { .log = { .create = true } };
    struct qlog_store *store;
    Q_TRY(qlog_store_open(bench->directory, &options, &store));
    struct fill fill = {
        .bytes = bench->bytes / 2,
        .subjects = (uint32_t)bench->subjects,
        .size = (uint32_t)bench->size,
        .count = (uint32_t)bench->count,
        .batches = (uint32_t)q_max_u64(1, q_min_u64(512, 65536 / bench->size / bench->count)),
        .apart = (uint32_t)bench->apart,
    };
    enum q_err err = fill_store(store, &fill);
    fill.first = WHOLE_SUBJECT;
    fill.subjects = 1;
    fill.apart = 0;
    if (err == Q_OK) err = fill_store(store, &fill);
    enum q_err close_err = qlog_store_close(store);
    return err == Q_OK ? close_err : err;
}

/* One subject alone, then the whole log alone. */
static enum q_err
bench_readers(struct bench *bench)
{
    for (unsigned i = 0; i < READERS; i++) {
        struct reader *reader = &bench->readers[i];
        (void)fill_subject(i == 0 ? 0 : WHOLE_SUBJECT, reader->subject);
        (void)snprintf(reader->consumer, sizeof(reader->consumer), "consumer-%u", i);
    }
    uint64_t messages;
    uint64_t bytes;
    double seconds;
    Q_TRY(bench_read(bench, 0, 1, &messages, &bytes, &seconds));
    bench->one_rate = (double)messages / seconds;
    double raw_before = readers_raw(bench->directory, bench->bytes / 2, false);
    Q_TRY(bench_read(bench, 1, READERS, &messages, &bytes, &seconds));
    bench->whole_rate = (double)bytes / seconds;
    bench->raw_rate = (raw_before + readers_raw(bench->directory, bench->bytes / 2, false)) / 2;
    return Q_OK;
}

/* Readers [from, to), until each has come to its end. */
static enum q_err
bench_read(
    struct bench *bench,
    unsigned from,
    unsigned to,
    uint64_t *ret_messages,
    uint64_t *ret_bytes,
    double *ret_seconds)
{
    readers_forget(bench->directory);
    Q_TRY(qlog_store_open(bench->directory, NULL, &bench->store));
    uint64_t start_ns = now();
    for (unsigned i = from; i < to; i++)
        reader_begin(&bench->readers[i], bench->store);
    enum q_err err = store_run(bench, UINT64_MAX);
    *ret_seconds = (double)(now() - start_ns) / Q_NS_PER_S;
    *ret_messages = 0;
    *ret_bytes = 0;
    for (unsigned i = from; i < to; i++) {
        *ret_messages += bench->readers[i].messages;
        *ret_bytes += bench->readers[i].bytes;
        if (err == Q_OK) err = bench->readers[i].err;
    }
    enum q_err close_err = qlog_store_close(bench->store);
    return err == Q_OK ? close_err : err;
}

/* Alone and beside all readers, by turns. */
static enum q_err
bench_writer(struct bench *bench)
{
    q_hist_init(&bench->alone);
    q_hist_init(&bench->beside);
    q_hist_init(&bench->raw_alone);
    q_hist_init(&bench->raw_beside);
    bench->raw = (struct raw_beside){
        .directory = bench->directory,
        .ns = bench->seconds * Q_NS_PER_S / ROUNDS,
        .depth = (unsigned)bench->raw_depth,
        .read_bytes = (uint32_t)bench->raw_read,
        .alone = &bench->raw_alone,
        .beside = &bench->raw_beside,
    };
    Q_TRY(qlog_store_open(bench->directory, NULL, &bench->store));
    enum q_err err = writer_init(&bench->writer, bench->store);
    uint64_t before = readers_bytes(bench);
    uint64_t beside_ns = 0;
    for (unsigned i = 0; i < 2 * ROUNDS && err == Q_OK; i++) {
        bool beside = i % 2 == 1;
        if (!beside && !raw_beside_round(&bench->raw))
            err = Q_FAIL(Q_E_IO, .what = "the raw loops failed");
        readers_forget(bench->directory);
        uint64_t start_ns = now();
        uint64_t until_ns = start_ns + bench->seconds * Q_NS_PER_S / ROUNDS;
        writer_begin(&bench->writer, beside ? &bench->beside : &bench->alone);
        for (unsigned j = 0; j < READERS && beside; j++) {
            bench->readers[j].again = true;
            bench->readers[j].stopping = false;
            reader_begin(&bench->readers[j], bench->store);
        }
        err = store_run(bench, until_ns);
        bench->writer.stopping = true;
        for (unsigned j = 0; j < READERS; j++)
            bench->readers[j].stopping = true;
        if (err == Q_OK) err = store_run(bench, UINT64_MAX);
        if (beside) beside_ns += now() - start_ns;
        if (err == Q_OK) err = bench->writer.err;
        for (unsigned j = 0; j < READERS && err == Q_OK; j++)
            err = bench->readers[j].err;
    }
    bench->beside_rate =
        (double)(readers_bytes(bench) - before) * Q_NS_PER_S / (double)q_max_u64(beside_ns, 1);
    enum q_err close_err = qlog_store_close(bench->store);
    return err == Q_OK ? close_err : err;
}

static uint64_t
readers_bytes(const struct bench *bench)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < READERS; i++)
        bytes += bench->readers[i].bytes;
    return bytes;
}

/* Until then, or until nobody has anything to do. */
static enum q_err
store_run(struct bench *bench, uint64_t until_ns)
{
    while (!is_idle(bench) && now() < until_ns) {
        Q_TRY(qlog_store_turn(bench->store));
        if (is_idle(bench)) break;
        Q_TRY(qlog_store_wait(bench->store, 10 * Q_NS_PER_MS));
    }
    return Q_OK;
}

static bool
is_idle(const struct bench *bench)
{
    for (unsigned i = 0; i < READERS; i++)
        if (bench->readers[i].busy) return false;
    return bench->writer.under_way == 0;
}

/* --- A consumer. */

static void
reader_begin(struct reader *reader, struct qlog_store *store)
{
    reader->store = store;
    (void)snprintf(reader->group, sizeof(reader->group), "group-%u", reader->groups++);
    reader->received = 0;
    reader->busy = true;
    reader->join = (struct qlog_join){
        .request = { .kind = QLOG_JOIN, .done = reader_on_joined, .context = reader },
        .who = {
            .subject = q_bytes_from_text(reader->subject),
            .group = q_bytes_from_text(reader->group),
            .consumer = q_bytes_from_text(reader->consumer),
        },
    };
    reader->err = qlog_store_submit(reader->store, &reader->join.request);
    if (reader->err != Q_OK) reader->busy = false;
}

static void
reader_on_joined(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    reader->err = err;
    reader->busy = err == Q_OK;
    if (err == Q_OK) reader_pull(reader);
}

static void
reader_pull(struct reader *reader)
{
    if (reader->stopping) {
        reader->busy = false;
        return;
    }
    struct qlog_consumer who = reader->join.who;
    who.session = reader->join.session;
    reader->pull = (struct qlog_pull){
        .request = { .kind = QLOG_PULL, .done = reader_on_pulled, .context = reader },
        .who = who,
        .messages_max = 8192,
        .bytes_max = PULL_BYTES,
        .received = reader->received,
        .runs = reader->runs,
        .runs_max = RUNS,
        .pieces = reader->pieces,
        .pieces_max = PIECES,
    };
    reader->err = qlog_store_submit(reader->store, &reader->pull.request);
    if (reader->err != Q_OK) reader->busy = false;
}

static void
reader_on_pulled(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    const struct qlog_pull *pull = &reader->pull;
    reader->err = err;
    if (err != Q_OK) {
        reader->busy = false;
        return;
    }
    if (pull->run_count == 0) {
        reader->busy = false;
        if (reader->again && !reader->stopping) reader_begin(reader, reader->store);
        return;
    }
    for (uint32_t i = 0; i < pull->piece_count; i++)
        reader->bytes += (uint64_t)pull->pieces[i].envelope_size + pull->pieces[i].payload_size;
    for (uint32_t i = 0; i < pull->run_count; i++) {
        const struct qlog_run *run = &pull->runs[i];
        reader->messages += run->count;
        reader->received = run->pull_sequence + run->count;
        reader->ranges[i] = (struct qlog_range){ run->pull_sequence, reader->received - 1 };
    }
    reader->ack = (struct qlog_ack){
        .request = { .kind = QLOG_ACK, .done = reader_on_acked, .context = reader },
        .who = pull->who,
        .ranges = reader->ranges,
        .range_count = pull->run_count,
        .expired = reader->expired,
        .expired_max = RUNS,
    };
    qlog_pull_release(&reader->pull);
    reader->err = qlog_store_submit(reader->store, &reader->ack.request);
    if (reader->err != Q_OK) reader->busy = false;
}

static void
reader_on_acked(struct qlog_request *request, enum q_err err)
{
    struct reader *reader = request->context;
    reader->err = err;
    if (err != Q_OK)
        reader->busy = false;
    else
        reader_pull(reader);
}

/* --- The writer. */

static enum q_err
writer_init(struct writer *writer, struct qlog_store *store)
{
    writer->store = store;
    writer->subject = q_bytes_from_text("written");
    struct qbatch_builder_options options = { .messages_max = 1, .bytes_max = 1 << 20 };
    struct qbatch_builder *builder;
    Q_TRY(qbatch_builder_new(&options, &builder));
    static uint8_t body[WRITE_BYTES];
    memset(body, 'w', sizeof(body));
    struct qbatch_message message = {
        .body = q_bytes_from(body, sizeof(body)),
        .time_ms = 1700000000000,
    };
    Q_TRY(qbatch_builder_add(builder, &message));
    Q_TRY(qbatch_builder_close(builder, &writer->envelope_size, &writer->payload_size));
    writer->envelope = malloc(writer->envelope_size);
    writer->payload = malloc(writer->payload_size);
    if (writer->envelope == NULL || writer->payload == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "a batch");
    struct qbatch_request_place place = { .request_count = 1 };
    qbatch_builder_write(builder, &place, writer->envelope, writer->payload);
    qbatch_builder_free(builder);
    for (unsigned i = 0; i < WRITES; i++) {
        writer->writes[i].writer = writer;
        writer->writes[i].envelope = malloc(writer->envelope_size);
        if (writer->writes[i].envelope == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a batch");
    }
    return Q_OK;
}

static void
writer_begin(struct writer *writer, struct q_hist *hist)
{
    writer->hist = hist;
    writer->stopping = false;
    for (unsigned i = 0; i < WRITES; i++)
        write_submit(&writer->writes[i]);
}

static void
write_submit(struct write *write)
{
    struct writer *writer = write->writer;
    memcpy(write->envelope, writer->envelope, writer->envelope_size);
    write->publish = (struct qlog_publish){
        .request = { .kind = QLOG_PUBLISH, .done = write_on_done, .context = write },
        .envelopes = write->envelope,
        .envelopes_size = writer->envelope_size,
        .payloads = writer->payload,
        .payloads_size = writer->payload_size,
        .subjects = &writer->subject,
        .batch_count = 1,
        .mode = QLOG_MODE_SYNC,
        .ret_first_sequences = &write->first,
        .checked = true,
        .message_count = 1,
    };
    write->submitted_ns = now();
    writer->under_way++;
    enum q_err err = qlog_store_submit(writer->store, &write->publish.request);
    if (err == Q_OK) return;
    writer->under_way--;
    writer->err = err;
}

static void
write_on_done(struct qlog_request *request, enum q_err err)
{
    struct write *write = request->context;
    struct writer *writer = write->writer;
    writer->under_way--;
    q_hist_record(writer->hist, now() - write->submitted_ns, 1);
    if (err != Q_OK) writer->err = err;
    if (err == Q_OK && !writer->stopping) write_submit(write);
}

static double
quantile_ms(const struct q_hist *hist, double quantile)
{
    return (double)q_hist_quantile(hist, quantile) * 1e-6;
}

static void
print(const struct bench *bench)
{
    double share = bench->raw_rate > 0 ? bench->whole_rate / bench->raw_rate : 0;
    double alone = quantile_ms(&bench->alone, 0.999);
    double beside = quantile_ms(&bench->beside, 0.999);
    double raw_alone = quantile_ms(&bench->raw_alone, 0.999);
    double raw_beside = quantile_ms(&bench->raw_beside, 0.999);
    if (bench->json) {
        (void)printf(
            "{\"bench\":\"readers\",\"bytes\":%" PRIu64 ",\"subjects\":%" PRIu64
            ",\"size\":%" PRIu64 ",\"count\":%" PRIu64 ",\"apart\":%" PRIu64
            ",\"one_messages_s\":%.0f,\"whole_bytes_s\":%.0f,\"raw_bytes_s\":%.0f,"
            "\"whole_share\":%.3f,\"writes_alone\":%" PRIu64 ",\"writes_beside\":%" PRIu64
            ",\"alone_p50_ms\":%.3f,\"beside_p50_ms\":%.3f,\"alone_p999_ms\":%.3f,"
            "\"beside_p999_ms\":%.3f,\"p999_ratio\":%.2f,\"beside_read_bytes_s\":%.0f,"
            "\"raw_depth\":%" PRIu64 ",\"raw_read\":%" PRIu64 ",\"raw_writes_alone\":%" PRIu64
            ",\"raw_writes_beside\":%" PRIu64
            ",\"raw_alone_p50_ms\":%.3f,\"raw_beside_p50_ms\":%.3f,\"raw_alone_p999_ms\":%.3f,"
            "\"raw_beside_p999_ms\":%.3f,\"raw_p999_ratio\":%.2f,\"raw_beside_read_bytes_s\":%.0f}"
            "\n",
            bench->bytes, bench->subjects, bench->size, bench->count, bench->apart, bench->one_rate,
            bench->whole_rate, bench->raw_rate, share, bench->alone.count, bench->beside.count,
            quantile_ms(&bench->alone, 0.5), quantile_ms(&bench->beside, 0.5), alone, beside,
            beside / alone, bench->beside_rate, bench->raw_depth, bench->raw_read,
            bench->raw_alone.count, bench->raw_beside.count, quantile_ms(&bench->raw_alone, 0.5),
            quantile_ms(&bench->raw_beside, 0.5), raw_alone, raw_beside, raw_beside / raw_alone,
            bench->raw.read_rate);
        return;
    }
    (void)printf(
        "one subject %.1f k messages/s\n"
        "whole log  %.0f MB/s, %.0f %% of the raw read of %.0f MB/s\n"
        "writer     %.0f/s alone, %.0f/s beside both; p50 %.2f and %.2f ms, p99.9 %.2f and %.2f "
        "ms: "
        "%.2f times; readers take %.0f MB/s\n"
        "raw        %.0f/s alone, %.0f/s beside %" PRIu64 " reads of %" PRIu64
        " KiB; p50 %.2f and %.2f ms, p99.9 %.2f and %.2f ms: %.2f times; they take %.0f MB/s\n",
        bench->one_rate * 1e-3, bench->whole_rate * 1e-6, 100 * share, bench->raw_rate * 1e-6,
        (double)bench->alone.count / (double)bench->seconds,
        (double)bench->beside.count / (double)bench->seconds, quantile_ms(&bench->alone, 0.5),
        quantile_ms(&bench->beside, 0.5), alone, beside, beside / alone, bench->beside_rate * 1e-6,
        (double)bench->raw_alone.count / (double)bench->seconds,
        (double)bench->raw_beside.count / (double)bench->seconds, bench->raw_depth,
        bench->raw_read / 1024, quantile_ms(&bench->raw_alone, 0.5),
        quantile_ms(&bench->raw_beside, 0.5), raw_alone, raw_beside, raw_beside / raw_alone,
        bench->raw.read_rate * 1e-6);
}

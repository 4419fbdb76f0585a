/*
 * delay-pending: what does a delay store take for messages that wait, and how soon is it back?
 *
 *     delay-pending [--messages N] [--size BYTES] [--synthetic] [--dir D] [-o json]
 *
 * A child publishes N messages, each a batch of its own, 512 to a request, due at random within an hour
 * from tomorrow on, and is killed. Then the store is opened, and one message more is published, due at
 * once: from the beginning of the open until that is handed over is the start.
 *
 * With --synthetic nobody publishes: schedule files are made as they would be for N messages, each
 * segment is a file without a frame, and of each schedule file only the first page is written. So what a
 * start reads, and what memory it takes, is as with N messages; nothing of them could be handed over.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qbatch/batch.h>
#include <qbatch/build.h>
#include <qlog/delay.h>

#include "delay/delay.h"
#include "usage.h"

enum {
    REQUEST = 512,     /* messages */
    UNDER_WAY_MAX = 8, /* requests */
    DAY_MS = 86400 * 1000,
    HOUR_MS = 3600 * 1000,
    SEGMENT_ENTRIES = 160000, /* of a synthetic segment */
    SEGMENT_BYTES = 64 * 1024 * 1024,
};

struct request {
    struct qlog_delay_publish publish;
    struct q_bytes subjects[REQUEST];
    uint64_t sequences[REQUEST];
    uint8_t *bytes;
    bool busy;
};

struct bench {
    const char *directory;
    uint64_t messages;
    uint64_t size;
    bool synthetic;
    uint64_t random;
    struct qlog_delay *delay;
    bool handed_over;
    struct usage intake;
    uint64_t start_ns;
    uint64_t open_ns;
};

static uint64_t
random_next(struct bench *bench)
{
    uint64_t value = bench->random += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

static const char *
on_route(void *context, struct q_bytes subject, unsigned index)
{
    (void)context;
    (void)subject;
    return index == 0 ? "east" : NULL;
}

static void
on_send(void *context, struct qlog_delay_send *send)
{
    struct bench *bench = context;
    bench->handed_over = true;
    qlog_delay_sent(bench->delay, send, Q_OK);
}

static void
must(enum q_err err, const char *what)
{
    char line[Q_FAULT_LINE_MAX];
    if (err == Q_OK) return;
    (void)fprintf(
        stderr, "delay-pending: %s: %s\n", what,
        q_fault_format(q_fault_last(), line, sizeof(line)));
    exit(1);
}

static void
bench_open(struct bench *bench)
{
    struct qlog_delay_options options = {
        .log = { .create = true, .segment_bytes = SEGMENT_BYTES },
        .sender = { bench, on_route, on_send },
    };
    must(qlog_delay_open(bench->directory, &options, &bench->delay), "open");
}

static void
bench_turn(struct bench *bench)
{
    must(qlog_delay_turn(bench->delay), "a turn");
    must(qlog_delay_wait(bench->delay, Q_NS_PER_MS), "wait");
}

static void
on_done(struct qlog_delay_request *request, enum q_err err)
{
    must(err, "a publish");
    ((struct request *)request->context)->busy = false;
}

/* Fill in a request of `count` batches of one message each; due_ms 0: at random, from tomorrow on. */
static void
request_fill(struct bench *bench, struct request *request, uint32_t count, uint64_t due_ms)
{
    static const struct q_bytes subject = { (const uint8_t *)"orders", 6 };
    struct qlog_publish *what = &request->publish.publish;
    struct qbatch_builder_options options = { .producer_id = { 7 } };
    uint64_t now_ms = q_clock_wall_ms(q_clock_system());
    uint8_t body[4096] = { 0 };
    struct qbatch_builder *builder;
    uint32_t sizes[2];
    must(qbatch_builder_new(&options, &builder), "a batch");
    struct qbatch_message message = {
        .body = q_bytes_from(body, bench->size),
        .time_ms = now_ms,
    };
    must(qbatch_builder_add(builder, &message), "a batch");
    must(qbatch_builder_close(builder, &sizes[0], &sizes[1]), "a batch");
    if (request->bytes == NULL) request->bytes = malloc((size_t)(sizes[0] + sizes[1]) * REQUEST);
    Q_ASSERT(request->bytes != NULL);
    *what = (struct qlog_publish){ .envelopes = request->bytes };
    what->envelopes_size = sizes[0] * count;
    what->payloads_size = sizes[1] * count;
    what->payloads = request->bytes + what->envelopes_size;
    for (uint32_t i = 0; i < count; i++) {
        struct qbatch_request_place place = {
            .request_index = i,
            .request_count = count,
            .due_ms = due_ms != 0 ? due_ms : now_ms + DAY_MS + random_next(bench) % HOUR_MS,
        };
        qbatch_builder_write(
            builder, &place, request->bytes + (size_t)sizes[0] * i,
            request->bytes + what->envelopes_size + (size_t)sizes[1] * i);
        request->subjects[i] = subject;
    }
    qbatch_builder_free(builder);
    what->batch_count = count;
    what->subjects = request->subjects;
    what->ret_first_sequences = request->sequences;
    must(qlog_publish_check(what), "a request");
    request->publish.request =
        (struct qlog_delay_request){ QLOG_DELAY_PUBLISH, on_done, request, { NULL } };
    request->busy = true;
    must(qlog_delay_submit(bench->delay, &request->publish.request), "submit");
}

/* In a process of its own, which ends in the middle. */
static void
bench_publish(struct bench *bench, int out)
{
    struct request *requests = calloc(UNDER_WAY_MAX, sizeof(*requests));
    Q_ASSERT(requests != NULL);
    bench_open(bench);
    struct usage began = usage_now();
    uint64_t left = bench->messages;
    while (left > 0) {
        for (unsigned i = 0; i < UNDER_WAY_MAX && left > 0; i++) {
            if (requests[i].busy) continue;
            uint32_t count = (uint32_t)q_min_u64(left, REQUEST);
            request_fill(bench, &requests[i], count, 0);
            left -= count;
        }
        bench_turn(bench);
    }
    for (unsigned i = 0; i < UNDER_WAY_MAX; i++)
        while (requests[i].busy)
            bench_turn(bench);
    struct usage usage = usage_since(&began);
    if (write(out, &usage, sizeof(usage)) != (ssize_t)sizeof(usage)) _exit(1);
    (void)raise(SIGKILL);
}

static void
bench_fill(struct bench *bench)
{
    int ends[2];
    Q_ASSERT(pipe(ends) == 0);
    pid_t child = fork();
    Q_ASSERT(child >= 0);
    if (child == 0) bench_publish(bench, ends[1]);
    (void)close(ends[1]);
    bool done = read(ends[0], &bench->intake, sizeof(bench->intake)) == sizeof(bench->intake);
    int status;
    (void)waitpid(child, &status, 0);
    (void)close(ends[0]);
    if (!done) exit(1);
}

/* --- Synthetic. */

static void
write_at(int file, const void *data, size_t size, uint64_t at)
{
    if (pwrite(file, data, size, (off_t)at) != (ssize_t)size) {
        perror("write");
        exit(1);
    }
}

static void
synthetic_segment(
    struct bench *bench,
    const struct ql_segment *like,
    const struct ql_home *home,
    uint32_t number,
    uint32_t count)
{
    char path[QL_PATH_MAX];
    uint8_t block[QL_BLOCK];
    struct ql_segment_header segment = {
        .in_use = true,
        .log_name = "delay",
        .incarnation = like->incarnation + 1000 + number,
        .base = (uint64_t)number * (SEGMENT_BYTES - QL_BLOCK),
        .file_size = SEGMENT_BYTES,
        .generation = 1,
    };
    memcpy(segment.store_id, home->super.store_id, sizeof(segment.store_id));
    ql_segment_header_encode(&segment, block);
    (void)snprintf(path, sizeof(path), "%s/delay/segment-%06u", bench->directory, 100 + number);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    Q_ASSERT(file >= 0 && ftruncate(file, SEGMENT_BYTES) == 0);
    write_at(file, block, sizeof(block), 0);
    (void)close(file);
    if (count == 0) return; /* the active one */

    struct ql_delay_entry *entries = calloc(count, sizeof(*entries));
    uint8_t rows[16];
    struct ql_schedule_build build = {
        .header = {
            .log_name = "delay",
            .incarnation = segment.incarnation,
            .base = segment.base,
            .end = segment.base + SEGMENT_BYTES - QL_BLOCK,
            .generation = 1,
            .entry_count = count,
            .subject_count = 1,
            .subject_bytes = sizeof(rows),
        },
        .entries = entries,
        .subjects = rows,
    };
    Q_ASSERT(entries != NULL);
    ql_schedule_subject_encode(0, q_bytes_from_text("orders"), rows);
    memcpy(build.header.store_id, segment.store_id, sizeof(segment.store_id));
    uint64_t from_ms = q_clock_wall_ms(q_clock_system()) + DAY_MS;
    for (uint32_t i = 0; i < count; i++)
        entries[i] = (struct ql_delay_entry){
            .due_ms = from_ms + random_next(bench) % HOUR_MS,
            .sequence = (uint64_t)number * SEGMENT_ENTRIES + i,
            .frame = i / 512 * QL_BLOCK,
            .envelope_at = 128,
            .envelope_size = 168,
            .payload_at = 296,
            .payload_size = 136,
            .count = 1,
        };
    ql_schedule_build(&build);
    must(build.err, "a schedule file");
    struct ql_schedule_layout layout = ql_schedule_layout(&build.header);
    (void)snprintf(path, sizeof(path), "%s/delay/schedule-%06u", bench->directory, 100 + number);
    file = open(path, O_CREAT | O_WRONLY, 0600);
    Q_ASSERT(file >= 0 && ftruncate(file, (off_t)layout.file_size) == 0);
    write_at(file, build.file, QL_SCHEDULE_HEADER_SIZE + QL_SCHEDULE_PAGE, 0);
    write_at(file, build.file + layout.tail_at, layout.tail_size, layout.tail_at);
    (void)close(file);
    free(build.file);
    free(entries);
}

/* A store that was made and closed gives the rest of the directory. */
static void
bench_make_up(struct bench *bench)
{
    char path[QL_PATH_MAX];
    struct ql_home *home;
    bench_open(bench);
    must(qlog_delay_close(bench->delay), "close");
    must(ql_home_open_to_read(bench->directory, NULL, &home), "read");
    struct ql_segment like = *home->logs[0].segments.segments[0];
    (void)snprintf(path, sizeof(path), "%s/delay/segment-%06u", bench->directory, like.number);
    (void)unlink(path);
    uint32_t number = 0;
    for (uint64_t left = bench->messages; left > 0; number++) {
        uint32_t count = (uint32_t)q_min_u64(left, SEGMENT_ENTRIES);
        synthetic_segment(bench, &like, home, number, count);
        left -= count;
    }
    synthetic_segment(bench, &like, home, number, 0);
    /* No superblock: segments are all there is, and where they begin and end. */
    (void)snprintf(path, sizeof(path), "%s/superblock", bench->directory);
    (void)unlink(path);
    must(ql_home_close(home), "close");
}

/* --- The start. */

static void
bench_start(struct bench *bench)
{
    struct request *request = calloc(1, sizeof(*request));
    Q_ASSERT(request != NULL);
    uint64_t began_ns = q_clock_monotonic_ns(q_clock_system());
    bench_open(bench);
    bench->open_ns = q_clock_monotonic_ns(q_clock_system()) - began_ns;
    request_fill(bench, request, 1, 1);
    while (!bench->handed_over)
        bench_turn(bench);
    bench->start_ns = q_clock_monotonic_ns(q_clock_system()) - began_ns;
    free(request->bytes);
    free(request);
}

/* Of this process: a line of /proc/self/status, in bytes. */
static uint64_t
memory(const char *name)
{
    char line[256];
    uint64_t kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kilobytes = strtoull(line + strlen(name) + 1, NULL, 10);
    if (file != NULL) (void)fclose(file);
    return kilobytes * 1024;
}

static void
bench_report(struct bench *bench, bool json)
{
    struct qlog_delay_counters counters;
    qlog_delay_counters(bench->delay, &counters);
    double rate =
        bench->synthetic ? 0 : (double)bench->messages * Q_NS_PER_S / (double)bench->intake.wall_ns;
    double cpu_ns =
        bench->synthetic ? 0 : (double)bench->intake.process_ns / (double)bench->messages;
    (void)printf(
        json ? "{\"synthetic\":%s,\"pending\":%" PRIu64 ",\"intake_per_s\":%.0f,"
               "\"intake_cpu_ns\":%.0f,\"open_ms\":%.0f,\"start_ms\":%.0f,\"memory\":%" PRIu64
               ",\"mapped\":%" PRIu64 "}\n"
             : "synthetic        %s\npending          %" PRIu64
               "\nintake           %.0f/s, %.0f ns of CPU each\nopen             %.0f ms\n"
               "start            %.0f ms until a message was handed over\n"
               "memory           %" PRIu64 " bytes, and %" PRIu64 " mapped from files\n",
        json ? (bench->synthetic ? "true" : "false")
             : (bench->synthetic ? "yes: schedule files of empty segments" : "no"),
        counters.pending, rate, cpu_ns, (double)bench->open_ns / Q_NS_PER_MS,
        (double)bench->start_ns / Q_NS_PER_MS, memory("RssAnon"), memory("RssFile"));
}

int
main(int argc, char **argv)
{
    struct bench bench = { .messages = 1000000, .size = 128, .random = 1 };
    const char *root = ".";
    const char *format = "text";
    bool kept = false;
    const struct q_opt options[] = {
        { "messages", 0, Q_OPT_NUMBER, &bench.messages, "N", "that wait", 1, 0 },
        { "size", 0, Q_OPT_SIZE, &bench.size, "BYTES", "of a body", 1, 4096 },
        { "synthetic", 0, Q_OPT_FLAG, &bench.synthetic, NULL, "files are made up", 0, 0 },
        { "keep", 0, Q_OPT_FLAG, &kept, NULL, "leave the directory", 0, 0 },
        { "dir", 0, Q_OPT_TEXT, &root, "D", "where the store is made", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    char directory[3072];
    char command[4096];
    (void)snprintf(directory, sizeof(directory), "%s/bench-delay-XXXXXX", root);
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    bench.directory = directory;
    if (bench.synthetic)
        bench_make_up(&bench);
    else
        bench_fill(&bench);
    bench_start(&bench);
    bench_report(&bench, strcmp(format, "json") == 0);
    must(qlog_delay_close(bench.delay), "close");
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return kept || system(command) == 0 ? 0 : 1;
}

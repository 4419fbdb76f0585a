/*
 * append: how many bytes and messages a second does the log take from one thread, as a share of a
 * loop that only copies and writes the same frames with the same flush?
 *
 *     append [--size BYTES] [--frame BYTES] [--mode sync|async] [--seconds S] [--dir D] [-o json]
 *            [--flush-cost TIME] [--rate N]
 *
 * --flush-cost makes every flush take longer, for log and raw loop alike. --rate submits one message
 * at a time, so many a second, and shows what a trickle pays in space: the bytes that a message takes.
 *
 * As many appends are kept under way as the raw loop keeps frames, flushed one by one or per group.
 * Latency is from submit to done, per message; of the raw loop from fill to done, per frame. Log and
 * raw loop take turns of a few tenths of a second; the share is the median over the rounds of what
 * the log did in its turn by what the raw loop did in the turns before and after it.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/opts.h>
#include <qbase/text.h>
#include <qlog/log.h>

#include "raw.h"
#include "slow_io.h"

enum {
    RECORD_OVERHEAD = 12, /* head and length */
    ROUNDS = 10,
    TICK_NS = 10 * Q_NS_PER_MS,
};

/* The log is trimmed as it grows, so that its segments are recycled, as in a store that has run for
 * a while; what is measured begins when the first fresh ones are behind it. */
#define SEGMENT_BYTES (256ull << 20)
#define WARM_UP_BYTES (3 * SEGMENT_BYTES)
#define WARM_UP_NS    (5 * (uint64_t)Q_NS_PER_S)

struct settings {
    uint64_t size;
    uint64_t frame;
    uint64_t seconds;
    uint64_t flush_cost_ns;
    uint64_t rate; /* 0: as fast as it goes */
    const char *mode_name;
    const char *directory;
    const char *format;
    enum qlog_mode mode;
    bool json;
};

struct slot {
    struct qlog_append append;
    struct bench *bench;
    struct slot *next;
    uint64_t submitted_ns;
};

struct bench {
    const struct settings *settings;
    struct qlog *log;
    struct slot *slots;
    struct slot *free;
    uint8_t *message;
    uint64_t under_way;
    uint64_t now_ns; /* taken once per turn: a clock for each message would be what is measured */
    uint64_t messages;
    uint64_t frames;
    uint64_t last_frame;
    uint64_t log_bytes;
    uint64_t trimmed;
    enum q_err err;
    struct usage usage;
    struct q_hist latency;
    struct raw_result raw;
    double shares[ROUNDS]; /* of the raw loop, sorted */
    unsigned share_count;
    struct qlog_io *slow_io;
};

static bool parse(int argc, char **argv, struct settings *settings, int *ret_exit);
static void print_question(const struct settings *settings);
static enum q_err bench_open(
    struct bench *bench, const struct settings *settings, const char *directory);
static enum q_err bench_measure(struct bench *bench, struct raw *raw);
static enum q_err bench_run(struct bench *bench, uint64_t until_written, uint64_t until_ns);
static enum q_err bench_raw(struct bench *bench, struct raw *raw, double *ret_rate);
static enum q_err bench_close(struct bench *bench);
static void print(const struct bench *bench);
static void remove_tree(const char *directory);

int
main(int argc, char **argv)
{
    struct settings settings = {
        .size = 1024,
        .frame = 64 * 1024,
        .seconds = 3,
        .mode_name = "sync",
        .directory = ".",
        .format = "text",
    };
    int code;
    if (!parse(argc, argv, &settings, &code)) return code;
    print_question(&settings);

    char directory[4096];
    (void)snprintf(directory, sizeof(directory), "%s/bench-append-XXXXXX", settings.directory);
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    char raw_path[4200];
    (void)snprintf(raw_path, sizeof(raw_path), "%s/raw", directory);
    struct raw_options raw_options = {
        .path = raw_path,
        .frame_bytes = (uint32_t)settings.frame,
        .message_bytes = (uint32_t)settings.size,
        .flushed = settings.mode == QLOG_MODE_SYNC,
        .flush_cost_ns = settings.flush_cost_ns,
    };
    struct raw *raw = NULL;
    int rv = settings.rate > 0 ? 0 : raw_new(&raw_options, &raw);
    if (rv != 0) (void)fprintf(stderr, "append: no raw loop here: %s\n", strerror(-rv));

    static struct bench bench;
    enum q_err err = bench_open(&bench, &settings, directory);
    if (err == Q_OK) err = bench_measure(&bench, raw);
    enum q_err close_err = bench_close(&bench);
    if (err == Q_OK) err = close_err;
    if (raw != NULL) raw_free(raw);
    remove_tree(directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "append: %s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    print(&bench);
    return 0;
}

static bool
parse(int argc, char **argv, struct settings *settings, int *ret_exit)
{
    const struct q_opt options[] = {
        { "size", 0, Q_OPT_SIZE, &settings->size, "BYTES", "of a message (1 KiB)", 1, 1 << 20 },
        { "frame", 0, Q_OPT_SIZE, &settings->frame, "BYTES", "at most in a frame (64 KiB)", 4096,
          1 << 20 },
        { "mode", 0, Q_OPT_TEXT, &settings->mode_name, "MODE", "sync or async (sync)", 0, 0 },
        { "seconds", 0, Q_OPT_NUMBER, &settings->seconds, "S", "to measure (3)", 1, 3600 },
        { "flush-cost", 0, Q_OPT_DURATION, &settings->flush_cost_ns, "TIME",
          "added to each flush (0)", 0, 0 },
        { "rate", 0, Q_OPT_NUMBER, &settings->rate, "N", "messages a second, one by one", 0,
          1000000 },
        { "dir", 0, Q_OPT_TEXT, &settings->directory, "DIR", "disk to measure (.)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &settings->format, "FORMAT", "text or json (text)", 0, 0 },
    };
    size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    const char *mistake = NULL;
    if (q_opts_parse(options, option_count, argc, argv, &result) != Q_OK) mistake = result.error;
    settings->json = strcmp(settings->format, "json") == 0;
    settings->mode = strcmp(settings->mode_name, "sync") == 0 ? QLOG_MODE_SYNC : QLOG_MODE_ASYNC;
    if (mistake == NULL && result.arg_count > 0) mistake = "there are no arguments";
    if (mistake == NULL && settings->mode == QLOG_MODE_ASYNC &&
        strcmp(settings->mode_name, "async") != 0)
        mistake = "--mode is sync or async";
    if (mistake == NULL && settings->frame % 4096 != 0) mistake = "--frame is a multiple of 4096";
    *ret_exit = mistake == NULL ? 0 : 2;
    if (mistake != NULL) (void)fprintf(stderr, "append: %s\n", mistake);
    if (result.help) q_opts_print_help(stdout, options, option_count);
    return mistake == NULL && !result.help;
}

/* Bytes per second of the raw loop, flushed and not, as measured when the path was chosen. */
static double
raw_estimate(uint64_t frame, bool flushed)
{
    static const struct {
        uint64_t frame;
        double flushed;
        double written;
    } rows[] = {
        { 4096, 0.31e9, 0.9e9 },      { 16 * 1024, 1.4e9, 3e9 },     { 64 * 1024, 2.4e9, 6.6e9 },
        { 256 * 1024, 5.5e9, 8.4e9 }, { 1024 * 1024, 3.7e9, 8.4e9 },
    };
    size_t i = 0;
    while (i + 1 < sizeof(rows) / sizeof(rows[0]) && rows[i].frame < frame)
        i++;
    return flushed ? rows[i].flushed : rows[i].written;
}

static void
print_question(const struct settings *settings)
{
    /* The disk takes frames at nine tenths of the raw loop's rate, the thread 100 ns for a message
     * and 0.2 ns for each of its bytes (a copy and a hash); whichever is slower. */
    double size = (double)settings->size;
    double raw = raw_estimate(settings->frame, settings->mode == QLOG_MODE_SYNC);
    double message_s = 100e-9 + size * 0.2e-9;
    double disk_s = size / raw / 0.9;
    double rate = 1 / (message_s > disk_s ? message_s : disk_s);
    (void)fprintf(
        stderr,
        "question: how much does the log take from one thread, in messages of %" PRIu64
        " bytes and\n          frames of %" PRIu64
        ", %s, beside a loop that only copies and writes?\n"
        "estimate: %.2f M messages/s, %.2f GB/s, %.0f %% of a raw loop of %.2f GB/s\n",
        settings->size, settings->frame, settings->mode_name, rate * 1e-6, rate * size * 1e-9,
        100 * rate * size / raw, raw * 1e-9);
}

static void
on_done(struct qlog_append *append, enum q_err err)
{
    struct slot *slot = append->context;
    struct bench *bench = slot->bench;
    bench->under_way--;
    slot->next = bench->free;
    bench->free = slot;
    if (err != Q_OK) {
        bench->err = err;
        return;
    }
    q_hist_record(&bench->latency, bench->now_ns - slot->submitted_ns, 1);
    bench->messages++;
    if (bench->messages == 1 || append->position.value != bench->last_frame) bench->frames++;
    bench->last_frame = append->position.value;
}

static enum q_err
bench_open(struct bench *bench, const struct settings *settings, const char *directory)
{
    char path[4200];
    (void)snprintf(path, sizeof(path), "%s/log", directory);
    uint64_t record = q_align_up(settings->size + RECORD_OVERHEAD, 8);
    /* Frames that are flushed each by itself wait for nothing once they are written. */
    uint64_t frames = settings->frame <= RAW_DSYNC_BYTES_MAX || settings->mode == QLOG_MODE_ASYNC
                          ? 2 * RAW_DEPTH
                          : RAW_FRAMES_MAX;
    uint64_t slot_count = frames * q_max_u64(1, settings->frame / record);
    *bench = (struct bench){ .settings = settings };
    q_hist_init(&bench->latency);
    q_hist_init(&bench->raw.latency);
    bench->slots = calloc(slot_count, sizeof(struct slot));
    bench->message = calloc(1, settings->size);
    if (bench->slots == NULL || bench->message == NULL) return Q_FAIL(Q_E_NOMEM, .what = "slots");
    for (uint64_t i = 0; i < slot_count; i++) {
        bench->slots[i] = (struct slot){ .bench = bench, .next = bench->free };
        bench->free = &bench->slots[i];
    }
    struct qlog_options options = {
        .create = true,
        .frame_bytes_max = (uint32_t)settings->frame,
        .segment_bytes = SEGMENT_BYTES,
    };
    struct qlog_io *ring = NULL;
    if (settings->flush_cost_ns > 0 &&
        (qlog_io_uring_new(&ring) != 0 ||
         slow_io_new(ring, settings->flush_cost_ns, &bench->slow_io) != 0))
        return Q_FAIL(Q_E_UNSUPPORTED, .what = "no ring here to slow down");
    options.io = bench->slow_io;
    return qlog_open(path, &options, &bench->log);
}

static enum q_err
bench_close(struct bench *bench)
{
    enum q_err err = bench->log == NULL ? Q_OK : qlog_close(bench->log);
    if (bench->slow_io != NULL) bench->slow_io->table->destroy(bench->slow_io);
    free(bench->slots);
    free(bench->message);
    return err;
}

static int
compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static enum q_err
bench_measure(struct bench *bench, struct raw *raw)
{
    const struct settings *settings = bench->settings;
    uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
    /* A trickle measures space, which needs no warm-up. Else segments are recycled ones from here on,
     * as in a store that has run for a while. */
    if (settings->rate == 0) {
        Q_TRY(bench_run(bench, WARM_UP_BYTES, now_ns + WARM_UP_NS));
        bench->messages = 0;
        bench->frames = 0;
        q_hist_init(&bench->latency);
    }
    uint64_t slice_ns = settings->seconds * Q_NS_PER_S / ROUNDS;
    double raw_before = 0;
    if (raw != NULL) Q_TRY(bench_raw(bench, raw, &raw_before));
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct usage start = usage_now();
        uint64_t first = qlog_written(bench->log).value;
        Q_TRY(bench_run(bench, UINT64_MAX, start.wall_ns + slice_ns));
        struct usage usage = usage_since(&start);
        uint64_t bytes = qlog_written(bench->log).value - first;
        usage_add(&bench->usage, &usage);
        bench->log_bytes += bytes;
        if (raw == NULL) continue;
        double raw_after = 0;
        Q_TRY(bench_raw(bench, raw, &raw_after));
        bench->shares[bench->share_count++] =
            (double)bytes / (double)usage.wall_ns / ((raw_before + raw_after) / 2);
        raw_before = raw_after;
    }
    qsort(bench->shares, bench->share_count, sizeof(bench->shares[0]), compare_doubles);
    return Q_OK;
}

/* A turn of the raw loop; in bytes per nanosecond. */
static enum q_err
bench_raw(struct bench *bench, struct raw *raw, double *ret_rate)
{
    uint64_t bytes = bench->raw.bytes;
    uint64_t wall_ns = bench->raw.usage.wall_ns;
    int rv = raw_run(raw, bench->settings->seconds * Q_NS_PER_S / ROUNDS, &bench->raw);
    if (rv < 0) return Q_FAIL(q_err_from_errno(-rv), .sys = -rv, .what = "raw loop");
    *ret_rate = (double)(bench->raw.bytes - bytes) / (double)(bench->raw.usage.wall_ns - wall_ns);
    return Q_OK;
}

/* Append until one of both is reached, and until everything is done. */
static enum q_err
bench_run(struct bench *bench, uint64_t until_written, uint64_t until_ns)
{
    const struct settings *settings = bench->settings;
    const struct q_clock *clock = q_clock_system();
    uint64_t interval_ns = settings->rate > 0 ? Q_NS_PER_S / settings->rate : 0;
    bench->now_ns = q_clock_monotonic_ns(clock);
    uint64_t next_ns = interval_ns > 0 ? bench->now_ns : 0;
    bool going = true;
    while (going || bench->under_way > 0) {
        while (going && bench->free != NULL && bench->now_ns >= next_ns) {
            next_ns += interval_ns;
            struct slot *slot = bench->free;
            bench->free = slot->next;
            slot->submitted_ns = bench->now_ns;
            slot->append = (struct qlog_append){
                .data = bench->message,
                .size = settings->size,
                .mode = settings->mode,
                .done = on_done,
                .context = slot,
            };
            Q_TRY(qlog_submit(bench->log, &slot->append));
            bench->under_way++;
        }
        Q_TRY(qlog_turn(bench->log));
        Q_TRY(bench->err);
        uint64_t wait_ns = TICK_NS;
        if (interval_ns > 0)
            wait_ns = next_ns > bench->now_ns ? q_min_u64(TICK_NS, next_ns - bench->now_ns) : 0;
        Q_TRY(qlog_wait(bench->log, wait_ns));
        uint64_t written = qlog_written(bench->log).value;
        if (written - bench->trimmed >= SEGMENT_BYTES) {
            Q_TRY(qlog_trim(bench->log, qlog_durable(bench->log)));
            bench->trimmed = written;
        }
        bench->now_ns = q_clock_monotonic_ns(clock);
        going = written < until_written && bench->now_ns < until_ns;
    }
    return Q_OK;
}

/* One run as a row of text, or the members of a JSON object. */
static void
print_run(
    const char *name,
    bool json,
    uint64_t bytes,
    const struct usage *usage,
    const struct q_hist *latency)
{
    double seconds = (double)usage->wall_ns / Q_NS_PER_S;
    double rate = (double)bytes / seconds;
    double process = (double)usage->process_ns / (double)bytes;
    double system = (double)usage->system_ns / (double)bytes;
    const double quantiles[] = { 0.5, 0.9, 0.99, 0.999 };
    double us[4];
    for (size_t i = 0; i < 4; i++)
        us[i] = (double)q_hist_quantile(latency, quantiles[i]) / Q_NS_PER_US;
    if (json)
        (void)printf(
            "\"%s\":{\"bytes_per_s\":%.0f,\"process_cpu_s_per_gb\":%.3f,"
            "\"system_cpu_s_per_gb\":%.3f,\"latency_us\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,"
            "\"p999\":%.1f,\"max\":%.1f}}",
            name, rate, process, system, us[0], us[1], us[2], us[3],
            (double)latency->max / Q_NS_PER_US);
    else
        (void)printf(
            "%-10s %8.1f MB/s  CPU s/GB: process %.2f, system %.2f  latency us: p50 %.0f  p99 %.0f"
            "  p99.9 %.0f\n",
            name, rate * 1e-6, process, system, us[0], us[2], us[3]);
}

static void
print(const struct bench *bench)
{
    const struct settings *settings = bench->settings;
    double seconds = (double)bench->usage.wall_ns / Q_NS_PER_S;
    double messages_per_s = (double)bench->messages / seconds;
    double frame_mean = (double)bench->log_bytes / (double)q_max_u64(1, bench->frames);
    bool raw = bench->share_count > 0;
    double share = raw ? bench->shares[bench->share_count / 2] : 0;
    double low = raw ? bench->shares[0] : 0;
    double high = raw ? bench->shares[bench->share_count - 1] : 0;
    if (settings->json)
        (void)printf(
            "{\"bench\":\"append\",\"size\":%" PRIu64 ",\"frame\":%" PRIu64
            ",\"mode\":\"%s\",\"seconds\":%.3f,\"messages\":%" PRIu64
            ",\"messages_per_s\":%.0f,\"bytes_per_s\":%.0f,\"frame_mean\":%.0f,"
            "\"raw_share\":%.3f,\"raw_share_low\":%.3f,\"raw_share_high\":%.3f,"
            "\"log_bytes_per_message\":%.0f,\"flush_cost_us\":%.0f,",
            settings->size, settings->frame, settings->mode_name, seconds, bench->messages,
            messages_per_s, messages_per_s * (double)settings->size, frame_mean, share, low, high,
            (double)bench->log_bytes / (double)q_max_u64(1, bench->messages),
            (double)settings->flush_cost_ns / Q_NS_PER_US);
    else
        (void)printf(
            "%.3f M messages/s of %" PRIu64
            " bytes, %s, frames of %.0f bytes on average, %.0f bytes"
            " on disk per message\n",
            messages_per_s * 1e-6, settings->size, settings->mode_name, frame_mean,
            (double)bench->log_bytes / (double)q_max_u64(1, bench->messages));
    print_run("log", settings->json, bench->log_bytes, &bench->usage, &bench->latency);
    if (raw) {
        if (settings->json) (void)printf(",");
        print_run("raw", settings->json, bench->raw.bytes, &bench->raw.usage, &bench->raw.latency);
    }
    if (settings->json)
        (void)printf("}\n");
    else if (raw)
        (void)printf(
            "the log's bytes are %.0f %% of the raw loop's (%.0f to %.0f %% in %u rounds)\n",
            share * 100, low * 100, high * 100, bench->share_count);
}

static void
remove_tree(const char *directory)
{
    pid_t child = fork();
    if (child == 0) {
        (void)execlp("rm", "rm", "-rf", directory, (char *)NULL);
        _exit(127);
    }
    if (child > 0) (void)waitpid(child, NULL, 0);
}

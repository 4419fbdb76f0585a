/*
 * verify: how fast does `qlog verify --deep` read a store?
 *
 *     verify [--bytes N] [--size BYTES] [--count N] [--jobs N] [--rounds N] [--dir D] [-o json]
 *     verify --store DIR …                a store that is there
 *
 * By turns: the check of the message log that the tool makes, index files and all, and a loop that
 * reads the same segments directly, 1 MiB at a time, four under way, and hashes them, in one thread.
 * The estimate is that loop: each byte is read once and hashed once.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/opts.h>

#include "fill.h"
#include "look/check.h"
#include "readers_raw.h"
#include "usage.h"

enum {
    ROUNDS_MAX = 99
};

struct bench {
    const char *directory;
    uint64_t jobs;
    uint64_t rounds;
    double rates[ROUNDS_MAX]; /* bytes a second */
    double raw[ROUNDS_MAX];
    uint64_t bytes; /* that were checked, in all */
    struct usage usage;
    unsigned findings;
};

static enum q_err bench_store(struct bench *bench);
static enum q_err bench_verify(struct bench *bench, double *ret_rate);
static double median(double *values, uint64_t count);

int
main(int argc, char **argv)
{
    struct bench bench = { .jobs = 1, .rounds = 5 };
    uint64_t bytes = 2ull << 30;
    uint64_t size = 1024;
    uint64_t count = 64;
    const char *root = ".";
    const char *given = NULL;
    const char *format = "text";
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bytes, "N", "of messages", 1, 0 },
        { "size", 0, Q_OPT_SIZE, &size, "N", "of a message", 1, 0 },
        { "count", 0, Q_OPT_NUMBER, &count, "N", "messages of a batch", 1, 1000 },
        { "jobs", 'j', Q_OPT_NUMBER, &bench.jobs, "N", "threads that check", 1, QL_CHECK_JOBS_MAX },
        { "rounds", 0, Q_OPT_NUMBER, &bench.rounds, "N", "of both", 1, ROUNDS_MAX },
        { "dir", 0, Q_OPT_TEXT, &root, "D", "where the store is made", 0, 0 },
        { "store", 0, Q_OPT_TEXT, &given, "DIR", "a store that is there", 0, 0 },
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
    bool json = strcmp(format, "json") == 0;
    if (!json)
        (void)printf(
            "How fast is a store verified, by %" PRIu64 " job%s?\n"
            "estimate   what one thread reads and hashes\n",
            bench.jobs, bench.jobs == 1 ? "" : "s");
    char directory[4096];
    (void)snprintf(directory, sizeof(directory), "%s/bench-verify-XXXXXX", root);
    if (given == NULL && mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    struct fill fill = {
        .bytes = bytes,
        .subjects = 1000,
        .size = (uint32_t)size,
        .count = (uint32_t)count,
        .batches = 64,
    };
    bench.directory = given == NULL ? directory : given;
    if (given == NULL) err = fill_and_kill(directory, &fill);
    if (err == Q_OK) err = bench_store(&bench);
    if (given == NULL) fill_remove(directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    double rate = median(bench.rates, bench.rounds);
    double raw = median(bench.raw, bench.rounds);
    double cpu = bench.bytes == 0 ? 0 : (double)bench.usage.process_ns / (double)bench.bytes;
    if (json)
        (void)printf(
            "{\"bench\":\"verify\",\"jobs\":%" PRIu64
            ",\"bytes_per_s\":%.0f,\"raw_bytes_per_s\":%.0f,"
            "\"cpu_s_per_gb\":%.3f,\"findings\":%u}\n",
            bench.jobs, rate, raw, cpu, bench.findings);
    else
        (void)printf(
            "verified   %.2f GB/s, %.2f s of CPU for each GB\n"
            "raw        %.2f GB/s read and hashed, which is %.0f %%\n",
            rate * 1e-9, cpu, raw * 1e-9, raw > 0 ? rate / raw * 100 : 0);
    return bench.findings > 0 ? 1 : 0;
}

static enum q_err
bench_store(struct bench *bench)
{
    for (uint64_t i = 0; i < bench->rounds; i++) {
        readers_forget(bench->directory);
        bench->raw[i] = readers_raw(bench->directory, UINT64_MAX, true);
        readers_forget(bench->directory);
        Q_TRY(bench_verify(bench, &bench->rates[i]));
    }
    return Q_OK;
}

static void
on_damage(void *context, const struct qlog_damage *damage)
{
    struct bench *bench = context;
    (void)damage;
    bench->findings++;
}

static void
on_index(void *context, uint64_t position, const char *text)
{
    struct bench *bench = context;
    (void)position;
    (void)text;
    bench->findings++;
}

static enum q_err
bench_verify(struct bench *bench, double *ret_rate)
{
    struct ql_home *home;
    struct usage start = usage_now();
    Q_TRY(ql_home_open_to_read(bench->directory, NULL, &home));
    struct ql_check check = {
        .home = home,
        .deep = true,
        .jobs = (unsigned)bench->jobs,
        .context = bench,
        .on_damage = on_damage,
        .on_index = on_index,
    };
    enum q_err err = ql_check_run(&check);
    (void)ql_home_close(home);
    struct usage took = usage_since(&start);
    uint64_t bytes = check.state.end - check.state.first;
    *ret_rate = took.wall_ns == 0 ? 0 : (double)bytes * Q_NS_PER_S / (double)took.wall_ns;
    bench->bytes += bytes;
    usage_add(&bench->usage, &took);
    return err;
}

static int
compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static double
median(double *values, uint64_t count)
{
    qsort(values, count, sizeof(*values), compare_doubles);
    return values[count / 2];
}

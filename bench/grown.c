/*
 * grown: what does a message cost that is appended to a log of this size?
 *
 *     grown [--bytes N] [--rounds N] [--size BYTES] [-o json] DIR DIR …
 *
 * The stores take turns, each is opened, gets N bytes and is closed. Make them with bench/generate.
 * The estimate: the same for all; nothing on the path of a message looks at what is old. Messages of
 * one producer, 64 batches of one message in a request, `async`.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/opts.h>

#include "fill.h"
#include "usage.h"

enum {
    STORES_MAX = 8,
    ROUNDS_MAX = 32,
    BATCHES = 64,
    SUBJECTS = 1000
};

struct store {
    double cpu_us[ROUNDS_MAX];
    double wall_us[ROUNDS_MAX];
};

static enum q_err
append_round(const char *directory, const struct fill *fill, struct store *store, unsigned round)
{
    struct qlog_store *opened;
    Q_TRY(qlog_store_open(directory, NULL, &opened));
    struct usage start = usage_now();
    enum q_err err = fill_store(opened, fill);
    struct usage used = usage_since(&start);
    enum q_err close_err = qlog_store_close(opened);
    double messages = (double)(fill->bytes / fill->size);
    store->cpu_us[round] = (double)used.process_ns / messages / 1000;
    store->wall_us[round] = (double)used.wall_ns / messages / 1000;
    return err == Q_OK ? close_err : err;
}

static int
compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static double
median(double *values, uint64_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

int
main(int argc, char **argv)
{
    uint64_t bytes = 128ull << 20;
    uint64_t rounds = 5;
    uint64_t size = 1024;
    const char *format = "text";
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bytes, "N", "of messages in a round", 1, 0 },
        { "rounds", 0, Q_OPT_NUMBER, &rounds, "N", "how many", 1, ROUNDS_MAX },
        { "size", 0, Q_OPT_SIZE, &size, "N", "of a message", 1, 1 << 20 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help || result.arg_count < 1 || result.arg_count > STORES_MAX) {
        (void)fprintf(stderr, "%s\ngrown DIR DIR …\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    bool json = strcmp(format, "json") == 0;
    if (!json)
        (void)printf("What does a message cost that is appended to a log of this size?\n"
                     "estimate   the same for all\n");
    static struct store stores[STORES_MAX];
    struct fill fill = {
        .bytes = bytes,
        .subjects = SUBJECTS,
        .size = (uint32_t)size,
        .count = 1,
        .batches = BATCHES,
    };
    for (unsigned round = 0; err == Q_OK && round < rounds; round++)
        for (unsigned i = 0; err == Q_OK && i < result.arg_count; i++)
            err = append_round(result.args[i], &fill, &stores[i], round);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    for (unsigned i = 0; i < result.arg_count; i++) {
        double cpu_us = median(stores[i].cpu_us, rounds);
        double wall_us = median(stores[i].wall_us, rounds);
        if (json)
            (void)printf(
                "{\"bench\":\"grown\",\"store\":\"%s\",\"cpu_us\":%.3f,\"wall_us\":%.3f,"
                "\"rounds\":%" PRIu64 "}\n",
                result.args[i], cpu_us, wall_us, rounds);
        else
            (void)printf(
                "%-24s %.2f us of CPU, %.2f us on the clock, for each message\n", result.args[i],
                cpu_us, wall_us);
    }
    return 0;
}

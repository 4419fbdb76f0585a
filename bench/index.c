/*
 * index: what does a subject cost in memory, how long does a look-up take, and how soon is a store
 * with so many subjects ready after kill -9?
 *
 *     index [--subjects N] [--rounds N] [--dir D] [-o json]
 *
 * Each subject gets a batch in each round. The estimate: 200 bytes for a subject and its name, and 32
 * for its places in tables; a look-up touches a directory and an entry in a file, a handful of cache
 * misses each.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/opts.h>

#include "fill.h"
#include "random.h"
#include "store/store.h"

enum {
    LOOKS = 1000 * 1000,
    ESTIMATE_BYTES = 232,
    BATCHES = 512
};
#define ESTIMATE_LOOK_NS 2000.0

/* Mean time of a look-up at a random sequence of a random subject. */
static double
look(struct qlog_store *store, enum q_err *ret_err)
{
    struct ql_index *index = &store->index;
    struct random_source random = { .state = 1 };
    const struct q_clock *clock = q_clock_system();
    uint64_t start_ns = q_clock_monotonic_ns(clock);
    for (uint32_t i = 0; i < LOOKS; i++) {
        struct ql_subject *subject = index->subjects[random_below(&random, index->count)];
        struct ql_entry entry;
        uint64_t sequence = random_below(&random, (uint32_t)subject->next_sequence);
        enum q_err err = ql_index_entry(index, subject, sequence, &entry);
        if (err != Q_OK) *ret_err = err;
    }
    return (double)(q_clock_monotonic_ns(clock) - start_ns) / LOOKS;
}

int
main(int argc, char **argv)
{
    uint64_t subjects = 100 * 1000;
    uint64_t rounds = 4;
    const char *root = ".";
    const char *format = "text";
    const struct q_opt options[] = {
        { "subjects", 0, Q_OPT_NUMBER, &subjects, "N", "how many", 1, 1000 * 1000 },
        { "rounds", 0, Q_OPT_NUMBER, &rounds, "N", "batches of each", 1, 0 },
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
    bool json = strcmp(format, "json") == 0;
    if (!json)
        (void)printf(
            "What do %" PRIu64 " subjects cost?\n"
            "estimate   %d bytes of memory each; %.0f ns for a look-up\n",
            subjects, ESTIMATE_BYTES, ESTIMATE_LOOK_NS);

    char directory[4096];
    (void)snprintf(directory, sizeof(directory), "%s/bench-index-XXXXXX", root);
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    uint32_t batches = (uint32_t)q_min_u64(BATCHES, subjects);
    struct fill fill = {
        .subjects = (uint32_t)subjects,
        .size = 100,
        .count = 1,
        .batches = batches,
        .bytes = rounds * subjects * 100,
    };
    err = fill_and_kill(directory, &fill);
    struct qlog_store *store = NULL;
    struct opened opened = { 0 };
    double look_ns = 0;
    uint64_t tail = 0; /* entries that no file has yet: a start begins to write one when it runs */
    if (err == Q_OK) err = fill_open(directory, &store, &opened);
    if (err == Q_OK) {
        const struct ql_entries *entries = &store->index.entries;
        tail = (entries->end - entries->floor) * sizeof(struct ql_node);
        look_ns = look(store, &err);
    }
    if (store != NULL) {
        enum q_err close_err = qlog_store_close(store);
        if (err == Q_OK) err = close_err;
    }
    fill_remove(directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    double each = (double)(opened.anonymous - q_min_u64(tail, opened.anonymous)) /
                  (double)opened.counters.subjects;
    if (json)
        (void)printf(
            "{\"bench\":\"index\",\"subjects\":%" PRIu64 ",\"anonymous_bytes\":%" PRIu64
            ",\"tail_bytes\":%" PRIu64
            ",\"bytes_per_subject\":%.0f,\"estimate_bytes\":%d,\"look_ns\":%.0f,"
            "\"ready_s\":%.4f}\n",
            opened.counters.subjects, opened.anonymous, tail, each, ESTIMATE_BYTES, look_ns,
            opened.ready_s);
    else
        (void)printf(
            "memory     %.0f bytes a subject, all that an opened store takes included, but for "
            "the\n"
            "           end of the log that no index file has (%.1f of %.1f MB)\n"
            "look-up    %.0f ns\n"
            "ready      %.1f ms after kill -9\n",
            each, (double)tail * 1e-6, (double)opened.anonymous * 1e-6, look_ns,
            opened.ready_s * 1e3);
    return 0;
}

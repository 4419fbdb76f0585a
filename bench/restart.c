/*
 * restart: how long does a store take to be ready after kill -9, and how much memory does it have
 * then?
 *
 *     restart [--bytes N] [--subjects N] [--size BYTES] [--dir D] [-o json]
 *     restart --store DIR [-o json]        a store that is there, such as bench/generate makes
 *
 * The estimate: what is not in an index file has to be read, at most 32 MiB of the message log and
 * what was written while a file was being made, at the speed of a cold disk.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/opts.h>

#include "fill.h"

#define TAIL_BYTES 40e6
#define DISK_RATE  1e9

int
main(int argc, char **argv)
{
    uint64_t bytes = 2ull << 30;
    uint64_t subjects = 1000;
    uint64_t size = 1024;
    const char *root = ".";
    const char *given = NULL;
    const char *format = "text";
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bytes, "N", "of messages", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &subjects, "N", "how many", 1, 0 },
        { "size", 0, Q_OPT_SIZE, &size, "N", "of a message", 1, 0 },
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
    double estimate = TAIL_BYTES / DISK_RATE;
    if (!json)
        (void)printf(
            "How soon is a store ready after kill -9?\n"
            "estimate   %.0f ms: at most %.0f MB of the log are read, at %.0f MB/s\n",
            estimate * 1e3, TAIL_BYTES * 1e-6, DISK_RATE * 1e-6);

    char directory[4096];
    (void)snprintf(directory, sizeof(directory), "%s/bench-restart-XXXXXX", root);
    if (given == NULL && mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    struct fill fill = {
        .bytes = bytes,
        .subjects = (uint32_t)subjects,
        .size = (uint32_t)size,
        .count = 1,
        .batches = 64,
        .groups = true,
    };
    if (given == NULL) err = fill_and_kill(directory, &fill);
    struct qlog_store *store = NULL;
    struct opened opened = { 0 };
    if (err == Q_OK) err = fill_open(given == NULL ? directory : given, &store, &opened);
    if (store != NULL) {
        enum q_err close_err = qlog_store_close(store);
        if (err == Q_OK) err = close_err;
    }
    if (given == NULL) fill_remove(directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    if (json)
        (void)printf(
            "{\"bench\":\"restart\",\"bytes\":%" PRIu64 ",\"subjects\":%" PRIu64
            ",\"ready_s\":%.4f,\"estimate_s\":%.4f,\"anonymous_bytes\":%" PRIu64 ",\"given\":%s}\n",
            given == NULL ? bytes : 0, opened.counters.subjects, opened.ready_s, estimate,
            opened.anonymous, given == NULL ? "false" : "true");
    else
        (void)printf(
            "ready      %.1f ms with %" PRIu64 " subjects, %.1f MB of anonymous memory\n",
            opened.ready_s * 1e3, opened.counters.subjects, (double)opened.anonymous * 1e-6);
    return 0;
}

/*
 * restart: how long does a store take to be ready after kill -9, and how much memory does it have
 * then?
 *
 *     restart [--bytes N] [--subjects N] [--size BYTES] [--rounds N] [--dir D] [-o json]
 *     restart --store DIR [--rounds N] [-o json]      a store that is there, such as bench/generate makes
 *
 * A round is a process that opens the store and is killed, with nothing of it in the kernel's memory;
 * beside it as many bytes as it read are read from the same segments by a loop that does nothing else,
 * 1 MiB at a time, four under way.
 *
 * The estimate: what is not in an index file has to be read, at most 32 MiB of the message log and
 * what was written while a file was being made, and 10 MiB behind the end of each log, at the speed of
 * a cold disk.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/opts.h>

#include "fill.h"
#include "readers_raw.h"
#include "usage.h"

#define TAIL_BYTES 60e6
#define DISK_RATE  1e9

enum {
    ROUNDS_MAX = 99
};

struct round {
    struct opened opened;
    uint64_t read_bytes; /* from the disk, by the open */
    double cpu_s;        /* of this process, while it opened */
    double raw_s;        /* that the same number of bytes took */
};

static enum q_err bench_round(const char *directory, struct round *ret_round);
static uint64_t bytes_read(void);
static void print(
    const struct round *rounds, uint64_t count, uint64_t bytes, bool given, bool json);

int
main(int argc, char **argv)
{
    uint64_t bytes = 2ull << 30;
    uint64_t subjects = 1000;
    uint64_t size = 1024;
    uint64_t count = 3;
    const char *root = ".";
    const char *given = NULL;
    const char *format = "text";
    const struct q_opt options[] = {
        { "bytes", 0, Q_OPT_SIZE, &bytes, "N", "of messages", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &subjects, "N", "how many", 1, 0 },
        { "size", 0, Q_OPT_SIZE, &size, "N", "of a message", 1, 0 },
        { "rounds", 0, Q_OPT_NUMBER, &count, "N", "starts", 1, ROUNDS_MAX },
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
            "How soon is a store ready after kill -9?\n"
            "estimate   %.0f ms: at most %.0f MB of the logs are read, at %.0f MB/s\n",
            TAIL_BYTES / DISK_RATE * 1e3, TAIL_BYTES * 1e-6, DISK_RATE * 1e-6);

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
    static struct round rounds[ROUNDS_MAX];
    if (given == NULL) err = fill_and_kill(directory, &fill);
    for (uint64_t i = 0; err == Q_OK && i < count; i++)
        err = bench_round(given == NULL ? directory : given, &rounds[i]);
    if (given == NULL) fill_remove(directory);
    if (err != Q_OK) {
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        return 1;
    }
    print(rounds, count, given == NULL ? bytes : 0, given != NULL, json);
    return 0;
}

static enum q_err
bench_round(const char *directory, struct round *ret_round)
{
    int ends[2];
    readers_forget(directory);
    (void)fflush(stdout);
    if (pipe(ends) != 0) return Q_FAIL(Q_E_IO, .what = "pipe");
    pid_t child = fork();
    if (child < 0) return Q_FAIL(Q_E_IO, .what = "fork");
    if (child == 0) {
        struct qlog_store *store;
        struct round round = { 0 };
        uint64_t before = bytes_read();
        struct usage usage = usage_now();
        enum q_err err = fill_open(directory, &store, &round.opened);
        round.read_bytes = bytes_read() - before;
        round.cpu_s = (double)usage_since(&usage).process_ns / Q_NS_PER_S;
        if (err == Q_OK && write(ends[1], &round, sizeof(round)) == sizeof(round))
            (void)kill(getpid(), SIGKILL);
        char text[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
        _exit(1);
    }
    (void)close(ends[1]);
    bool good = read(ends[0], ret_round, sizeof(*ret_round)) == sizeof(*ret_round);
    (void)close(ends[0]);
    (void)waitpid(child, NULL, 0);
    if (!good) return Q_FAIL(Q_E_IO, .what = "the store could not be opened");
    double rate = readers_raw(directory, ret_round->read_bytes, false);
    ret_round->raw_s = rate > 0 ? (double)ret_round->read_bytes / rate : 0;
    return Q_OK;
}

/* What this process made the disk read. */
static uint64_t
bytes_read(void)
{
    FILE *file = fopen("/proc/self/io", "re");
    if (file == NULL) return 0;
    char line[128];
    uint64_t bytes = 0;
    while (fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, "read_bytes:", 11) == 0) bytes = strtoull(line + 11, NULL, 10);
    (void)fclose(file);
    return bytes;
}

static void
print(const struct round *rounds, uint64_t count, uint64_t bytes, bool given, bool json)
{
    for (uint64_t i = 0; i < count; i++) {
        const struct round *round = &rounds[i];
        const struct opened *opened = &round->opened;
        if (json)
            (void)printf(
                "{\"bench\":\"restart\",\"bytes\":%" PRIu64 ",\"subjects\":%" PRIu64
                ",\"ready_s\":%.4f,\"cpu_s\":%.4f,\"read_bytes\":%" PRIu64 ",\"raw_s\":%.4f"
                ",\"anonymous_bytes\":%" PRIu64 ",\"given\":%s}\n",
                bytes, opened->counters.subjects, opened->ready_s, round->cpu_s, round->read_bytes,
                round->raw_s, opened->anonymous, given ? "true" : "false");
        else
            (void)printf(
                "ready      %.1f ms, %.1f of CPU, with %" PRIu64 " subjects, %.1f MB of anonymous "
                "memory; %.1f MB were read, which alone takes %.1f ms\n",
                opened->ready_s * 1e3, round->cpu_s * 1e3, opened->counters.subjects,
                (double)opened->anonymous * 1e-6, (double)round->read_bytes * 1e-6,
                round->raw_s * 1e3);
    }
}

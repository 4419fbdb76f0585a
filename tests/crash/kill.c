/*
 * kill.c: kill -9 at random moments, recover, compare.
 *
 *     kill --rounds N [--seed S] [--io uring|plain|both] [--what log|store|both]
 *
 * A round is one kill. Before the directory is opened again `qlog verify` may find a torn tail and
 * nothing else, after it nothing. The last line tells what was found:
 *
 *     rounds N  lost 0  phantom 0  failed 0  (seed S)
 */
#include "kill.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qlog/log.h>

enum {
    LIVES_MAX = 6,
    DELAY_LONG_US = 80 * 1000,
    DELAY_SHORT_US = 5 * 1000, /* hits opening and recovery */
    TEXT_MAX = 4096,
};

struct settings {
    uint64_t rounds;
    uint64_t seed;
    const char *io;
    const char *what;
    const char *directory;
    const char *qlog;
};

static bool parse(int argc, char **argv, struct settings *settings);
static uint64_t run_history(
    const struct settings *settings,
    uint64_t index,
    uint64_t rounds_left,
    bool plain,
    struct verdict *verdict);
static bool live_and_die(
    const struct workload *workload, struct history *history, struct random_source *random);
static int qlog_verify(const struct settings *settings, const char *directory);
static void remove_tree(const char *directory);
static bool uring_works(void);

int
main(int argc, char **argv)
{
    struct settings settings = { .rounds = 30, .io = "both", .what = "both", .directory = "/tmp" };
    settings.seed = q_clock_wall_ms(q_clock_system());
    if (!parse(argc, argv, &settings)) return 2;
    (void)fprintf(stderr, "seed %llu\n", (unsigned long long)settings.seed);
    bool uring = strcmp(settings.io, "plain") != 0;
    bool plain = strcmp(settings.io, "uring") != 0;
    if (uring && !uring_works()) {
        (void)fprintf(stderr, "io_uring is refused here: the plain backend only\n");
        uring = false;
        plain = true;
    }

    struct verdict verdict = { 0 };
    uint64_t rounds = 0;
    for (uint64_t i = 0; rounds < settings.rounds; i++) {
        bool plain_now = !uring || (plain && i / 2 % 2 == 1);
        rounds += run_history(&settings, i, settings.rounds - rounds, plain_now, &verdict);
    }
    (void)fprintf(
        stderr, "%llu acknowledged, %llu found, %llu torn tails\n",
        (unsigned long long)verdict.acknowledged, (unsigned long long)verdict.found,
        (unsigned long long)verdict.torn);
    (void)printf(
        "rounds %llu  lost %llu  phantom %llu  failed %llu  (seed %llu)\n",
        (unsigned long long)rounds, (unsigned long long)verdict.lost,
        (unsigned long long)verdict.phantom, (unsigned long long)verdict.failed,
        (unsigned long long)settings.seed);
    return verdict.lost + verdict.phantom + verdict.failed == 0 ? 0 : 1;
}

static bool
parse(int argc, char **argv, struct settings *settings)
{
    const struct q_opt options[] = {
        { "rounds", 0, Q_OPT_NUMBER, &settings->rounds, "N", "kills (30)", 1, 0 },
        { "seed", 0, Q_OPT_NUMBER, &settings->seed, "S", "of all that is random but time", 0, 0 },
        { "io", 0, Q_OPT_TEXT, &settings->io, "IO", "uring, plain or both (both)", 0, 0 },
        { "what", 0, Q_OPT_TEXT, &settings->what, "WHAT", "log, store or both (both)", 0, 0 },
        { "dir", 0, Q_OPT_TEXT, &settings->directory, "DIR", "where to work (/tmp)", 0, 0 },
        { "qlog", 0, Q_OPT_TEXT, &settings->qlog, "PROGRAM", "to verify with (beside this)", 0, 0 },
    };
    size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result result;
    if (q_opts_parse(options, option_count, argc, argv, &result) != Q_OK) {
        (void)fprintf(stderr, "kill: %s\n", result.error);
        return false;
    }
    if (result.help) {
        q_opts_print_help(stdout, options, option_count);
        exit(0);
    }
    if (settings->qlog != NULL) return true;
    static char beside[TEXT_MAX];
    ssize_t size = readlink("/proc/self/exe", beside, sizeof(beside) - 64);
    char *slash = size > 0 ? strrchr(beside, '/') : NULL;
    if (slash == NULL) return false;
    (void)snprintf(slash, 64, "/../tools/qlog/qlog");
    settings->qlog = beside;
    return true;
}

/* One directory through some lives. Returns how many. */
static uint64_t
run_history(
    const struct settings *settings,
    uint64_t index,
    uint64_t rounds_left,
    bool plain,
    struct verdict *verdict)
{
    struct random_source random = random_from_seed(settings->seed * 1000003 + index);
    bool store = strcmp(settings->what, "store") == 0 ||
                 (strcmp(settings->what, "log") != 0 && index % 2 == 1);
    const struct workload *workload = store ? &store_workload : &log_workload;
    struct history history = {
        .seed = random_u64(&random),
        .plain = plain,
        .options = {
            .create = true,
            .segment_bytes = 128 * 1024 << random_below(&random, 4),
            .frame_bytes_max = 4096 << random_below(&random, 6),
            .depth_max = 1 + random_below(&random, 4),
            .async_flush_ns = (uint64_t)(1 + random_below(&random, 50)) * Q_NS_PER_MS,
        },
    };
    (void)snprintf(
        history.directory, sizeof(history.directory), "%s/qlog-kill-%d-%llu", settings->directory,
        (int)getpid(), (unsigned long long)index);
    history.ledger = mmap(
        NULL, workload->ledger_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    Q_ASSERT(history.ledger != MAP_FAILED);

    uint64_t before = verdict->lost + verdict->phantom + verdict->failed;
    uint64_t lives = q_min_u64(1 + random_below(&random, LIVES_MAX), rounds_left);
    bool good = true;
    for (; good && history.life < lives; history.life++) {
        if (!live_and_die(workload, &history, &random)) verdict->failed++;
        int code = qlog_verify(settings, history.directory);
        if (code != 0 && code != 7 && !workload->is_blank(&history)) {
            complain(&history, "qlog verify before recovery: exit %d", code);
            verdict->failed++;
        }
        verdict->torn += code == 7;
        if (!workload->check(&history, verdict)) verdict->failed++;
        code = qlog_verify(settings, history.directory);
        if (code != 0) {
            complain(&history, "qlog verify after recovery: exit %d", code);
            verdict->failed++;
        }
        /* What the ledger expects is right only while nothing was wrong. */
        good = verdict->lost + verdict->phantom + verdict->failed == before;
    }
    (void)munmap(history.ledger, workload->ledger_size);
    if (good)
        remove_tree(history.directory);
    else
        (void)fprintf(stderr, "kept: %s\n", history.directory);
    return history.life;
}

/* False: the child ended by itself, which it never should. */
static bool
live_and_die(const struct workload *workload, struct history *history, struct random_source *random)
{
    (void)fflush(NULL);
    pid_t child = fork();
    Q_ASSERT(child >= 0);
    if (child == 0) {
        workload->work(history);
        sleep_until_killed();
    }
    uint32_t range_us = random_below(random, 4) == 0 ? DELAY_SHORT_US : DELAY_LONG_US;
    uint32_t delay_us = random_below(random, range_us);
    (void)nanosleep(&(struct timespec){ .tv_nsec = (long)delay_us * Q_NS_PER_US }, NULL);
    (void)kill(child, SIGKILL);
    int status = 0;
    Q_ASSERT(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return true;
    complain(history, "the child ended before it was killed");
    return false;
}

/* The exit code. What it prints is shown only when that is neither 0 nor 7. */
static int
qlog_verify(const struct settings *settings, const char *directory)
{
    int ends[2];
    Q_ASSERT(pipe2(ends, O_CLOEXEC) == 0);
    (void)fflush(NULL);
    pid_t child = fork();
    Q_ASSERT(child >= 0);
    if (child == 0) {
        (void)dup2(ends[1], STDOUT_FILENO);
        (void)dup2(ends[1], STDERR_FILENO);
        (void)execl(settings->qlog, "qlog", "verify", "--deep", directory, (char *)NULL);
        _exit(127);
    }
    (void)close(ends[1]);
    char text[TEXT_MAX];
    size_t used = 0;
    for (;;) {
        ssize_t got = read(ends[0], text + used, sizeof(text) - 1 - used);
        if (got <= 0) break;
        used += (size_t)got;
        if (used == sizeof(text) - 1) used = sizeof(text) / 2;
    }
    text[used] = '\0';
    (void)close(ends[0]);
    int status = 0;
    Q_ASSERT(waitpid(child, &status, 0) == child);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (code == 127) (void)fprintf(stderr, "kill: cannot run %s\n", settings->qlog);
    bool expected = code == 0 || code == 7 || code == 1 || code == 3;
    if (!expected) (void)fputs(text, stderr);
    return code;
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

static bool
uring_works(void)
{
    struct qlog_io *io;
    if (qlog_io_uring_new(&io) < 0) return false;
    io->table->destroy(io);
    return true;
}

struct qlog_io *
history_io(const struct history *history)
{
    struct qlog_io *io;
    int rv = history->plain ? qlog_io_plain_new(&io) : qlog_io_uring_new(&io);
    Q_ASSERT(rv == 0);
    return io;
}

void
complain(const struct history *history, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "%s, life %u: ", history->directory, history->life);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
}

void
child_failed(const struct history *history, const char *what)
{
    char text[Q_FAULT_LINE_MAX];
    complain(history, "%s: %s", what, q_fault_format(q_fault_last(), text, sizeof(text)));
    (void)fflush(NULL);
    _exit(1);
}

void
sleep_until_killed(void)
{
    for (;;)
        (void)pause();
}

void
fill_bytes(uint8_t *out, size_t size, uint64_t key)
{
    Q_ASSERT(size >= sizeof(key));
    struct random_source random = { .state = key };
    q_store_le64(out, key);
    for (size_t i = sizeof(key); i < size; i += sizeof(key)) {
        uint64_t word = random_u64(&random);
        memcpy(out + i, &word, q_min_u64(sizeof(word), size - i));
    }
}

bool
bytes_are(struct q_bytes bytes, size_t size, uint64_t key)
{
    if (bytes.size != size || size < sizeof(key) || q_load_le64(bytes.data) != key) return false;
    struct random_source random = { .state = key };
    for (size_t i = sizeof(key); i < size; i += sizeof(key)) {
        uint64_t word = random_u64(&random);
        if (memcmp(bytes.data + i, &word, q_min_u64(sizeof(word), size - i)) != 0) return false;
    }
    return true;
}

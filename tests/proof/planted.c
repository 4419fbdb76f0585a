/*
 * planted: do the tests find what is wrong? Each defect of storage/src/planted.h is switched on, and
 * the rigs are run until one of them finds it.
 *
 *   planted [--only NAME]
 *
 * First all rigs must find nothing when nothing is wrong. Then each has, for each defect, a time that
 * is far above what it took then: a rig that does not end has found something, too, and is stopped
 * with all that it started. Ends with `found N of M`; exit 1 unless all were found.
 */
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/opts.h>

#include "planted.h"

enum {
    SOUND_MS_MAX = 300 * 1000, /* when nothing is wrong */
    SLACK_MS = 20 * 1000,
    SLACK_FACTOR = 4,
    LINE_MAX_SHOWN = 96
};

enum rig_name {
    CRASH,
    DELAY,
    END,
    EXPIRY,
    FIND,
    GROUPS,
    INTAKE,
    INDEX,
    MEMORY,
    MODEL,
    ONCE,
    RESTART,
    PROMISES,
    RETENTION,
    READ,
    ROT,
    UNREADABLE,
    RIGS
};

/* Programs beside this one, linked with the library in which defects can be switched on. */
static const char *const rigs[RIGS][8] = {
    [CRASH] = { "planted-crash", "--images", "1200", "--failures", "1" },
    [DELAY] = { "planted-delay", "--sequences", "120", "--failures", "1" },
    [END] = { "planted-end", "--fail-fast" },
    [EXPIRY] = { "planted-expiry", "--fail-fast" },
    [FIND] = { "planted-find", "--fail-fast" },
    [GROUPS] = { "planted-groups", "--fail-fast" },
    [INTAKE] = { "planted-intake", "--fail-fast" },
    [INDEX] = { "planted-index", "--fail-fast" },
    [MEMORY] = { "planted-memory", "--fail-fast" },
    [MODEL] = { "planted-model", "--sequences", "60", "--show", "0", "--failures", "1" },
    [ONCE] = { "planted-once", "--fail-fast" },
    [RESTART] = { "planted-restart", "--fail-fast" },
    [PROMISES] = { "planted-promises", "--fail-fast" },
    [RETENTION] = { "planted-retention", "--fail-fast" },
    [READ] = { "planted-read", "--fail-fast" },
    [ROT] = { "planted-rot", "--faults", "1200", "--show", "1" },
    [UNREADABLE] = { "planted-unreadable", "--fail-fast" },
};

/* Who is likely to find it: only a matter of time. Crashes find all that is not named here. */
static const struct {
    const char *plant;
    enum rig_name rig;
} finders[] = {
    { "delay_early", DELAY },
    { "delay_offered_early", DELAY },
    { "dispatch_unrecorded", DELAY },
    { "dispatch_recomposed", DELAY },
    { "schedule_edge", DELAY },
    { "open_dropped", DELAY },
    { "round_early", DELAY },
    { "clock_followed", DELAY },
    { "cancel_unflushed", DELAY },
    { "move_doubles", DELAY },
    { "refused_done", DELAY },
    { "renewed_numbers", DELAY },
    { "schedule_page_edge", DELAY },
    { "schedule_page_unchecked", DELAY },
    { "schedule_replaced_forgotten", DELAY },
    { "schedule_stale", DELAY },
    { "schedule_next_forgotten", DELAY },
    { "intake_stored_again", DELAY },
    { "intake_unstated", DELAY },
    { "intake_unread", DELAY },
    { "intake_trimmed", INTAKE },
    { "pull_floor_missing", MODEL },
    { "producers_dropped", ONCE },
    { "repeat_undurable", ONCE },
    { "void_applied", RESTART },
    { "passed_forgotten", MODEL },
    { "key_overtakes", MODEL },
    { "late_ack_of_others", MODEL },
    { "late_ack_untold", MODEL },
    { "seek_keeps_windows", MODEL },
    { "replay_forgets_attempts", MODEL },
    { "filter_dropped", MODEL },
    { "delay_ignored", GROUPS },
    { "replaced_pulls", MODEL },
    { "death_unused", MODEL },
    { "once_held", GROUPS },
    { "pulls_again", MODEL },
    { "dies_late", GROUPS },
    { "flush_covers_flight", PROMISES },
    { "flush_retried", PROMISES },
    { "write_error_ignored", PROMISES },
    { "short_write", PROMISES },
    { "adopted_unflushed", PROMISES },
    { "recycled_as_is", ROT },
    { "super_any", PROMISES },
    { "clean_kept", ROT },
    { "cut_at_damage", PROMISES },
    { "look_is_short", END },
    { "frame_anywhere", PROMISES },
    { "incarnation_unchecked", PROMISES },
    { "orphan_counts", PROMISES },
    { "chain_unchecked", PROMISES },
    { "records_unchecked", ROT },
    { "payload_unchecked", ROT },
    { "generation_kept", PROMISES },
    { "subject_unnamed", ROT },
    { "expired_uncopied", EXPIRY },
    { "expired_undurable", EXPIRY },
    { "unread_ahead_passed", UNREADABLE },
    { "unread_passed", UNREADABLE },
    { "header_guessed", UNREADABLE },
    { "retention_unconsumed", RETENTION },
    { "full_disk_admits", RETENTION },
    { "log_yields_nothing", RETENTION },
    { "closed_while_rolling", RETENTION },
    { "archive_unasked", RETENTION },
    { "seen_before_flush", PROMISES },
    { "zero_over_frame", PROMISES },
    { "index_page_unchecked", ROT },
    { "read_unchecked", READ },
    { "read_unpinned", READ },
    { "reads_unpaced", READ },
    { "scrub_blind", READ },
    { "read_error_ignored", READ },
    { "index_key_forgotten", FIND },
    { "mended_gone", INDEX },
    { "find_stops_early", FIND },
    { "room_unlimited", MEMORY },
    { "memory_unfitted", MEMORY },
};

static const struct {
    const char *name;
    const char *what;
} plants[] = {
#define PLANT_ROW(name, what) { #name, what },
    QL_PLANT_LIST(PLANT_ROW)
#undef PLANT_ROW
};

/* What a rig said and did. */
struct outcome {
    bool run; /* it could be */
    bool clean;
    uint64_t ms;
    char line[LINE_MAX_SHOWN]; /* the first that it printed, or why it was stopped */
};

static char folder[PATH_MAX];     /* of this program */
static uint64_t ms_allowed[RIGS]; /* from what each took when nothing was wrong */

static uint64_t now_ns(void);
static double seconds(uint64_t ms);
static bool find_folder(void);
static bool find_nothing(void);
static int find(const char *plant, const char *what);
static struct outcome run_rig(enum rig_name rig, const char *plant, uint64_t ms_max);
static void exec_rig(enum rig_name rig, const char *plant, int out);
static bool read_until(int from, uint64_t until_ns, char line[LINE_MAX_SHOWN]);

int
main(int argc, char **argv)
{
    const char *only = NULL;
    const struct q_opt options[] = {
        { "only", 0, Q_OPT_TEXT, &only, "NAME", "one defect", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (!find_folder() || !find_nothing()) return 1;
    unsigned found = 0;
    unsigned tried = 0;
    for (unsigned i = 0; i < sizeof(plants) / sizeof(plants[0]); i++) {
        if (only != NULL && strcmp(only, plants[i].name) != 0) continue;
        int answer = find(plants[i].name, plants[i].what);
        if (answer < 0) {
            (void)fprintf(stderr, "planted: a rig can't be run from %s\n", folder);
            return 2;
        }
        tried++;
        found += (unsigned)answer;
    }
    (void)printf("found %u of %u\n", found, tried);
    return found == tried && tried > 0 ? 0 : 1;
}

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

static double
seconds(uint64_t ms)
{
    return (double)ms / Q_MS_PER_S;
}

static bool
find_folder(void)
{
    ssize_t size = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    char *slash = size < 0 ? NULL : strrchr(folder, '/');
    if (slash == NULL) return false;
    *slash = '\0';
    return true;
}

static bool
find_nothing(void)
{
    for (unsigned rig = 0; rig < RIGS; rig++) {
        struct outcome outcome = run_rig((enum rig_name)rig, "none", SOUND_MS_MAX);
        if (!outcome.run) {
            (void)fprintf(stderr, "planted: %s can't be run from %s\n", rigs[rig][0], folder);
            return false;
        }
        if (!outcome.clean) {
            (void)printf(
                "%s finds something where nothing is wrong: %s\n", rigs[rig][0], outcome.line);
            return false;
        }
        ms_allowed[rig] = outcome.ms * SLACK_FACTOR + SLACK_MS;
        (void)printf("sound      %-22s %.1f s\n", rigs[rig][0], seconds(outcome.ms));
    }
    return true;
}

/* 1: found, 0: not, -1: a rig could not be run. */
static int
find(const char *plant, const char *what)
{
    enum rig_name first = CRASH;
    for (unsigned i = 0; i < sizeof(finders) / sizeof(finders[0]); i++)
        if (strcmp(finders[i].plant, plant) == 0) first = finders[i].rig;
    uint64_t ms = 0;
    for (unsigned i = 0; i < RIGS; i++) {
        enum rig_name rig = (enum rig_name)((first + i) % RIGS);
        struct outcome outcome = run_rig(rig, plant, ms_allowed[rig]);
        if (!outcome.run) return -1;
        ms += outcome.ms;
        if (outcome.clean) continue;
        (void)printf("found      %-22s %s\n", plant, what);
        (void)printf("           by %s in %.1f s: %s\n", rigs[rig][0], seconds(ms), outcome.line);
        return 1;
    }
    (void)printf("NOT FOUND  %-22s %s\n", plant, what);
    return 0;
}

static struct outcome
run_rig(enum rig_name rig, const char *plant, uint64_t ms_max)
{
    struct outcome outcome = { 0 };
    uint64_t began_ns = now_ns();
    int ends[2];
    if (pipe(ends) != 0) return outcome;
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) exec_rig(rig, plant, ends[1]);
    (void)close(ends[1]);
    bool ended = child > 0 && read_until(ends[0], began_ns + ms_max * Q_NS_PER_MS, outcome.line);
    /* A group of its own: what it forked holds the pipe, and goes with it. */
    if (child > 0 && !ended) (void)kill(-child, SIGKILL);
    (void)close(ends[0]);
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) return outcome;
    outcome.ms = (now_ns() - began_ns) / Q_NS_PER_MS;
    outcome.run = !WIFEXITED(status) || (WEXITSTATUS(status) != 127 && WEXITSTATUS(status) != 2);
    outcome.clean = ended && status == 0;
    if (!ended)
        (void)snprintf(
            outcome.line, sizeof(outcome.line), "it does not end in %.0f s", seconds(ms_max));
    return outcome;
}

/* In the child. */
static void
exec_rig(enum rig_name rig, const char *plant, int out)
{
    char path[PATH_MAX + 32];
    char *args[8];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, rigs[rig][0]);
    for (unsigned i = 0; i < 8; i++)
        args[i] = (char *)(uintptr_t)rigs[rig][i];
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setenv("QL_PLANT", plant, 1);
    (void)dup2(out, STDOUT_FILENO);
    (void)dup2(out, STDERR_FILENO);
    (void)execv(path, args);
    (void)fprintf(stderr, "planted: can't run %s\n", path);
    _exit(127);
}

/* All that comes, the first line of it kept. False: there was more to come at `until_ns`. */
static bool
read_until(int from, uint64_t until_ns, char line[LINE_MAX_SHOWN])
{
    char rest[4096];
    size_t used = 0;
    bool ended = false;
    for (uint64_t now = now_ns(); now < until_ns && !ended; now = now_ns()) {
        struct pollfd polled = { .fd = from, .events = POLLIN };
        if (poll(&polled, 1, (int)((until_ns - now) / Q_NS_PER_MS) + 1) <= 0) continue;
        ssize_t got = read(from, rest, sizeof(rest));
        ended = got <= 0;
        for (ssize_t i = 0; i < got && used < LINE_MAX_SHOWN - 1; i++)
            line[used++] = rest[i];
    }
    line[used] = '\0';
    line[strcspn(line, "\n")] = '\0';
    return ended;
}

/*
 * planted: do the tests find what is wrong? Each defect of storage/src/planted.h is switched on, and
 * the rigs are run until one of them finds it.
 *
 *   planted [--only NAME]
 *
 * First all rigs must find nothing when nothing is wrong. Ends with `found N of M`; exit 1 unless
 * all were found.
 */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/opts.h>

#include "planted.h"

enum {
    RIG_S_MAX = 100,
    LINE_MAX_SHOWN = 96
};

enum rig_name {
    CRASH,
    PROMISES,
    ROT,
    RIGS
};

/* Programs beside this one, linked with the library in which defects can be switched on. */
static const char *const rigs[RIGS][8] = {
    [CRASH] = { "planted-crash", "--images", "1200", "--show", "1" },
    [PROMISES] = { "planted-promises" },
    [ROT] = { "planted-rot", "--faults", "600", "--show", "1" },
};

/* Who is likely to find it: only a matter of time. Crashes find all that is not named here. */
static const struct {
    const char *plant;
    enum rig_name rig;
} finders[] = {
    { "flush_covers_flight", PROMISES },
    { "flush_retried", PROMISES },
    { "write_error_ignored", PROMISES },
    { "short_write", PROMISES },
    { "recycled_as_is", ROT },
    { "super_any", PROMISES },
    { "clean_kept", ROT },
    { "cut_at_damage", PROMISES },
    { "frame_anywhere", PROMISES },
    { "incarnation_unchecked", PROMISES },
    { "orphan_counts", PROMISES },
    { "chain_unchecked", PROMISES },
    { "records_unchecked", ROT },
    { "payload_unchecked", ROT },
    { "generation_kept", PROMISES },
    { "subject_unnamed", ROT },
    { "seen_before_flush", PROMISES },
    { "zero_over_frame", PROMISES },
};

static const struct {
    const char *name;
    const char *what;
} plants[] = {
#define PLANT_ROW(name, what) { #name, what },
    QL_PLANT_LIST(PLANT_ROW)
#undef PLANT_ROW
};

static char folder[PATH_MAX]; /* of this program */

static bool
find_folder(void)
{
    ssize_t size = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    char *slash = size < 0 ? NULL : strrchr(folder, '/');
    if (slash == NULL) return false;
    *slash = '\0';
    return true;
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
    (void)setenv("QL_PLANT", plant, 1);
    (void)dup2(out, STDOUT_FILENO);
    (void)dup2(out, STDERR_FILENO);
    (void)alarm(RIG_S_MAX);
    (void)execv(path, args);
    (void)fprintf(stderr, "planted: can't run %s\n", path);
    _exit(127);
}

/* Wait status of the rig; `line` gets the first line that it said. -1: it could not be run. */
static int
run_rig(enum rig_name rig, const char *plant, char line[LINE_MAX_SHOWN])
{
    int ends[2];
    if (pipe(ends) != 0) return -1;
    (void)fflush(stdout);
    pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) exec_rig(rig, plant, ends[1]);
    (void)close(ends[1]);
    char rest[4096];
    size_t used = 0;
    ssize_t got;
    while ((got = read(ends[0], rest, sizeof(rest))) > 0)
        for (ssize_t i = 0; i < got && used < LINE_MAX_SHOWN - 1; i++)
            line[used++] = rest[i];
    line[used] = '\0';
    line[strcspn(line, "\n")] = '\0';
    (void)close(ends[0]);
    int status;
    if (waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) && (WEXITSTATUS(status) == 127 || WEXITSTATUS(status) == 2) ? -1
                                                                                         : status;
}

/* 1: found, 0: not, -1: a rig could not be run. */
static int
find(const char *plant, const char *what)
{
    enum rig_name first = CRASH;
    for (unsigned i = 0; i < sizeof(finders) / sizeof(finders[0]); i++)
        if (strcmp(finders[i].plant, plant) == 0) first = finders[i].rig;
    for (unsigned i = 0; i < RIGS; i++) {
        enum rig_name rig = (enum rig_name)((first + i) % RIGS);
        char line[LINE_MAX_SHOWN];
        int status = run_rig(rig, plant, line);
        if (status == -1) return -1;
        if (status == 0) continue;
        (void)printf("found      %-22s %s\n", plant, what);
        (void)printf("           by %s: %s\n", rigs[rig][0], line);
        return 1;
    }
    (void)printf("NOT FOUND  %-22s %s\n", plant, what);
    return 0;
}

static bool
find_nothing(void)
{
    for (unsigned rig = 0; rig < RIGS; rig++) {
        char line[LINE_MAX_SHOWN];
        if (run_rig((enum rig_name)rig, "none", line) == 0) continue;
        (void)printf("%s finds something where nothing is wrong: %s\n", rigs[rig][0], line);
        return false;
    }
    return true;
}

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

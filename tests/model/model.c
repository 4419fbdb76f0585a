/*
 * model: consumer groups against a naive model of them.
 *
 *   model [--sequences N] [--operations M] [--seed S] [--show N] [--kept DIR]
 *   model --replay FILE
 *
 * Each sequence is M operations, drawn at random and given to a store and to reference.h; after each
 * one all that can be seen of both is compared. A sequence with a difference is made as short as it
 * gets and still shows one, and printed: put it into a file of tests/model/kept, and mend what is wrong.
 * --kept runs all files of that folder first. Ends with
 *
 *   sequences N  operations M  differences 0  (seed S)
 */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/opts.h>

#include "play.h"
#include "ramdisk.h"

enum {
    OPERATIONS_MAX = 100 * 1000,
    HANG_S = 60
};

static uint64_t run_kept(const char *folder);
static bool run_file(const char *path, bool told);
static bool run_sequence(struct play_op *sequence, unsigned count, bool shown);
static bool fails(const struct play_op *ops, unsigned count, FILE *told);
static unsigned shrink(struct play_op *ops, unsigned count);

static struct play_op ops[OPERATIONS_MAX];

int
main(int argc, char **argv)
{
    uint64_t sequences = 200;
    uint64_t operations = 1000;
    uint64_t seed = 1;
    uint64_t show = 3;
    uint64_t failures = 5;
    const char *replay = NULL;
    const char *kept = NULL;
    const struct q_opt options[] = {
        { "sequences", 0, Q_OPT_NUMBER, &sequences, "N", "how many", 0, 0 },
        { "operations", 0, Q_OPT_NUMBER, &operations, "N", "in each", 1, OPERATIONS_MAX },
        { "seed", 0, Q_OPT_NUMBER, &seed, "S", "of everything that is random", 0, 0 },
        { "show", 0, Q_OPT_NUMBER, &show, "N", "how many to make short and print", 0, 0 },
        { "failures", 0, Q_OPT_NUMBER, &failures, "N", "end with so many", 1, 0 },
        { "replay", 0, Q_OPT_TEXT, &replay, "FILE", "run these, and tell what happens", 0, 0 },
        { "kept", 0, Q_OPT_TEXT, &kept, "DIR", "run all files of it first", 0, 0 },
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
    if (replay != NULL) return run_file(replay, true) ? 0 : 1;
    uint64_t differences = kept == NULL ? 0 : run_kept(kept);
    struct random_source seeds = { .state = seed };
    for (uint64_t i = 0; i < sequences && differences < failures; i++) {
        struct random_source random = { .state = random_u64(&seeds) };
        for (uint64_t j = 0; j < operations; j++)
            ops[j] = play_random(&random);
        if (!run_sequence(ops, (unsigned)operations, differences < show)) differences++;
        if (isatty(STDERR_FILENO))
            (void)fprintf(
                stderr, "\r%llu of %llu sequences%s", (unsigned long long)i + 1,
                (unsigned long long)sequences, i + 1 == sequences ? "\n" : "");
    }
    (void)printf(
        "sequences %llu  operations %llu  differences %llu  (seed %llu)\n",
        (unsigned long long)sequences, (unsigned long long)operations,
        (unsigned long long)differences, (unsigned long long)seed);
    return differences == 0 ? 0 : 1;
}

/* --- Files. */

static uint64_t
run_kept(const char *folder)
{
    uint64_t failed = 0;
    DIR *files = opendir(folder);
    if (files == NULL) {
        (void)fprintf(stderr, "model: no folder %s\n", folder);
        return 1;
    }
    const struct dirent *file;
    while ((file = readdir(files)) != NULL) {
        char path[512];
        if (file->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof(path), "%s/%s", folder, file->d_name);
        if (!run_file(path, false)) failed++;
    }
    (void)closedir(files);
    return failed;
}

/* Lines that are no operation are for people. */
static bool
run_file(const char *path, bool told)
{
    FILE *file = fopen(path, "r");
    char line[256];
    unsigned count = 0;
    if (file == NULL) {
        (void)fprintf(stderr, "model: no file %s\n", path);
        return false;
    }
    while (count < OPERATIONS_MAX && fgets(line, sizeof(line), file) != NULL)
        if (line[0] != '#' && play_parse(line, &ops[count])) count++;
    (void)fclose(file);
    bool failed = fails(ops, count, told ? stdout : NULL);
    if (failed) (void)printf("%s: there is a difference\n", path);
    return !failed;
}

/* --- Sequences. */

static bool
run_sequence(struct play_op *sequence, unsigned count, bool shown)
{
    if (!fails(sequence, count, NULL)) return true;
    if (!shown) {
        (void)printf("there is a difference\n");
        return false;
    }
    unsigned left = shrink(sequence, count);
    (void)printf("# %u of %u operations\n", left, count);
    for (unsigned i = 0; i < left; i++)
        play_print(stdout, &sequence[i]);
    (void)fails(sequence, left, stdout);
    return false;
}

/* In a process of its own: a machine that stops shows a difference, too. */
static bool
fails(const struct play_op *sequence, unsigned count, FILE *told)
{
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char text[PLAY_TEXT_MAX];
        (void)alarm(HANG_S);
        struct ramdisk *disk = ramdisk_new();
        ramdisk_remember(disk);
        int at = play(disk, sequence, count, told, text);
        if (at >= 0 && told != NULL) (void)fprintf(told, "after operation %d: %s\n", at, text);
        (void)fflush(NULL);
        _exit(at >= 0 ? 1 : 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return true;
    if (told != NULL && WIFSIGNALED(status))
        (void)fprintf(told, "the machine stopped: %s\n", strsignal(WTERMSIG(status)));
    return status != 0;
}

/* Take away what is not needed: halves, quarters, … single operations. */
static unsigned
shrink(struct play_op *sequence, unsigned count)
{
    static struct play_op shorter[OPERATIONS_MAX];
    for (unsigned part = count / 2; part > 0;) {
        bool gone = false;
        for (unsigned from = 0; from < count;) {
            unsigned size = part < count - from ? part : count - from;
            memcpy(shorter, sequence, from * sizeof(*sequence));
            memcpy(
                shorter + from, sequence + from + size, (count - from - size) * sizeof(*sequence));
            if (fails(shorter, count - size, NULL)) {
                count -= size;
                memcpy(sequence, shorter, count * sizeof(*sequence));
                gone = true;
            } else {
                from += size;
            }
        }
        if (!gone || part > 1) part = part == 1 ? 0 : part / 2;
    }
    return count;
}
